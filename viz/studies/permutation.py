"""Figures of the study of order."""

from typing import Any

import plotly.graph_objects as go

from ablation.studies.columns import KL
from ablation.studies.permutation_types import INTERVENTIONS, PERMUTE, Permutation
from ablation.studies.types import StudyResult
from ablation.types import MetricInfo
from models.types import FloatArray
from viz.labels import literal
from viz.studies.figure import StudyFigure, bars, framed, head_map, line
from viz.theme import MONO, base_layout, palette

NAMES = {"permute": "shuffled", "zero": "set to 0", "mean": "set to the mean"}
ROW = 44  # px, of two lines of text
_KL = MetricInfo(
    "kl",
    "KL, mean",
    "nats",
    diverging=False,
    needs_target=False,
    description="from the clean prediction after the passage, with the head shuffled, mean over "
    "the passages.",
)


def figures(result: StudyResult, dark: bool) -> tuple[StudyFigure, ...]:
    """Draw the effects of layers, of random sets and of single heads, and the continuations."""
    found: Permutation = result.details
    drawn = [_layers(found, dark), _random(found, dark), _map(found, dark)]
    if found.continuations:
        drawn.append(_continuations(found, dark))
    return tuple(drawn)


def _layers(found: Permutation, dark: bool) -> StudyFigure:
    interval, layers = found.of_layers, list(range(found.n_layers))
    traces: list[Any] = [
        bars(
            layers,
            interval.mean[PERMUTE, :, KL],
            interval.low[PERMUTE, :, KL],
            interval.high[PERMUTE, :, KL],
            NAMES["permute"],
            0,
            dark=dark,
        )
    ]
    traces += [
        line(layers, interval.mean[i, :, KL], NAMES[name], i, dark=dark)
        for i, name in enumerate(INTERVENTIONS)
        if i != PERMUTE
    ]
    return StudyFigure(
        "layers",
        "All heads of a layer",
        "Mean KL from the clean prediction after the passage, and the 95 % interval where "
        "shuffled; logarithmic.",
        framed(traces, "layer", "KL (nats)", dark=dark, yaxis={"type": "log"}),
    )


def _random(found: Permutation, dark: bool) -> StudyFigure:
    mean: FloatArray = found.of_random.mean[..., KL]
    traces = [
        line(found.sizes, mean[i], NAMES[name], i, dark=dark)
        for i, name in enumerate(INTERVENTIONS)
    ]
    log: dict[str, Any] = {"type": "log"}
    figure = framed(
        traces, "random heads", "KL (nats)", dark=dark, height=420, xaxis=log, yaxis=log
    )
    figure.update_layout(width=430)
    return StudyFigure(
        "random",
        "Growing random sets",
        "Mean KL from the clean prediction after the passage, over draws; both axes are "
        "logarithmic.",
        figure,
        wide=False,
    )


def _map(found: Permutation, dark: bool) -> StudyFigure:
    values = dict(zip(found.heads, found.singles.mean(axis=0), strict=True))
    grid = (found.n_layers, found.n_heads)
    return head_map(grid, _KL, values, "heads", "Each head alone", dark=dark)


def _continuations(found: Permutation, dark: bool) -> StudyFigure:
    colours = palette(dark)
    shown = found.continuations
    columns = (
        ("heads", [one.heads or "none" for one in shown]),
        ("what is done", [NAMES.get(one.intervention, "clean") for one in shown]),
        ("...continues", [f"…{one.start[-28:]}" for one in shown]),
        ("text", [literal(one.text.replace("\n", " ⏎ ")) for one in shown]),
        ("nats a token", [f"{one.surprise:.2f}" for one in shown]),
    )
    table = go.Table(
        columnwidth=[70, 80, 130, 330, 60],
        header={
            "values": [f"<b>{name}</b>" for name, _ in columns],
            "align": "left",
            "fill": {"color": colours.grid},
            "font": {"color": colours.text, "size": 11},
        },
        cells={
            "values": [values for _, values in columns],
            "align": "left",
            "height": ROW / 2,
            "fill": {"color": "rgba(0,0,0,0)"},
            "font": {"color": colours.text, "size": 11, "family": MONO},
        },
    )
    figure = go.Figure(
        data=[table],
        layout={
            **base_layout(dark),
            "height": 40 + ROW * len(shown),
            "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
        },
    )
    return StudyFigure(
        "continuations",
        "Passages continued",
        "Drawn by the same random numbers; how surprising the clean model finds the text, in nats "
        "a token.",
        figure,
    )
