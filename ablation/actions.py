"""What a policy does, and what it would do without some of its heads.

A policy answers its action one token after another, each the most likely of those that its
dimension has. So an ablated policy may go another way from the first dimension on: values here are
those of its own answer. Divergences are of each dimension's distribution with the clean policy's
tokens before it, so that a change in one dimension does not count again in the next.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ablation.action_goals import read_goal
from ablation.action_metrics import ACTION_METRIC
from ablation.evaluation import Cancelled, pose
from ablation.interventions import Intervention, Zero
from ablation.search import search_heads
from ablation.types import Ablation, HeadScores, Progress, SearchResult
from models.actions import ActionDimension, ActionSpace
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.places import Place
from models.types import FloatArray, Head, TokenizedPrompt


@dataclass(frozen=True, slots=True, eq=False)
class PolicyAction:
    """One action of a policy."""

    space: ActionSpace
    token_ids: tuple[int, ...]
    """Of each dimension."""
    values: FloatArray
    """float64 [n_dimensions]"""
    log_probs: tuple[FloatArray, ...]
    """Of each dimension: of its tokens, normalised among them, with this action's own tokens
    before it; float64 [n_tokens]."""

    def to_json(self) -> dict[str, Any]:
        return {
            dimension.name: value
            for dimension, value in zip(self.space.dimensions, self.values.tolist(), strict=True)
        }


@dataclass(frozen=True, slots=True, eq=False)
class ActionChange:
    """A policy's action before and after heads are ablated."""

    before: PolicyAction
    after: PolicyAction
    kl: FloatArray
    """float64 [n_dimensions], nats: of each dimension's tokens, the clean ones before it."""

    @property
    def difference(self) -> FloatArray:
        """float64 [n_dimensions], in each dimension's unit."""
        return self.after.values - self.before.values

    @property
    def l2(self) -> float:
        """How far the actions are apart, each dimension as a part of its reach."""
        return float(distances(self.before.space, self.before.values, self.after.values[None])[0])

    @property
    def sign_flips(self) -> tuple[str, ...]:
        """The names of quantities that changed their sign."""
        pairs = zip(
            self.before.space.dimensions, self.before.values, self.after.values, strict=True
        )
        return tuple(
            dimension.name
            for dimension, one, other in pairs
            if not dimension.is_choice and one * other < 0
        )

    @property
    def choice_flips(self) -> tuple[str, ...]:
        """The names of choices that changed: the gripper's, say."""
        dimensions = zip(self.before.space.dimensions, self.difference, strict=True)
        return tuple(d.name for d, change in dimensions if d.is_choice and change != 0)

    def to_json(self) -> dict[str, Any]:
        names = [dimension.name for dimension in self.before.space.dimensions]
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "l2": self.l2,
            "kl": dict(zip(names, self.kl.tolist(), strict=True)),
            "sign_flips": list(self.sign_flips),
            "choice_flips": list(self.choice_flips),
        }


def distances(space: ActionSpace, clean: FloatArray, values: FloatArray) -> FloatArray:
    """Return how far actions [n, n_dimensions] are from one, each dimension as a part of its reach;
    float64 [n]."""
    reach = np.array([dimension.reach for dimension in space.dimensions])
    return np.linalg.norm((values - clean) / reach, axis=1)


def space_of(model: LanguageModel) -> ActionSpace:
    """Return what a model's answers mean as actions; raise `UserError` if nothing says so."""
    if model.actions is None:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name} does not say which of its tokens are actions; put actions.json beside "
            "its config.json, or choose a policy (tabletop).",
        )
    return model.actions


AblationOf = Callable[[TokenizedPrompt], Ablation | None]
"""What is ablated on a prompt, for what depends on how long it has grown."""


def act(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    ablation: Ablation | AblationOf | None = None,
) -> PolicyAction:
    """Return what a policy does.

    Raises:
        UserError: the model is no policy, or the ablation does not fit.
    """
    space = space_of(model)
    chosen: list[int] = []
    rows = []
    for dimension in space.dimensions:
        so_far = model.followed_by(prompt, chosen)
        row = _among(dimension, model.predict(so_far, -1, _on(so_far, ablation)).log_probs)
        rows.append(row)
        chosen.append(dimension.token_ids[int(row.argmax())])
    return PolicyAction(space, tuple(chosen), _values(space, chosen), tuple(rows))


def _on(prompt: TokenizedPrompt, ablation: Ablation | AblationOf | None) -> Ablation | None:
    return ablation(prompt) if callable(ablation) else ablation


def compare_actions(
    model: LanguageModel, prompt: TokenizedPrompt, ablation: Ablation | AblationOf
) -> ActionChange:
    """Return what ablating heads changes about a policy's action.

    Raises:
        UserError: as `act`.
    """
    before, after = act(model, prompt), act(model, prompt, ablation)
    kl = []
    for i, dimension in enumerate(before.space.dimensions):
        clean, so_far = before.log_probs[i], before.token_ids[:i]
        if after.token_ids[:i] == so_far:  # it went the same way, so this is known
            ablated = after.log_probs[i]
        else:
            longer = model.followed_by(prompt, so_far)
            ablated = _among(dimension, model.predict(longer, -1, _on(longer, ablation)).log_probs)
        kl.append(float(np.sum(np.exp(clean) * (clean - ablated))))
    return ActionChange(before, after, np.array(kl))


