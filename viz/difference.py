"""How one head's attention differs between two runs: after minus before, around zero."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from models.types import AttentionMaps, FloatArray, TokenizedPrompt
from viz.cells import fitting_step, is_causal
from viz.labels import clipped, literal
from viz.theme import (
    MONO,
    MONO_ASPECT,
    base_layout,
    compact_colour_bar,
    diverging_scale,
    palette,
    plain_axis,
)

_LABEL_SIZE, _LABEL_ROOM = 10, 12  # px
_HEADER, _EDGE = 42, 10  # px
_BAR = 84  # px: length of the colour bar
_SIZE, _LARGEST_CELL, _GAP_FROM = 300, 32, 8  # px
_SMALLEST_PLOT = 40  # px, however long the labels


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """What is drawn: of each cell the weight that changed most."""

    difference: FloatArray
    """float32 [row, column]; NaN where neither run can attend."""
    weights: FloatArray
    """float32 [row, column, 2]: the two weights, before and after."""
    step: int
    """How many queries, and how many keys, share a cell."""


def difference_figure(
    before: AttentionMaps,
    after: AttentionMaps,
    index: int,
    *,
    zmax: float | None = None,
    note: str = "",
    dark: bool = False,
    size: int = _SIZE,
) -> go.Figure:
    """Draw how the weights of one head differ between two runs of as many tokens.

    Colours are symmetric around zero: on one side the weights that grew, on the other those that
    shrank. A map with more weights than pixels shows of each cell the weight that changed most.

    Args:
        before, after: maps of the same heads, with all their rows.
        index: which of their heads.
        zmax: the difference that gets the strongest colour; None for the map's own largest.
        note: said beside the head's name, such as its divergence.
        size: width of the figure in px.
    """
    if before.heads != after.heads or before.values.shape != after.values.shape:
        raise ValueError("only maps of the same heads and of as many tokens have a difference")
    queries = position_names(before.prompt, after.prompt)
    keys = position_names(before.keys, after.keys)
    left, below = _label_room(queries), _label_room(keys)
    plot = max(size - left - _EDGE, _SMALLEST_PLOT)
    longer = max(len(queries), len(keys), 1)
    cell = min(plot / longer, _LARGEST_CELL)
    cell = float(int(cell)) if cell >= 1 else cell  # whole pixels keep cells equally large
    cells = _cells(before.values[index], after.values[index], fitting_step(longer, int(plot)))
    across, down = cell * len(keys), cell * len(queries)
    height = round(_HEADER + down + below)
    limit = zmax or largest_difference(before, after, index) or 1.0
    return go.Figure(
        data=[_trace(cells, limit, height, plot, across, cell, dark)],
        layout={
            **base_layout(dark),
            "width": size,
            "height": height,
            "margin": {
                "l": left, "r": round(size - left - across), "t": _HEADER, "b": below, "pad": 2,
                "autoexpand": False,
            },
            "title": _title(str(before.heads[index]), note, size, height, dark),
            "xaxis": _axis(keys, across, dark)
            | {"range": [-0.5, len(keys) - 0.5], "tickangle": -90},
            "yaxis": _axis(queries, down, dark) | {"range": [len(queries) - 0.5, -0.5]},
        },
    )  # fmt: skip


def largest_difference(before: AttentionMaps, after: AttentionMaps, index: int) -> float:
    """Return the largest absolute difference of a head's weights."""
    rows = zip(before.values[index], after.values[index], strict=True)
    return max((float(np.abs(b - a).max(initial=0.0)) for b, a in rows), default=0.0)


def position_names(before: TokenizedPrompt, after: TokenizedPrompt) -> list[str]:
    """Return what positions are called, escaped: by both tokens where the prompts differ."""
    names = []
    pairs = zip(before.unique_labels, after.unique_labels, strict=True)
    for one, other in pairs:
        both = clipped(one) if one == other else f"{clipped(one, 8)}→{clipped(other, 8)}"
        names.append(literal(both))
    return names


def _label_room(names: list[str]) -> int:
    """Return how many px the names beside an axis need."""
    return round(max(map(len, names), default=0) * _LABEL_SIZE * MONO_ASPECT) + 12


