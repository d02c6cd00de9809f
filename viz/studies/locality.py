"""Figures of the study of locality: everything by layer."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from ablation.studies.abstraction import LAST, LOOKALIKE, MEAN, UNRELATED
from ablation.studies.locality_types import Locality
from ablation.studies.statistics import Interval
from ablation.studies.types import StudyResult
from ablation.studies.windows import DISTANCE, WIDTHS
from ablation.types import MetricInfo
from models.types import FloatArray, Head
from viz.studies.figure import StudyFigure, faint, framed, head_map, level, line
from viz.theme import head_colour

_DISTANCE = MetricInfo(
    "distance",
    "Mean distance",
    "positions",
    diverging=False,
    needs_target=False,
    description="how far back each head looks, the first token aside, mean over the prompts.",
)
PARTS = ("first third", "middle third", "last third", "all layers")


def figures(result: StudyResult, dark: bool) -> tuple[StudyFigure, ...]:
    """Draw how far layers look, what confining them costs, and how abstract their states are."""
    found: Locality = result.details
    drawn = [_shares(found, dark), _distance(found, dark), _confined(found, dark)]
    drawn.append(_widths(found, dark))
    if found.readable_share is not None or found.separation is not None:
        drawn.append(_abstract(found, dark))
    return tuple(drawn)


def _shares(found: Locality, dark: bool) -> StudyFigure:
    layers, x = found.layers(), list(range(found.n_layers))
    traces: list[go.Scatter] = []
    for column, width in enumerate(WIDTHS):
        of_width = Interval(*(part[:, column] for part in (layers.mean, layers.low, layers.high)))
        traces += _banded(x, of_width, f"within {width}", column, dark)
    even = [found.even[column] for column in range(len(WIDTHS))]
    traces += [
        _marks(x, [share] * len(x), "even attention" if i == 0 else "", i, dark)
        for i, share in enumerate(even)
    ]
    return StudyFigure(
        "shares",
        "How near layers look",
        "Share of attention on the token itself and so many before it, the first token aside; "
        "dotted: what even attention would have there. Bands: 95 % intervals.",
        framed(traces, "layer", "share of attention", dark=dark, yaxis={"rangemode": "tozero"}),
    )


def _distance(found: Locality, dark: bool) -> StudyFigure:
    mean = np.mean([prompt.heads[..., DISTANCE] for prompt in found.prompts], axis=0)
    values = {Head(*at): float(value) for at, value in np.ndenumerate(mean)}
    name, title = "distance", "How far each head looks"
    return head_map(mean.shape, _DISTANCE, values, name, title, dark=dark)


def _confined(found: Locality, dark: bool) -> StudyFigure:
    x, w = list(range(found.n_layers)), found.window
    traces = [
        *_banded(x, found.near_only, f"this layer: up to {w} back only", 0, dark),
        *_banded(x, found.far_only, f"this layer: more than {w} back only", 1, dark),
        _marks(x, found.up_to.mean, f"all layers to this one: up to {w} back only", 0, dark),
    ]
    return StudyFigure(
        "confined",
        "What it costs to confine a layer",
        "KL from the clean prediction when all heads of a layer see near keys only, or far ones "
        "only; the first token and the token itself stay in sight.",
        framed(
            traces,
            "layer",
            "KL (nats, log)",
            dark=dark,
            yaxis={"type": "log", "exponentformat": "power", "dtick": 1},
        ),
    )


def _widths(found: Locality, dark: bool) -> StudyFigure:
    x = [str(width) for width in found.widths]
    means = np.stack([found.near_only_parts(width).mean(axis=0) for width in found.widths])
    traces = []
    for part, name in enumerate(PARTS):
        traces.append(line(x, means[:, part], name, dark=dark, colour=head_colour(part, dark)))
    return StudyFigure(
        "widths",
        "How wide a window must be",
        "KL when the layers of a third, or all, see only so many tokens back.",
        framed(
            traces, "tokens back", "KL (nats)", dark=dark,
            xaxis={"type": "category"}, yaxis={"rangemode": "tozero"},
        ),
    )  # fmt: skip


def _abstract(found: Locality, dark: bool) -> StudyFigure:
    x = ["embed", *map(str, range(found.n_layers))]
    traces: list[go.Scatter] = []
    if found.readable_share is not None:
        traces += _banded(x, found.readable_share, "prediction readable", 0, dark)
    if found.separation is not None:
        kinds = ((UNRELATED, "unrelated"), (LOOKALIKE, "look-alikes"))
        states = ((MEAN, "mean"), (LAST, "last token"))
        for i, (against, kind) in enumerate(kinds):
            for state, name in states:
                curve = found.separation.auc(state, against).mean
                words = f"AUC against {kind}, {name}"
                dash = "solid" if state == MEAN else "dash"
                colour = head_colour(i + 1, dark)
                traces.append(line(x, curve, words, dark=dark, dash=dash, colour=colour))
    return StudyFigure(
        "abstract",
        "How abstract states are",
        "Share of positions whose final top token the logit lens reads off for good; and how well "
        "the state of a sentence tells paraphrases in other words from others (0.5: not at all).",
        framed(
            traces, "behind layer", "share, or AUC", dark=dark, height=340,
            xaxis={"type": "category"}, yaxis={"range": [-0.02, 1.02]},
            margin={"l": 54, "r": 14, "t": 62, "b": 44, "pad": 0},
            **level(0.5, "chance", dark=dark),
        ),
    )  # fmt: skip


def _banded(
    x: Sequence[object], values: Interval, name: str, index: int, dark: bool
) -> list[go.Scatter]:
    """Return a line and its interval as a band behind it."""
    colour = head_colour(index, dark)
    drawn = line(x, values.mean, name, dark=dark, colour=colour)
    if np.isnan(values.low).all():
        return [drawn]
    band = go.Scatter(
        x=[*x, *reversed(x)],
        y=[*values.low.tolist(), *values.high[::-1].tolist()],
        fill="toself",
        fillcolor=faint(colour, 0.15),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )
    return [band, drawn]


def _marks(
    x: Sequence[object], y: FloatArray | Sequence[float], name: str, index: int, dark: bool
) -> go.Scatter:
    """Return a dotted line, without a legend entry where it has no name."""
    drawn = line(x, y, name, dark=dark, dash="dot", colour=head_colour(index, dark))
    drawn.mode, drawn.line.width = "lines", 1.2
    drawn.showlegend = bool(name)
    return drawn
