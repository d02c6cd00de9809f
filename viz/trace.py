"""A policy along a recorded episode, as a figure: its action over time, whole and ablated, beside
what was done; and what heads look at meanwhile.

One strip a quantity, one above the other over the same time, so that what moves together stands
together.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from viz.strips import Line, Strip, strips_figure
from viz.theme import head_colour, palette

_THINGS = (2, 3, 4, 5, 0, 6)
"""Hues of things; the second is left to what is ablated."""
_MOST_HEADS = 4
"""Heads whose attention gets a strip each."""


def trace_figure(
    trace: Any, *, now: float | None = None, width: int = 320, dark: bool = False
) -> go.Figure:
    """Draw an `ablation.traces.Trace`.

    Args:
        now: the moment that is marked, seconds.
        width: of the figure in px; its height follows the number of strips.
    """
    strips = [*_action_strips(trace, dark), *_change_strip(trace, dark), *_looks(trace, dark)]
    return strips_figure(trace.times, strips, "seconds", now=now, width=width, dark=dark)


def _action_strips(trace: Any, dark: bool) -> list[Strip]:
    colours = palette(dark)
    strips = []
    for k, dimension in enumerate(trace.space.dimensions):
        unit = f" {dimension.unit}" if dimension.unit else ""
        lines = []
        if np.isfinite(trace.recorded[:, k]).any():
            lines.append(Line("done", trace.recorded[:, k], colours.muted, "dot", 1.5, "hv", unit))
        lines.append(Line("whole", trace.before[:, k], colours.primary, shape="hv", unit=unit))
        if trace.after is not None:
            lines.append(
                Line("ablated", trace.after[:, k], colours.accent, "dash", shape="hv", unit=unit)
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
        strips.append(Strip(title, tuple(lines), axis))
    return strips


def _change_strip(trace: Any, dark: bool) -> list[Strip]:
    if trace.moved is None:
        return []
    line = Line("moved by ablating", trace.moved, palette(dark).accent, shape="hv")
    return [Strip(f"moved ({trace.unit})", (line,), {"rangemode": "tozero"})]


def _looks(trace: Any, dark: bool) -> list[Strip]:
    """Return a strip a head: how much of its attention is on the picture, and on each thing."""
    strips = []
    for i, head in enumerate(trace.heads[:_MOST_HEADS]):
        lines = [Line("picture", trace.on_image[i], palette(dark).neutral, "dot", 1.5)]
        lines += [
            Line(name, trace.on_objects[i, k], head_colour(_THINGS[k % len(_THINGS)], dark))
            for k, name in enumerate(trace.objects)
        ]
        axis = {"range": [0, 1.04], "tickformat": ".0%"}
        strips.append(Strip(f"attention of {head}", tuple(lines), axis))
    return strips
