"""A map of how alike heads are, in the order of a tree that stands above it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.cluster.hierarchy import dendrogram

from ablation.studies.clusters_found import HeadClusters
from viz.studies.figure import framed
from viz.theme import palette, sequential_scale

SIDE = 650  # px, of the picture's height
TREE = 0.17
"""Part of the height that the tree takes."""
_BARE = {
    "showgrid": False,
    "showticklabels": False,
    "ticks": "",
    "zeroline": False,
    "showline": False,
}


def clustermap(found: HeadClusters, colours: Mapping[int, str], dark: bool) -> go.Figure:
    """Draw heads x heads in the colours of their likeness, the tree above, clusters between.

    Args:
        colours: cluster -> its colour.
    """
    above = palette(dark).muted
    inside = _clusters_inside(found)
    drawn = dendrogram(
        found.linked, no_plot=True, link_color_func=lambda node: colours.get(inside[node], above)
    )
    order = drawn["leaves"]
    labels = [int(found.labels[i]) for i in order]
    ends, places = [-0.5, len(order) - 0.5], list(range(len(order)))
    names = [f"{found.heads[i]}, cluster {label}" for i, label in zip(order, labels, strict=True)]
    ticks = {"ticktext": names, "tickvals": places}  # which hovering shows
    return framed(
        [_map(found, order, dark), *_branches(drawn)],
        "",
        "",
        dark=dark,
        height=SIDE,
        showlegend=False,
        margin={"l": 14, "r": 14, "t": 10, "b": 50},
        shapes=_strips(labels, colours),
        # Square, whatever the width of the page; close to the tree where it is narrow.
        xaxis=_BARE | ticks | {"range": ends, "constrain": "domain", "constraintoward": "left"},
        yaxis=_BARE
        | ticks
        | {
            "range": ends[::-1],
            "domain": [0, 1 - TREE - 0.03],
            "scaleanchor": "x",
            "constrain": "domain",
            "constraintoward": "top",
        },
        yaxis2=_BARE | {"domain": [1 - TREE, 1], "anchor": "x", "fixedrange": True},
    )


def _clusters_inside(found: HeadClusters) -> list[int]:
    """Return for each node of the tree the cluster that all below it are in; 0 if in several."""
    inside = [int(label) for label in found.labels]
    for left, right, *_ in found.linked:
        one, other = inside[int(left)], inside[int(right)]
        inside.append(one if one == other else 0)
    return inside


def _map(found: HeadClusters, order: list[int], dark: bool) -> go.Heatmap:
    values = found.ranks[np.ix_(order, order)].astype(np.float32)
    np.fill_diagonal(values, np.nan)
    return go.Heatmap(
        z=values,
        zmin=0,
        zmax=1,
        colorscale=sequential_scale(dark),
        colorbar={
            "title": {"text": "rank", "font": {"size": 10}, "side": "bottom"},
            "orientation": "h",
            "thickness": 10,
            "lenmode": "pixels",
            "len": 240,
            "x": 0,
            "xanchor": "left",
            "y": -0.01,
            "yanchor": "top",
        },
        hoverongaps=False,
        hovertemplate="%{y} and %{x}: rank <b>%{z:.2f}</b><extra></extra>",
    )


def _branches(drawn: Any) -> list[go.Scatter]:
    """Return the tree, one trace a colour."""
    branches: dict[str, tuple[list[float | None], list[float | None]]] = {}
    for xs, ys, colour in zip(drawn["icoord"], drawn["dcoord"], drawn["color_list"], strict=True):
        x, y = branches.setdefault(colour, ([], []))
        x += [*((value - 5) / 10 for value in xs), None]  # SciPy puts leaf i at 10 i + 5
        y += [*ys, None]
    return [
        go.Scatter(
            x=x, y=y, mode="lines", line={"color": colour, "width": 1}, hoverinfo="skip", yaxis="y2"
        )
        for colour, (x, y) in branches.items()
    ]


def _strips(labels: list[int], colours: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return a rectangle for each run of heads of one cluster."""
    starts = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1])]
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": first - 0.5,
            "x1": end - 0.5,
            "y0": 1 - TREE - 0.025,
            "y1": 1 - TREE - 0.01,
            "line": {"width": 0},
            "fillcolor": colours[labels[first]],
        }
        for first, end in zip(starts, [*starts[1:], len(labels)], strict=True)
    ]
