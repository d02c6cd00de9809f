"""The study of head clusters: on a wired model whose circuits are known, and measure by measure."""

import threading
from functools import cache

import numpy as np
import pytest
import torch
from handwired import prompts_of_circuits, wired_circuits, wired_twins
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import CORPUS, tiny_model

from ablation import Progress, run_study
from ablation.studies import likeness, partition, plan_study
from ablation.studies.clusters_found import random_like
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
    clusters = wired().table.dropna(subset="cluster").groupby("cluster")["head"].agg(set).tolist()
    assert {frozenset(heads) for heads in clusters} == {
        frozenset({"L0H0", "L1H0"}), frozenset({"L0H1", "L1H1"})
    }  # fmt: skip


def test_two_heads_of_one_path_cost_what_one_costs() -> None:
    for joint in wired().details.joints:
        np.testing.assert_allclose(joint.together, joint.alone[:, 1], atol=0.1)
        np.testing.assert_allclose(joint.together, joint.alone[:, 0], atol=0.1)
        # Half of the prompts are the other circuit's: there nothing changes.
        assert joint.beyond.max() > 2
        assert abs(joint.beyond.min()) < 0.01
        assert joint.beyond.mean() > 2 * joint.random_beyond.mean()
        assert joint.interacts
    assert any("2 of 2 clusters are farther" in sentence for sentence in wired().answer)


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


def test_effects_are_cosines_of_changes_by_hand() -> None:
    rng = np.random.default_rng(0)
    changed = [rng.normal(size=(5, 3)), 100 * rng.normal(size=(5, 4)), np.zeros((5, 2))]
    changed[0][4] = changed[1][4] = 0
    found = likeness.effects_likeness(changed)
    profiles = np.concatenate(
        [changed[0] / np.sqrt((changed[0] ** 2).mean()), changed[1] / changed[1].std(ddof=0)
         * changed[1].std(ddof=0) / np.sqrt((changed[1] ** 2).mean())], axis=1
    )  # fmt: skip
    for a in range(4):
        for b in range(4):
            own = profiles[a] @ profiles[b]
            own /= np.linalg.norm(profiles[a]) * np.linalg.norm(profiles[b])
            assert found[a, b] == pytest.approx(own)
    assert (found[4] == 0).all()


def test_outputs_are_correlations_of_what_is_written() -> None:
    model = tiny_model("llama")
    prompts = [model.tokenize(text[:30]) for text in CORPUS[:3]]
    found = likeness.outputs_likeness([likeness.outputs_of(model, prompt) for prompt in prompts])
    written = []
    for prompt in prompts:
        stream = model.residual.read(prompt)
        at = range(1, len(prompt))
        assert len(at) <= likeness.MOST_POSITIONS
        written.append(torch.cat([terms.heads(list(at)) for terms in stream.layers]).numpy())
    values = np.concatenate(written, axis=1).astype(float)  # [n_heads, position, d_model]
    values -= values.mean(axis=1, keepdims=True)
    for a, b in ((0, 1), (3, 9), (11, 2), (4, 4)):
        own = (values[a] * values[b]).sum() / np.sqrt(
            (values[a] ** 2).sum() * (values[b] ** 2).sum()
        )
        assert found[a, b] == pytest.approx(own, abs=1e-4)


def test_changes_are_of_the_right_token_and_the_likeliest() -> None:
    from ablation.studies.asked import ask
    from ablation.studies.prompts import given_prompts

    model = tiny_model("llama")
    one = ask(model, given_prompts(CORPUS), 0, "zero")
    found = likeness.changes(one, [(), (Head(1, 1),)])
    assert found.shape == (2, 1 + likeness.N_TOKENS)
    np.testing.assert_allclose(found[0], 0, atol=1e-5)
    assert found[1, 0] == pytest.approx(one.effects([(Head(1, 1),)])[0, 1], abs=1e-5)


