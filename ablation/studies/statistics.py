"""How sure a mean over prompts is: bootstrap intervals, and agreement between halves."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from models.types import FloatArray

CONFIDENCE = 0.95
N_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """A mean over prompts, and between what it lies with 95 % confidence."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    """Arrays of the same shape; low and high are NaN where there was one prompt only."""

    def of(self, index: tuple[int, ...]) -> str:
        """Return one mean in words: "0.12 (0.05 to 0.31)"."""
        mean, low, high = (float(values[index]) for values in (self.mean, self.low, self.high))
        return f"{mean:.3g}" if np.isnan(low) else f"{mean:.3g} ({low:.3g} to {high:.3g})"


def mean_interval(
    values: FloatArray,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """Return means over the first axis and their bootstrap intervals.

    Prompts are drawn with replacement (Efron 1979, percentile method); the same draws serve all
    entries.

    Args:
        values: [n_prompts, ...].
        confidence: with which the mean lies between the ends.
        n_resamples: how often all prompts are drawn anew; ends far out need many.
    """
    values = np.asarray(values, dtype=np.float64)
    mean = values.mean(axis=0)
    if len(values) < 2:
        nothing = np.full_like(mean, np.nan)
        return Interval(mean, nothing, nothing)
    # How often each prompt is drawn, so that resampled means are one product.
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), n_resamples)
    means = np.tensordot(counts / len(values), values, axes=1)
    outside = (1 - confidence) / 2
    low, high = np.quantile(means, [outside, 1 - outside], axis=0)
    return Interval(mean, low, high)


def rank_agreement(first: FloatArray, second: FloatArray) -> float:
    """Return Spearman's rank correlation of two rankings of the same things; NaN if one is flat."""
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (first, second))
    known = ~(np.isnan(a) | np.isnan(b))
    if known.sum() < 2 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return float("nan")
    return float(stats.spearmanr(a[known], b[known]).statistic)


def halves(groups: list[str], seed: int = 0) -> tuple[list[int], list[int]]:
    """Part prompts in two halves such that no template is in both.

    Args:
        groups: the template of each prompt; prompts without one ("") are their own.

    Returns:
        Indices of each half; the second is empty if there is one group only.
    """
    named = [group or f"#{index}" for index, group in enumerate(groups)]
    order = list(dict.fromkeys(named))
    rng = np.random.default_rng(seed)
    shuffled = [order[i] for i in rng.permutation(len(order))]
    first: set[str] = set()
    for group in shuffled:
        half_full = 2 * sum(name in first for name in named) >= len(named)
        if not half_full and len(first) < max(1, len(order) - 1):
            first.add(group)
    return (
        [i for i, name in enumerate(named) if name in first],
        [i for i, name in enumerate(named) if name not in first],
    )


def parted(groups: list[str], seed: int = 0) -> tuple[list[int], list[int]]:
    """Part prompts in two halves (`halves`); prompt by prompt where there is one template only.

    The second is empty for a single prompt.
    """
    first, second = halves(groups, seed)
    return (first, second) if second else halves([""] * len(groups), seed)
