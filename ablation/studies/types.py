"""What a study gives: plain data, no torch."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from models.types import FloatArray

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What a study takes, before it starts."""

    n_passes: float
    """In forward passes of one prompt, about."""
    seconds: float
    """From the time of one forward pass, measured just now."""
    words: str
    """What is done, in a sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class StudyResult:
    """The answer of a study, and what it rests on."""

    name: str
    answer: tuple[str, ...]
    """Sentences for a person: the first is the answer, the others what it rests on."""
    table: pd.DataFrame
    """One row for each thing measured; the study says what its columns are."""
    caveats: tuple[str, ...]
    """What the answer must not be taken for."""
    n_prompts: int
    seconds: float
    details: Any = None
    """What only this study has; it can be written out by its `to_json`."""
    stopped: str = "complete"
    """"complete"; "cancelled" when not everything was measured."""

    @classmethod
    def of(
        cls,
        name: str,
        found: Found | None,
        answer: Callable[[Found], tuple[str, ...]],
        table: Callable[[Found], pd.DataFrame],
        *,
        caveats: tuple[str, ...],
        n_prompts: int,
        started: float,
        stopped: str,
    ) -> "StudyResult":
        """Put a result together.

        Args:
            found: the details; None if nothing was measured: the answer and the table are empty.
            answer, table: say what was found.
            started: by `time.monotonic`.
        """
        return cls(
            name=name,
            answer=() if found is None else answer(found),
            table=pd.DataFrame() if found is None else table(found),
            caveats=caveats,
            n_prompts=n_prompts,
            seconds=time.monotonic() - started,
            details=found,
            stopped=stopped,
        )

    def to_json(self) -> dict[str, Any]:
        details = {} if self.details is None else self.details.to_json()
        return {
            "name": self.name,
            "answer": list(self.answer),
            "table": plain(self.table.to_dict("records")),
            "caveats": list(self.caveats),
            "n_prompts": self.n_prompts,
            "seconds": self.seconds,
            "stopped": self.stopped,
            **details,
        }


def means(by_way: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return the mean over prompts, the first axis, of what was measured in each way."""
    return {way: values.mean(axis=0) for way, values in by_way.items()}


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: arrays as lists, NaN as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