@given(arrays(float, (6, 6), elements=st.floats(0, 1)), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_a_cut_makes_at_most_so_many_clusters_whatever_the_order(
    values: np.ndarray, n: int
) -> None:
    alike = (values + values.T) / 2
    labels = partition.cut(partition.tree(alike), n)
    assert 1 <= len(set(labels.tolist())) <= n
    order = np.random.default_rng(0).permutation(6)
    distinct = len(set(np.round(alike[np.triu_indices(6, 1)], 12))) == 15
    if distinct:  # without ties the tree does not depend on the order of heads
        other = partition.cut(partition.tree(alike[np.ix_(order, order)]), n)
        assert partition.agreement_of(labels[order], other) == 1


def test_halves_of_noise_agree_by_chance_alone() -> None:
    rng = np.random.default_rng(1)

    def noise(_prompts: object, heads: np.ndarray) -> np.ndarray:
        drawn = rng.random((len(heads), len(heads)))
        return (drawn + drawn.T) / 2

    found = partition.stability(noise, 40, 8, 0)
    assert abs(found.mean) < 0.1
    assert not found.holds


def test_two_blocks_are_found_as_two_clusters() -> None:
    side = np.repeat([0, 1], 12)
    blocks = np.where(side[:, None] == side, 0.9, 0.1)
    rng = np.random.default_rng(2)

    def noisy(_prompts: object, heads: np.ndarray) -> np.ndarray:
        drawn = rng.normal(scale=0.05, size=(len(heads), len(heads)))
        return np.clip(blocks[np.ix_(heads, heads)] + (drawn + drawn.T) / 2, 0, 1)

    found = partition.stability(noisy, len(side), 6, 0)
    assert found.counts[found.best] == 2
    assert found.mean == 1
    assert found.holds


def test_random_heads_are_of_the_same_layers_and_others() -> None:
    pool = tuple(Head(layer, head) for layer in range(3) for head in range(4))
    heads = (Head(0, 1), Head(0, 2), Head(2, 3))
    drawn = random_like(heads, pool, np.random.default_rng(0))
    assert [head.layer for head in drawn] == [0, 0, 2]
    assert not set(drawn) & set(heads)
    # A layer with too few others gives any of its heads.
    assert {head.layer for head in random_like(pool[:3], pool, np.random.default_rng(0))} == {0}


def test_random_weights_are_told_with_their_figures() -> None:
    result = random_weights()
    found = result.details
    assert len(result.table) == 12
    assert set(found.likeness) == set(likeness.MEASURES)
    assert np.isfinite(found.ranks[~np.eye(len(found.heads), dtype=bool)]).all()
    names = [figure.name for figure in study_figures(result)]
    assert names[:3] == ["clustermap", "where", "stability"]
    record = result.to_json()
    assert sum(len(heads) for heads in record["clusters"]) + len(record["silent"]) == 12


@pytest.mark.parametrize("by", ["effects", "outputs", "composition"])
def test_one_measure_may_be_chosen(by: str) -> None:
    result = run_study("head-clusters", tiny_model("gpt2"), CORPUS, by=by)
    assert result.details.by == by
    assert result.answer[0].startswith(f"By {by if by != 'outputs' else 'what heads write'}")


def test_a_model_without_weights_at_hand_is_clustered_by_the_rest() -> None:
    model = tiny_model("bloom")
    result = run_study("head-clusters", model, CORPUS)
    assert likeness.COMPOSITION not in result.details.likeness
    assert any(caveat.startswith("Without composition:") for caveat in result.caveats)
    with pytest.raises(UserError, match="composition scores cannot be read off"):
        run_study("head-clusters", model, CORPUS, by="composition")


def test_cancelling_keeps_the_clusters() -> None:
    cancel = threading.Event()

    def progress(seen: Progress) -> None:
        if seen.message.startswith("Cluster 1 of"):
            cancel.set()

    result = run_study(
        "head-clusters", tiny_model("llama"), CORPUS, progress=progress, cancel=cancel
    )
    assert result.stopped == "cancelled"
    assert len(result.details.joints) == 1
    np.testing.assert_array_equal(result.details.labels, random_weights().details.labels)
    assert any("Cancelled before all clusters" in caveat for caveat in result.caveats)


def test_cancelling_before_anything_is_clustered_gives_nothing() -> None:
    cancel = threading.Event()
    cancel.set()
    result = run_study("head-clusters", tiny_model("llama"), CORPUS, cancel=cancel)
    assert (result.stopped, result.details, result.answer) == ("cancelled", None, ())


def test_bad_input_is_refused_and_a_plan_is_made() -> None:
    with pytest.raises(UserError, match="give at least 4 prompts, not 3"):
        run_study("head-clusters", tiny_model("llama"), CORPUS[:3])
    with pytest.raises(UserError, match="choose one of all, effects"):
        run_study("head-clusters", tiny_model("llama"), CORPUS, by="size")
    with pytest.raises(UserError, match="encoder-decoder"):
        run_study("head-clusters", tiny_model("t5"), CORPUS)
    assert plan_study("head-clusters", tiny_model("llama"), CORPUS).n_passes > 50
