"""The model's heads as a grid, layers up and heads across, and as a ranking."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ablation.types import HeadScores, HeadValues
from models.types import FloatArray, Head
from viz.scores import score_colours, score_hover, score_title
from viz.theme import (
    base_layout,
    compact_colour_bar,
    label_step,
    palette,
    plain_axis,
)

_LEFT, _RIGHT, _BOTTOM = 40, 6, 34  # px
_HEADER, _SCORES_HEADER = 26, 46  # px
_RIM = 2  # px around the grid, so that outlines at its edge are whole
_BAR = 92  # px: length of the colour bar
_TALLEST_CELL, _LOWEST_CELL, _PLOT_HEIGHT = 24, 4, 250  # px


def head_map_figure(
    n_layers: int,
    n_heads: int,
    scores: HeadScores | HeadValues | None = None,
    chosen: Sequence[Head] = (),
    *,
    stack: str = "",
    dark: bool = False,
    width: int = 280,
    height: int | None = None,
) -> go.Figure:
    """Draw the layers x heads map, layer 0 at the bottom, chosen heads outlined.

    Cells are coloured by the metric: sequentially for a distance, symmetrically around zero for an
    effect; those without a value are empty. Each cell can be clicked and yields `x`, the head, and
    `y`, the layer.

    Args:
        stack: the stack whose heads they are; of the chosen ones only its are outlined.
        width, height: of the figure in px; by default the height follows the number of layers.
    """
    if scores is not None and scores.values.shape != (n_layers, n_heads):
        raise ValueError(f"scores must be [{n_layers}, {n_heads}], got {scores.values.shape}")
    values = np.full((n_layers, n_heads), np.nan, np.float32) if scores is None else scores.values
    header = _HEADER if scores is None else _SCORES_HEADER
    if height is None:
        cell = min(max(_PLOT_HEIGHT // n_layers, _LOWEST_CELL), _TALLEST_CELL)
        height = header + cell * n_layers + _BOTTOM
    cell_width = (width - _LEFT - _RIGHT) / n_heads
    cell_height = (height - header - _BOTTOM) / n_layers
    gap = 1 if min(cell_width, cell_height) >= 4 else 0
    n_chosen = len({head for head in chosen if head.stack == stack})
    prefix = f"{stack}:" if stack else ""
    traces = [_empty_cells(values, scores is not None, prefix, gap, dark)]
    if scores is not None:
        traces.append(_score_cells(scores, prefix, gap, width, height, dark))
    return go.Figure(
        data=traces,
        layout={
            **base_layout(dark),
            "width": width,
            "height": height,
            "margin": {
                "l": _LEFT,
                "r": _RIGHT,
                "t": header,
                "b": _BOTTOM,
                "pad": 2,
                "autoexpand": False,
            },
            "title": _title(scores, n_layers * n_heads, n_chosen, height, width, dark),
            "xaxis": _index_axis("head", n_heads, cell_width, 15, dark),
            "yaxis": _index_axis("layer", n_layers, cell_height, 11, dark),
            "shapes": _outlines(chosen, stack, dark),
            "meta": {"stack": stack},  # for who outlines other heads later
        },
    )


def ranking_table(scores: HeadScores | HeadValues) -> list[dict[str, Any]]:
    """Return a row for each evaluated head, largest absolute value first, for a table.

    Keys: `rank` (from 1), `head` ("L9H9"), `layer`, `head_index`, `value` (unrounded, in the
    metric's unit).
    """
    return [
        {
            "rank": rank,
            "head": str(head),
            "layer": head.layer,
            "head_index": head.head,
            "value": value,
        }
        for rank, (head, value) in enumerate(scores.ranked(), start=1)
    ]


def _empty_cells(values: FloatArray, scored: bool, prefix: str, gap: int, dark: bool) -> go.Heatmap:
    """Draw the cells without a value, which are to be hovered and clicked like the others."""
    colour = palette(dark).empty
    note = "<br>not evaluated" if scored else ""
    return go.Heatmap(
        z=np.where(np.isnan(values), np.float32(0), np.float32(np.nan)),
        zmin=0,
        zmax=1,
        colorscale=[(0, colour), (1, colour)],
        showscale=False,
        xgap=gap,
        ygap=gap,
        hoverongaps=False,
        hovertemplate=f"<b>{prefix}L%{{y:d}}H%{{x:d}}</b>{note}<extra></extra>",
    )


def _score_cells(
    scores: HeadScores | HeadValues,
    prefix: str,
    gap: int,
    width: int,
    height: int,
    dark: bool,
) -> go.Heatmap:
    colours = score_colours(scores.metric, scores.values, dark)
    return go.Heatmap(
        z=scores.values.astype(np.float32, copy=False),
        zmin=colours.low,
        zmax=colours.high,
        colorscale=colours.scale,
        xgap=gap,
        ygap=gap,
        hoverongaps=False,
        hovertemplate=(
            f"<b>{prefix}L%{{y:d}}H%{{x:d}}</b><br>{score_hover(scores.metric)}<extra></extra>"
        ),
        colorbar=compact_colour_bar(
            dark,
            pixels=_BAR,
            y=1 - 24 / height,
            tickvals=colours.tickvals,
            ticktext=colours.ticktext,
        )
        # Its last label is centred on its end.
        | {"x": 1 - 12 / (width - _LEFT - _RIGHT)},
    )


def _title(
    scores: HeadScores | HeadValues | None,
    n_cells: int,
    n_chosen: int,
    height: int,
    width: int,
    dark: bool,
) -> dict[str, Any]:
    colours = palette(dark)
    chosen = f"{n_chosen} of {n_cells} heads chosen"
    text = chosen if scores is None else score_title(scores.metric, scores.target, dark)
    return {
        "text": text,
        "font": {"size": 12, "color": colours.muted if scores is None else colours.text},
        "x": 6 / width,
        "xanchor": "left",
        "xref": "container",
        # Plotly anchors the last line.
        "y": 1 - (5 if scores is None else 15) / height,
        "yanchor": "top",
        "yref": "container",
    }


def _index_axis(name: str, n: int, cell: float, room: float, dark: bool) -> dict[str, Any]:
    colour = palette(dark).muted
    rim = _RIM / cell
    return plain_axis(dark) | {
        "range": [-0.5 - rim, n - 0.5 + rim],
        "fixedrange": True,
        "tickmode": "array",
        "tickvals": list(range(0, n, label_step(n, cell, room))),
        "title": {"text": name, "font": {"size": 10, "color": colour}, "standoff": 3},
    }


def _outlines(chosen: Sequence[Head], stack: str, dark: bool) -> list[dict[str, Any]]:
    """Return the outlines of the chosen cells; a halo keeps them visible on any colour."""
    cells = sorted({(head.layer, head.head) for head in chosen if head.stack == stack})
    if not cells:
        return []
    colours = palette(dark)
    path = " ".join(
        f"M{x - 0.5:g},{y - 0.5:g}H{x + 0.5:g}V{y + 0.5:g}H{x - 0.5:g}Z" for y, x in cells
    )
    return [
        {"type": "path", "path": path, "line": {"color": colours.surface, "width": 3.5}},
        {"type": "path", "path": path, "line": {"color": colours.accent, "width": 1.75}},
    ]
