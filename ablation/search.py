"""The search for heads that matter together: generic (greatest KL) and targeted (a chosen token).

Both are greedy: each step evaluates every remaining head together with those already chosen,
exactly, and takes the best. A targeted search that reaches its target then drops heads that the
target does not need, until none of those left can be taken away.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from ablation.evaluation import Cancelled, Question, pose
from ablation.interventions import Intervention, Zero
from ablation.metrics import kl_divergence, top_token
from ablation.types import Necessity, Progress, SearchResult, SearchStep
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import Head, Prediction, TokenizedPrompt

LEAST_GAIN = 1e-6
"""A targeted step has to raise log p(target) by more nats than this. In float32 the logits of one
head set differ by about as much between batches of different sizes: less is no improvement."""


def search_heads(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    target: int | str | None = None,
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    max_heads: int = 10,
    *,
    position: int | None = None,
    positions: Sequence[int] | None = None,
    candidates: Sequence[Head] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> SearchResult:
    """Search for the heads whose ablation together changes the prediction most.

    Without a target (generic), each step takes the head that makes the KL divergence from the
    clean run largest, up to `max_heads`. With one (targeted), each step takes the head that makes
    the target most likely; the search stops once the target is the most likely token, when no
    head raises it, or at `max_heads`, and a set that reached the target is then made minimal.
    Ties go to the lowest (layer, head).

    Args:
        target: token id or text of one token, not the most likely one of the clean run.
        position: where the prediction is read; negative numbers count from the end. None: the
            last position, or the first mask token.
        positions: the positions acted on; None for all.
        candidates: the heads considered; None for all.
        progress: called after each batch with the result so far (`stopped` being "running").
        cancel: looked at before each batch; once set, what was found so far is returned.

    Raises:
        UserError: an argument that does not fit this model or prompt, or numbers that are not
            finite.
    """
    heads = _candidates(model, candidates)
    limit = _limit(max_heads, len(heads))
    target_id = None if target is None else model.resolve_token(target)
    question = pose(model, prompt, intervention, heads, position, positions, cancel)
    objective = _objective(question, target_id)
    search = Search(question, objective, heads, limit, progress)
    found = Found(score=objective.clean_score(question.baseline))
    try:
        while found.stopped == "running":
            found = _with_best_head(search, found)
        while found.stopped == "target_reached" and not found.necessity:
            found = _without_least_needed(search, found)
    except Cancelled:
        found = replace(found, stopped="cancelled")
    return _result(search, found)


# --- What is sought. ---


class Objective(Protocol):
    """What a search makes as large as it can, and when it has enough."""

    @property
    def name(self) -> str: ...
    @property
    def target_id(self) -> int | None: ...

    def clean_score(self, baseline: Prediction) -> float:
        """Return the score of ablating nothing."""
        ...

    def scores(self, clean: Tensor, log_probs: Tensor) -> Tensor:
        """Return float64 [n] from log-probs [n_vocab] of the clean run and [n, n_vocab]."""
        ...

    def is_gain(self, score: float, before: float) -> bool:
        """Whether a step from `before` to `score` is worth taking."""
        ...

    def is_reached(self, top_id: int) -> bool:
        """Whether the search has what it wants when `top_id` is the most likely token."""
        ...


@dataclass(frozen=True, slots=True)
class MostChange:
    """Generic: the largest KL divergence from the clean run; there is never enough of it."""

    name: str = "kl"
    target_id: None = None

    def clean_score(self, baseline: Prediction) -> float:
        return 0.0

    def scores(self, clean: Tensor, log_probs: Tensor) -> Tensor:
        return kl_divergence(clean, log_probs)

    def is_gain(self, score: float, before: float) -> bool:
        return True

    def is_reached(self, top_id: int) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class TargetOnTop:
    """Targeted: the largest log-probability of one token, until it is the most likely one."""

    target_id: int
    name: str = "target"

    def clean_score(self, baseline: Prediction) -> float:
        return float(baseline.log_probs[self.target_id])

    def scores(self, clean: Tensor, log_probs: Tensor) -> Tensor:
        return log_probs[:, self.target_id]

    def is_gain(self, score: float, before: float) -> bool:
        return score > before + LEAST_GAIN

    def is_reached(self, top_id: int) -> bool:
        return top_id == self.target_id


# --- The search and where it stands. ---


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What does not change while a search runs."""

    question: Question
    objective: Objective
    heads: tuple[Head, ...]
    """The heads considered, in (layer, head) order."""
    limit: int
    """How many of them may be chosen."""
    progress: Callable[[Progress], None] | None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Where a search stands between two steps."""

    score: float
    """The objective's score of the heads kept."""
    steps: tuple[SearchStep, ...] = ()
    kept: tuple[Head, ...] = ()
    dropped: tuple[Head, ...] = ()
    final: Prediction | None = None
    """The prediction with the heads kept ablated."""
    necessity: tuple[Necessity, ...] = ()
    """Filled once no head can be dropped any more."""
    stopped: str = "running"
    rows: int = 0
    """Head sets evaluated so far."""


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    """The best head set among those evaluated."""

    head: Head
    """The head added, or left out."""
    score: float
    log_probs: Tensor
    """float64 [n_vocab]"""


def _with_best_head(search: Search, found: Found) -> Found:
    """Take the best of the remaining heads, or stop because none helps."""
    remaining = [head for head in search.heads if head not in found.kept]
    best = _best_addition(search, found, remaining)
    rows = found.rows + len(remaining)
    if not search.objective.is_gain(best.score, found.score):
        return replace(found, stopped="no_improvement", rows=rows)
    kept = (*found.kept, best.head)
    final = _prediction(search, best.log_probs)
    return replace(
        found,
        score=best.score,
        steps=(*found.steps, _step(search, best, final)),
        kept=kept,
        final=final,
        stopped=_stop_reason(search, len(kept), final),
        rows=rows,
    )


