"""The proof of a circuit as a figure: how faithful so many edges are."""

from typing import Any

import plotly.graph_objects as go

from ablation.circuit.types import Circuit
from viz.circuit_text import number
from viz.theme import MONO, base_layout, palette, plain_axis

HEIGHT = 280
_RANGE_RIM = 0.06
"""Room above and below, as a part of the range."""


def faithfulness_figure(circuit: Circuit, method: str = "", *, dark: bool = False) -> go.Figure:
    """Draw faithfulness against the number of edges (logarithmic): the strongest so many by the
    method, as many random ones, and the circuit itself.

    Values outside of 0 to 1 stand where they are. A click yields `x`, the number of edges.

    Args:
        method: what it is called; by default its name.
    """
    points = [point for point in circuit.curve if point.n_edges > 0]
    by_chance = [point for point in points if point.random is not None]
    colours = palette(dark)
    method_y = [point.faithfulness for point in points]
    random_y = [point.random for point in by_chance]
    traces = [
        _curve(
            [p.n_edges for p in by_chance], random_y, "random edges", colours.neutral, dash="dot"
        ),
        _curve([p.n_edges for p in points], method_y, method or circuit.method, colours.primary),
        _chosen(circuit, dark),
    ]
    values = [y for y in (0.0, 1.0, circuit.asked, circuit.faithfulness, *method_y, *random_y)
              if y is not None]  # fmt: skip
    return go.Figure(
        data=[trace for trace in traces if len(trace.x)],
        layout={
            **base_layout(dark),
            "height": HEIGHT,
            "margin": {"l": 46, "r": 12, "t": 30, "b": 40, "pad": 0, "autoexpand": False},
            "showlegend": True,
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1,
                "yanchor": "bottom",
                "font": {"size": 11, "color": colours.muted},
                "bgcolor": "rgba(0,0,0,0)",
            },
            "xaxis": _edges_axis(dark),
            "yaxis": _faithfulness_axis(values, dark),
            "shapes": [_level(1.0, "solid", dark), _level(circuit.asked, "dash", dark)],
            "annotations": [_asked(circuit, dark)],
        },
    )


def _curve(x: list[int], y: list[Any], name: str, colour: str, dash: str = "solid") -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 1.8, "dash": dash},
        marker={"size": 5},
        hovertemplate=f"{name}<br>%{{x:,}} edges<br>faithfulness <b>%{{y:.3f}}</b><extra></extra>",
    )


def _chosen(circuit: Circuit, dark: bool) -> go.Scatter:
    """Return the mark of the circuit; hollow where it is not as faithful as was asked."""
    there = circuit.n_edges > 0
    colours = palette(dark)
    return go.Scatter(
        x=[circuit.n_edges] if there else [],
        y=[circuit.faithfulness] if there else [],
        name="the circuit" if circuit.reached else "the circuit (not as asked)",
        mode="markers",
        marker={
            "size": 11,
            "symbol": "diamond" if circuit.reached else "diamond-open",
            "color": colours.accent,
            "line": {"width": 2, "color": colours.accent},
        },
        hovertemplate="the circuit<br>%{x:,} edges<br>faithfulness <b>%{y:.3f}</b><extra></extra>",
    )


def _edges_axis(dark: bool) -> dict[str, Any]:
    colours = palette(dark)
    return plain_axis(dark) | {
        "type": "log",
        "dtick": 1,
        "tickformat": ",d",
        "showgrid": True,
        "gridcolor": colours.grid,
        "title": {
            "text": "edges (log scale)", "font": {"size": 11, "color": colours.muted},
            "standoff": 4,
        },
    }  # fmt: skip


def _faithfulness_axis(values: list[float], dark: bool) -> dict[str, Any]:
    colours = palette(dark)
    low, high = min(values), max(values)
    rim = _RANGE_RIM * (high - low)
    return plain_axis(dark) | {
        "range": [low - rim, high + rim],
        "showgrid": True,
        "gridcolor": colours.grid,
        "title": {
            "text": "faithfulness", "font": {"size": 11, "color": colours.muted}, "standoff": 4,
        },
    }  # fmt: skip


def _level(y: float, dash: str, dark: bool) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "line": {"color": palette(dark).muted, "width": 1, "dash": dash},
        "layer": "below",
    }


def _asked(circuit: Circuit, dark: bool) -> dict[str, Any]:
    return {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "y": circuit.asked,
        "yanchor": "top",
        "text": f"asked: {number(circuit.asked)}",
        "showarrow": False,
        "font": {"family": MONO, "size": 10, "color": palette(dark).muted},
    }
