"""The search for heads that matter together: generic (greatest KL) and targeted (a chosen token).

Both are greedy: each step evaluates remaining heads together with those already chosen, exactly,
and takes the best. The exact strategy evaluates all of them; the screened one the most promising
ones (`ablation.screening`). A targeted search that reaches its target then drops
heads that the target does not need, until none of those left can be taken away.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from ablation.evaluation import Cancelled, Prompts, pose_all, targets_of
from ablation.interventions import Intervention, Zero
from ablation.metrics import kl_divergence
from ablation.objectives import Aim, aim_at, on_top
from ablation.screening import SCREENED, check_strategy, most_promising, screens
from ablation.types import Necessity, Progress, SearchResult, SearchStep
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.places import Place
from models.types import FloatArray, Head, Prediction, TokenizedPrompt, TokenProbability


def search_heads(
    model: LanguageModel,
    prompt: Prompts,
    target: int | str | Sequence[int | str] | None = None,
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    max_heads: int = 10,
    *,
    any_of: Sequence[int] | None = None,
    among: Sequence[int] | None = None,
    position: int | None = None,
    positions: Sequence[Place] | None = None,
    candidates: Sequence[Head] | None = None,
    strategy: str = "exact",
    screen: int = SCREENED,
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
        prompt: one prompt, or several of equal or different lengths: then the mean over them is
            made largest, and a target is reached when it is so on every prompt.
        target: token id or text of one token, not the most likely one of the clean run; for
            several prompts one for all, or a sequence with one each.
        position: where the prediction is read; negative numbers count from the end. None: the
            last position, or the first mask token.
        positions: the positions acted on; None for all.
        candidates: the heads considered, of any stacks; None for all of all stacks.
        strategy: "exact" evaluates every remaining head in each step. "screened" evaluates only
            the `screen` most promising ones (`ablation.screening`); the result says so. The first
            step of a generic search is exact all the same: there the gradient of KL vanishes.
        any_of: token ids, in place of a target: one of them shall be the most likely token.
        among: with `any_of`, the tokens that count; None for all.
        screen: how many heads a screened step evaluates exactly.
        progress: called after each batch with the result so far (`stopped` being "running").
        cancel: looked at before each batch; once set, what was found so far is returned.

    Raises:
        UserError: an argument that does not fit this model or prompt, or numbers that are not
            finite.
    """
    heads = _candidates(model, prompt, candidates)
    limit = _limit(max_heads, len(heads))
    check_strategy(strategy, screen)
    questions = pose_all(model, prompt, intervention, heads, position, positions, cancel)
    targets = targets_of(model, target, len(questions))
    wanted = None if any_of is None else frozenset(any_of)
    aims = tuple(
        aim_at(question, one, wanted, None if among is None else tuple(among))
        for question, one in zip(questions, targets, strict=True)
    )
    search = Search(aims, heads, limit, strategy, screen, progress)
    clean = [aim.objective.clean_score(aim.question.baseline) for aim in aims]
    found = Found(score=float(np.mean(clean)))
    try:
        while found.stopped == "running":
            found = _with_best_head(search, found)
        while found.stopped == "target_reached" and not found.necessity:
            found = _without_least_needed(search, found)
    except Cancelled:
        found = replace(found, stopped="cancelled")
    return _result(search, found)


# --- The search and where it stands. ---


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What does not change while a search runs."""

    aims: tuple[Aim, ...]
    """One a prompt."""
    heads: tuple[Head, ...]
    """The heads considered, in (layer, head) order."""
    limit: int
    """How many of them may be chosen."""
    strategy: str
    screen: int
    progress: Callable[[Progress], None] | None

    def mean(self, values: Sequence[float]) -> float:
        """Return the mean of one value a prompt."""
        return float(np.mean(values))


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Where a search stands between two steps."""

    score: float
    """The objective's score of the heads kept, mean over the prompts."""
    steps: tuple[SearchStep, ...] = ()
    kept: tuple[Head, ...] = ()
    dropped: tuple[Head, ...] = ()
    finals: tuple[Prediction, ...] = ()
    """The prediction of each prompt with the heads kept ablated."""
    necessity: tuple[Necessity, ...] = ()
    """Filled once no head can be dropped any more."""
    stopped: str = "running"
    rows: int = 0
    """Head sets evaluated so far, each prompt counting."""
    last_gains: Mapping[Head, float] = field(default_factory=dict)
    """What each head added to the score when it was last evaluated."""


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    """The best head set among those evaluated."""

    head: Head
    """The head added."""
    score: float
    log_probs: list[Tensor]
    """float64 [n_vocab] of each prompt."""


