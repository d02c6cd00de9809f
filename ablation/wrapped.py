"""Which heads a wrapped policy needs for what it does: sweep, and searches, in action units.

Actions are numbers; a change is a distance, each number as a part of its range where that is given.
Policies that start from noise are asked with the same noise before and after, and several times:
scores are means over these draws, with their standard errors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import ErrorKind, UserError
from models.types import FloatArray, Head
from models.wrapped_policy import WrappedPolicy

AT_ONCE = 16
"""Sets of heads that run side by side."""

Goal = Callable[[FloatArray], float]
"""An action [...] -> how far it is from what is wanted; not above 0 when it is reached."""


@dataclass(frozen=True, slots=True, eq=False)
class PolicySweep:
    """How far ablating each head alone moves the action."""

    heads: tuple[Head, ...]
    distances: FloatArray
    """float64 [n_draws, n_heads]."""
    clean: FloatArray
    """float32 [n_draws, ...]: the actions themselves."""

    @property
    def means(self) -> FloatArray:
        """float64 [n_heads]"""
        return self.distances.mean(axis=0)

    @property
    def errors(self) -> FloatArray:
        """Standard errors of the means, float64 [n_heads]; NaN for a single draw."""
        n = len(self.distances)
        if n == 1:
            return np.full(self.distances.shape[1], np.nan)
        return self.distances.std(axis=0, ddof=1) / n**0.5

    def ranked(self) -> list[tuple[Head, float]]:
        """Return the heads, the one that moves the action most first."""
        order = np.argsort(-self.means, kind="stable")
        return [(self.heads[i], float(self.means[i])) for i in order]

    def to_json(self) -> dict[str, Any]:
        return {
            "heads": [head.short for head in self.heads],
            "means": self.means.tolist(),
            "standard_errors": [None if np.isnan(e) else float(e) for e in self.errors],
            "n_draws": len(self.distances),
        }


def sweep_policy(
    policy: WrappedPolicy,
    heads: Sequence[Head] | None = None,
    *,
    reach: FloatArray | float = 1.0,
    scale: float = 0.0,
    draws: Sequence[int] = (0,),
) -> PolicySweep:
    """Ablate every head alone.

    Args:
        heads: those of all stacks if None. A head whose layer is last before what reads only its
            keys and values moves the action by exactly 0: its output goes nowhere.
        reach: what each number of the action is a part of; broadcast against an action.
        scale: what the heads' outputs are multiplied by.
        draws: which noises.

    Raises:
        UserError: a head does not exist, or there is no draw.
    """
    chosen = policy.heads() if heads is None else policy.check_heads(heads)
    if not draws:
        raise UserError(ErrorKind.OPTION, "A sweep needs at least one draw; give draws=(0,).")
    clean = np.concatenate([policy.actions(((),), draw=draw) for draw in draws])
    sets = [(head,) for head in chosen]
    distances = np.stack([_distances(policy, sets, scale, draw, reach) for draw in draws])
    return PolicySweep(tuple(chosen), distances, clean)


@dataclass(frozen=True, slots=True, eq=False)
class PolicyStep:
    """A step of a search."""

    head: Head
    score: float
    """Generic: how far the action is moved; targeted: how far it is from the goal."""
    action: FloatArray


def search_policy(
    policy: WrappedPolicy,
    goal: Goal | None = None,
    *,
    heads: Sequence[Head] | None = None,
    max_heads: int = 5,
    reach: FloatArray | float = 1.0,
    scale: float = 0.0,
    draw: int = 0,
) -> tuple[PolicyStep, ...]:
    """Search greedily: for the heads that move the action farthest, or until a goal is reached.

    Each step tries every remaining head together with those chosen. With a goal the search stops
    when it is reached, or when no head brings the action nearer.

    Raises:
        UserError: a head does not exist, or the goal is reached already.
    """
    left = list(policy.heads() if heads is None else policy.check_heads(heads))
    [clean] = policy.actions(((),), draw=draw)
    if goal is not None and goal(clean) <= 0:
        raise UserError(ErrorKind.TARGET, "The policy does what is wanted already; ask for more.")
    kept: list[Head] = []
    steps: list[PolicyStep] = []
    standing = np.inf if goal is None else goal(clean)
    while left and len(steps) < max_heads:
        found = np.concatenate(list(_actions(policy, [(*kept, h) for h in left], scale, draw)))
        if goal is None:
            scores = -_away(found, clean, reach)
        else:
            scores = np.array([goal(action) for action in found])
            if scores.min() >= standing:
                break
            standing = float(scores.min())
        best = int(scores.argmin())
        score = float(scores[best])
        steps.append(PolicyStep(left[best], -score if goal is None else score, found[best]))
        kept.append(left.pop(best))
        if goal is not None and score <= 0:
            break
    return tuple(steps)


def _distances(
    policy: WrappedPolicy,
    sets: Sequence[Sequence[Head]],
    scale: float,
    draw: int,
    reach: FloatArray | float,
) -> FloatArray:
    """Return how far each set moves the action. The clean run is a row of every batch: in half
    precision batches of other sizes round otherwise, by more than a small head moves."""
    found = []
    for start in range(0, len(sets), AT_ONCE):
        clean, *moved = policy.actions([(), *sets[start : start + AT_ONCE]], scale, draw)
        found.append(_away(np.stack(moved), clean, reach))
    return np.concatenate(found)


def _actions(
    policy: WrappedPolicy, sets: Sequence[Sequence[Head]], scale: float, draw: int
) -> Iterator[FloatArray]:
    for start in range(0, len(sets), AT_ONCE):
        yield policy.actions(sets[start : start + AT_ONCE], scale, draw)


def _away(actions: FloatArray, clean: FloatArray, reach: FloatArray | float) -> FloatArray:
    """Return how far actions [n, ...] are from one, float64 [n]."""
    change = (actions.astype(np.float64) - clean) / reach
    return np.sqrt((change.reshape(len(actions), -1) ** 2).sum(axis=1))
