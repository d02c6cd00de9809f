"""What the numbers mean that a policy answers with: a chunk of actions, some numbers each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.actions import dimension_named
from models.errors import ErrorKind, UserError
from models.types import FloatArray

if TYPE_CHECKING:
    from models.policy_adapter import Number
    from models.policy_prompts import PolicySight, Statistics

DEVIATIONS = "σ"
"""The unit of numbers that are known as standard deviations from a mean alone."""
RANGES, PLAIN = "parts of range", "own units"
"""What changes of a wrapped policy's numbers are measured in: with limits, and without."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkDimension:
    """One number of an action."""

    name: str
    unit: str
    words: Mapping[float, str]
    """What values are called where they are choices: the nearest one is meant."""

    @property
    def is_choice(self) -> bool:
        return bool(self.words)

    @property
    def values(self) -> FloatArray:
        """What has a name, float64 [n]; nothing of a quantity."""
        return np.array(list(self.words), dtype=float)

    def said(self, value: float) -> str:
        """Return a value in words, with its unit."""
        if self.words:
            return self.words[min(self.words, key=lambda known: abs(known - value))]
        return f"{value:+.3g} {self.unit}".strip()


@dataclass(frozen=True, slots=True, eq=False)
class ChunkSpace:
    """What a policy's numbers mean."""

    dimensions: tuple[ChunkDimension, ...]
    n_steps: int
    """Actions in a chunk."""
    n_numbers: int
    """Numbers that the policy gives for each; those behind the dimensions are padding."""
    statistics: "Statistics | None"
    """What makes its numbers, standard deviations from a mean, into units."""
    in_own_units: bool = False
    """Whether the policy answers in units already."""
    unit: str = DEVIATIONS
    """What distances between actions are measured in."""

    def normalised(self, row: FloatArray) -> FloatArray:
        """Return what a policy answers, [..., n_steps * n_numbers], as distances are measured:
        standard deviations from the mean of what it was trained on, or parts of each number's
        range; float64 [..., n_steps, n_dimensions]."""
        numbers = row.reshape(*row.shape[:-1], self.n_steps, self.n_numbers)
        found = numbers[..., : len(self.dimensions)]
        if self.in_own_units and self.statistics is not None:
            return self.statistics.normalised(found)
        return found

    def in_units(self, normalised: FloatArray) -> FloatArray:
        """Return such numbers in each dimension's unit."""
        if self.statistics is None:
            return normalised
        return self.statistics.in_units(normalised)

    def named(self, name: str) -> int:
        """Return which dimension has a name; raise `UserError` if none has."""
        return dimension_named([dimension.name for dimension in self.dimensions], name)


def chunk_space(sight: "PolicySight", described: Path | None) -> ChunkSpace:
    """Return what a policy's numbers mean, by its statistics and, where it is there, a file.

    The file says of each number its name and what else is known, in their order:
    {"actions": [{"name": "x", "unit": "m"},
                 {"name": "gripper", "words": {"0": "open", "1": "closed"}}]}.

    Where the policy's statistics tell how many numbers there are, all must be named; else those
    behind the named ones count as padding.

    Args:
        described: the file, which may not exist.

    Raises:
        UserError: the file is damaged, or does not fit the policy.
    """
    statistics = sight.processor.actions
    n = sight.n_numbers if statistics is None else len(statistics.mean)
    unit = DEVIATIONS if statistics is None else ""
    dimensions = tuple(ChunkDimension(f"a{i}", unit, {}) for i in range(n))
    told = None if described is None else _read(described)
    if told is not None:
        if not 0 < len(told) <= n or (statistics is not None and len(told) < n):
            raise _refusal(described, f"it names {len(told)} actions, and the policy has {n}")
        dimensions = tuple(_dimension(described, one, unit) for one in told)
    return ChunkSpace(dimensions, sight.chunk_size, sight.n_numbers, statistics)


def wrapped_space(
    numbers: "Sequence[Number]", n_steps: int, n_numbers: int, name: str
) -> ChunkSpace:
    """Return what the numbers of a wrapped policy mean.

    Args:
        n_steps, n_numbers: of what it answers with.
        name: the policy's, for messages.

    Raises:
        UserError: they are more than it answers with, some have limits and others not, or a limit
            makes no sense.
    """
    from models.policy_prompts import Statistics

    if len(numbers) > n_numbers:
        raise _wrong_numbers(name, f"{len(numbers)} are named, and it answers with {n_numbers}")
    limited = [number for number in numbers if number.limits is not None]
    if not limited:
        dimensions = tuple(ChunkDimension(one.name, one.unit, one.words) for one in numbers)
        unnamed = tuple(ChunkDimension(f"a{i}", "", {}) for i in range(n_numbers))
        return ChunkSpace(dimensions or unnamed, n_steps, n_numbers, None, True, PLAIN)
    if len(limited) < len(numbers):
        raise _wrong_numbers(name, "some have limits and others not; give all limits, or none")
    limits = np.array([number.limits for number in numbers], dtype=float)
    if not (np.isfinite(limits).all() and (limits[:, 0] < limits[:, 1]).all()):
        raise _wrong_numbers(name, "limits are a smallest number and a larger one")
    dimensions = tuple(ChunkDimension(one.name, one.unit, one.words) for one in numbers)
    reach = Statistics(np.zeros(len(limits)), limits[:, 1] - limits[:, 0])
    return ChunkSpace(dimensions, n_steps, n_numbers, reach, True, RANGES)


def _wrong_numbers(name: str, what: str) -> UserError:
    return UserError(ErrorKind.MODEL, f"{name}: its numbers are wrong: {what}.")


def _read(path: Path) -> list[Any] | None:
    try:
        actions = json.loads(path.read_text("utf-8"))["actions"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _refusal(path, "it is not valid JSON with a list of actions") from error
    if not isinstance(actions, list):
        raise _refusal(path, "its actions are no list")
    return actions


def _dimension(path: Path | None, data: Any, unit: str) -> ChunkDimension:
    try:
        words = {float(value): str(word) for value, word in data.get("words", {}).items()}
        if not np.isfinite(list(words)).all():
            raise ValueError("words belong to finite numbers")
        return ChunkDimension(str(data["name"]), str(data.get("unit", unit)), words)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _refusal(path, f"an action does not have the form that is described ({error})") from (
            error
        )


def _refusal(path: Path | None, what: str) -> UserError:
    return UserError(ErrorKind.MODEL, f"The description of actions {path} is wrong: {what}.")
