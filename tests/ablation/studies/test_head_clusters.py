"""The study of head clusters: on wired models whose circuits are known, and random weights."""

import threading
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from handwired import prompts_of_circuits, wired_circuits, wired_twins
from tiny import CORPUS, tiny_model

from ablation import Progress, run_study
from ablation.studies import clusters_words, likeness, plan_study
from ablation.studies.clusters_found import RemovedCluster
from ablation.studies.options import CLUSTERED_BY
from ablation.studies.partition import Separation
from ablation.studies.prompts import PromptSet, StudyPrompt
from ablation.studies.removals import parted
from ablation.studies.types import StudyResult
from models.errors import UserError
from models.types import Head
from viz.studies import study_figures

FIRST, SECOND = (Head(0, 0), Head(1, 0)), (Head(0, 1), Head(1, 1))


@cache
def wired() -> StudyResult:
    return run_study("head-clusters", wired_circuits(), prompts_of_circuits(48))


@cache
def random_weights() -> StudyResult:
    return run_study("head-clusters", tiny_model("llama"), CORPUS)


def test_the_clusters_are_the_circuits_and_dead_heads_are_in_none() -> None:
    found = wired().details
    assert {frozenset(heads) for heads in found.clusters} == {frozenset(FIRST), frozenset(SECOND)}
    assert set(found.silent) == {Head(layer, head) for layer in (0, 1) for head in (2, 3)}
    assert found.chosen.mean == 1
    assert found.again == 1
    assert "4 of 8 heads" in wired().answer[0]
    assert "2 clusters" in wired().answer[0]
    rows = wired().table
    clusters = rows.dropna(subset="cluster").groupby("cluster")["head"].agg(set).tolist()
    assert {frozenset(heads) for heads in clusters} == {
        frozenset({"L0H0", "L1H0"}), frozenset({"L0H1", "L1H1"})
    }  # fmt: skip
    assert rows["cluster"].isna().sum() == 4


def test_two_heads_of_one_path_cost_what_one_costs() -> None:
    for joint in wired().details.removed:
        own = np.abs(joint.together) > 1  # the other circuit's prompts are left alone
        assert 0.3 < own.mean() < 0.7
        np.testing.assert_allclose(joint.together[~own], 0, atol=0.3)
        for one in joint.alone.T:
            np.testing.assert_allclose(joint.together[own], one[own], rtol=0.15)
        # The sum of both is twice what they do together.
        assert joint.departure == pytest.approx(0.5, abs=0.05)
        assert joint.interval.low > 0
        # Random sets that are no circuit are the sum of their heads.
        circuits = joint.random_departures > 0.4
        assert 0 < circuits.sum() < 6
        assert joint.random_departures[~circuits].max() < 0.05
    assert any("and smaller for 2 (these overlap" in sentence for sentence in wired().answer)


def test_other_interventions_are_told_beside() -> None:
    found = wired().details
    assert list(found.others) == ["mean", "permute"]
    assert all(values.shape == (24, 2) for values in found.others.values())
    assert any(sentence.startswith("Removed by other") for sentence in wired().answer)
    assert study_figures(wired())[-1].name == "interventions"


def test_twins_are_alike_by_all_measures_but_composition() -> None:
    texts = [" ".join(text) for text in ("bcdec", "gfhif", "cegbe", "hdfjd", "ijbcj", "egicg")]
    found = run_study("head-clusters", wired_twins(), texts).details
    twins = [found.heads.index(head) for head in (Head(1, 0), Head(1, 1))]
    other = found.heads.index(Head(0, 0))
    for measure in (likeness.EFFECTS, likeness.OUTPUTS):
        values = found.likeness[measure]
        assert values[tuple(twins)] == pytest.approx(1, abs=1e-4)
        assert values[twins[0], other] < 0.99
    assert np.isnan(found.likeness[likeness.COMPOSITION][tuple(twins)])
    assert found.likeness[likeness.COMPOSITION][twins[0], other] > 0


def test_random_weights_are_not_said_to_have_clusters_apart() -> None:
    result = random_weights()
    found = result.details
    assert found.separation is not None
    assert not found.separation.holds
    assert "no farther apart than parts of one cloud" in result.answer[0]
    assert len(result.table) == 12
    assert set(found.likeness) == set(likeness.MEASURES)
    names = {figure.name for figure in study_figures(result)}
    assert {"clustermap", "where", "stability", "removed"} <= names
    record = result.to_json()
    assert sum(len(heads) for heads in record["clusters"]) + len(record["silent"]) == 12


def test_clusters_apart_are_said_to_be_so() -> None:
    found = replace(random_weights().details, separation=Separation(0.4, np.array([0.1, 0.2])))
    said = clusters_words.answer(found, PromptSet("x", (), "x"))[0]
    assert "they lie farther apart than parts of one cloud" in said
    assert "by degrees" not in said


def test_a_joint_is_held_against_the_size_of_its_effects() -> None:
    joint = RemovedCluster(
        cluster=1,
        heads=FIRST,
        together=np.array([-3.0, 1.0]),
        alone=np.array([[-1.0, -1.0], [1.0, -1.0]]),
        random_together=np.array([[0.0, -2.0], [0.0, 2.0]]),
        random_alone=np.array([[[0.0, 0.0], [0.0, -1.0]], [[0.0, 0.0], [1.0, 0.0]]]),
    )
    np.testing.assert_allclose(joint.beyond, [-1, 1])
    assert joint.departure == pytest.approx((1 + 1) / 4)
    np.testing.assert_allclose(joint.random_departures, [0, 1])
    assert joint.reached == 1


