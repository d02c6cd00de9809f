"""What all of a map must be looked through for, which of a long one takes a while."""

from collections.abc import Iterable
from dataclasses import dataclass

from models.types import AttentionMaps
from viz.cells import is_causal
from viz.sink import largest_weight


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the weights of one map reach."""

    causal: bool
    """Whether the map is one of positions among themselves in which none looks ahead."""
    largest: float
    """The largest weight that is shown; see `largest_weight`."""


def extent_of(maps: AttentionMaps, index: int, sink: str = "show") -> Extent:
    """Return the extent of the map of one head, the first token dealt with as `sink` says."""
    weights = maps.values[index]
    causal = maps.looked_at is None and is_causal(weights)
    return Extent(causal, largest_weight(weights, causal, sink, maps.keys.starts))


def shared_largest(extents: Iterable[Extent]) -> float:
    """Return the largest weight of several maps; 1 if they have none."""
    return max((extent.largest for extent in extents), default=0.0) or 1.0


def unit_of(kind: str, extents: Iterable[Extent]) -> float:
    """Return what a threshold is a part of: 1 for probabilities, the largest value for norms.

    Args:
        kind: a key of `MAP_KINDS`.
    """
    return shared_largest(extents) if kind == "moved" else 1.0
