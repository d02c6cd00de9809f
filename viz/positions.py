"""Where in the prompt heads matter: heads down, the prompt's tokens across."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from ablation.types import PositionScores
from viz.labels import clipped, literal
from viz.scores import score_colours, score_hover, score_title
from viz.theme import MONO, MONO_ASPECT, base_layout, compact_colour_bar, palette, plain_axis

MAX_CELLS = 100_000
"""Larger maps would cost the connection and the browser too much."""
MAX_ROWS = 1_000
"""With more heads, a row would be thinner than a pixel or two."""

_LABEL_SIZE = 10  # px
_LABEL_ROOM, _THIN_LABEL_ROOM = 9, 12  # px a label needs, and once they are thinned
_HEADER, _RIGHT = 46, 22  # px
_BAR = 92  # px: length of the colour bar
_HIGHEST_CELL, _LOWEST_CELL, _PLOT_HEIGHT, _MAX_PLOT_HEIGHT = 24, 6, 400, 1600  # px
_WIDEST_CELL, _MIN_WIDTH = 36, 420  # px
_ASSUMED_PLOT_WIDTH = 550  # px, on a small screen
_GAP_FROM = 8  # px: cells of this size have a hairline between them


def position_map_figure(scores: PositionScores, *, dark: bool = False) -> go.Figure:
    """Draw the heads x positions map; the position read is framed, if it is among them.

    Cells are coloured by the metric: sequentially for a distance, symmetrically around zero for an
    effect; those that were not evaluated stay blank. The figure takes its container's width, for
    which `map_width` is enough. A click yields `x`, the position, and `y`, the index of the head.
    """
    n_heads, n_positions = scores.values.shape
    cell = _cell_height(n_heads)
    height = _HEADER + round(cell * n_heads) + _bottom(scores)
    colours = score_colours(scores.metric, scores.values, dark)
    return go.Figure(
        data=[
            go.Heatmap(
                z=scores.values.astype(np.float32, copy=False),
                x=list(range(n_positions)),
                y=list(range(n_heads)),
                zmin=colours.low,
                zmax=colours.high,
                colorscale=colours.scale,
                xgap=1 if _ASSUMED_PLOT_WIDTH / n_positions >= _GAP_FROM else 0,
                ygap=1 if cell >= _GAP_FROM else 0,
                hoverongaps=False,
                hovertemplate=_hover(scores, dark),
                colorbar=compact_colour_bar(
                    dark,
                    pixels=_BAR,
                    y=1 - 24 / height,
                    tickvals=colours.tickvals,
                    ticktext=colours.ticktext,
                ),
            )
        ],
        layout={
            **base_layout(dark),
            "height": height,
            "margin": {
                "l": _left(scores),
                "r": _RIGHT,
                "t": _HEADER,
                "b": _bottom(scores),
                "pad": 2,
                "autoexpand": False,
            },
            "title": _title(scores, height, dark),
            "xaxis": _position_axis(scores, dark),
            "yaxis": _head_axis(scores, cell, dark),
            "shapes": [_frame(scores, dark)] if scores.read_here else [],
        },
    )


def most_heads(n_positions: int) -> int:
    """Return how many heads a map of a prompt can show, at least one."""
    return max(1, min(MAX_ROWS, MAX_CELLS // n_positions))


def map_width(scores: PositionScores) -> int:
    """Return the width in px beyond which a map would only grow coarser."""
    return max(_MIN_WIDTH, _left(scores) + _WIDEST_CELL * len(scores.prompt) + _RIGHT)


def _cell_height(n_heads: int) -> float:
    # Whole pixels keep all cells equally large.
    cell = float(min(max(_PLOT_HEIGHT // n_heads, _LOWEST_CELL), _HIGHEST_CELL))
    return min(cell, _MAX_PLOT_HEIGHT / n_heads)


def _left(scores: PositionScores) -> int:
    return _room_for([str(head) for head in scores.heads])


def _bottom(scores: PositionScores) -> int:
    return _room_for([clipped(label) for label in scores.prompt.unique_labels])


def _room_for(labels: list[str]) -> int:
    return round(max(map(len, labels), default=0) * _LABEL_SIZE * MONO_ASPECT) + 12


def _hover(scores: PositionScores, dark: bool) -> str:
    muted = palette(dark).muted
    return (
        f"<span style='color:{muted}'>head</span> <b>%{{y}}</b><br>"
        f"<span style='color:{muted}'>position %{{x:d}}</span> <b>%{{x}}</b><br>"
        f"{score_hover(scores.metric)}<extra></extra>"
    )


def _title(scores: PositionScores, height: int, dark: bool) -> dict[str, Any]:
    return {
        "text": score_title(scores.metric, scores.target, dark),
        "font": {"size": 12, "color": palette(dark).text},
        "x": 0,
        "xanchor": "left",
        "xref": "container",
        "pad": {"l": 8},
        # Plotly anchors the last line.
        "y": 1 - 15 / height,
        "yanchor": "top",
        "yref": "container",
    }


def _position_axis(scores: PositionScores, dark: bool) -> dict[str, Any]:
    """Return the axis of positions, shown under the tokens' names, as on the attention maps.

    Plotly shows as many as its width has room for.
    """
    names = [literal(clipped(name)) for name in scores.prompt.unique_labels]
    read = scores.baseline.position
    if scores.read_here:
        names[read] = f"<b>{names[read]}</b>"
    return _category_axis(names, dark) | {"range": [-0.5, len(names) - 0.5], "tickangle": -90}


def _head_axis(scores: PositionScores, cell: float, dark: bool) -> dict[str, Any]:
    n = len(scores.heads)
    n_labels = n if cell >= _LABEL_ROOM else max(int(n * cell / _THIN_LABEL_ROOM), 1)
    return _category_axis([str(head) for head in scores.heads], dark) | {
        "range": [n - 0.5, -0.5],
        "nticks": n_labels,
    }


def _category_axis(names: list[str], dark: bool) -> dict[str, Any]:
    """Return an axis whose values are indices, shown under names (see `viz.attention`)."""
    return plain_axis(dark) | {
        "type": "category",
        "labelalias": {str(i): name for i, name in enumerate(names)},
        "tickfont": {"family": MONO, "size": _LABEL_SIZE, "color": palette(dark).muted},
    }


def _frame(scores: PositionScores, dark: bool) -> dict[str, Any]:
    """Return the frame around the column of the position read."""
    read = scores.baseline.position
    return {
        "type": "rect",
        "x0": read - 0.5,
        "x1": read + 0.5,
        "y0": -0.5,
        "y1": len(scores.heads) - 0.5,
        "line": {"color": palette(dark).muted, "width": 1},
    }
