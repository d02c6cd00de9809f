"""The screened search: what it evaluates is exact, and it says how much that was."""

import numpy as np
import pytest
from reference import kl, log_probs, zero
from tiny import PROMPT, prompt_text, tiny_model

from ablation import Permute, Zero, search_heads
from ablation.evaluation import Question
from ablation.objectives import aim_at
from ablation.screening import most_promising
from models.errors import UserError
from models.types import Head

TOLERANCE = 1e-5  # rounding of float32 logits; see test_intervention_parity


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "bert"])
def test_a_screen_as_wide_as_the_model_is_the_exact_search(family: str) -> None:
    model = tiny_model(family)
    exact = search_heads(model, prompt_text(family), max_heads=5)
    screened = search_heads(model, prompt_text(family), max_heads=5, strategy="screened", screen=12)
    assert [s.head for s in screened.steps] == [s.head for s in exact.steps]
    assert (exact.strategy, screened.strategy) == ("exact", "screened")
    assert exact.evaluated == screened.evaluated == 12 + 11 + 10 + 9 + 8


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "bert"])
def test_what_is_chosen_was_evaluated_exactly(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    read = model.resolve_position(prompt)
    result = search_heads(model, prompt, max_heads=4, strategy="screened", screen=3)
    # At the clean run the gradient of KL vanishes: the first step takes all heads.
    assert [step.evaluated for step in result.steps] == [12, 3, 3, 3]
    assert result.evaluated == 12 + 3 * 3
    clean = log_probs(family, prompt.ids, read)
    chosen = []
    for step in result.steps:
        chosen.append((step.head.layer, step.head.head, zero))
        row = log_probs(family, prompt.ids, read, chosen)
        assert step.kl == pytest.approx(kl(clean, row), abs=TOLERANCE, rel=1e-4)
        assert step.top.id == int(row.argmax())


def test_a_targeted_search_is_screened_from_the_first_step() -> None:
    model = tiny_model("llama")
    target = model.predict(model.tokenize(PROMPT)).top[1].id
    result = search_heads(model, PROMPT, target, strategy="screened", screen=4)
    assert [step.evaluated for step in result.steps] == [4] * len(result.steps)
    assert result.stopped == "target_reached"


def test_the_best_estimates_are_taken() -> None:
    """With one head to evaluate, a step takes the head of the steepest gradient."""
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    target = model.predict(prompt).top[1].id
    posed = model.head_sets.pose(prompt, Permute(1))
    estimates = model.head_sets.estimate(posed, [], lambda row: row[target])
    steepest = np.unravel_index(int(estimates.argmax()), estimates.shape)
    result = search_heads(
        model, prompt, target, Permute(1), max_heads=1, strategy="screened", screen=1
    )
    assert result.steps[0].head == Head(int(steepest[0]), int(steepest[1]))


def test_half_of_the_places_go_to_the_last_gains() -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    target = model.predict(prompt).top[1].id
    posed = model.head_sets.pose(prompt, Zero())
    aims = (aim_at(Question(model, posed, model.predict(prompt), None), target),)
    estimates = model.head_sets.estimate(posed, [], lambda row: row[target])
    heads = list(model.all_heads())
    by_slope = sorted(heads, key=lambda head: -estimates[head.layer, head.head])
    # The flattest heads were last seen to gain, the very last one most.
    gains = {by_slope[-1]: 3.0, by_slope[-2]: 2.0, by_slope[-3]: 1.0}
    chosen = most_promising(aims, [], heads, gains, 4)
    assert chosen == sorted([*by_slope[:2], by_slope[-1], by_slope[-2]])
    assert most_promising(aims, [], heads, {}, 4) == sorted(by_slope[:4])
    one_known = most_promising(aims, [], heads, {by_slope[-1]: 1.0}, 4)
    assert one_known == sorted([*by_slope[:3], by_slope[-1]])
    agreeing = most_promising(aims, [], heads, {by_slope[0]: 1.0, by_slope[1]: 1.0}, 4)
    assert agreeing == sorted(by_slope[:4])


def test_few_heads_are_not_screened() -> None:
    remaining = [Head(0, 1), Head(2, 2)]
    assert most_promising((), (), remaining, {}, 2) == remaining


def test_unknown_strategies_are_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(UserError, match="choose one of exact, screened"):
        search_heads(model, PROMPT, strategy="quick")
    with pytest.raises(UserError, match="at least 1 head"):
        search_heads(model, PROMPT, strategy="screened", screen=0)