def sweep_actions(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    *,
    stack: str = "",
    positions: Sequence[Place] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> HeadScores:
    """Score every head of a stack by how far ablating it alone moves the policy's action.

    Each head's own answer is followed, dimension by dimension; heads that have answered alike so
    far share a pass.

    Returns:
        Scores: the distance of the actions, each dimension as a part of its reach.

    Raises:
        UserError: the model is no policy, or an argument does not fit.
    """
    shape = model.stacks.named(stack)
    heads = model.all_heads(shape.name)
    sets = [(head,) for head in heads]
    values = np.full((shape.n_layers, shape.n_heads), np.nan, dtype=np.float32)
    clean, stopped = act(model, prompt), "complete"
    try:
        answers = answers_of(
            model, prompt, sets, intervention, positions, progress=progress, cancel=cancel
        )
        found = np.stack([_values(clean.space, answer) for answer in answers])
        for head, score in zip(heads, distances(clean.space, clean.values, found), strict=True):
            values[head.layer, head.head] = score
    except Cancelled:
        stopped = "cancelled"
    return HeadScores(
        metric=ACTION_METRIC,
        values=values,
        baseline=model.predict(prompt, -1),
        stack=shape.name,
        stopped=stopped,
    )


def search_action(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    goal: str,
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    max_heads: int = 10,
    **options: Any,
) -> SearchResult:
    """Search for heads, none of which can be missed, that make one dimension as wanted if ablated.

    The targeted search (`search_heads`) at that dimension, with the clean policy's tokens of the
    dimensions before it.

    Args:
        goal: see `read_goal`.
        options: the other arguments of `search_heads`.

    Raises:
        UserError: the goal cannot be read, or is fulfilled already; as `search_heads`.
    """
    wanted = read_goal(space_of(model), goal)
    clean = act(model, prompt)
    if clean.token_ids[wanted.dimension] in wanted.token_ids:
        dimension = clean.space.dimensions[wanted.dimension]
        value = dimension.said(float(clean.values[wanted.dimension]))
        raise UserError(
            ErrorKind.TARGET,
            f"The policy's {dimension.name} is {value}, so {goal} is fulfilled already; choose "
            "another goal.",
        )
    so_far = model.followed_by(prompt, clean.token_ids[: wanted.dimension])
    return search_heads(
        model,
        so_far,
        None,
        intervention,
        max_heads,
        any_of=wanted.token_ids,
        among=clean.space.dimensions[wanted.dimension].token_ids,
        **options,
    )


@dataclass(frozen=True, slots=True, eq=False)
class ActionStep:
    """A step of the generic search."""

    head: Head
    l2: float
    """How far the action is from the clean one with all heads so far ablated."""
    values: FloatArray
    """float64 [n_dimensions]: the action then."""


def search_most_change(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    max_heads: int = 5,
    *,
    candidates: Sequence[Head] | None = None,
    positions: Sequence[Place] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> tuple[tuple[ActionStep, ...], str]:
    """Search greedily for the heads whose ablation together moves the action farthest.

    Each step tries every remaining head together with those chosen; ties, which are frequent as
    tokens are few, go to the lowest (stack, layer, head).

    Returns:
        The steps found, and "complete" or "cancelled".

    Raises:
        UserError: the model is no policy, or an argument does not fit.
    """
    clean = act(model, prompt)
    heads = list(model.heads_on(prompt) if candidates is None else model.check_heads(candidates))
    kept: list[Head] = []
    steps: list[ActionStep] = []
    while heads and len(steps) < max_heads:
        sets = [(*kept, head) for head in heads]
        try:
            answers = answers_of(
                model, prompt, sets, intervention, positions, progress=progress, cancel=cancel
            )
        except Cancelled:
            return tuple(steps), "cancelled"
        values = np.stack([_values(clean.space, answer) for answer in answers])
        away = distances(clean.space, clean.values, values)
        best = int(away.argmax())
        steps.append(ActionStep(heads[best], float(away[best]), values[best]))
        kept.append(heads.pop(best))
    return tuple(steps), "complete"


def answers_of(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    head_sets: Sequence[Sequence[Head]],
    intervention: Intervention,
    positions: Sequence[Place] | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> list[tuple[int, ...]]:
    """Return the tokens that a policy answers with each set of heads ablated.

    Raises:
        UserError: as `sweep_actions`.
        Cancelled: `cancel` was set.
    """
    space = space_of(model)
    asked = sorted({head for heads in head_sets for head in heads})
    answers: list[tuple[int, ...]] = [()] * len(head_sets)
    total, done = len(head_sets) * len(space.dimensions), 0
    for dimension in space.dimensions:
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, answer in enumerate(answers):
            alike.setdefault(answer, []).append(i)
        for so_far, members in alike.items():
            question = pose(
                model,
                model.followed_by(prompt, so_far),
                intervention,
                asked,
                -1,
                positions,
                cancel,
            )
            for indices, log_probs in question.evaluate([head_sets[i] for i in members]):
                for i, token in zip(indices, _best(dimension, log_probs), strict=True):
                    answers[members[i]] = (*so_far, token)
                done += len(indices)
                if progress is not None:
                    progress(Progress(done, total, f"{done} of {total} answers", None))
    return answers


def _among(dimension: ActionDimension, log_probs: FloatArray) -> FloatArray:
    """Return the log-probabilities of a dimension's tokens, normalised among them."""
    row = log_probs[list(dimension.token_ids)]
    return row - np.logaddexp.reduce(row)


def _best(dimension: ActionDimension, log_probs: Tensor) -> list[int]:
    rows = log_probs[:, list(dimension.token_ids)]
    return [dimension.token_ids[i] for i in rows.argmax(dim=1).tolist()]


def _values(space: ActionSpace, tokens: Sequence[int]) -> FloatArray:
    pairs = zip(space.dimensions, tokens, strict=True)
    return np.array([d.values[d.token_ids.index(token)] for d, token in pairs])
