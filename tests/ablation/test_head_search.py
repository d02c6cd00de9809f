"""The search against an independent greedy search with plain hooks, and its proofs."""

import threading
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from plain_interventions import plain_edit
from reference import kl, log_probs
from tiny import MASKED_PROMPT, PROMPT, prompt_text, tiny_model
from torch import Tensor

from ablation import Ablation, Intervention, Permute, Progress, SearchResult, Zero, search_heads
from ablation.types import STOP_REASONS
from models.budget import MemoryBudget
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import Head

TOLERANCE = 1e-5  # rounding of float32 logits; see test_intervention_parity
ALL = tuple(Head(layer, head) for layer in range(3) for head in range(4))


@cache
def plain(family: str, heads: frozenset[Head], intervention: Intervention) -> Tensor:
    """Return log-probs [n_vocab] with these heads edited by plain hooks, one forward pass."""
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    edits = [
        (h.layer, h.head, plain_edit(family, intervention, h, len(prompt), None))
        for h in sorted(heads)
    ]
    return log_probs(family, prompt.ids, model.resolve_position(prompt), edits)


def plain_greedy(
    family: str, target: int | None, intervention: Intervention, n_steps: int
) -> list[tuple[Head, float]]:
    """Return (head, score) of each step of a greedy search that never stops early."""
    clean = plain(family, frozenset(), intervention)
    chosen: list[Head] = []
    steps = []
    for _ in range(n_steps):
        scored = []
        for head in ALL:
            if head not in chosen:
                row = plain(family, frozenset([*chosen, head]), intervention)
                scored.append((kl(clean, row) if target is None else row[target].item(), head))
        score, head = max(scored, key=lambda pair: (pair[0], [-pair[1].layer, -pair[1].head]))
        chosen.append(head)
        steps.append((head, score))
    return steps


def runners_up(model: LanguageModel, text: str, count: int) -> list[int]:
    """Return the ids of the likeliest tokens of the clean run, without the first."""
    return [t.id for t in model.predict(model.tokenize(text), top_k=count + 1).top[1:]]


def rows(monkeypatch: pytest.MonkeyPatch, model: LanguageModel, count: int) -> None:
    monkeypatch.setattr(MemoryBudget, "rows", lambda *_: count)


# --- Every step is the best one. ---


@pytest.mark.parametrize("intervention", [Zero(), Permute(3)], ids=lambda i: i.spec)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_generic_steps_equal_a_plain_greedy_search(family: str, intervention: Intervention) -> None:
    model = tiny_model(family)
    result = search_heads(model, prompt_text(family), intervention=intervention, max_heads=4)
    expected = plain_greedy(family, None, intervention, 4)
    assert [s.head for s in result.steps] == [head for head, _ in expected]
    assert [s.kl for s in result.steps] == pytest.approx(
        [score for _, score in expected], abs=TOLERANCE, rel=1e-4
    )
    assert result.objective == "kl"
    assert result.stopped == "max_heads"
    assert result.target is None
    assert all(step.target_logprob is None for step in result.steps)
    assert result.heads == tuple(sorted(head for head, _ in expected))
    assert result.dropped == result.necessity == ()
    for i, step in enumerate(result.steps):
        row = plain(family, frozenset(h for h, _ in expected[: i + 1]), intervention)
        assert step.top.id == int(row.argmax())
        assert step.top.prob == pytest.approx(float(row.max().exp()), abs=TOLERANCE)


