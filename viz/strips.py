"""Strips of curves, a quantity each, one above the other over the same axis, so that what moves
together stands together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from models.types import FloatArray
from viz.theme import base_layout, palette

STRIP, GAP = 62, 18
"""Height of a strip and of what is between two, px."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 18, 40  # px
_LEGEND_LINE, _SAMPLE, _CHARACTER = 29, 46, 5.4  # px: a line, a sample with room, a letter
_WIDE = 2.0  # px


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    values: FloatArray
    colour: str
    dash: str = "solid"
    width: float = _WIDE
    shape: str = "linear"
    unit: str = ""
    faint: bool = False
    """Whether it stands behind others of its name."""


@dataclass(frozen=True, slots=True)
class Strip:
    title: str
    lines: tuple[Line, ...]
    axis: dict[str, Any]


def strips_figure(
    at: FloatArray,
    strips: Sequence[Strip],
    x_title: str,
    *,
    now: float | None = None,
    width: int = 320,
    dark: bool = False,
) -> go.Figure:
    """Draw strips over the same axis.

    Args:
        at: where the values of each line are on that axis, float [n].
        now: what is marked on it.
        width: of the figure in px; its height follows the number of strips.
    """
    names = list(dict.fromkeys(line.name for strip in strips for line in strip.lines))
    lines = _legend_lines(names, width - _LEFT - _RIGHT) if len(names) > 1 else 0
    bottom = _BOTTOM + _LEGEND_LINE * lines
    inner = len(strips) * STRIP + (len(strips) - 1) * GAP
    height = _TOP + inner + bottom
    figure = go.Figure(layout={**base_layout(dark), "width": width, "height": height})
    colours = palette(dark)
    named: set[str] = set()
    for i, strip in enumerate(strips):
        top = 1 - i * (STRIP + GAP) / inner
        axis = f"yaxis{i + 1 if i else ''}"
        figure.layout[axis] = {
            **strip.axis,
            "domain": [max(0.0, top - STRIP / inner), top],
            "fixedrange": True,
            "gridcolor": colours.grid,
            "zerolinecolor": colours.line,
            "tickfont": {"size": 10, "color": colours.muted},
            "nticks": 4,
        }
        figure.add_annotation(
            text=strip.title,
            x=0,
            xref="paper",
            xanchor="left",
            y=top,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
            font={"size": 10, "color": colours.muted},
        )
        for line in strip.lines:
            figure.add_trace(_scatter(at, line, i, line.name not in named))
            named.add(line.name)
    last = len(strips)
    figure.update_layout(
        margin={"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": bottom, "autoexpand": False},
        xaxis={
            "title": {"text": x_title, "font": {"size": 10, "color": colours.muted}},
            "anchor": f"y{last if last > 1 else ''}",
            "gridcolor": colours.grid,
            "zeroline": False,
            "hoverformat": ".2f",
            "tickfont": {"size": 10, "color": colours.muted},
            "fixedrange": True,
        },
        hovermode="x",
        showlegend=bool(lines),  # a single line needs no name
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": -_BOTTOM / inner,
            "yanchor": "top",
            "font": {"size": 10},
            "bgcolor": "rgba(0,0,0,0)",
        },
        shapes=[] if now is None else [now_line(now, dark)],
    )
    return figure


def _legend_lines(names: Sequence[str], width: float) -> int:
    """Return how many lines a legend of these names takes."""
    lines, at = 1, 0.0
    for name in names:
        wide = _SAMPLE + _CHARACTER * len(name)
        if at and at + wide > width:
            lines, at = lines + 1, 0.0
        at += wide
    return lines


def now_line(now: float, dark: bool) -> dict[str, Any]:
    """Return the line that marks a moment, across all strips."""
    return {
        "type": "line",
        "x0": now,
        "x1": now,
        "xref": "x",
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": palette(dark).text, "width": 1},
    }


def _scatter(times: FloatArray, line: Line, strip: int, legend: bool) -> go.Scatter:
    known = np.isfinite(line.values)
    return go.Scatter(
        x=times,
        y=[float(v) if k else None for v, k in zip(line.values, known, strict=True)],
        yaxis=f"y{strip + 1 if strip else ''}",
        name=line.name,
        legendgroup=line.name,
        showlegend=legend,
        mode="lines" if line.faint or known.sum() >= 60 else "lines+markers",
        opacity=0.4 if line.faint else 1.0,
        marker={"size": 4, "color": line.colour},
        line={"color": line.colour, "dash": line.dash, "width": line.width, "shape": line.shape},
        hoverinfo="skip" if line.faint else None,
        hovertemplate=None if line.faint else f"%{{y:.3g}}{line.unit}<extra>{line.name}</extra>",
    )
