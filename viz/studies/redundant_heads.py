"""Figures of the study of redundant heads."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from ablation.studies.columns import KL, RANK
from ablation.studies.redundant_found import THRESHOLDS, Joint, RedundantHeads
from ablation.studies.types import StudyResult
from ablation.types import MetricInfo
from models.types import FloatArray
from viz.studies.figure import StudyFigure, bars, by_intervention, framed, head_map, line
from viz.theme import diverging_scale, palette

SHOWN = 16
"""Pairs within key-value groups."""
LOWEST = 1e-5  # nats: smaller ones are drawn there on a logarithmic axis
_ORDER = MetricInfo(
    "step",
    "Gone by",
    "% of heads",
    diverging=False,
    needs_target=False,
    description="how many were gone by then; low numbers cost least, heads without colour stayed.",
)


def figures(result: StudyResult, dark: bool) -> tuple[StudyFigure, ...]:
    """Draw the elimination, the right token's fate, when each head went, and pairs of heads."""
    found: RedundantHeads = result.details
    drawn = []
    if found.steps:
        drawn += [_elimination(found, dark), _right(found, dark), _order(found, dark)]
    if found.others:
        drawn.append(_interventions(found, dark))
    if found.pairs:
        drawn.append(_pairs(found, dark))
    if found.group_pairs:
        drawn.append(_groups(found, dark))
    return tuple(drawn)


def _drawable(kl: FloatArray) -> FloatArray:
    return np.maximum(kl, LOWEST)


def _elimination(found: RedundantHeads, dark: bool) -> StudyFigure:
    sizes = found.sizes
    where = "held out" if found.held_out is not None else "fitted on"
    traces = [
        line(sizes, _drawable(found.judged[..., KL].mean(axis=0)), f"elimination, {where}", 0,
             dark=dark)
    ]  # fmt: skip
    if found.held_out is not None:
        fitted = _drawable(found.fitted[..., KL].mean(axis=0))
        traces.append(line(sizes, fitted, "elimination, fitted on", 0, dark=dark, dash="dot"))
    names = {"single": "least effect alone first", "random": "random order"}
    for index, (way, values) in enumerate(found.compared.items(), start=1):
        mean = _drawable(values.mean(axis=0))
        traces.append(line(found.compared_sizes, mean, names[way], index, dark=dark))
    colour = palette(dark).muted
    figure = framed(
        traces,
        "heads removed",
        "KL (nats)",
        dark=dark,
        yaxis={"type": "log"},
        shapes=[
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y,
             "line": {"color": colour, "width": 1, "dash": "dash"}}
            for y in THRESHOLDS
        ],
    )  # fmt: skip
    return StudyFigure(
        "elimination",
        "Heads removed one after the other",
        "Mean KL from the clean prediction without so many heads; the dashed lines are the "
        "thresholds.",
        figure,
    )


def _right(found: RedundantHeads, dark: bool) -> StudyFigure:
    rank = line([0, *found.sizes], [found.clean_rank, *np.median(found.judged[..., RANK], axis=0)],
                "rank", 0, dark=dark)  # fmt: skip
    figure = framed(
        [rank],
        "heads removed",
        "rank of the right token",
        dark=dark,
        yaxis={"type": "log"},
    )
    return StudyFigure(
        "right-token",
        "The right token while heads go",
        "Its median rank on the same prompts (1: the likeliest).",
        figure,
    )


def _order(found: RedundantHeads, dark: bool) -> StudyFigure:
    values = {
        head: 100 * size / len(found.heads)
        for step, size in zip(found.steps, found.sizes, strict=True)
        for head in step.removed
    }
    grid = (found.n_layers, found.n_heads)
    return head_map(grid, _ORDER, values, "order", "When each head goes", dark=dark)


def _interventions(found: RedundantHeads, dark: bool) -> StudyFigure:
    own = found.judged[:, found.reached_at, KL]
    labels = [f"{len(heads)} heads" for heads in found.reached]
    return by_intervention(
        labels, {found.intervention: own, **found.others}, "removed before a threshold",
        "KL (nats)", dark=dark,
    )  # fmt: skip


def _pairs(found: RedundantHeads, dark: bool) -> StudyFigure:
    """Draw KL(a, b) - KL(a) - KL(b) of the leading heads as a map."""
    heads = sorted({head for pair in found.pairs for head in pair.heads})
    names = [str(head) for head in heads]
    values = np.full((len(heads), len(heads)), np.nan)
    for pair in found.pairs:
        a, b = (heads.index(head) for head in pair.heads)
        values[a, b] = values[b, a] = pair.beyond.mean()
    most = max(float(np.nanmax(np.abs(values))), 1e-12)
    trace = go.Heatmap(
        x=names,
        y=names,
        z=values.tolist(),
        zmin=-most,
        zmax=most,
        colorscale=diverging_scale(dark),
        colorbar={"title": {"text": "nats", "font": {"size": 10}}, "thickness": 10, "len": 0.9},
        hoverongaps=False,
        hovertemplate="%{x} and %{y}: <b>%{z:.3g}</b> nats<extra></extra>",
    )
    figure = framed([trace], "head", "head", dark=dark, height=420, width=460)
    return StudyFigure(
        "pairs",
        "Pairs of the leading heads",
        "KL of both removed minus the sum of each alone: below 0 their effects overlap, above 0 "
        "they stand in for each other or push the same way.",
        figure,
        wide=False,
    )


def _groups(found: RedundantHeads, dark: bool) -> StudyFigure:
    shown: Sequence[Joint] = sorted(found.group_pairs, key=lambda pair: -pair.beyond.mean())[:SHOWN]
    intervals = [pair.interval for pair in shown]
    trace = bars(
        [pair.names for pair in shown],
        [float(one.mean) for one in intervals],
        [float(one.low) for one in intervals],
        [float(one.high) for one in intervals],
        "beyond the sum",
        0,
        dark=dark,
    )
    return StudyFigure(
        "groups",
        "Heads that share a key-value head",
        "KL of both removed minus the sum of each alone, and its 95 % interval, in the groups that "
        "cost most beyond the sum of their heads.",
        framed([trace], "pair", "KL (nats)", dark=dark),
    )
