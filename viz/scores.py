"""How the scores of heads are coloured and named, on whatever grid they are drawn."""

from dataclasses import dataclass

import numpy as np

from ablation.types import MetricInfo
from models.types import FloatArray, TokenProbability
from viz.labels import clipped, literal
from viz.theme import ColourScale, diverging_scale, palette, sequential_scale


@dataclass(frozen=True, slots=True)
class ScoreColours:
    """The colours of a grid of scores, and what its colour bar says."""

    low: float
    high: float
    scale: ColourScale
    """On scores from `low` to `high`."""
    tickvals: list[float]
    ticktext: list[str]


def score_colours(metric: MetricInfo, values: FloatArray, dark: bool) -> ScoreColours:
    """Return the colours of scores of any shape, of which NaN were not evaluated.

    Distances are coloured sequentially from zero, effects symmetrically around it.
    """
    finite = np.abs(values[~np.isnan(values)])
    largest = float(finite.max(initial=0.0)) or 1.0
    shown = f"{largest:.2g}"
    if metric.diverging:
        ticks = [-largest, 0.0, largest]
        texts = [f"−{shown}", "0", f"+{shown}"]
        return ScoreColours(-largest, largest, diverging_scale(dark), ticks, texts)
    return ScoreColours(0.0, largest, sequential_scale(dark), [0.0, largest], ["0", shown])


def score_hover(metric: MetricInfo) -> str:
    """Return the line of a hover template that says the score with its name and unit."""
    sign = "+" if metric.diverging else ""
    unit = f" {literal(metric.unit)}" if metric.unit else ""
    return f"{literal(metric.label)} %{{z:{sign}.3g}}{unit}"


def score_title(metric: MetricInfo, target: TokenProbability | None, dark: bool) -> str:
    """Return the metric's name, with its target, over its unit and what an effect is."""
    name = literal(metric.label)
    if metric.needs_target and target is not None:
        name += f": {literal(clipped(target.label))}"
    notes = [literal(metric.unit)] if metric.unit else []
    if metric.diverging:
        notes.append(literal(metric.sign))
    small = f"font-size:10px;color:{palette(dark).muted}"
    return f"{name}<br><span style='{small}'>{' · '.join(notes)}</span>"
