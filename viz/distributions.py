"""How one metric of one head is distributed over a corpus: a histogram of its passages."""

from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from ablation.distributions import STATISTICS, MetricDistribution
from viz.labels import literal
from viz.theme import base_layout, palette, plain_axis

_HEADER, _BOTTOM, _LEFT, _RIGHT = 58, 36, 34, 10  # px
_LEAST_SPAN = 1e-3
"""How wide, in the metric's unit, the axis of values that are all alike is at least."""


def distribution_figure(
    distribution: MetricDistribution, *, dark: bool = False, width: int = 276, height: int = 206
) -> go.Figure:
    """Draw how many passages have which value, and where mean, median and quantiles are.

    The title says of how many passages and positions, and the statistics. A bar tells on hovering
    from where to where it goes and how many passages it stands for.

    Args:
        width, height: of the figure in px.
    """
    colours = palette(dark)
    counts, edges = distribution.histogram()
    low, high = float(edges[0]), float(edges[-1])
    bar = (high - low) / len(counts) or _LEAST_SPAN
    return go.Figure(
        data=[
            go.Bar(
                x=(edges[:-1] + edges[1:]) / 2,
                y=counts,
                width=bar,
                customdata=[[float(a), float(b)] for a, b in pairwise(edges)],
                marker={"color": colours.primary, "line": {"width": 0.5, "color": colours.surface}},
                hovertemplate=(
                    "%{customdata[0]:.3g} to %{customdata[1]:.3g}<br>"
                    "<b>%{y:d}</b> passages<extra></extra>"
                ),
            )
        ],
        layout={
            **base_layout(dark),
            "width": width,
            "height": height,
            "margin": {
                "l": _LEFT, "r": _RIGHT, "t": _HEADER, "b": _BOTTOM, "pad": 0, "autoexpand": False,
            },
            "bargap": 0,
            "showlegend": False,
            "title": _title(distribution, width, height, dark),
            "xaxis": plain_axis(dark)
            | {
                "range": [low - bar / 2, high + bar / 2],
                "fixedrange": True,
                "nticks": 6,
                "title": {
                    "text": literal(f"{distribution.metric.label}, {distribution.metric.unit}"),
                    "font": {"size": 10, "color": colours.muted},
                    "standoff": 3,
                },
            },
            "yaxis": plain_axis(dark) | {"fixedrange": True, "rangemode": "tozero", "nticks": 4},
            "shapes": [_line(distribution.of(name), name, dark) for name in STATISTICS],
        },
    )  # fmt: skip


def _line(value: float, name: str, dark: bool) -> dict[str, Any]:
    """Return the line of a statistic: the median solid, the mean dashed, the others dotted."""
    return {
        "type": "line",
        "x0": value,
        "x1": value,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {
            "color": palette(dark).text,
            "width": 1.25,
            "dash": {"median": "solid", "mean": "dash"}.get(name, "dot"),
        },
    }


def _title(distribution: MetricDistribution, width: int, height: int, dark: bool) -> dict[str, Any]:
    colours = palette(dark)
    low, high, median, mean = (distribution.of(name) for name in ("low", "high", "median", "mean"))
    told = f"median {median:.3g} ─  mean {mean:.3g} ╌  10–90 % {low:.2g}–{high:.2g} ┈"
    small = f"<br><span style='font-size:10px;color:{colours.muted}'>"
    return {
        "text": f"<b>{literal(str(distribution.head))}</b>"
        f"{small}{literal(distribution.describe())}</span>{small}{literal(told)}</span>",
        "font": {"size": 12, "color": colours.text},
        "x": 8 / width,
        "xanchor": "left",
        "xref": "container",
        "y": 1 - 21 / height,
        "yanchor": "top",
        "yref": "container",
    }