def _cells(before: FloatArray, after: FloatArray, step: int) -> _Cells:
    """Return of each step x step block the pair of weights that differs most."""
    n, n_keys = before.shape
    difference = (after - before).astype(np.float32)
    causal = n == n_keys and is_causal(before) and is_causal(after)
    blank = np.triu(np.ones((n, n), bool), 1) if causal else None
    if step == 1:
        if blank is not None:
            difference[blank] = np.nan
        return _Cells(difference, np.stack([before, after], axis=-1).astype(np.float32), 1)
    rows, columns = -(-n // step), -(-n_keys // step)
    strength = np.full((rows * step, columns * step), -1, np.float32)  # never the strongest
    strength[:n, :n_keys] = np.abs(difference)
    if blank is not None:
        strength[:n, :n][blank] = -1
    blocks = strength.reshape(rows, step, columns, step).swapaxes(1, 2)
    flat = blocks.reshape(*blocks.shape[:2], step * step)
    row, column = np.divmod(flat.argmax(axis=-1), step)
    query = np.minimum(np.arange(rows)[:, None] * step + row, n - 1)
    key = np.minimum(np.arange(columns)[None, :] * step + column, n_keys - 1)
    chosen = difference[query, key]
    chosen[flat.max(axis=-1) < 0] = np.nan
    weights = np.stack([before[query, key], after[query, key]], axis=-1).astype(np.float32)
    return _Cells(chosen, weights, step)


def _trace(
    cells: _Cells, limit: float, height: int, plot: float, side: float, cell: float, dark: bool
) -> go.Heatmap:
    centre = (cells.step - 1) / 2
    gap = 1 if cells.step == 1 and cell >= _GAP_FROM else 0
    shown = f"{limit:.2g}"
    return go.Heatmap(
        z=cells.difference,
        customdata=cells.weights,
        x0=centre,
        dx=cells.step,
        y0=centre,
        dy=cells.step,
        zmin=-limit,
        zmax=limit,
        colorscale=diverging_scale(dark),
        xgap=gap,
        ygap=gap,
        hoverongaps=False,
        hovertemplate=_hover(cells.step, dark),
        colorbar=compact_colour_bar(
            dark,
            pixels=_BAR,
            y=1 - 4 / height,
            tickvals=[-limit, 0, limit],
            ticktext=[f"−{shown}", "0", f"+{shown}"],
        )
        # The bar ends where the figure ends, not where a map narrower than that does.
        | {"x": 1 + (plot - side - _EDGE) / side},
    )


def _hover(step: int, dark: bool) -> str:
    muted = palette(dark).muted
    of_cell = "" if step == 1 else f" · largest change of {step}×{step}"
    lines = (
        ("query %{y:d}", "<b>%{y}</b>"),
        ("key   %{x:d}", "<b>%{x}</b>"),
        ("before", "%{customdata[0]:.3g}"),
        ("after ", "%{customdata[1]:.3g}"),
        ("change", f"<b>%{{z:+.3g}}</b>{of_cell}"),
    )
    said = (f"<span style='color:{muted}'>{name}</span> {value}" for name, value in lines)
    return "<br>".join(said) + "<extra></extra>"


def _title(head: str, note: str, size: int, height: int, dark: bool) -> dict[str, Any]:
    colours = palette(dark)
    small = f"<span style='font-size:11px;color:{colours.muted}'>{literal(note)}</span>"
    return {
        "text": f"<b>{literal(head)}</b><br>{small}",
        "font": {"size": 13, "color": colours.text},
        "x": _EDGE / size,
        "xanchor": "left",
        "xref": "container",
        # Plotly anchors the second of the two lines.
        "y": 1 - 17 / height,
        "yanchor": "top",
        "yref": "container",
    }


def _axis(names: list[str], length: float, dark: bool) -> dict[str, Any]:
    """Return an axis of `length` px whose values are positions, shown under names (see
    `viz.attention`)."""
    n, n_labels = len(names), max(int(length / _LABEL_ROOM), 1)
    return plain_axis(dark) | {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(range(n)),
        "labelalias": {str(i): name for i, name in enumerate(names)},
        "nticks": min(n_labels, n),
        "fixedrange": True,
        "tickfont": {"family": MONO, "size": _LABEL_SIZE, "color": palette(dark).muted},
    }
