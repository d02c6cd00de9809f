"""What a policy that answers with a chunk of numbers does, and what it would do without some heads.

Such a policy finds its action from noise. So it is asked with the same noise before and after, and
with several, where somebody wants to know how much hangs on it: changes are means over these draws,
with their standard errors. Distances are taken in standard deviations of the actions that the
policy was trained on, so that metres and radians can be added up; those of a policy that a person
wrapped in parts of each number's range, where that is told (`ChunkSpace.unit`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ablation.action_goals import SIGNS, parse_goal, value_of
from ablation.action_metrics import chunk_metric
from ablation.chunk_types import (
    ChunkAction,
    ChunkChange,
    ChunkSearch,
    ChunkStep,
    HiddenModality,
    distances,
)
from ablation.evaluation import Cancelled, until_cancelled
from ablation.interventions import Intervention, Knockout, Zero
from ablation.modalities import MODALITIES
from ablation.types import Ablation, HeadScores, Progress
from models.chunks import ChunkSpace
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.places import Place
from models.types import FloatArray, Head, TokenizedPrompt

Report = Callable[[Progress], None]


def chunk_space_of(model: LanguageModel) -> ChunkSpace:
    """Return what a model's numbers mean; raise `UserError` if it does not answer with numbers."""
    if model.chunk is None:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name} does not answer with the numbers of an action; choose a policy that "
            "does (PI0, or one of your own).",
        )
    return model.chunk


def with_draws(
    model: LanguageModel, prompt: TokenizedPrompt, n_draws: int
) -> tuple[TokenizedPrompt, ...]:
    """Return a prompt with its own noise and the next ones.

    Raises:
        UserError: the model does not answer with numbers, or no draw is asked for.
    """
    chunk_space_of(model)
    if n_draws < 1:
        raise UserError(ErrorKind.OPTION, "An action needs at least one noise; ask for 1 or more.")
    first = 0 if prompt.robot is None else prompt.robot.draw
    return tuple(model.with_draw(prompt, first + i) for i in range(n_draws))


def act_chunk(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    ablation: Ablation | None = None,
    n_draws: int = 1,
) -> ChunkAction:
    """Return what a policy does.

    Args:
        n_draws: how many noises it is asked with: the prompt's and the next ones.

    Raises:
        UserError: the model does not answer with numbers, or the ablation does not fit.
    """
    space = chunk_space_of(model)
    rows = [
        model.predict(one, ablation=ablation).log_probs
        for one in with_draws(model, prompt, n_draws)
    ]
    return ChunkAction(space, space.normalised(np.stack(rows)))


def compare_chunks(
    model: LanguageModel, prompt: TokenizedPrompt, ablation: Ablation, n_draws: int = 1
) -> ChunkChange:
    """Return what ablating heads changes about a policy's chunk of actions.

    Raises:
        UserError: as `act_chunk`.
    """
    clean = act_chunk(model, prompt, None, n_draws)
    return ChunkChange(clean, act_chunk(model, prompt, ablation, n_draws))


def chunk_passes(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    head_sets: Sequence[Sequence[Head]],
    intervention: Intervention,
    positions: Sequence[Place] | None = None,
    *,
    n_draws: int = 1,
    cancel: threading.Event | None = None,
) -> Iterator[tuple[int, list[int], FloatArray, FloatArray]]:
    """Evaluate sets of ablated heads, many in a pass, for one noise after another.

    Yields:
        (draw, indices of the sets, their chunks float64 [n_sets_in_pass, n_steps, n_dimensions],
        the clean chunk of the same pass), as `ChunkAction.normalised`.

    Raises:
        UserError: as `act_chunk`.
        Cancelled: `cancel` was set.
    """
    space = chunk_space_of(model)
    asked = sorted({head for heads in head_sets for head in heads})
    for draw, one in enumerate(with_draws(model, prompt, n_draws)):
        posed = model.head_sets.pose(one, intervention, asked, None, positions)
        passes = model.head_sets.evaluate_beside_clean(posed, head_sets)
        for indices, rows, clean in until_cancelled(passes, cancel):
            found, whole = (space.normalised(each.cpu().numpy()) for each in (rows, clean))
            yield draw, indices, found, whole


