"""Weights as 16-bit codes: half of float32, and still more digits than a person reads.

A code stands for a weight on a logarithmic scale, so that small weights are as precise as large
ones. Norms, which may be larger than 1, are coded as parts of the largest. Blank cells at the end
of a row, half of a causal map, are left out. `assets/weights.js` decodes in the browser; `decode`
here is what it is held against.
"""

import base64
from typing import Any

import numpy as np

from models.types import FloatArray

BLANK, ZERO, FIRST, LAST = 0, 1, 2, 65_535
"""Codes: of no value, of 0 and all that is nearer to it than `FLOOR`, of `FLOOR`, and of 1."""
FLOOR = 1e-12
RELATIVE_ERROR = 2.2e-4
"""Largest, of a decoded weight from `FLOOR` to 1: half a step of the scale, and float32."""
ROUNDING = 1e-4
"""By so much a probability may come out of a sum in float32 larger than 1 at most."""


def encode(values: FloatArray) -> dict[str, Any]:
    """Return cells as plain JSON data: at most 2.7 bytes a cell, none for blank ends of rows.

    Args:
        values: float [row, column], not negative; NaN for a blank cell.

    Returns:
        `columns`, `lengths` (of each row: cells up to the last that is not blank), `codes` (of
        these cells), the latter two as URL-safe base64 of little-endian uint16, and `unit`, what
        the codes stand for parts of.
    """
    n_columns = values.shape[1]
    filled = ~np.isnan(values)
    lengths = np.where(filled.any(axis=1), n_columns - filled[:, ::-1].argmax(axis=1), 0)
    sent = values[np.arange(n_columns) < lengths[:, None]]
    unit = unit_of(sent)
    return {
        "columns": n_columns,
        "lengths": packed(lengths),
        "codes": packed(codes_of(sent / unit)),
        "unit": unit,
    }


def unit_of(values: FloatArray) -> float:
    """Return what values are coded as parts of: 1 for probabilities, the largest of others."""
    largest = float(np.fmax.reduce(values, axis=None, initial=0.0))
    return largest if largest > 1 + ROUNDING else 1.0


def decode(data: dict[str, Any]) -> FloatArray:
    """Return the cells, float32 [row, column], that `encode` made the data of."""
    lengths = _unpacked(data["lengths"])
    values = np.full((len(lengths), data["columns"]), np.nan, dtype=np.float32)
    sent = np.arange(data["columns"]) < lengths[:, None]
    values[sent] = _weights()[_unpacked(data["codes"])] * np.float32(data["unit"])
    return values


def codes_of(weights: FloatArray) -> np.ndarray:
    """Return the code of each weight, from 0 to 1 or NaN, as whole floats of the same shape."""
    with np.errstate(divide="ignore", invalid="ignore"):
        place = 1 - np.log(weights) / np.log(FLOOR)  # 0 at FLOOR, 1 at 1; -inf at 0
        codes = np.rint(FIRST + place * (LAST - FIRST))
    # A probability may come out of rounding as a little over 1.
    codes = np.where(codes < FIRST, ZERO, np.minimum(codes, LAST))
    return np.where(np.isnan(weights), BLANK, codes)


def _weights() -> FloatArray:
    """Return the weight that each code stands for, float32 [65536]."""
    place = (np.arange(LAST + 1) - FIRST) / (LAST - FIRST)
    weights = FLOOR ** (1 - place)
    weights[BLANK], weights[ZERO] = np.nan, 0.0
    return weights.astype(np.float32)


def packed(numbers: np.ndarray) -> str:
    """Return whole numbers below 65,536 as URL-safe base64 of little-endian uint16."""
    # Plotly's JSON writes a slash in six characters.
    return base64.urlsafe_b64encode(numbers.astype("<u2").tobytes()).decode("ascii")


def _unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.urlsafe_b64decode(text), dtype="<u2").astype(np.int64)
