"""What is found of policies that answer with a chunk of numbers: values, without torch.

Distances are taken in standard deviations of the actions that the policy was trained on, so that
metres and radians can be added up; of some policies in other units (`ChunkSpace.unit`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.chunks import ChunkSpace
from models.types import FloatArray, Head


@dataclass(frozen=True, slots=True, eq=False)
class ChunkAction:
    """A chunk of actions, found from each of some noises."""

    space: ChunkSpace
    normalised: FloatArray
    """float64 [n_draws, n_steps, n_dimensions], as `ChunkSpace.normalised`."""

    @property
    def values(self) -> FloatArray:
        """float64 [n_draws, n_steps, n_dimensions], in each dimension's unit."""
        return self.space.in_units(self.normalised)

    @property
    def summary(self) -> FloatArray:
        """What one number says of each dimension, float64 [n_dimensions], in its unit: the mean
        over the chunk and the draws; of a choice, at the chunk's last step."""
        means = self.values.mean(axis=0)
        last = np.array([dimension.is_choice for dimension in self.space.dimensions])
        return np.where(last, means[-1], means.mean(axis=0))

    def to_json(self) -> dict[str, Any]:
        names = [dimension.name for dimension in self.space.dimensions]
        return {"dimensions": names, "values": self.values.tolist()}


@dataclass(frozen=True, slots=True, eq=False)
class ChunkChange:
    """A chunk before and after heads are ablated, from the same noises."""

    before: ChunkAction
    after: ChunkAction

    @property
    def by_draw(self) -> FloatArray:
        """How far each draw's chunk is moved, float64 [n_draws], in the space's
        unit."""
        return distances(self.before.normalised, self.after.normalised)

    @property
    def moved(self) -> float:
        """The mean of `by_draw`."""
        return float(self.by_draw.mean())

    @property
    def error(self) -> float:
        """Its standard error; NaN for a single draw."""
        return standard_error(self.by_draw)

    @property
    def by_dimension(self) -> FloatArray:
        """Root mean square change of each dimension over steps and draws, float64 [n_dimensions],
        in its unit."""
        change = self.after.values - self.before.values
        found: FloatArray = np.sqrt((change**2).mean(axis=(0, 1)))
        return found

    @property
    def sign_flips(self) -> tuple[str, ...]:
        """The names of quantities whose mean over the chunk changes its sign."""
        pairs = zip(
            self.before.space.dimensions, self.before.summary, self.after.summary, strict=True
        )
        return tuple(d.name for d, one, other in pairs if not d.is_choice and one * other < 0)

    @property
    def choice_flips(self) -> tuple[str, ...]:
        """The names of choices that end otherwise: the gripper's, say."""
        pairs = zip(
            self.before.space.dimensions, self.before.summary, self.after.summary, strict=True
        )
        return tuple(
            d.name
            for d, one, other in pairs
            if d.is_choice and d.said(float(one)) != d.said(float(other))
        )

    def to_json(self) -> dict[str, Any]:
        names = [dimension.name for dimension in self.before.space.dimensions]
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "moved": self.moved,
            "standard_error": None if np.isnan(self.error) else self.error,
            "by_dimension": dict(zip(names, self.by_dimension.tolist(), strict=True)),
            "sign_flips": list(self.sign_flips),
            "choice_flips": list(self.choice_flips),
        }


def distances(before: FloatArray, after: FloatArray) -> FloatArray:
    """Return how far chunks [..., n_steps, n_dimensions] are apart: the root mean square over steps
    of the Euclidean distance; float64 [...]."""
    squares = ((after - before) ** 2).sum(axis=-1)
    found: FloatArray = np.sqrt(squares.mean(axis=-1))
    return found


def standard_error(values: FloatArray) -> float:
    """Return the standard error of a mean over draws; NaN for a single one."""
    n = len(values)
    return float("nan") if n < 2 else float(values.std(ddof=1) / n**0.5)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkStep:
    """A step of a search."""

    head: Head
    moved: float
    """How far the chunk is from the clean one with all heads so far ablated, in the
    space's unit."""
    action: ChunkAction


@dataclass(frozen=True, slots=True, eq=False)
class ChunkSearch:
    """What a search found."""

    clean: ChunkAction
    goal: str | None
    """What was wanted of the action; None for the farthest."""
    steps: tuple[ChunkStep, ...]
    heads: tuple[Head, ...]
    """The final set: of a search with a goal that was reached, none of which can be missed."""
    dropped: tuple[Head, ...]
    """Heads of the steps that turned out not to be needed."""
    final: ChunkAction
    """With the final set ablated."""
    stopped: str
    """"target_reached", "no_improvement", "max_heads", "all_heads" or "cancelled"."""

    @property
    def moved(self) -> float:
        """How far the final set moves the chunk, in the space's unit."""
        return ChunkChange(self.clean, self.final).moved


@dataclass(frozen=True, slots=True, eq=False)
class HiddenModality:
    """What a policy does without one of the things that it is told."""

    name: str
    n_positions: int
    change: ChunkChange
