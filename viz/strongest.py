"""The strongest weights of a map too long to be sent whole, for pictures of single weights."""

from typing import Any

import numpy as np

from models.types import FloatArray
from viz import coding

MOST_LINES = 12_000
"""So many weights are sent of a map at most: no more lines are painted of all maps together, so
that the strongest of all are among them. See `MOST` in assets/lines.js."""
FAINTEST = 0.04
"""Fainter lines, as parts of the strongest colour's weight, are not painted (`FAINTEST` there)."""


def strongest_weights(weights: FloatArray, zmax: float, threshold: float) -> dict[str, Any]:
    """Return the strongest weights of a map and where they are, as plain JSON data.

    Args:
        weights: float32 [query, key]; NaN where blank.
        zmax: the weight with the strongest colour.
        threshold: smaller weights are left out.

    Returns:
        `queries` and `keys` as `coding.packed` writes them, and `coded`, the weights at these as
        one row of `coding.encode`.
    """
    # Rows of probabilities have few large weights: most are gone before anything is sorted.
    flat = weights.reshape(-1)
    at = np.flatnonzero(flat >= max(threshold, FAINTEST * zmax))
    if len(at) > MOST_LINES:
        at = at[np.argpartition(flat[at], -MOST_LINES)[-MOST_LINES:]]
    queries, keys = np.divmod(at, weights.shape[1])
    return {
        "queries": coding.packed(queries),
        "keys": coding.packed(keys),
        "coded": coding.encode(flat[at][None]),
    }
