"""All heads at once: what `assets/overview.js` draws the grid of thumbnails from.

Thumbnails travel as one byte a cell, on a logarithmic scale: that is precise to 2 %, more than a
colour tells, and exact numbers travel beside it. What causal attention can't reach is left out.
"""

import base64
import math
from typing import Any

import numpy as np

from ablation.types import HeadSummaries, MetricInfo
from models.types import FloatArray
from viz.sink import SINK_NOTES, trivial_rows
from viz.theme import sequential_scale
from viz.weight_colours import LOG_FLOOR

MAX_SIDE = 48
"""Most cells, across and down, of a thumbnail; no grid of hundreds shows more."""
MAX_CELLS = 750_000
"""Most cells of all thumbnails together: a megabyte as base64."""

BLANK, FIRST, LAST = 0, 2, 255
"""Codes: of a head that was not read, of `LOG_FLOOR`, and of 1. Code 1 is all that is smaller."""
RELATIVE_ERROR = 0.019
"""Largest, of a decoded weight from `LOG_FLOOR` to 1: half a step of the scale."""

Message = dict[str, Any]


def thumbnail_side(n_heads: int, causal: bool) -> int:
    """Return how many cells, across and down, each of so many thumbnails may have."""
    cells = MAX_CELLS / max(1, n_heads)
    side = math.sqrt(2 * cells + 0.25) - 0.5 if causal else math.sqrt(cells)
    return max(1, min(MAX_SIDE, int(side)))


def overview_message(summaries: HeadSummaries) -> Message:
    """Return the grid as small plain data: the same for light and dark, and for every colouring.

    Returns:
        `stack`, `n_layers`, `n_heads`, `n_tokens`, `side` (cells of a thumbnail, down) and
        `columns` (across), `step`, `causal`, `trivial` (so many rows of cells, from the first, do
        not count for the largest weight), `note` (what is done about the first token, if anything),
        `codes` (URL-safe base64 of a byte a cell, [layer][head][row][column], of a causal map only
        the cells up to the diagonal), `floor` (the weight that the smallest code stands for),
        `metrics` (name, label, unit, description, and `values` [layer][head] to four digits, None
        where there is none) and `colours` (light and dark, from small to large).
    """
    n_layers, n_heads, side, columns = summaries.thumbnails.shape
    return {
        "stack": summaries.stack,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_tokens": len(summaries.prompt),
        "side": side,
        "columns": columns,
        "step": summaries.step,
        "causal": summaries.causal,
        "trivial": _trivial(summaries),
        "note": SINK_NOTES.get(summaries.sink, ""),
        "codes": _packed(_codes(summaries.thumbnails), summaries.causal),
        "floor": LOG_FLOOR,
        "metrics": [
            _metric(info, values)
            for info, values in zip(summaries.metrics, summaries.values, strict=True)
        ],
        "colours": {
            "light": [colour for _, colour in sequential_scale(dark=False)],
            "dark": [colour for _, colour in sequential_scale(dark=True)],
        },
    }


def decoded_thumbnails(message: Message) -> FloatArray:
    """Return the thumbnails, float32 [n_layers, n_heads, row, column], that a message holds.

    Cells that causal attention can't reach, and heads that were not read, are NaN. The browser
    decodes in the same way.
    """
    side, columns = message["side"], message["columns"]
    codes = np.frombuffer(base64.urlsafe_b64decode(message["codes"]), dtype=np.uint8)
    whole = np.zeros((message["n_layers"], message["n_heads"], side, columns), dtype=np.uint8)
    whole[..., _sent(side, columns, message["causal"])] = codes.reshape(*whole.shape[:2], -1)
    weights = message["floor"] ** (1 - (np.arange(LAST + 1) - FIRST) / (LAST - FIRST))
    weights[BLANK], weights[1] = np.nan, 0.0
    return weights[whole].astype(np.float32)


def _trivial(summaries: HeadSummaries) -> int:
    """Return how many rows of cells show nothing but weights that are a trivial 1."""
    rows = trivial_rows(summaries.causal, summaries.sink)
    return math.ceil(rows / summaries.step)


def _metric(info: MetricInfo, values: FloatArray) -> dict[str, Any]:
    return {
        "name": info.name,
        "label": info.label,
        "unit": "" if info.unit == "probability" else info.unit,  # as everywhere with weights
        "description": info.description,
        "values": [[None if np.isnan(v) else float(f"{v:.4g}") for v in row] for row in values],
    }


def _codes(weights: FloatArray) -> np.ndarray:
    """Return a code for each weight, uint8; NaN is blank."""
    with np.errstate(divide="ignore"):
        place = 1 - np.log(weights) / np.log(LOG_FLOOR)  # 0 at the floor, 1 at 1; -inf at 0
    codes = np.rint(FIRST + place * (LAST - FIRST))
    # A probability may come out of rounding as a little over 1.
    codes = np.where(codes < FIRST, FIRST - 1, np.minimum(codes, LAST))
    return np.where(np.isnan(weights), BLANK, codes).astype(np.uint8)


def _packed(codes: np.ndarray, causal: bool) -> str:
    rows, columns = codes.shape[-2:]
    sent = codes[..., _sent(rows, columns, causal)]
    # Plotly's JSON writes a slash in six characters.
    return base64.urlsafe_b64encode(np.ascontiguousarray(sent).tobytes()).decode("ascii")


def _sent(side: int, columns: int, causal: bool) -> np.ndarray:
    """Return which cells of a thumbnail travel, bool [row, column]."""
    everything = np.ones((side, columns), dtype=bool)
    return np.tril(everything) if causal else everything
