"""What the figures of studies share: a title, axes with names and units, lines, bars, intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ablation.types import HeadValues, MetricInfo
from models.types import FloatArray, Head
from viz.heads import head_map_figure
from viz.labels import literal
from viz.theme import MONO, base_layout, head_colour, palette, plain_axis

HEIGHT = 300  # px
MAP_WIDTH, MAP_HEIGHT = 280, 420  # px
HUES = ("primary", "accent", "neutral")
"""Colours of the palette that tell the traces of one figure apart, in their order."""


@dataclass(frozen=True, slots=True, eq=False)
class StudyFigure:
    """One picture of a study."""

    name: str
    """For files: "joint-effect"."""
    title: str
    about: str
    """What is drawn, in a sentence."""
    figure: go.Figure
    wide: bool = True
    """Whether it takes the whole width; narrow ones, such as maps of heads, stand side by side."""


def framed(
    traces: Sequence[Any], x: str, y: str, *, dark: bool, height: int = HEIGHT, **layout: Any
) -> go.Figure:
    """Return a figure whose axes have names, with a legend if there are several named traces.

    Args:
        x, y: what the axes are, with the unit.
        layout: more of the layout; `xaxis` and `yaxis` are added to.
    """
    colours = palette(dark)
    axes = {
        name: plain_axis(dark)
        | {
            "gridcolor": colours.grid,
            "showgrid": True,
            "title": {"text": literal(title), "font": {"size": 11, "color": colours.muted}},
            "automargin": True,
        }
        | layout.pop(name, {})
        for name, title in (("xaxis", x), ("yaxis", y))
    }
    return go.Figure(
        data=list(traces),
        layout={
            **base_layout(dark),
            "height": height,
            "margin": {"l": 54, "r": 14, "t": 30, "b": 44, "pad": 0},
            "showlegend": sum(1 for trace in traces if trace.name) > 1,
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1,
                "yanchor": "bottom",
                "font": {"size": 11, "color": colours.muted},
                "bgcolor": "rgba(0,0,0,0)",
            },
            **axes,
            **layout,
        },
    )


def hue(index: int, dark: bool) -> str:
    """Return the colour of a figure's trace by its number."""
    colour: str = getattr(palette(dark), HUES[index % len(HUES)])
    return colour


def head_map(
    grid: tuple[int, int],
    metric: MetricInfo,
    values: Mapping[Head, float],
    name: str,
    title: str,
    *,
    dark: bool,
    marked: Sequence[Head] = (),
) -> StudyFigure:
    """Draw a number of each head as a map, layers up and heads across.

    Args:
        grid: (n_layers, n_heads).
        metric: what the number is.
        values: heads without one stay without colour.
        marked: heads that are outlined.
    """
    cells = np.full(grid, np.nan, dtype=np.float32)
    for head, value in values.items():
        cells[head.layer, head.head] = value
    figure = head_map_figure(
        *grid, HeadValues(metric, cells), marked, dark=dark, width=MAP_WIDTH, height=MAP_HEIGHT
    )
    return StudyFigure(name, title, f"{metric.label}: {metric.description}", figure, wide=False)


def faint(colour: str, opacity: float) -> str:
    """Return a colour of the palette, "#rrggbb", as one that lets through what is behind it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


Numbers = Sequence[float] | FloatArray


def line(
    x: Sequence[Any],
    y: Numbers,
    name: str,
    index: int = 0,
    *,
    dark: bool,
    dash: str = "solid",
    colour: str | None = None,
) -> go.Scatter:
    """Return a line of a figure, in the colour of its number unless one is given."""
    return go.Scatter(
        x=list(x),
        y=[float(value) for value in y],
        name=name,
        mode="lines+markers",
        line={"color": colour or hue(index, dark), "width": 1.8, "dash": dash},
        marker={"size": 4},
        hovertemplate=f"{name}<br>%{{x}}: <b>%{{y:.3g}}</b><extra></extra>",
    )


def bars(
    x: Sequence[Any],
    means: Numbers,
    low: Numbers,
    high: Numbers,
    name: str,
    index: int = 0,
    *,
    dark: bool,
    colour: str | None = None,
) -> go.Bar:
    """Return upright bars with their intervals, in the colour of their number unless one is given;
    NaN ends are no interval."""
    middle, lowest, highest = (np.asarray(v, dtype=float) for v in (means, low, high))
    return go.Bar(
        x=list(x),
        y=middle.tolist(),
        name=name,
        marker={"color": colour or hue(index, dark)},
        error_y={
            "visible": bool(np.isfinite(lowest).any()),
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(highest - middle).tolist(),
            "arrayminus": np.nan_to_num(middle - lowest).tolist(),
            "thickness": 1,
            "width": 3,
            "color": palette(dark).text,
        },
        customdata=np.stack([lowest, highest], axis=1).tolist(),
        hovertemplate=(
            f"{name}<br>%{{x}}: <b>%{{y:.3g}}</b><br>%{{customdata[0]:.3g}} to "
            "%{customdata[1]:.3g}<extra></extra>"
        ),
    )


def by_intervention(
    labels: Sequence[str], values: Mapping[str, FloatArray], x: str, y: str, *, dark: bool
) -> StudyFigure:
    """Draw what the same heads do by each intervention, side by side.

    Args:
        labels: of what was ablated.
        values: intervention -> [n_prompts, n_labels].
        x, y: what the axes are.
    """
    none = [np.nan] * len(labels)
    traces = [
        bars(labels, own.mean(axis=0), none, none, name, dark=dark, colour=head_colour(i, dark))
        for i, (name, own) in enumerate(values.items())
    ]
    return StudyFigure(
        "interventions",
        "The choice of intervention",
        "The same heads ablated in each way, mean over the prompts. What shows by one intervention "
        "alone rests on that choice.",
        framed(traces, x, y, dark=dark, barmode="group"),
    )


def level(y: float, words: str, *, dark: bool) -> dict[str, Any]:
    """Return a dashed line across a figure and what it is, as its layout's shape and annotation."""
    colours = palette(dark)
    return {
        "shapes": [
            {
                "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y,
                "line": {"color": colours.muted, "width": 1, "dash": "dash"},
            }
        ],
        "annotations": [
            {
                "xref": "paper", "x": 1, "xanchor": "right", "y": y, "yanchor": "bottom",
                "text": literal(words), "showarrow": False,
                "font": {"size": 10, "color": colours.muted, "family": MONO},
            }
        ],
    }  # fmt: skip