def check_against_plain(family: str, result: SearchResult, target: int) -> None:
    """Check a targeted result's steps, final set and proof of minimality by plain hooks."""
    clean = plain(family, frozenset(), Zero())
    expected = plain_greedy(family, target, Zero(), len(result.steps))
    assert [s.head for s in result.steps] == [head for head, _ in expected]
    chosen: list[Head] = []
    for step, (head, score) in zip(result.steps, expected, strict=True):
        assert int(plain(family, frozenset(chosen), Zero()).argmax()) != target
        chosen.append(head)
        row = plain(family, frozenset(chosen), Zero())
        assert step.target_logprob == pytest.approx(score, abs=TOLERANCE)
        assert step.kl == pytest.approx(kl(clean, row), abs=TOLERANCE, rel=1e-4)
        assert step.top.id == int(row.argmax())
    if result.stopped != "target_reached":
        assert result.heads == tuple(sorted(chosen))
        assert result.dropped == result.necessity == ()
        return
    assert set(result.heads) | set(result.dropped) == set(chosen)
    assert not set(result.heads) & set(result.dropped)
    final = plain(family, frozenset(result.heads), Zero())
    assert int(final.argmax()) == target
    assert result.final is not None
    np.testing.assert_allclose(result.final.log_probs, final, atol=TOLERANCE, rtol=0)
    assert [n.head for n in result.necessity] == list(result.heads)
    for entry in result.necessity:
        without = plain(family, frozenset(set(result.heads) - {entry.head}), Zero())
        assert int(without.argmax()) == entry.top.id != target
        assert entry.target_logprob == pytest.approx(without[target].item(), abs=TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_targeted_searches_equal_plain_ones_and_their_sets_are_minimal(family: str) -> None:
    model = tiny_model(family)
    text = prompt_text(family)
    results = []
    for target in runners_up(model, text, 12):
        result = search_heads(model, text, target, max_heads=6)
        check_against_plain(family, result, target)
        assert result.objective == "target"
        assert result.target is not None
        assert result.target.id == target
        results.append(result)
    # Otherwise this test would have checked less than its name says.
    assert any(r.stopped == "target_reached" and len(r.heads) > 1 for r in results)
    assert any(r.stopped != "target_reached" for r in results)


def test_heads_that_are_not_needed_are_dropped() -> None:
    found = []
    for family in ("llama", "gpt2", "bert"):
        model = tiny_model(family)
        for target in runners_up(model, prompt_text(family), 40):
            result = search_heads(model, prompt_text(family), target, max_heads=8)
            if result.dropped:
                check_against_plain(family, result, target)
                found.append(result)
    assert found, "no target of these models needs fewer heads than were chosen"
    frame = found[0].to_frame()
    assert frame["kept"].sum() == len(found[0].heads) < len(frame)


# --- Why it stops. ---


def test_it_stops_when_every_head_is_taken(llama: LanguageModel) -> None:
    result = search_heads(llama, PROMPT, max_heads=99)
    assert result.stopped == "all_heads"
    assert result.heads == ALL
    assert sorted(step.head for step in result.steps) == list(ALL)


def test_it_stops_at_the_limit(llama: LanguageModel) -> None:
    result = search_heads(llama, PROMPT, max_heads=1)
    assert result.stopped == "max_heads"
    assert len(result.steps) == 1


def test_generic_search_goes_on_when_kl_does_not_grow(llama: LanguageModel) -> None:
    result = search_heads(llama, PROMPT, max_heads=12)
    values = [step.kl for step in result.steps]
    assert len(values) == 12
    assert any(after < before for before, after in pairwise(values))


def test_it_stops_when_no_head_helps(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done after the position that is read cannot help."""
    target = runners_up(llama, PROMPT, 1)[0]
    prompt = llama.tokenize(PROMPT)
    assert llama.predict(prompt, 2).top[0].id != target
    result = search_heads(llama, prompt, target, position=2, positions=(5,))
    assert result.stopped == "no_improvement"
    assert result.steps == result.heads == ()
    assert result.final is None


def test_ties_go_to_the_lowest_layer_and_head(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One row a batch, so that rows in which nothing changes agree to the last bit.
    rows(monkeypatch, llama, 1)
    result = search_heads(llama, PROMPT, position=2, positions=(5,), max_heads=5)
    assert [step.kl for step in result.steps] == pytest.approx([0.0] * 5, abs=1e-12)
    assert [step.head for step in result.steps] == list(ALL[:5])


def test_only_candidates_are_considered(llama: LanguageModel) -> None:
    candidates = [Head(2, 1), Head(0, 3), Head(0, 3)]
    result = search_heads(llama, PROMPT, candidates=candidates)
    assert result.heads == (Head(0, 3), Head(2, 1))
    assert result.stopped == "all_heads"


def test_every_stop_has_a_sentence() -> None:
    assert set(STOP_REASONS) == {
        "target_reached",
        "no_improvement",
        "max_heads",
        "all_heads",
        "cancelled",
        "running",
    }


def test_a_masked_model_is_searched_at_its_mask() -> None:
    model = tiny_model("bert")
    result = search_heads(model, MASKED_PROMPT, max_heads=1)
    prompt = model.tokenize(MASKED_PROMPT)
    assert prompt.labels[result.baseline.position] == "[MASK]"


def test_the_final_prediction_is_that_of_the_final_set(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    result = search_heads(llama, prompt, intervention=Permute(1), max_heads=3)
    again = llama.predict(prompt, ablation=Ablation(result.heads, Permute(1)))
    assert result.final is not None
    np.testing.assert_allclose(result.final.log_probs, again.log_probs, atol=TOLERANCE, rtol=0)
    assert result.final.top[0].id == result.steps[-1].top.id


# --- Batches, progress, cancelling. ---


def a_long_search(model: LanguageModel) -> int:
    """Return a target that a search reaches with several steps."""
    for target in runners_up(model, PROMPT, 40):
        result = search_heads(model, PROMPT, target)
        if result.stopped == "target_reached" and len(result.steps) > 2:
            return target
    raise AssertionError("no such target in this tiny model")


@pytest.mark.parametrize("count", [1, 7, 64])
def test_the_batch_size_changes_nothing(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    target = a_long_search(llama)
    expected = search_heads(llama, PROMPT, target)
    rows(monkeypatch, llama, count)
    result = search_heads(llama, PROMPT, target)
    assert [s.head for s in result.steps] == [s.head for s in expected.steps]
    assert [s.kl for s in result.steps] == pytest.approx(
        [s.kl for s in expected.steps], abs=TOLERANCE
    )
    assert result.heads == expected.heads
    assert result.dropped == expected.dropped


def prefixes(found: Iterable[SearchResult], complete: SearchResult) -> None:
    for partial in found:
        steps = [(s.head, s.kl) for s in partial.steps]
        assert steps == [(s.head, s.kl) for s in complete.steps][: len(steps)]


def test_progress_shows_the_steps_as_they_are_found(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, llama, 5)
    reports: list[Progress] = []
    complete = search_heads(llama, PROMPT, a_long_search(llama), progress=reports.append)
    done = [report.done for report in reports]
    assert done == sorted(set(done))
    assert all(report.done <= report.total for report in reports)
    partials = [report.partial for report in reports]
    assert all(isinstance(p, SearchResult) and p.stopped == "running" for p in partials)
    prefixes(partials, complete)  # type: ignore[arg-type]
    # Three batches a step at first, each step shown from the next batch on.
    assert [len(p.steps) for p in partials[:4]] == [0, 0, 0, 1]  # type: ignore[union-attr]
    assert reports[0].message == "Step 1: 5 of 12 heads"
    assert "without" in reports[-1].message


def test_a_search_that_runs_to_its_limit_does_all_the_rows_it_announced(
    llama: LanguageModel,
) -> None:
    reports: list[Progress] = []
    search_heads(llama, PROMPT, max_heads=3, progress=reports.append)
    assert (reports[-1].done, reports[-1].total) == (12 + 11 + 10, 12 + 11 + 10)


def test_cancelling_anywhere_keeps_what_was_found_and_leaves_the_model_usable(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = a_long_search(llama)
    rows(monkeypatch, llama, 5)
    reports: list[Progress] = []
    complete = search_heads(llama, PROMPT, target, progress=reports.append)
    for index in range(len(reports)):
        cancel = threading.Event()
        seen: list[Progress] = []

        def stop(
            report: Progress,
            seen: list[Progress] = seen,
            cancel: threading.Event = cancel,
            index: int = index,
        ) -> None:
            seen.append(report)
            if len(seen) == index + 1:
                cancel.set()

        result = search_heads(llama, PROMPT, target, progress=stop, cancel=cancel)
        prefixes([result], complete)
        assert len(seen) == index + 1
        kept = {step.head for step in result.steps} - set(result.dropped)
        assert set(result.heads) == kept
        if index < len(reports) - 1:
            assert result.stopped == "cancelled"
            assert result.necessity == ()
        else:  # set after the last batch: nothing was left to cancel
            assert result.stopped == complete.stopped
        assert (result.final is None) == (not result.steps)
    again = search_heads(llama, PROMPT, target)
    assert again.heads == complete.heads


def test_cancelled_before_it_began(llama: LanguageModel) -> None:
    cancel = threading.Event()
    cancel.set()
    result = search_heads(llama, PROMPT, cancel=cancel)
    assert result.stopped == "cancelled"
    assert result.steps == ()


# --- What is refused. ---


def test_a_target_that_is_on_top_already_is_refused(llama: LanguageModel) -> None:
    top = llama.predict(llama.tokenize(PROMPT)).top[0]
    with pytest.raises(UserError, match="already the most likely token") as raised:
        search_heads(llama, PROMPT, top.id)
    assert raised.value.kind is ErrorKind.TARGET
    assert repr(top.text) in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "kind", "part"),
    [
        ({"max_heads": 0}, ErrorKind.OPTION, "at least 1"),
        ({"max_heads": -3}, ErrorKind.OPTION, "-3"),
        ({"target": "Mary and John"}, ErrorKind.TARGET, "tokens for this model, not one"),
        ({"target": ""}, ErrorKind.TARGET, "No token is named"),
        ({"candidates": [Head(3, 0)]}, ErrorKind.HEADS, "L3H0"),
        ({"candidates": []}, ErrorKind.HEADS, "No heads"),
        ({"position": -99}, ErrorKind.POSITION, "-99"),
        ({"positions": [99]}, ErrorKind.POSITION, "99"),
    ],
)
def test_what_does_not_fit_is_refused(
    llama: LanguageModel, arguments: dict[str, object], kind: ErrorKind, part: str
) -> None:
    with pytest.raises(UserError) as raised:
        search_heads(llama, PROMPT, **arguments)
    assert raised.value.kind is kind
    assert part in str(raised.value)
