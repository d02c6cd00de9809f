"""Critical heads: the two that the wired model answers with, and nobody else."""

import json
import threading

import numpy as np
import pytest
from handwired import hand_wired, pairs, wired_twins
from tiny import tiny_model

from ablation import Zero, sweep_heads
from ablation.studies import critical_heads, plan_study, run_study
from ablation.studies.columns import KL, RIGHT
from ablation.studies.prompts import PromptSet, StudyPrompt
from ablation.studies.removals import random_sets
from ablation.studies.types import StudyResult
from ablation.types import Progress
from models.errors import UserError
from models.types import Head
from viz.studies import study_figures
from viz.studies.report import study_html

WIRED = PromptSet(
    "wired", tuple(StudyPrompt(p.clean, p.answer, p.distractor) for p in pairs(6)), "formulas"
)


@pytest.fixture(scope="module")
def wired() -> StudyResult:
    return run_study("critical-heads", hand_wired(), WIRED)


def test_the_wired_heads_are_critical_and_the_dead_ones_do_nothing(wired: StudyResult) -> None:
    table = wired.table.set_index("head")
    assert set(table.index[table["critical"]]) == {"L0H0", "L1H0"}
    for dead in ("L0H1", "L1H1"):
        # Exactly 0 in the model, so that its ablation changes nothing but rounding.
        assert table.loc[dead, "kl"] == pytest.approx(0, abs=1e-9)
    assert wired.answer[0].startswith("2 of 4 heads are critical")
    assert "on 6 prompts (wired)" in wired.answer[0]
    # Either of the two alone undoes the answer.
    assert wired.details.shortest == 1
    assert (wired.details.effects[:, 0, RIGHT] < -1).all()


def test_effects_are_those_of_the_sweep() -> None:
    model, texts = tiny_model("llama"), ["The cat sat on the mat.", "When Mary and John went"]
    found = run_study("critical-heads", model, texts).details
    for i, text in enumerate(texts):
        expected = sweep_heads(model, text, Zero(), "kl").values
        for j, head in enumerate(found.heads):
            assert found.effects[i, j, KL] == pytest.approx(expected[head.layer, head.head])
    # All heads together, at the last size.
    assert found.sizes[-1] == len(model.all_heads())


def test_random_sets_have_as_many_heads_in_each_layer() -> None:
    model = tiny_model("llama")
    heads = [Head(0, 1), Head(0, 2), Head(2, 3)]
    for drawn in random_sets(model, heads, 10, seed=1):
        assert sorted(head.layer for head in drawn) == [0, 0, 2]
        assert len(set(drawn)) == 3


def test_one_prompt_has_no_interval() -> None:
    result = run_study("critical-heads", tiny_model("llama"), ["The cat sat on the mat."])
    assert "no interval can be given" in result.answer[0]
    assert list(result.details.others) == ["permute"]  # the mean needs other prompts
    assert np.isnan(result.table["kl_low"]).all()
    json.dumps(result.to_json(), allow_nan=False)


def test_the_shortest_list_is_found_between_the_sizes_tried_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = ["The cat sat on the mat.", "A dog ran to the tree.", "She gave him a book."]
    every = run_study("critical-heads", tiny_model("llama"), texts).details
    assert every.sizes == tuple(range(1, 13))
    assert 1 < every.shortest < 12
    monkeypatch.setattr(critical_heads, "LONGEST_LIST", 1)
    monkeypatch.setattr(critical_heads, "GROWTH", 6)
    monkeypatch.setattr(critical_heads, "LEADERS", 1)  # a size that is tried
    coarse = run_study("critical-heads", tiny_model("llama"), texts).details
    at = coarse.sizes.index(coarse.shortest)
    assert coarse.sizes[at - 1] == coarse.shortest - 1
    assert coarse.sizes == tuple(sorted(coarse.sizes))
    for size, effects in zip(coarse.sizes, coarse.joint.swapaxes(0, 1), strict=True):
        np.testing.assert_allclose(effects, every.joint[:, size - 1], atol=1e-4)


def test_of_twins_that_stand_in_for_each_other_none_is_critical() -> None:
    result = run_study("critical-heads", wired_twins(), [pair.clean for pair in pairs(6)])
    assert result.table.loc[result.table["critical"], "head"].tolist() == ["L0H0"]
    assert result.answer[0].startswith("1 of 4 heads is critical")


def test_cancel_keeps_the_prompts_that_were_done() -> None:
    cancel = threading.Event()

    def progress(now: Progress) -> None:
        if now.done == 2:
            cancel.set()

    result = run_study("critical-heads", hand_wired(), WIRED, progress=progress, cancel=cancel)
    assert (result.stopped, result.n_prompts) == ("cancelled", 2)
    assert len(result.table) == 4
    assert "2 of 6 prompts" in result.caveats[-1]
    assert any("over 2 prompts" in caveat for caveat in result.caveats)
    # Written out and drawn, though nothing was ablated together yet.
    assert result.to_json()["shortest"] is None
    assert [one.name for one in study_figures(result)][:2] == ["kl-map", "right-map"]
    cancel.set()
    nothing = run_study("critical-heads", hand_wired(), WIRED, cancel=cancel)
    assert (nothing.answer, nothing.details, len(nothing.table)) == ((), None, 0)
    assert study_figures(nothing) == ()


def test_models_of_several_stacks_are_refused() -> None:
    with pytest.raises(UserError, match="one stack"):
        run_study("critical-heads", tiny_model("bart"), ["The cat sat."])


def test_the_plan_says_what_is_done() -> None:
    plan = plan_study("critical-heads", hand_wired(), WIRED)
    assert "4 heads alone on 6 prompts" in plan.words
    assert plan.seconds > 0


def test_figures_and_the_page_of_a_study_hold_what_was_found(wired: StudyResult) -> None:
    drawn = {figure.name: figure.figure for figure in study_figures(wired, dark=True)}
    assert list(drawn) == ["kl-map", "right-map", "leaders", "joint", "interventions"]
    leaders = drawn["leaders"].data[0]
    assert set(leaders.x[:2]) == {"L0H0", "L1H0"}
    assert leaders.y[0] == pytest.approx(wired.table["kl"].max())
    colours = [trace.marker.color for trace in drawn["interventions"].data]
    assert len(set(colours)) == len(colours) == 3
    page = study_html(wired, "hand-wired")
    assert wired.answer[0] in page
    assert "<script src" not in page