@pytest.mark.parametrize(
    ("alone", "together", "more"),
    [(-1.0, -3.0, 1), (-1.0, -1.0, -1), (1.0, 3.0, 1), (1.0, 1.0, -1)],
)
def test_doing_more_than_the_sum_is_told_by_its_direction(
    alone: float, together: float, more: int
) -> None:
    nothing = np.zeros((4, 1))
    joint = RemovedCluster(
        cluster=1,
        heads=FIRST,
        together=np.full(4, together),
        alone=np.full((4, 2), alone),
        random_together=nothing,
        random_alone=nothing[..., None],
    )
    assert joint.more == more


@pytest.mark.parametrize("by", ["effects", "outputs", "composition"])
def test_one_measure_may_be_chosen(by: str) -> None:
    result = run_study("head-clusters", tiny_model("gpt2"), CORPUS, by=by)
    assert result.details.by == by
    assert f"by {clusters_words.BY[by]} they part" in result.answer[0]
    told_of = "two random parts of the heads" if by == "composition" else "other prompts"
    assert f"which {told_of} give again" in result.answer[0]
    # What is read off the weights is the same on prompts held out: nothing is found again.
    assert (result.details.again is None) == (by == "composition")


def test_a_model_without_weights_at_hand_is_clustered_by_the_rest() -> None:
    model = tiny_model("bloom")
    result = run_study("head-clusters", model, CORPUS)
    assert likeness.COMPOSITION not in result.details.likeness
    assert any(caveat.startswith("Without composition:") for caveat in result.caveats)
    with pytest.raises(UserError, match="composition scores cannot be read off"):
        run_study("head-clusters", model, CORPUS, by="composition")


def test_no_template_is_in_both_parts() -> None:
    texts = prompts_of_circuits(12)
    made = tuple(StudyPrompt(text, template="ab"[i % 2]) for i, text in enumerate(texts))
    prompts = PromptSet("own", made, "here")
    result = run_study("head-clusters", wired_circuits(), prompts)
    # One circuit's prompts are one template: on those of the other its last head does next to
    # nothing, and there is only one of them among the prompts fitted on.
    size = dict(zip(result.details.heads, np.abs(result.details.effects).T, strict=True))
    last = [size[Head(1, head)].mean() for head in (0, 1)]
    assert min(last) < 0.1 * max(last)
    assert any("share no template" in sentence for sentence in result.answer)


def test_a_half_of_one_prompt_is_refused() -> None:
    texts = prompts_of_circuits(5)
    for order in ("abbbb", "bbbba", "bbabb"):
        made = tuple(StudyPrompt(text, template=of) for text, of in zip(texts, order, strict=True))
        prompts = PromptSet("own", made, "here")
        if len(parted(prompts)[0]) > 1:
            run_study("head-clusters", wired_circuits(), prompts)
        else:
            with pytest.raises(UserError, match="give more templates, or none"):
                run_study("head-clusters", wired_circuits(), prompts)


@pytest.mark.parametrize("intervention", ["mean", "permute"])
def test_other_interventions_can_be_chosen(intervention: str) -> None:
    result = run_study("head-clusters", tiny_model("llama"), CORPUS, intervention=intervention)
    assert "zero" in result.details.others
    assert intervention not in result.details.others


def cancelled_at(start: str) -> StudyResult:
    cancel = threading.Event()

    def progress(seen: Progress) -> None:
        if seen.message.startswith(start):
            cancel.set()

    return run_study("head-clusters", tiny_model("llama"), CORPUS, progress=progress, cancel=cancel)


def test_cancelling_keeps_the_clusters_that_were_removed() -> None:
    result = cancelled_at("Cluster 1 of")
    assert result.stopped == "cancelled"
    assert len(result.details.removed) == 1
    np.testing.assert_array_equal(result.details.labels, random_weights().details.labels)
    assert "Cancelled before all clusters" in result.caveats[-1]


def test_cancelling_early_clusters_the_prompts_that_were_done() -> None:
    result = cancelled_at("Each head alone: prompt 2 of 5")
    assert (result.stopped, result.n_prompts) == ("cancelled", 2)
    assert result.details.removed == ()
    assert "on 2 prompts" in result.answer[0]
    assert result.caveats[-1] == "Cancelled after 2 prompts: the clusters were not tested."


def test_cancelling_before_two_prompts_gives_nothing() -> None:
    result = cancelled_at("Each head alone: prompt 1 of 5")
    assert (result.stopped, result.details, result.answer) == ("cancelled", None, ())
    assert result.caveats[-1] == "Cancelled before two prompts were done."


def test_all_that_heads_can_be_clustered_by_has_words() -> None:
    choices = [value for value, _ in CLUSTERED_BY.choices]
    assert choices == list(clusters_words.BY) == [likeness.ALL, *likeness.MEASURES]


def test_bad_input_is_refused_and_a_plan_is_made() -> None:
    with pytest.raises(UserError, match="give at least 4 prompts, not 3"):
        run_study("head-clusters", tiny_model("llama"), CORPUS[:3])
    with pytest.raises(UserError, match="choose one of all, effects"):
        run_study("head-clusters", tiny_model("llama"), CORPUS, by="size")
    with pytest.raises(UserError, match="encoder-decoder"):
        run_study("head-clusters", tiny_model("t5"), CORPUS)
    plan = plan_study("head-clusters", tiny_model("llama"), CORPUS)
    # Each of 12 heads on 5 prompts, composition as much as one of them; then 6 clusters and 20
    # random sets for each on the 2 held out, and the clusters by two other interventions.
    assert plan.n_passes == 12 * 6 + 6 * (20 + 3) * 2
    assert "12 heads alone on 5 prompts" in plan.words