def _best_addition(search: Search, found: Found, remaining: Sequence[Head]) -> _Best:
    """Evaluate each remaining head together with those kept; return the best one."""
    best: _Best | None = None
    for start, log_probs in search.question.evaluate([(*found.kept, h) for h in remaining]):
        clean = search.question.clean_log_probs(log_probs)
        scores = search.objective.scores(clean, log_probs)
        leader = top_token(scores)  # of equals the first, so the lowest (layer, head)
        score = scores[leader].item()
        if best is None or score > best.score:
            # A copy, so that the rest of the batch can be freed.
            best = _Best(remaining[start + leader], score, log_probs[leader].clone())
        done = start + len(log_probs)
        number = len(found.kept) + 1
        _report(search, found, done, f"Step {number}: {done} of {len(remaining)} heads")
    assert best is not None  # a search that stands at "running" has heads left
    return best


def _without_least_needed(search: Search, found: Found) -> Found:
    """Drop the kept head that the target needs least, or prove that it needs each of them."""
    kept = sorted(found.kept)
    best: _Best | None = None
    necessity: list[Necessity] = []
    without = [tuple(other for other in kept if other != head) for head in kept]
    for start, log_probs in search.question.evaluate(without):
        clean = search.question.clean_log_probs(log_probs)
        scores = search.objective.scores(clean, log_probs).tolist()
        for head, score, row in zip(kept[start:], scores, log_probs, strict=False):
            top_id = top_token(row)
            if not search.objective.is_reached(top_id):
                top = search.question.model.describe_token(top_id, row[top_id].item())
                necessity.append(Necessity(head, top, score))
            elif best is None or score > best.score:
                best = _Best(head, score, row.clone())
        done = start + len(log_probs)
        _report(search, found, done, f"Trying without each head: {done} of {len(kept)}")
    rows = found.rows + len(kept)
    if best is None:
        return replace(found, necessity=tuple(necessity), rows=rows)
    return replace(
        found,
        score=best.score,
        kept=tuple(head for head in found.kept if head != best.head),
        dropped=(*found.dropped, best.head),
        final=_prediction(search, best.log_probs),
        rows=rows,
    )


# --- Parts. ---


def _candidates(model: LanguageModel, candidates: Sequence[Head] | None) -> tuple[Head, ...]:
    heads = model.all_heads() if candidates is None else model.check_heads(candidates)
    if not heads:
        raise UserError(ErrorKind.HEADS, "No heads are left to search among; name at least one.")
    return tuple(sorted(set(heads)))


def _limit(max_heads: int, n_candidates: int) -> int:
    if max_heads < 1:
        raise UserError(
            ErrorKind.OPTION,
            f"The limit of heads is {max_heads}, but a search needs at least 1; raise it.",
        )
    return min(max_heads, n_candidates)


def _objective(question: Question, target_id: int | None) -> Objective:
    if target_id is None:
        return MostChange()
    top = question.baseline.top[0]
    if top.id == target_id:
        raise UserError(
            ErrorKind.TARGET,
            f"The target {top.text!r} is already the most likely token ({top.prob:.1%}); "
            "choose another one.",
        )
    return TargetOnTop(target_id)


def _stop_reason(search: Search, n_kept: int, final: Prediction) -> str:
    if search.objective.is_reached(final.top[0].id):
        return "target_reached"
    if n_kept == len(search.heads):
        return "all_heads"
    return "max_heads" if n_kept == search.limit else "running"


def _step(search: Search, best: _Best, final: Prediction) -> SearchStep:
    clean = search.question.clean_log_probs(best.log_probs)
    target_id = search.objective.target_id
    return SearchStep(
        head=best.head,
        kl=kl_divergence(clean, best.log_probs[None]).item(),
        target_logprob=None if target_id is None else best.log_probs[target_id].item(),
        top=final.top[0],
    )


def _prediction(search: Search, log_probs: Tensor) -> Prediction:
    return search.question.model.prediction_from(log_probs, search.question.position)


def _report(search: Search, found: Found, done: int, message: str) -> None:
    if search.progress is not None:
        total = found.rows + _most_rows_left(search, found)
        partial = _result(search, replace(found, stopped="running"))
        search.progress(Progress(found.rows + done, total, message, partial))


def _most_rows_left(search: Search, found: Found) -> int:
    """Return how many head sets may still have to be evaluated, if no step stops the search."""
    if found.stopped != "running":
        return _triangle(len(found.kept))
    n_remaining = len(search.heads) - len(found.kept)
    n_steps = search.limit - len(found.kept)
    adding = _triangle(n_remaining) - _triangle(n_remaining - n_steps)
    dropping = 0 if search.objective.target_id is None else _triangle(search.limit)
    return adding + dropping


def _triangle(n: int) -> int:
    """Return n + (n - 1) + ... + 1."""
    return n * (n + 1) // 2


def _result(search: Search, found: Found) -> SearchResult:
    target_id = search.objective.target_id
    return SearchResult(
        objective=search.objective.name,
        target=None if target_id is None else search.question.clean_token(target_id),
        baseline=search.question.baseline,
        steps=found.steps,
        heads=tuple(sorted(found.kept)),
        dropped=found.dropped,
        stopped=found.stopped,
        final=found.final,
        necessity=found.necessity,
    )
