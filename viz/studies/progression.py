"""Figures of the study of progression: one prompt from layer to layer."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ablation.studies.phrases import layers_words
from ablation.studies.progression_types import Flow, Progression, Written
from ablation.studies.types import StudyResult
from models.types import FloatArray
from viz.labels import clipped, literal
from viz.studies.figure import StudyFigure, faint, framed, hue, line
from viz.theme import (
    MONO,
    ColourScale,
    base_layout,
    diverging_scale,
    head_colour,
    palette,
    sequential_scale,
)

LOWEST = -30  # nats: below, tokens are out of the question, and lines would be squeezed
MOST_LINKS = 60
"""Flows drawn; the weakest are left out."""
LEAST_FLOW = 0.005
"""Of what the position read holds; what is thinner cannot be seen."""
NODE_GAP = 0.025
"""Between nodes of a column, in parts of the figure's height."""
ROW, TOP, BOTTOM = 15, 30, 90  # px, of a grid
SHORT = 5
"""Characters of a token in a cell."""


def figures(result: StudyResult, dark: bool) -> tuple[StudyFigure, ...]:
    """Draw the lens, what writes the answer, the flow back to the input, and the cuts."""
    found: Progression = result.details
    drawn = [_lens(found, dark), _followed(found, dark)]
    if found.written is not None:
        drawn.append(_written(found, found.written, dark))
    if found.flow is not None:
        drawn += [_sankey(found, found.flow, dark), _rollout(found, found.flow, dark)]
    if found.cuts is not None:
        drawn.append(_cuts(found, found.cuts, dark))
    return tuple(drawn)


def _lens(found: Progression, dark: bool) -> StudyFigure:
    lens = found.lens
    rows = ["embed", *(f"L{layer}" for layer in range(found.n_layers))]
    cells = [[literal(clipped(label, SHORT)) for label in row] for row in lens.tops]
    hover = [
        [
            f"{literal(label)} {prob:.3g}<br>{literal(found.answer)} {answer:.3g}, rank {rank}"
            for label, prob, answer, rank in zip(*row, strict=True)
        ]
        for row in zip(lens.tops, lens.probs, lens.answer, lens.ranks, strict=True)
    ]
    figure = _grid(found, rows, lens.answer, hover, sequential_scale(dark), (0, 1), dark)
    figure.data[0].update(text=cells, texttemplate="%{text}", textfont={"family": MONO, "size": 8})
    return StudyFigure(
        "lens",
        "What is readable where",
        f"The likeliest token by the logit lens behind each layer at each position; colour: how "
        f'likely the answer "{found.answer}" is there.',
        figure,
    )


def _followed(found: Progression, dark: bool) -> StudyFigure:
    x = ["embed", *map(str, range(found.n_layers))]
    lowest = float(found.lens.log_probs[1:].min())
    traces = []
    for i, label in enumerate(found.lens.followed):
        values, colour = found.lens.log_probs[:, i], head_colour(i, dark)
        traces.append(line(x, values, literal(label), dark=dark, colour=colour))
    return StudyFigure(
        "followed",
        "The leading tokens from layer to layer",
        f'Log-probability by the logit lens at "{found.labels[found.position]}", of the answer and '
        f"of those that lead in the end{'' if lowest > LOWEST else f'; cut off at {LOWEST:g}'}.",
        framed(traces, "behind layer", "log-probability (nats)", dark=dark,
               xaxis={"type": "category"}, yaxis={"range": [max(LOWEST, lowest) - 0.5, 0.5]}),
    )  # fmt: skip


def _written(found: Progression, written: Written, dark: bool) -> StudyFigure:
    x = list(range(found.n_layers))
    traces = [
        go.Bar(
            x=x,
            y=values.tolist(),
            name=name,
            marker={"color": hue(i, dark)},
            hovertemplate=f"{name} of layer %{{x}}: <b>%{{y:+.3g}}</b><extra></extra>",
        )
        for i, (name, values) in enumerate((("heads", written.heads), ("MLP", written.mlps)))
    ]
    less = "" if found.distractor is None else f' less that of "{found.distractor}"'
    return StudyFigure(
        "written",
        "Which layers write the answer",
        f'What heads and MLPs add to the logit of "{found.answer}"{less}, final norm frozen.',
        framed(traces, "layer", "logits", dark=dark, barmode="group"),
    )


def _sankey(found: Progression, flow: Flow, dark: bool) -> StudyFigure:
    """Draw positions between groups of layers as nodes, and the strongest flows between them."""
    links = [
        (share, band, source, target)
        for band, matrix in enumerate(flow.links)
        for target, row in enumerate(matrix)
        for source, share in enumerate(row)
        if share >= LEAST_FLOW
    ]
    links = sorted(links, key=lambda link: -link[0])[:MOST_LINKS]
    ends = {(b, s) for _, b, s, _ in links} | {(b + 1, t) for _, b, _, t in links}
    nodes = sorted(ends)
    index = {node: i for i, node in enumerate(nodes)}
    colours = {n: head_colour(i, dark) for i, n in enumerate(sorted({n for _, n in nodes}))}
    n_bands = len(flow.links)
    words = ["input", *(f"behind {layers_words(band)}" for band in found.bands)]
    figure = go.Figure(
        go.Sankey(
            arrangement="snap",
            node={
                "label": [literal(clipped(found.labels[at])) for _, at in nodes],
                "x": [0.001 + 0.998 * band / n_bands for band, _ in nodes],
                "y": _stacked(links, nodes),
                "color": [colours[at] for _, at in nodes],
                "customdata": [words[band] for band, _ in nodes],
                "hovertemplate": "%{label}, %{customdata}: %{value:.3f}<extra></extra>",
                "pad": 6,
                "thickness": 10,
                "line": {"width": 0},
            },
            link={
                "source": [index[(band, source)] for _, band, source, _ in links],
                "target": [index[(band + 1, target)] for _, band, _, target in links],
                "value": [share for share, *_ in links],
                "color": [faint(colours[source], 0.35) for _, _, source, _ in links],
                "hovertemplate": "%{source.label} to %{target.label}: %{value:.3f}<extra></extra>",
            },
        )
    )
    figure.update_layout(
        **base_layout(dark)
        | {
            "height": 440,
            "margin": {"l": 14, "r": 90, "t": 30, "b": 10},
            "annotations": _columns(found, dark),
        }
    )
    return StudyFigure(
        "flow",
        "From where it comes",
        f'What the state at "{found.labels[found.position]}" is made of, from the input (left) to '
        f"the end (right), {n_bands} groups of layers, by norms of what heads move beside what "
        f"stays, the first token aside; the {len(links)} strongest flows. Columns have the "
        "name of the last layer before them.",
        figure,
    )


