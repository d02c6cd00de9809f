"""Figures of the study of head clusters."""

import numpy as np
import plotly.graph_objects as go

from ablation.studies.clusters_found import HeadClusters
from ablation.studies.clusters_words import BY
from ablation.studies.phrases import counted
from ablation.studies.statistics import mean_interval
from ablation.studies.types import StudyResult
from models.types import FloatArray
from viz.studies.clustermap import clustermap
from viz.studies.figure import (
    MAP_HEIGHT,
    StudyFigure,
    bars,
    by_intervention,
    framed,
    hue,
    level,
    line,
)
from viz.theme import N_HUES, head_colour, palette


def figures(result: StudyResult, dark: bool) -> tuple[StudyFigure, ...]:
    """Draw the tree over the map of likeness, where clusters are, how many hold, and what removing
    them does."""
    found: HeadClusters = result.details
    drawn = [_clustermap(found, dark), _where(found, dark), _stability(found, dark)]
    if found.removed:
        drawn.append(_removed(found, dark))
    if found.others:
        drawn.append(_interventions(found, dark))
    return tuple(drawn)


def _hues(found: HeadClusters) -> dict[int, int]:
    """Return the hues of clusters: the first ones of several heads, as many as there are hues."""
    return {cluster: i for i, cluster in enumerate(list(found.several)[:N_HUES])}


def _clustermap(found: HeadClusters, dark: bool) -> StudyFigure:
    hues, grey = _hues(found), palette(dark).neutral
    colours = {
        cluster: head_colour(hues[cluster], dark) if cluster in hues else grey
        for cluster in range(1, found.n_clusters + 1)
    }
    return StudyFigure(
        "clustermap",
        "Heads by likeness",
        f"How alike heads are by {BY[found.by]}, as rank among pairs (1: the most), in the order "
        "of the tree above; the strip between them is the clusters.",
        clustermap(found, colours, dark),
    )


def _where(found: HeadClusters, dark: bool) -> StudyFigure:
    """Draw layers x heads in the colours of the clusters."""
    hues, colours = _hues(found), palette(dark)
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
        [trace], "head", "layer", dark=dark, height=MAP_HEIGHT,
        xaxis={"showgrid": False}, yaxis={"showgrid": False},
    )  # fmt: skip
    return StudyFigure(
        "where",
        "Where the clusters are",
        f"{counted(len(hues), 'clusters')} of several heads with the largest effects, in the "
        "colours of the tree; grey heads are in others.",
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
    at = chosen.count
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


def _interventions(found: HeadClusters, dark: bool) -> StudyFigure:
    own = np.stack([joint.together for joint in found.removed], axis=1)
    values = {found.intervention: own, **found.others}
    return by_intervention(_names(found), values, "cluster", "change of the logit", dark=dark)


def _names(found: HeadClusters) -> list[str]:
    return [f"{joint.cluster} ({len(joint.heads)} heads)" for joint in found.removed]


def _removed(found: HeadClusters, dark: bool) -> StudyFigure:
    names = _names(found)
    columns: dict[str, list[FloatArray]] = {
        "together": [joint.together for joint in found.removed],
        "sum of each alone": [joint.alone.sum(axis=1) for joint in found.removed],
        "random heads together": [joint.random_together.mean(axis=1) for joint in found.removed],
        "their sum alone": [
            joint.random_alone.sum(axis=-1).mean(axis=1) for joint in found.removed
        ],
    }
    colours = [hue(1, dark), hue(0, dark), hue(2, dark), palette(dark).line]
    traces = []
    for colour, (name, values) in zip(colours, columns.items(), strict=True):
        intervals = [mean_interval(of_one) for of_one in values]
        trace = bars(
            names,
            [float(one.mean) for one in intervals],
            [float(one.low) for one in intervals],
            [float(one.high) for one in intervals],
            name,
            dark=dark,
            colour=colour,
        )
        traces.append(trace)
    return StudyFigure(
        "removed",
        "Clusters removed whole",
        "Mean change of the right token's logit on prompts held out, with 95 % "
        "intervals: all heads of a cluster together, the sum of each alone, and the same for "
        "random heads of its layers.",
        framed(traces, "cluster", "change of the logit", dark=dark, barmode="group"),
    )