def _with_best_head(search: Search, found: Found) -> Found:
    """Take the best of the remaining heads, or stop because none helps."""
    remaining = [head for head in search.heads if head not in found.kept]
    if screens(search.strategy, search.aims, len(found.kept)):
        remaining = most_promising(
            search.aims, found.kept, remaining, found.last_gains, search.screen
        )
    best, scores = _best_addition(search, found, remaining)
    rows = found.rows + _rows_of_step(search, len(remaining))
    if not search.aims[0].objective.is_gain(best.score, found.score):
        return replace(found, stopped="no_improvement", rows=rows)
    kept = (*found.kept, best.head)
    finals = _predictions(search, best.log_probs)
    gains = dict(zip(remaining, (scores - found.score).tolist(), strict=True))
    return replace(
        found,
        last_gains={**found.last_gains, **gains},
        score=best.score,
        steps=(*found.steps, _step(search, best, finals, len(remaining))),
        kept=kept,
        finals=finals,
        stopped=_stop_reason(search, len(kept), finals),
        rows=rows,
    )


def _best_addition(
    search: Search, found: Found, remaining: Sequence[Head]
) -> tuple[_Best, FloatArray]:
    """Evaluate each remaining head together with those kept.

    Returns:
        The best one, and the score of each, float64 [n_remaining], mean over the prompts.
    """
    head_sets = [(*found.kept, head) for head in remaining]
    scores = np.full((len(search.aims), len(head_sets)), -np.inf)
    leading: Tensor | None = None  # the row of the best set so far, where there is one prompt
    done, number = 0, len(found.kept) + 1
    for aim, aim_scores in zip(search.aims, scores, strict=True):
        for indices, log_probs in aim.question.evaluate(head_sets):
            aim_scores[indices] = aim.scores(log_probs).tolist()
            leader = int(aim_scores.argmax())
            if leader in indices:
                # A copy, so that the rest of the pass can be freed.
                leading = log_probs[indices.index(leader)].clone()
            done += len(indices)
            _report(search, found, done, f"Step {number}: {done} of {scores.size} heads")
    mean = scores.mean(axis=0)
    best = int(mean.argmax())  # of equals the first, so the lowest (layer, head)
    if len(search.aims) == 1:
        assert leading is not None  # a search that stands at "running" has heads left
        return _Best(remaining[best], float(mean[best]), [leading]), mean
    rows = [_rows(aim, [head_sets[best]])[0] for aim in search.aims]
    return _Best(remaining[best], float(mean[best]), rows), mean


def _rows(aim: Aim, head_sets: Sequence[Sequence[Head]]) -> list[Tensor]:
    """Return the log-probs float64 [n_vocab] of a few sets, in their order."""
    rows: dict[int, Tensor] = {}
    for indices, log_probs in aim.question.evaluate(head_sets):
        rows.update(zip(indices, log_probs, strict=True))
    return [rows[i] for i in range(len(head_sets))]


def _without_least_needed(search: Search, found: Found) -> Found:
    """Drop the kept head that the target needs least, or prove that it needs each of them."""
    kept = sorted(found.kept)
    without = [tuple(other for other in kept if other != head) for head in kept]
    rows: list[list[Tensor]] = []  # prompt, head
    for aim in search.aims:
        rows.append(_rows(aim, without))
        done = len(rows) * len(kept)
        total = len(search.aims) * len(kept)
        _report(search, found, done, f"Trying without each head: {done} of {total}")
    scores = [
        search.mean(list(map(_score, search.aims, of_head))) for of_head in zip(*rows, strict=True)
    ]
    failing = [_first_not_reached(search, of_head) for of_head in zip(*rows, strict=True)]
    n_rows = found.rows + len(kept) * len(search.aims)
    droppable = [i for i, top in enumerate(failing) if top is None]
    if not droppable:
        necessity = tuple(
            Necessity(head, top, score)
            for head, top, score in zip(kept, failing, scores, strict=True)
            if top is not None
        )
        return replace(found, necessity=necessity, rows=n_rows)
    least = max(droppable, key=lambda i: (scores[i], -i))
    return replace(
        found,
        score=scores[least],
        kept=tuple(head for head in found.kept if head != kept[least]),
        dropped=(*found.dropped, kept[least]),
        finals=_predictions(search, [of_prompt[least] for of_prompt in rows]),
        rows=n_rows,
    )


def _score(aim: Aim, log_probs: Tensor) -> float:
    return float(aim.scores(log_probs[None])[0])


def _first_not_reached(search: Search, rows: Sequence[Tensor]) -> TokenProbability | None:
    """Return the most likely token of the first prompt whose target is not on top, if any."""
    for aim, row in zip(search.aims, rows, strict=True):
        top_id = on_top(row, aim.objective.among)
        if not aim.objective.is_reached(top_id):
            return aim.question.model.describe_token(top_id, row[top_id].item())
    return None


