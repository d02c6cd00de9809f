"""Several heads' maps as one: their mean, or at each place the largest weight."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from models.types import AttentionMaps, FloatArray
from viz.labels import MAPPED

Combine = Callable[[Sequence[FloatArray]], FloatArray]


def _mean(maps: Sequence[FloatArray]) -> FloatArray:
    # One by one: the maps of a long prompt are not to stand in memory twice.
    total = maps[0].copy()
    for weights in maps[1:]:
        total += weights
    total /= len(maps)
    return total


def _maximum(maps: Sequence[FloatArray]) -> FloatArray:
    largest = maps[0].copy()
    for weights in maps[1:]:
        np.maximum(largest, weights, out=largest)
    return largest


COMBINATIONS: dict[str, Combine] = {"mean": _mean, "maximum": _maximum}
"""How the maps of several heads become one. Rows of the mean sum to 1 as theirs do; rows of the
maximum are no distributions."""


def combined(several: Sequence[AttentionMaps], how: str) -> AttentionMaps:
    """Return one map for all heads of maps of one run; it bears the first head's name.

    Args:
        several: at least one head in all, of one stack.
        how: a key of `COMBINATIONS`.
    """
    first = several[0]
    weights = COMBINATIONS[how]([weights for maps in several for weights in maps.values])
    return replace(first, heads=first.heads[:1], values=weights[None])


def combined_name(how: str, several: Sequence[AttentionMaps]) -> str:
    """Return what a combined map is called: "Mean of 6 heads"."""
    n, noun = sum(len(maps.heads) for maps in several), MAPPED[several[0].kind]
    return f"{how.capitalize()} of {n} {noun}{'' if n == 1 else 's'}"
