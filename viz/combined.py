"""Several heads' maps as one: their mean, or at each place the largest weight."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from models.types import AttentionMaps, FloatArray
from viz.extent import Extent
from viz.labels import MAPPED
from viz.sink import largest_of_rows, trivial_rows, without_first

Combine = Callable[[Iterable[FloatArray]], FloatArray]


def _mean(maps: Iterable[FloatArray]) -> FloatArray:
    # One by one: the maps of a long prompt are not to stand in memory twice.
    total: FloatArray | None = None
    counted: np.ndarray | None = None
    for weights in maps:
        here = ~np.isnan(weights)
        if total is None or counted is None:
            total, counted = np.where(here, weights, 0), here.astype(np.uint16)
        else:
            np.add(total, weights, out=total, where=here)
            counted += here
    if total is None or counted is None:
        raise ValueError("a mean needs a map")
    return np.divide(total, counted, out=np.full_like(total, np.nan), where=counted > 0)


def _maximum(maps: Iterable[FloatArray]) -> FloatArray:
    largest: FloatArray | None = None
    for weights in maps:
        if largest is None:
            largest = weights.copy()
        np.fmax(largest, weights, out=largest)
    if largest is None:
        raise ValueError("a maximum needs a map")
    return largest


COMBINATIONS: dict[str, Combine] = {"mean": _mean, "maximum": _maximum}
"""How the maps of several heads become one. Rows of the mean sum to 1 as theirs do; rows of the
maximum are no distributions. Blank weights (NaN) count only where there is no other."""


def combined(several: Sequence[AttentionMaps], how: str, sink: str = "show") -> AttentionMaps:
    """Return one map for all heads of maps of one run, as these are shown; it bears the first
    head's name.

    Args:
        several: at least one head in all, of one stack.
        how: a key of `COMBINATIONS`.
        sink: what is done about the first token of each: a key of `viz.sink.SINKS`. What is left
            out is NaN.
    """
    first = several[0]
    firsts = first.keys.starts
    shown = (without_first(weights, sink, firsts) for maps in several for weights in maps.values)
    return replace(first, heads=first.heads[:1], values=COMBINATIONS[how](shown)[None])


def combined_extent(one: AttentionMaps, causal: bool, sink: str = "show") -> Extent:
    """Return the extent of a combined map.

    Args:
        causal: whether the maps that it is of are.
        sink: as it was combined.
    """
    trivial = trivial_rows(causal, sink)
    return Extent(causal, largest_of_rows(one.values[0], trivial, one.prompt.starts))


def combined_name(how: str, several: Sequence[AttentionMaps]) -> str:
    """Return what a combined map is called: "Mean of 6 heads"."""
    n, noun = sum(len(maps.heads) for maps in several), MAPPED[several[0].kind]
    return f"{how.capitalize()} of {n} {noun}{'' if n == 1 else 's'}"