def sweep_chunk(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    *,
    stack: str = "",
    positions: Sequence[Place] | None = None,
    n_draws: int = 1,
    progress: Report | None = None,
    cancel: threading.Event | None = None,
) -> HeadScores:
    """Score every head of a stack by how far ablating it alone moves the chunk of actions.

    Heads of the language model's last layer move it by nothing but rounding: the action expert
    reads that layer's keys and values alone, and what its heads put out goes nowhere.

    Returns:
        Scores; of a sweep that was cancelled, the means over the noises that were asked with.

    Raises:
        UserError: the model does not answer with numbers, or an argument does not fit.
    """
    metric = chunk_metric(chunk_space_of(model))
    shape = model.stacks.named(stack)
    heads = model.all_heads(shape.name)
    moved = np.full((n_draws, len(heads)), np.nan)
    baseline = model.predict(prompt)

    def scores(stopped: str) -> HeadScores:
        values = np.full((shape.n_layers, shape.n_heads), np.nan, dtype=np.float32)
        for i, head in enumerate(heads):
            known = moved[:, i][np.isfinite(moved[:, i])]
            values[head.layer, head.head] = known.mean() if len(known) else np.nan
        return HeadScores(
            metric=metric,
            values=values,
            baseline=baseline,
            stack=shape.name,
            stopped=stopped,
        )

    passes = chunk_passes(
        model,
        prompt,
        [(head,) for head in heads],
        intervention,
        positions,
        n_draws=n_draws,
        cancel=cancel,
    )
    try:
        for draw, indices, found, clean in passes:
            moved[draw, indices] = distances(clean, found)
            if progress is not None:
                done = int(np.isfinite(moved).sum())
                said = f"{done} of {moved.size} actions"
                progress(Progress(done, moved.size, said, scores("running")))
    except Cancelled:
        return scores("cancelled")
    return scores("complete")


@dataclass(frozen=True, slots=True)
class ChunkGoal:
    """What one dimension's summary shall be."""

    dimension: int
    sign: str
    """A key of `SIGNS`."""
    value: float

    def reached(self, action: ChunkAction) -> bool:
        found = float(action.summary[self.dimension])
        dimension = action.space.dimensions[self.dimension]
        if dimension.is_choice:
            found = min(dimension.words, key=lambda known: abs(known - found))
        return bool(SIGNS[self.sign](found, self.value))

    def missing(self, action: ChunkAction) -> float:
        """Return how far an action is from the goal, in the dimension's unit."""
        away = float(action.summary[self.dimension]) - self.value
        if self.sign == "=":
            return abs(away)
        return away if self.sign.startswith("<") else -away


def read_chunk_goal(space: ChunkSpace, text: str) -> ChunkGoal:
    """Read a goal as a person writes it: "dx<0", "gripper=closed".

    Raises:
        UserError: it cannot be read, names no action, or asks a quantity to equal a number.
    """
    name, sign, value = parse_goal(text)
    index = space.named(name)
    dimension = space.dimensions[index]
    number = value_of(dimension, value)
    if not np.isfinite(number):
        raise UserError(ErrorKind.TARGET, f"{value!r} is no finite number; give one.")
    if dimension.is_choice and sign == "=" and number not in dimension.words:
        known = ", ".join(f"{v:g} ({word})" for v, word in dimension.words.items())
        raise UserError(ErrorKind.TARGET, f"{name} is one of {known}; choose one of these.")
    if sign == "=" and not dimension.is_choice:
        raise UserError(
            ErrorKind.TARGET,
            f"{name} is a quantity, which equals no number exactly; write {name}<{value} or "
            f"{name}>{value}.",
        )
    return ChunkGoal(index, sign, number)


