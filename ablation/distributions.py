"""How one metric of one head is distributed over the passages of a corpus."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablation.types import MetricInfo
from models.errors import ErrorKind, UserError
from models.types import FloatArray, Head

STATISTICS: Mapping[str, str] = {"mean": "mean", "low": "10 %", "median": "median", "high": "90 %"}
"""Name of what a distribution is told by -> what a person calls it. "low" and "high" are the
quantiles 0.1 and 0.9, interpolated linearly."""

_QUANTILES = {"low": 0.1, "median": 0.5, "high": 0.9}

N_BINS = 24


def check_statistic(name: str) -> str:
    """Return a name of `STATISTICS`; raise `UserError` if it is none."""
    if name not in STATISTICS:
        raise UserError(
            ErrorKind.OPTION,
            f"There is no statistic {name[:40]!r}; choose one of {', '.join(STATISTICS)}.",
        )
    return name


def statistic_over_passages(values: FloatArray, name: str) -> FloatArray:
    """Return a statistic over the first axis.

    Args:
        values: float32 [n_passages, ...].
        name: a key of `STATISTICS`.
    """
    if name == "mean":
        return values.mean(axis=0)
    found: FloatArray = np.quantile(values, _QUANTILES[name], axis=0).astype(values.dtype)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class MetricDistribution:
    """One metric of one head on every passage: on each its mean over the passage's queries."""

    head: Head
    metric: MetricInfo
    passages: tuple[str, ...]
    """The ids of the passages."""
    n_positions: tuple[int, ...]
    """Of each passage: how many queries its attention has."""
    values: FloatArray
    """float32 [n_passages], in the metric's unit."""

    def of(self, statistic: str) -> float:
        """Return a statistic over the passages, a key of `STATISTICS`."""
        return float(statistic_over_passages(self.values, statistic))

    def histogram(self, n_bins: int = N_BINS) -> tuple[np.ndarray, FloatArray]:
        """Return how many passages fall into each of equally wide bins from least to largest.

        Returns:
            int64 [n_bins], and the edges, float64 [n_bins + 1]; a value on an edge counts above it,
            the largest below. One bin where all values are the same.
        """
        low, high = float(self.values.min()), float(self.values.max())
        if low == high:
            return np.array([self.values.size]), np.array([low, high])
        return np.histogram(self.values.astype(np.float64), bins=n_bins, range=(low, high))

    def describe(self) -> str:
        """Say of what the distribution is."""
        n = len(self.passages)
        passages = f"{n} passage{'' if n == 1 else 's'}"
        return f"{passages}, {sum(self.n_positions):,} positions"

    def to_frame(self) -> pd.DataFrame:
        """Return one row a passage: its id, how many positions it has, and the value."""
        return pd.DataFrame(
            {
                "passage": self.passages,
                "n_positions": self.n_positions,
                self.metric.name: self.values,
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `values` are in the order of the passages that are told beside it."""
        counts, edges = self.histogram()
        return {
            "unit": self.metric.unit,
            "values": [float(value) for value in self.values],
            "statistics": {name: self.of(name) for name in STATISTICS},
            "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        }
