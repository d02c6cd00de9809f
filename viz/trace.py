"""A policy along a recorded episode, as a figure: its action over time, whole and ablated, beside
what was done; and what heads look at meanwhile.

One strip a quantity, one above the other over the same time, so that what moves together stands
together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from models.types import FloatArray
from viz.theme import base_layout, head_colour, palette

STRIP, GAP = 62, 18
"""Height of a strip and of what is between two, px."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 18, 40  # px
_LEGEND_LINE, _SAMPLE, _CHARACTER = 29, 46, 5.4  # px: a line, a sample with room, a letter
_THINGS = (2, 3, 4, 5, 0, 6)
"""Hues of things; the second is left to what is ablated."""
_MOST_HEADS = 4
"""Heads whose attention gets a strip each."""
_WIDE = 2.0  # px


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    values: FloatArray
    colour: str
    dash: str = "solid"
    width: float = _WIDE
    shape: str = "linear"
    unit: str = ""


@dataclass(frozen=True, slots=True)
class _Strip:
    title: str
    lines: tuple[_Line, ...]
    axis: dict[str, Any]


def trace_figure(
    trace: Any, *, now: float | None = None, width: int = 320, dark: bool = False
) -> go.Figure:
    """Draw an `ablation.traces.Trace`.

    Args:
        now: the moment that is marked, seconds.
        width: of the figure in px; its height follows the number of strips.
    """
    strips = [*_action_strips(trace, dark), *_change_strip(trace, dark), *_looks(trace, dark)]
    names = list(dict.fromkeys(line.name for strip in strips for line in strip.lines))
    bottom = _BOTTOM + _LEGEND_LINE * _legend_lines(names, width - _LEFT - _RIGHT)
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
            figure.add_trace(_scatter(trace.times, line, i, line.name not in named))
            named.add(line.name)
    last = len(strips)
    figure.update_layout(
        margin={"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": bottom, "autoexpand": False},
        xaxis={
            "title": {"text": "seconds", "font": {"size": 10, "color": colours.muted}},
            "anchor": f"y{last if last > 1 else ''}",
            "gridcolor": colours.grid,
            "zeroline": False,
            "hoverformat": ".2f",
            "tickfont": {"size": 10, "color": colours.muted},
            "fixedrange": True,
        },
        hovermode="x",
        showlegend=True,
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


def _scatter(times: FloatArray, line: _Line, strip: int, legend: bool) -> go.Scatter:
    known = np.isfinite(line.values)
    return go.Scatter(
        x=times,
        y=[float(v) if k else None for v, k in zip(line.values, known, strict=True)],
        yaxis=f"y{strip + 1 if strip else ''}",
        name=line.name,
        legendgroup=line.name,
        showlegend=legend,
        mode="lines+markers" if known.sum() < 60 else "lines",
        marker={"size": 4, "color": line.colour},
        line={"color": line.colour, "dash": line.dash, "width": line.width, "shape": line.shape},
        hovertemplate=f"%{{y:.3g}}{line.unit}<extra>{line.name}</extra>",
    )


def _action_strips(trace: Any, dark: bool) -> list[_Strip]:
    colours = palette(dark)
    strips = []
    for k, dimension in enumerate(trace.space.dimensions):
        unit = f" {dimension.unit}" if dimension.unit else ""
        lines = []
        if np.isfinite(trace.recorded[:, k]).any():
            lines.append(_Line("done", trace.recorded[:, k], colours.muted, "dot", 1.5, "hv", unit))
        lines.append(_Line("whole", trace.before[:, k], colours.primary, shape="hv", unit=unit))
        if trace.after is not None:
            lines.append(
                _Line("ablated", trace.after[:, k], colours.accent, "dash", shape="hv", unit=unit)
            )
        drawn = np.concatenate([dimension.values, *(line.values for line in lines)])
        low, high = float(np.nanmin(drawn)), float(np.nanmax(drawn))
        room = 0.08 * (high - low)
        axis: dict[str, Any] = {"range": [low - room, high + room]}
        if dimension.is_choice:
            axis |= {
                "tickmode": "array",
                "tickvals": list(dimension.words),
                "ticktext": list(dimension.words.values()),
            }
        title = f"{dimension.name} ({dimension.unit})" if dimension.unit else dimension.name
        strips.append(_Strip(title, tuple(lines), axis))
    return strips


def _change_strip(trace: Any, dark: bool) -> list[_Strip]:
    if trace.moved is None:
        return []
    line = _Line("moved by ablating", trace.moved, palette(dark).accent, shape="hv")
    return [_Strip("moved (parts of reach)", (line,), {"rangemode": "tozero"})]


def _looks(trace: Any, dark: bool) -> list[_Strip]:
    """Return a strip a head: how much of its attention is on the picture, and on each thing."""
    strips = []
    for i, head in enumerate(trace.heads[:_MOST_HEADS]):
        lines = [_Line("picture", trace.on_image[i], palette(dark).neutral, "dot", 1.5)]
        lines += [
            _Line(name, trace.on_objects[i, k], head_colour(_THINGS[k % len(_THINGS)], dark))
            for k, name in enumerate(trace.objects)
        ]
        axis = {"range": [0, 1.04], "tickformat": ".0%"}
        strips.append(_Strip(f"attention of {head}", tuple(lines), axis))
    return strips