def search_chunk(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    goal: str | None = None,
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    max_heads: int = 5,
    *,
    candidates: Sequence[Head] | None = None,
    positions: Sequence[Place] | None = None,
    n_draws: int = 1,
    progress: Report | None = None,
    cancel: threading.Event | None = None,
) -> ChunkSearch:
    """Search greedily for heads that together move the action farthest, or as wanted.

    Each step tries every remaining head together with those chosen. With a goal it stops as soon
    as that is reached, or when no head brings the action nearer; then every chosen head is tried
    without, and what is not needed is dropped.

    Args:
        goal: see `read_chunk_goal`; None for the farthest.

    Raises:
        UserError: the goal cannot be read, or is reached already; as `sweep_chunk`.
    """
    space = chunk_space_of(model)
    wanted = None if goal is None else read_chunk_goal(space, goal)
    left = list(model.heads_on(prompt) if candidates is None else model.check_heads(candidates))

    def tried(sets: Sequence[Sequence[Head]]) -> tuple[list[ChunkAction], FloatArray]:
        """Return the actions with sets of heads ablated, and how far each is moved."""
        shape = (len(sets), n_draws, space.n_steps, len(space.dimensions))
        found, moved = np.empty(shape), np.empty(shape[:2])
        passes = chunk_passes(
            model, prompt, sets, intervention, positions, n_draws=n_draws, cancel=cancel
        )
        done = 0
        for draw, indices, rows, clean in passes:
            found[indices, draw] = rows
            moved[indices, draw] = distances(clean, rows)
            done += len(indices)
            if progress is not None:
                total = len(sets) * n_draws
                progress(Progress(done, total, f"{done} of {total} actions", None))
        return [ChunkAction(space, one) for one in found], moved.mean(axis=1)

    clean = act_chunk(model, prompt, None, n_draws)
    if wanted is not None and wanted.reached(clean):
        dimension = space.dimensions[wanted.dimension]
        raise UserError(
            ErrorKind.TARGET,
            f"The policy's {dimension.name} is "
            f"{dimension.said(float(clean.summary[wanted.dimension]))}, so {goal} is fulfilled "
            "already; choose another goal.",
        )
    kept: list[Head] = []
    dropped: list[Head] = []
    steps: list[ChunkStep] = []
    standing = np.inf if wanted is None else wanted.missing(clean)
    final, stopped = clean, "max_heads"
    try:
        while len(steps) < max_heads:
            if not left:
                stopped = "all_heads"
                break
            found, moved = tried([(*kept, head) for head in left])
            scores = -moved if wanted is None else np.array([wanted.missing(one) for one in found])
            best = int(scores.argmin())
            if wanted is not None and scores[best] >= standing:
                stopped = "no_improvement"
                break
            standing = float(scores[best])
            final = found[best]
            steps.append(ChunkStep(left[best], float(moved[best]), final))
            kept.append(left.pop(best))
            if wanted is not None and wanted.reached(final):
                stopped = "target_reached"
                dropped, final = _without_what_is_not_needed(kept, wanted, tried, final)
                break
    except Cancelled:
        stopped = "cancelled"
    needed = tuple(head for head in kept if head not in dropped)
    return ChunkSearch(clean, goal, tuple(steps), needed, tuple(dropped), final, stopped)


def _without_what_is_not_needed(
    chosen: Sequence[Head],
    goal: ChunkGoal,
    tried: Callable[[Sequence[Sequence[Head]]], tuple[list[ChunkAction], FloatArray]],
    final: ChunkAction,
) -> tuple[list[Head], ChunkAction]:
    """Drop heads, one after another, as long as the goal is reached without one of those left.

    Returns:
        The heads dropped, and the action with the others ablated.
    """
    needed = list(chosen)
    while len(needed) > 1:
        found, _ = tried([[other for other in needed if other != head] for head in needed])
        spare = next((i for i, one in enumerate(found) if goal.reached(one)), None)
        if spare is None:
            break
        final = found[spare]
        needed.pop(spare)
    return [head for head in chosen if head not in needed], final


def hide_modalities(
    model: LanguageModel, prompt: TokenizedPrompt, n_draws: int = 1
) -> tuple[HiddenModality, ...]:
    """Return what a policy does if nobody may look at the pictures, the instruction, the state: the
    reference scale for what single heads do. What these positions see of themselves stays.

    Raises:
        UserError: the model does not answer with numbers, or it is not known what its positions
            hold.
    """
    chunk_space_of(model)
    found = []
    for kind, name in MODALITIES.items():
        heads, seen = _looking_at(model, prompt, kind)
        if not heads:
            continue
        others = tuple(sorted({other for one in seen for other in one.kinds} - {kind}))
        ablation = Ablation(heads, Knockout(others, (kind,)))
        change = compare_chunks(model, prompt, ablation, n_draws)
        most = max(one.kinds.count(kind) for one in seen)
        found.append(HiddenModality(name, most, change))
    if not found:
        raise UserError(
            ErrorKind.PROMPT,
            f"It is not known which positions of {model.name} hold pictures, instruction and "
            "state beside others, so none can be hidden; let its positions say.",
        )
    return tuple(found)


def _looking_at(
    model: LanguageModel, prompt: TokenizedPrompt, kind: str
) -> tuple[tuple[Head, ...], list[TokenizedPrompt]]:
    """Return the heads by which positions of other kinds look at those of one, and the positions of
    their stacks."""
    heads: list[Head] = []
    seen = []
    running = set(model.heads_on(prompt))
    for stack in model.stacks.stacks:
        members = [head for head in model.all_heads(stack.name) if head in running]
        if not members:
            continue
        axes = model.stacks.axes(prompt, stack.name)
        if kind in axes.keys.kinds and set(axes.queries.kinds) - {kind}:
            heads += members
            seen += [axes.queries, axes.keys]
    return tuple(heads), seen
