"""The study of redundant heads: on a wired model whose heads are known, and step by step exact."""

import threading
from functools import cache

import numpy as np
import pytest
from handwired import hand_wired, pairs, wired_twins
from tiny import CORPUS, tiny_model

from ablation import Permute, Progress, Zero, run_study
from ablation.studies import plan_study
from ablation.studies.columns import KL
from ablation.studies.types import StudyResult
from models.errors import UserError
from models.types import Head
from viz.studies import study_figures

PREVIOUS, INDUCTION, TWIN = Head(0, 0), Head(1, 0), Head(1, 1)
TOLERANCE = 1e-4  # nats: float32 logits, in batches of other sizes


@cache
def wired() -> StudyResult:
    return run_study("redundant-heads", hand_wired(), [pair.clean for pair in pairs(6)])


@cache
def random_weights() -> StudyResult:
    return run_study("redundant-heads", tiny_model("llama"), CORPUS, strategy="exact")


def test_dead_heads_go_first_and_cost_nothing() -> None:
    found = wired().details
    assert set(found.order[:2]) == {Head(0, 1), Head(1, 1)}
    assert found.held_out[:, 0, KL].max() < TOLERANCE
    assert found.clean_rank == 1
    assert [reach.n_heads for reach in found.reaches] == [2, 2, 2]
    assert all(reach.rank == 1 and reach.same == 1 for reach in found.reaches)
    assert "2 and 2 and 2 go before" in wired().answer[0]
    assert "0.01 nats, 2 (50 %)" in wired().answer[1]


def test_heads_of_one_path_overlap() -> None:
    [pair] = [p for p in wired().details.pairs if p.heads == (PREVIOUS, INDUCTION)]
    # Without the one the other moves noise or nothing: together they cost what one costs.
    assert pair.beyond.mean() < -1
    assert any("most overlap: L0H0 and L1H0" in sentence for sentence in wired().answer)


def test_twins_stand_in_for_each_other() -> None:
    texts = [pair.clean for pair in pairs(6)]
    found = run_study("redundant-heads", wired_twins(), texts).details
    [pair] = [p for p in found.pairs if p.heads == (INDUCTION, TWIN)]
    assert pair.alone.max() < 0.2
    assert pair.together.min() > 1
    assert pair.interval.low > 1
    # One of the twins is redundant, the other then is not.
    assert len({INDUCTION, TWIN} & set(found.order[:2])) == 1
    assert found.reaches[-1].n_heads == 2


def test_every_step_takes_the_cheapest_head_that_is_left() -> None:
    model, found = tiny_model("llama"), random_weights().details
    prompts = [model.tokenize(text) for text in CORPUS]
    removed: tuple[Head, ...] = ()
    n_fitted = len(found.singles)
    for step in found.steps[:3]:
        left = [head for head in found.heads if head not in removed]
        costs = []
        for prompt in prompts:
            rows = model.ablated_logprobs(prompt, [(), *((*removed, h) for h in left)], Zero())
            costs.append((rows[0].exp() * (rows[0] - rows[1:])).sum(dim=1).numpy())
        # Which of the prompts were fitted on is read off the effects.
        fitted = [
            i for i in range(len(prompts))
            if any(abs(costs[i] - cost).min() < TOLERANCE for cost in step.effects[:, KL])
        ]  # fmt: skip
        assert len(fitted) >= n_fitted
        assert len(step.removed) == 1
        chosen = left.index(step.removed[0])
        by_hand = [cost for cost in costs if abs(cost[chosen] - step.effects[:, KL]).min() < 1e-4]
        assert len(by_hand) == n_fitted
        assert int(np.argmin(np.mean(by_hand, axis=0))) == chosen
        removed = (*removed, *step.removed)


def test_on_random_weights_greedy_removal_costs_less_than_chance() -> None:
    found = random_weights().details
    fitted = found.fitted[..., KL].mean(axis=0)
    assert np.all(np.diff(found.sizes) == 1)
    assert fitted[2] < found.compared["random"].mean(axis=0)[2]
    assert found.reaches[0].n_heads < found.reaches[-1].n_heads <= 12
    figures = study_figures(random_weights())
    assert {"elimination", "order", "pairs", "groups"} <= {figure.name for figure in figures}
    record = random_weights().to_json()
    assert len(record["table"]) == 12
    assert record["thresholds"][0]["kl"] == 0.01


def test_screened_steps_run_what_they_remove() -> None:
    found = run_study("redundant-heads", tiny_model("llama"), CORPUS).details
    exact = random_weights().details
    assert len(found.order) == len(set(found.order)) >= len(found.steps)
    # The estimate is good enough to come near the exact elimination.
    n = found.sizes[len(found.sizes) // 2]
    own = found.fitted[:, found.sizes.index(n), KL].mean()
    assert own < 2 * exact.fitted[:, exact.sizes.index(n), KL].mean() + 0.05


def test_the_same_heads_are_removed_by_other_interventions() -> None:
    model, found = tiny_model("llama"), random_weights().details
    assert set(found.others) == {"mean", "permute"}
    sets = found.reached
    assert [len(heads) for heads in sets] == sorted({r.n_heads for r in found.reaches if r.n_heads})
    # Which of the prompts were held out is read off what zero does there.
    prompts = [model.tokenize(text) for text in CORPUS]
    zero = [found.sizes.index(len(heads)) for heads in sets]
    for row, values in zip(found.judged[:, zero, KL], found.others["permute"], strict=True):
        by_hand = {}
        for way in (Zero(), Permute(0)):
            kls = []
            for prompt in prompts:
                rows = model.ablated_logprobs(prompt, [(), *sets], way)
                kls.append((rows[0].exp() * (rows[0] - rows[1:])).sum(dim=1).numpy())
            by_hand[way] = np.array(kls)
        own = int(np.abs(by_hand[Zero()] - row).max(axis=1).argmin())
        np.testing.assert_allclose(by_hand[Zero()][own], row, atol=TOLERANCE)
        np.testing.assert_allclose(by_hand[Permute(0)][own], values, atol=TOLERANCE)
    assert any("by other interventions" in said for said in random_weights().answer)


def test_one_prompt_has_nothing_held_out_and_no_interval() -> None:
    result = run_study("redundant-heads", tiny_model("gpt2"), CORPUS[:1])
    assert result.details.held_out is None
    assert all(reach.low == reach.high for reach in result.details.reaches)
    assert any("nothing is held out" in caveat for caveat in result.caveats)
    # Every head has a key-value head of its own.
    assert result.details.groups == ()


def test_cancelling_keeps_the_steps_that_were_taken() -> None:
    cancel = threading.Event()

    def progress(seen: Progress) -> None:
        if seen.message.startswith("2 heads removed"):
            cancel.set()

    result = run_study(
        "redundant-heads", tiny_model("llama"), CORPUS, strategy="exact", progress=progress,
        cancel=cancel,
    )  # fmt: skip
    assert result.stopped == "cancelled"
    assert result.details.order == random_weights().details.order[:2]
    assert "that they were chosen on" in result.answer[0]


def test_bad_input_is_refused_and_a_plan_is_made() -> None:
    with pytest.raises(UserError, match="choose one of screened, exact"):
        run_study("redundant-heads", tiny_model("llama"), CORPUS, strategy="fast")
    with pytest.raises(UserError, match="encoder-decoder"):
        run_study("redundant-heads", tiny_model("t5"), CORPUS)
    assert plan_study("redundant-heads", tiny_model("llama"), CORPUS).n_passes > 100
