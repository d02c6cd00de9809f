"""What is drawn of a long map: cells that each stand for several weights, by their largest.

A browser can neither be sent nor draw the 16 million weights of a 4,096-token prompt, and no screen
has the pixels: Plotly would leave most of them out, and with them the thin lines that tell what a
head does. So no cell is smaller than a pixel; a region that is zoomed to is drawn in finer ones.
"""

from dataclasses import dataclass

import numpy as np

from models.types import FloatArray

MAX_CELLS = 1024 * 1025 // 2
"""Most cells sent of one map: what a causal map of 1,024 tokens has at and below its diagonal."""

_STRIP = 64  # rows looked at together


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of a map: queries and keys, each from a first position up to, without, an end."""

    query: int
    query_end: int
    key: int
    key_end: int

    def __post_init__(self) -> None:
        if not (0 <= self.query < self.query_end and 0 <= self.key < self.key_end):
            raise ValueError(f"a region needs a query and a key, counted from 0, got {self}")

    @staticmethod
    def whole(n: int, n_keys: int | None = None) -> "Region":
        """Return all of a map of n queries and as many keys, if no other number is given."""
        return Region(0, n, 0, n if n_keys is None else n_keys)

    @property
    def side(self) -> int:
        return max(self.query_end - self.query, self.key_end - self.key)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells of a region. Cell (i, j) holds the largest weight of the `step` queries from
    `region.query + i * step` on and of the `step` keys from `region.key + j * step` on."""

    values: FloatArray
    """float32 [row, column]; NaN where causal attention can't reach."""
    region: Region
    step: int
    """1 if each cell is one weight."""
    causal: bool

    @property
    def pooled(self) -> bool:
        return self.step > 1


def fitting_step(side: int, dots: int) -> int:
    """Return how many weights, across and down, share a cell if there is room for `dots` cells."""
    return max(1, -(-side // max(1, dots)))


def sent_step(region: Region, causal: bool, dots: int) -> int:
    """Return the step of the cells that a browser is sent of a region.

    Each weight, if these are not too many; else no more cells than there is room for.
    """
    if _reachable(region, 1, causal).sum() <= MAX_CELLS:
        return 1
    step = fitting_step(region.side, dots)
    while _reachable(region, step, causal).sum() > MAX_CELLS:
        step += 1
    return step


def is_causal(weights: FloatArray) -> bool:
    """Return whether no query of a map [query, key] looks ahead."""
    # In strips of rows: the upper half of a long map is not to be copied, and a row at a time is
    # slow. Weights are not negative.
    for first in range(0, len(weights), _STRIP):
        strip, end = weights[first : first + _STRIP], first + _STRIP
        if strip[:, end:].max(initial=0.0) > 0 or np.triu(strip[:, first:end], 1).any():
            return False
    return True


def cells_of(
    weights: FloatArray, causal: bool, region: Region | None = None, step: int = 1
) -> Cells:
    """Return the cells of a region.

    Args:
        weights: float32 [query, key]; NaN where blank.
        causal: whether weights above the diagonal are blank.
        region: of `weights`; None for all.
        step: how many queries, and how many keys, share a cell.
    """
    region = region or Region.whole(*weights.shape)
    part = weights[region.query : region.query_end, region.key : region.key_end]
    if step == 1:
        values = np.array(part, dtype=np.float32)  # a copy
    else:
        rows = np.arange(0, part.shape[0], step)
        columns = np.arange(0, part.shape[1], step)
        # Blank weights (NaN) count only where there is no other.
        values = np.fmax.reduceat(np.fmax.reduceat(part, rows, axis=0), columns, axis=1)
    lengths = _reachable(region, step, causal)
    values[np.arange(values.shape[1]) >= lengths[:, None]] = np.nan
    return Cells(values, region, step, causal)


def _reachable(region: Region, step: int, causal: bool) -> np.ndarray:
    """Return how many cells of each row, from the left, hold a weight that is not blank."""
    first = np.arange(region.query, region.query_end, step)
    n_columns = -(-(region.key_end - region.key) // step)
    if not causal:
        return np.full(len(first), n_columns)
    last_query = np.minimum(first + step, region.query_end) - 1
    return np.clip((last_query - region.key) // step + 1, 0, n_columns)
