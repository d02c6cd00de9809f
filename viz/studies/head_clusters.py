"""Figures of the study of head clusters."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.cluster.hierarchy import dendrogram

from ablation.studies.clusters_found import HeadClusters
from ablation.studies.clusters_words import BY
from ablation.studies.statistics import mean_interval
from ablation.studies.types import StudyResult
from models.types import FloatArray
from viz.studies.figure import MAP_HEIGHT, MAP_WIDTH, StudyFigure, bars, framed, hue, level, line
from viz.theme import N_HUES, head_colour, palette, sequential_scale

SIDE = 620  # px, of the map of likeness
TREE = 0.17
"""Part of the height that the tree takes."""


def figures(result: StudyResult, dark: bool) -> tuple[StudyFigure, ...]:
    """Draw the tree over the map of likeness, where clusters are, how many hold, and what removing
    them does."""
    found: HeadClusters = result.details
    drawn = [_clustermap(found, dark), _where(found, dark), _stability(found, dark)]
    if found.joints:
        drawn.append(_removed(found, dark))
    return tuple(drawn)


def _coloured(found: HeadClusters) -> dict[int, int]:
    """Return the hues of clusters: the first ones of several heads, as many as there are hues."""
    return {cluster: i for i, cluster in enumerate(list(found.several)[:N_HUES])}


def _colour(found: HeadClusters, cluster: int, dark: bool) -> str:
    number = _coloured(found).get(cluster)
    return palette(dark).neutral if number is None else head_colour(number, dark)


def _clustermap(found: HeadClusters, dark: bool) -> StudyFigure:
    drawn = dendrogram(found.linked, no_plot=True, link_color_func=_links(found, dark))
    order = drawn["leaves"]
    names = [f"{found.heads[i]}, cluster {found.labels[i]}" for i in order]
    values = found.ranks[np.ix_(order, order)].astype(np.float32)
    np.fill_diagonal(values, np.nan)
    likeness = go.Heatmap(
        z=values,
        zmin=0,
        zmax=1,
        colorscale=sequential_scale(dark),
        colorbar={"title": {"text": "rank", "font": {"size": 10}}, "thickness": 10, "len": 0.6,
                  "y": 0.38},
        hoverongaps=False,
        hovertemplate="%{y} and %{x}: rank <b>%{z:.2f}</b><extra></extra>",
    )  # fmt: skip
    return StudyFigure(
        "clustermap",
        "Heads by likeness",
        f"How alike heads are by {BY[found.by]}, as mean rank among all pairs (1: the most), in "
        "the order of the tree above; the strip between them is the clusters.",
        _with_tree(found, likeness, drawn, names, dark),
    )


def _links(found: HeadClusters, dark: bool) -> Any:
    """Return the colour of each link of the tree: that of the cluster that all below it are in."""
    n = len(found.heads)
    inside: list[int] = [int(label) for label in found.labels]
    for left, right, *_ in found.linked:
        one, other = inside[int(left)], inside[int(right)]
        inside.append(one if one == other else 0)
    above = palette(dark).muted
    return lambda node: _colour(found, inside[node], dark) if node >= n and inside[node] else above


def _with_tree(
    found: HeadClusters, likeness: go.Heatmap, drawn: Any, names: list[str], dark: bool
) -> go.Figure:
    n = len(names)
    branches: dict[str, tuple[list[float | None], list[float | None]]] = {}
    for xs, ys, colour in zip(drawn["icoord"], drawn["dcoord"], drawn["color_list"], strict=True):
        x, y = branches.setdefault(colour, ([], []))
        x += [*((value - 5) / 10 for value in xs), None]  # SciPy puts leaf i at 10 i + 5
        y += [*ys, None]
    tree = [
        go.Scatter(
            x=x, y=y, mode="lines", line={"color": colour, "width": 1}, hoverinfo="skip", yaxis="y2"
        )
        for colour, (x, y) in branches.items()
    ]
    labels = [int(found.labels[i]) for i in drawn["leaves"]]
    strips = [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": first - 0.5, "x1": end - 0.5,
         "y0": 1 - TREE - 0.025, "y1": 1 - TREE - 0.01, "line": {"width": 0},
         "fillcolor": _colour(found, labels[first], dark)}
        for first, end in _runs(labels)
    ]  # fmt: skip
    hidden = {
        "showgrid": False,
        "showticklabels": False,
        "ticks": "",
        "zeroline": False,
        "showline": False,
    }
    ends = [-0.5, n - 0.5]
    return framed(
        [likeness, *tree],
        "",
        "",
        dark=dark,
        height=SIDE,
        width=SIDE + 60,
        showlegend=False,
        margin={"l": 14, "r": 14, "t": 10, "b": 14},
        shapes=strips,
        xaxis=hidden | {"range": ends, "ticktext": names, "tickvals": list(range(n))},
        yaxis=hidden
        | {"range": ends[::-1], "domain": [0, 1 - TREE - 0.03], "ticktext": names,
           "tickvals": list(range(n))},
        yaxis2=hidden
        | {"domain": [1 - TREE, 1], "anchor": "x", "fixedrange": True},
    )  # fmt: skip


def _runs(labels: list[int]) -> list[tuple[int, int]]:
    """Return (first, end) of each run of equal labels."""
    starts = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1])]
    return list(zip(starts, [*starts[1:], len(labels)], strict=True))


def _where(found: HeadClusters, dark: bool) -> StudyFigure:
    """Draw layers x heads in the colours of the clusters."""
    hues = _coloured(found)
    colours = palette(dark)
    shown = [colours.empty, colours.neutral, *(head_colour(i, dark) for i in range(len(hues)))]
    cells = np.zeros((found.n_layers, found.n_heads))
    told = np.full(cells.shape, "changes nothing", dtype=object)
    for head, label in zip(found.heads, found.labels, strict=True):
        cells[head.layer, head.head] = 2 + hues[label] if label in hues else 1
        told[head.layer, head.head] = f"cluster {label}"
    edges = np.linspace(0, 1, len(shown) + 1)
    scale = [
        (float(at), colour) for i, colour in enumerate(shown) for at in (edges[i], edges[i + 1])
    ]
    trace = go.Heatmap(
        z=cells,
        customdata=told,
        zmin=-0.5,
        zmax=len(shown) - 0.5,
        colorscale=scale,
        showscale=False,
        xgap=1,
        ygap=1,
        hovertemplate="<b>L%{y}H%{x}</b><br>%{customdata}<extra></extra>",
    )
    figure = framed(
        [trace], "head", "layer", dark=dark, height=MAP_HEIGHT, width=MAP_WIDTH,
        xaxis={"showgrid": False}, yaxis={"showgrid": False},
    )  # fmt: skip
    return StudyFigure(
        "where",
        "Where the clusters are",
        f"The {len(hues)} clusters of several heads with the largest effects, in the colours of "
        "the tree; grey heads are in others.",
        figure,
        wide=False,
    )


def _stability(found: HeadClusters, dark: bool) -> StudyFigure:
    traces = []
    for index, (way, stable) in enumerate(found.stable.items()):
        colour = head_colour(index, dark)
        mean = stable.agreement.mean(axis=0)
        traces.append(line(stable.counts, mean, BY[way], index, dark=dark, colour=colour))
    chosen, muted = found.chosen, palette(dark).muted
    at = chosen.counts[chosen.best]
    chance = level(chosen.by_chance, "heads shuffled, at most", dark=dark)
    taken = {
        "type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1,
        "line": {"color": muted, "width": 1, "dash": "dot"},
    }  # fmt: skip
    figure = framed(
        traces,
        "clusters",
        "adjusted Rand index",
        dark=dark,
        shapes=[*chance["shapes"], taken],
        annotations=chance["annotations"],
    )
    return StudyFigure(
        "stability",
        "How many clusters are found again",
        "How well clusterings of two halves of the prompts agree (1: the same, 0: by chance), by "
        "what heads are clustered by; the upright line is the number that was taken.",
        figure,
    )


def _removed(found: HeadClusters, dark: bool) -> StudyFigure:
    names = [f"{joint.cluster} ({len(joint.heads)} heads)" for joint in found.joints]
    columns: dict[str, list[FloatArray]] = {
        "together": [joint.together for joint in found.joints],
        "sum of each alone": [joint.alone.sum(axis=1) for joint in found.joints],
        "random heads together": [joint.random_together.mean(axis=1) for joint in found.joints],
        "their sum alone": [joint.random_sum.mean(axis=1) for joint in found.joints],
    }
    colours = [hue(1, dark), hue(0, dark), hue(2, dark), palette(dark).line]
    traces = []
    for index, (name, values) in enumerate(columns.items()):
        intervals = [mean_interval(of_one) for of_one in values]
        trace = bars(
            names,
            [float(one.mean) for one in intervals],
            [float(one.low) for one in intervals],
            [float(one.high) for one in intervals],
            name,
            index,
            dark=dark,
        )
        trace.marker.color = colours[index]
        traces.append(trace)
    return StudyFigure(
        "removed",
        "Clusters removed whole",
        "Mean change of the right token's log-probability on prompts held out, with 95 % "
        "intervals: all heads of a cluster together, the sum of each alone, and the same for "
        "random heads of its layers.",
        framed(traces, "cluster", "log-probability (nats)", dark=dark, barmode="group"),
    )
