"""Sweep and search over several prompts: the mean of what each prompt gives alone."""

import threading

import numpy as np
import pytest
from reference import kl, log_probs, zero
from tiny import tiny_model

from ablation import Progress, Zero, search_heads, sweep_heads
from models.errors import UserError
from models.types import Head

PROMPTS = (
    "When Mary and John went to the store, John gave a drink to",
    "The key to the cabinets",
    "Two students went",
)
"""Of different lengths: padding would have to be right, if there was any."""

TOLERANCE = 1e-5  # rounding of float32 logits; see test_intervention_parity
FAMILIES = ("gpt2", "llama", "gptj")
ALL = tuple(Head(layer, head) for layer in range(3) for head in range(4))


def plain_divergences(family: str, heads: tuple[Head, ...]) -> list[float]:
    """Return KL(clean || ablated) of each prompt, by plain hooks and without batches."""
    model = tiny_model(family)
    found = []
    for text in PROMPTS:
        ids = model.tokenize(text).ids
        clean = log_probs(family, ids, len(ids) - 1)
        edits = [(head.layer, head.head, zero) for head in heads]
        found.append(kl(clean, log_probs(family, ids, len(ids) - 1, edits)))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sweep_is_the_mean_over_the_prompts(family: str) -> None:
    scores = sweep_heads(tiny_model(family), PROMPTS)
    assert scores.by_prompt is not None
    assert scores.by_prompt.shape == (3, 3, 4)
    for head in ALL:
        expected = plain_divergences(family, (head,))
        ours = scores.by_prompt[:, head.layer, head.head]
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE, rtol=1e-4)
        assert scores.values[head.layer, head.head] == pytest.approx(
            np.mean(expected), abs=TOLERANCE, rel=1e-4
        )
    assert np.ptp(scores.by_prompt, axis=0).max() > 100 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_maximises_the_mean(family: str) -> None:
    result = search_heads(tiny_model(family), PROMPTS, max_heads=3)
    chosen: list[Head] = []
    for step in result.steps:
        means = {
            head: float(np.mean(plain_divergences(family, (*chosen, head))))
            for head in ALL
            if head not in chosen
        }
        assert step.head == max(means, key=lambda head: means[head])
        assert step.kl == pytest.approx(means[step.head], abs=TOLERANCE, rel=1e-4)
        assert len(step.tops) == 3
        chosen.append(step.head)
    assert len(result.finals) == len(result.baselines) == 3
    assert result.final is result.finals[0]


def test_a_target_has_to_be_on_top_of_every_prompt() -> None:
    model = tiny_model("llama")
    likely = [model.predict(model.tokenize(text), top_k=6).top[1:] for text in PROMPTS[:2]]
    pairs = [[first.id, second.id] for first in likely[0] for second in likely[1]]
    results = (search_heads(model, PROMPTS[:2], pair, max_heads=12) for pair in pairs)
    # Not every pair can be reached; of those that can, any will do.
    runners_up, result = next(
        (pair, result)
        for pair, result in zip(pairs, results, strict=False)
        if result.stopped == "target_reached"
    )
    assert [final.top[0].id for final in result.finals] == runners_up
    for entry in result.necessity:
        without = tuple(head for head in result.heads if head != entry.head)
        tops = []
        for text in PROMPTS[:2]:
            ids = model.tokenize(text).ids
            edits = [(head.layer, head.head, zero) for head in without]
            tops.append(int(log_probs("llama", ids, len(ids) - 1, edits).argmax()))
        assert tops != runners_up
        assert entry.top.id in tops


def test_one_prompt_in_a_list_is_that_prompt() -> None:
    model = tiny_model("llama")
    alone = sweep_heads(model, PROMPTS[0])
    listed = sweep_heads(model, [model.tokenize(PROMPTS[0])])
    assert np.array_equal(alone.values, listed.values)
    assert listed.by_prompt is None


def test_progress_counts_all_prompts_and_cancelling_keeps_what_was_found() -> None:
    cancel = threading.Event()
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if progress.done == 12:
            cancel.set()

    scores = sweep_heads(tiny_model("llama"), PROMPTS, progress=report, cancel=cancel)
    assert reports[-1].total == 36
    assert reports[-1].done == 12
    assert scores.stopped == "cancelled"
    assert scores.by_prompt is not None
    assert not np.isnan(scores.by_prompt[0]).any()
    assert np.isnan(scores.by_prompt[1:]).all()
    assert np.isnan(scores.values).all()  # no head was evaluated on all prompts


def test_what_does_not_fit_is_said_in_a_sentence() -> None:
    model = tiny_model("llama")
    with pytest.raises(UserError, match="at least one"):
        sweep_heads(model, [])
    with pytest.raises(UserError, match="2 targets for 3 prompts"):
        search_heads(model, PROMPTS, [5, 6], Zero())