def _columns(found: Progression, dark: bool) -> list[dict[str, Any]]:
    """Return what stands above each column of the flow."""
    names = ["input", *(f"L{band[-1]}" for band in found.bands)]
    ends = {0: "left", len(names) - 1: "right"}
    return [
        {
            "text": name,
            "x": i / (len(names) - 1),
            "xanchor": ends.get(i, "center"),
            "y": 1,
            "yanchor": "bottom",
            "xref": "paper",
            "yref": "paper",
            "showarrow": False,
            "font": {"family": MONO, "size": 10, "color": palette(dark).muted},
        }
        for i, name in enumerate(names)
    ]


def _stacked(
    links: Sequence[tuple[float, int, int, int]], nodes: Sequence[tuple[int, int]]
) -> list[float]:
    """Return the height of each node's middle, in parts of the figure: those of one column one
    below the other, in the order of the prompt.

    Args:
        links: (share, band, source, target).
        nodes: (column, position), ascending.
    """
    into, out = dict.fromkeys(nodes, 0.0), dict.fromkeys(nodes, 0.0)
    for share, band, source, target in links:
        out[(band, source)] += share
        into[(band + 1, target)] += share
    columns = Counter(column for column, _ in nodes)
    room = 1 - NODE_GAP * max(columns.values())
    heights, filled = [], dict.fromkeys(columns, 0.01)
    for node in nodes:
        share = room * max(into[node], out[node])
        heights.append(min(filled[node[0]] + share / 2, 0.999))
        filled[node[0]] += share + NODE_GAP
    return heights


def _rollout(found: Progression, flow: Flow, dark: bool) -> StudyFigure:
    rows = [f"L{layer}" for layer in range(found.n_layers)]
    shares = flow.rollout_aside
    hover = [[f"{share:.3f}" for share in row] for row in shares]
    top = float(shares.max())
    figure = _grid(found, rows, shares, hover, sequential_scale(dark), (0, top), dark)
    return StudyFigure(
        "rollout",
        "Attention rolled out",
        f'From which tokens "{found.labels[found.position]}" has got what it holds up to each '
        "layer, by attention rollout, the first token aside (each row sums to 1).",
        figure,
    )


def _cuts(found: Progression, cuts: FloatArray, dark: bool) -> StudyFigure:
    rows = [f"L{band[0]}-{band[-1]}" for band in found.bands]
    hover = [[f"{change:+.3f} nats" for change in row] for row in cuts]
    top = float(np.nanmax(np.abs(cuts))) or 1.0
    figure = _grid(
        found, rows, cuts, hover, diverging_scale(dark), (-top, top), dark, row_height=26
    )
    return StudyFigure(
        "cuts",
        "Which sights it needs",
        f'Change of the log-probability of "{found.answer}" when '
        f'"{found.labels[found.position]}" may not look at a token in a group of layers (nats).',
        figure,
    )


def _grid(
    found: Progression,
    rows: list[str],
    values: FloatArray,
    hover: list[list[str]],
    scale: ColourScale,
    extent: tuple[float, float],
    dark: bool,
    row_height: int = ROW,
) -> go.Figure:
    """Draw layers up and the prompt's tokens across."""
    n = len(found.labels)
    heat = go.Heatmap(
        x=list(range(n)),
        y=list(range(len(rows))),
        z=np.asarray(values, dtype=float).tolist(),
        customdata=hover,
        colorscale=scale,
        zmin=extent[0],
        zmax=extent[1],
        xgap=1,
        ygap=1,
        hoverongaps=False,
        colorbar={"thickness": 7, "outlinewidth": 0, "tickfont": {"family": MONO, "size": 9}},
        hovertemplate="%{x}, %{y}<br>%{customdata}<extra></extra>",
    )
    labels = [literal(clipped(label)) for label in found.labels]
    return framed(
        [heat], "", "", dark=dark, height=TOP + row_height * len(rows) + BOTTOM,
        xaxis={
            "tickmode": "array", "tickvals": list(range(n)), "ticktext": labels, "tickangle": -60,
            "showgrid": False,
        },
        yaxis={
            "tickmode": "array", "tickvals": list(range(len(rows))), "ticktext": rows,
            "showgrid": False, "tickfont": {"family": MONO, "size": 9,
                                             "color": palette(dark).muted},
        },
        margin={"l": 54, "r": 14, "t": 10, "b": BOTTOM, "pad": 0},
    )  # fmt: skip