# --- Parts. ---


def _candidates(
    model: LanguageModel, prompts: Prompts, candidates: Sequence[Head] | None
) -> tuple[Head, ...]:
    heads = _running(model, prompts) if candidates is None else model.check_heads(candidates)
    if not heads:
        raise UserError(ErrorKind.HEADS, "No heads are left to search among; name at least one.")
    return tuple(sorted(set(heads)))


def _running(model: LanguageModel, prompts: Prompts) -> tuple[Head, ...]:
    """Return the heads that run on all of the prompts."""
    if not model.reads_pictures:
        return model.all_heads(None)
    several = [prompts] if isinstance(prompts, TokenizedPrompt | str) else list(prompts)
    each = (model.tokenize(one) if isinstance(one, str) else one for one in several)
    running = [set(model.heads_on(one)) for one in each]
    return tuple(h for h in model.all_heads(None) if all(h in heads for heads in running))


def _limit(max_heads: int, n_candidates: int) -> int:
    if max_heads < 1:
        raise UserError(
            ErrorKind.OPTION,
            f"The limit of heads is {max_heads}, but a search needs at least 1; raise it.",
        )
    return min(max_heads, n_candidates)


def _stop_reason(search: Search, n_kept: int, finals: Sequence[Prediction]) -> str:
    reached = (
        aim.objective.is_reached(on_top(final.log_probs, aim.objective.among))
        for aim, final in zip(search.aims, finals, strict=True)
    )
    if all(reached):
        return "target_reached"
    if n_kept == len(search.heads):
        return "all_heads"
    return "max_heads" if n_kept == search.limit else "running"


def _step(search: Search, best: _Best, finals: Sequence[Prediction], evaluated: int) -> SearchStep:
    divergences, target_log_probs = [], []
    for aim, row in zip(search.aims, best.log_probs, strict=True):
        clean = aim.question.clean_log_probs(row)
        divergences.append(kl_divergence(clean, row[None]).item())
        found = aim.objective.target_logprob(row)
        if found is not None:
            target_log_probs.append(found)
    tops = tuple(final.top[0] for final in finals)
    return SearchStep(
        head=best.head,
        kl=search.mean(divergences),
        target_logprob=search.mean(target_log_probs) if target_log_probs else None,
        top=tops[0],
        evaluated=evaluated,
        tops=tops if len(tops) > 1 else (),
    )


def _predictions(search: Search, log_probs: Sequence[Tensor]) -> tuple[Prediction, ...]:
    return tuple(
        aim.question.model.prediction_from(row, aim.question.position)
        for aim, row in zip(search.aims, log_probs, strict=True)
    )


def _report(search: Search, found: Found, done: int, message: str) -> None:
    if search.progress is not None:
        total = found.rows + _most_rows_left(search, found)
        partial = _result(search, replace(found, stopped="running"))
        search.progress(Progress(found.rows + done, total, message, partial))


def _most_rows_left(search: Search, found: Found) -> int:
    """Return how many head sets may still have to be evaluated, if no step stops the search."""
    n_prompts = len(search.aims)
    if found.stopped != "running":
        return n_prompts * _triangle(len(found.kept))
    adding = 0
    for n_kept in range(len(found.kept), search.limit):
        n_remaining = len(search.heads) - n_kept
        if screens(search.strategy, search.aims, n_kept):
            n_remaining = min(search.screen, n_remaining)
        adding += _rows_of_step(search, n_remaining)
    targeted = search.aims[0].objective.name != "kl"
    return adding + (n_prompts * _triangle(search.limit) if targeted else 0)


def _rows_of_step(search: Search, n_heads: int) -> int:
    """Return how many head sets a step evaluates, each prompt counting: the best one of several
    prompts is known, and evaluated again for its predictions, when all of them are done."""
    n_prompts = len(search.aims)
    return n_heads * n_prompts + (n_prompts if n_prompts > 1 else 0)


def _triangle(n: int) -> int:
    """Return n + (n - 1) + ... + 1."""
    return n * (n + 1) // 2


def _result(search: Search, found: Found) -> SearchResult:
    first = search.aims[0]
    target_id = first.objective.target_id
    several = len(search.aims) > 1
    return SearchResult(
        objective=first.objective.name,
        target=None if target_id is None else first.question.clean_token(target_id),
        baseline=first.question.baseline,
        steps=found.steps,
        heads=tuple(sorted(found.kept)),
        dropped=found.dropped,
        stopped=found.stopped,
        final=found.finals[0] if found.finals else None,
        necessity=found.necessity,
        strategy=search.strategy,
        evaluated=found.rows,
        baselines=tuple(aim.question.baseline for aim in search.aims) if several else (),
        finals=found.finals if several else (),
    )
