"""A chunk of actions, before and after heads are ablated: rows of text, and curves.

Pure: the values of `ablation.chunk_actions` in, text and Plotly figures out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from viz.strips import Line, Strip, strips_figure
from viz.theme import palette

MOST_STRIPS = 16
"""Dimensions that are drawn; further ones are in the table."""


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One dimension of a chunk in words."""

    name: str
    first: str
    mean: str
    last: str
    after: str
    """The mean with heads ablated; empty where nothing is."""
    change: str
    """How far it moves: the root mean square over the chunk; empty where nothing is ablated."""
    flips: bool


def chunk_rows(before: Any, change: Any = None) -> list[ChunkRow]:
    """Return a row for each dimension of an `ablation.chunk_actions.ChunkAction`.

    Args:
        change: the `ChunkChange` that it is part of, where heads are ablated.
    """
    means = before.values.mean(axis=0)  # [n_steps, n_dimensions]
    flips = () if change is None else (*change.sign_flips, *change.choice_flips)
    rows = []
    for i, dimension in enumerate(before.space.dimensions):
        after = moved = ""
        if change is not None:
            after = dimension.said(float(change.after.summary[i]))
            moved = f"{float(change.by_dimension[i]):.2g} {dimension.unit}".strip()
        rows.append(
            ChunkRow(
                dimension.name,
                dimension.said(float(means[0, i])),
                dimension.said(float(before.summary[i])),
                dimension.said(float(means[-1, i])),
                after,
                moved,
                dimension.name in flips,
            )
        )
    return rows


def moved_said(change: Any) -> str:
    """Say how far a chunk is moved, with the error of a mean over noises."""
    error = "" if len(change.by_draw) == 1 else f" ± {change.error:.2g}"
    return f"{change.moved:.3g}{error} {change.before.space.unit}"


def moved_line(change: Any) -> str:
    """Say the same in a sentence's part."""
    n = len(change.by_draw)
    of = "" if n == 1 else f" (mean over {n} noises and its standard error)"
    return f"moved by {moved_said(change)}{of}"


def chunk_figure(
    before: Any, change: Any = None, *, width: int = 320, dark: bool = False
) -> go.Figure:
    """Draw a chunk over its steps, a dimension a strip: whole and, where heads are ablated, without
    them; the mean over the noises, and behind it what each noise gives.

    Args:
        before: an `ablation.chunk_actions.ChunkAction`.
        change: the `ChunkChange` that it is part of, where heads are ablated.
        width: px.
    """
    colours = palette(dark)
    actions = [("whole", before, colours.primary, "solid")]
    if change is not None:
        actions.append(("ablated", change.after, colours.accent, "dash"))
    strips = []
    for i, dimension in enumerate(before.space.dimensions[:MOST_STRIPS]):
        unit = f" {dimension.unit}" if dimension.unit else ""
        lines, faint = [], []
        for name, action, colour, dash in actions:
            values = action.values[:, :, i]
            lines.append(Line(name, values.mean(axis=0), colour, dash, unit=unit))
            if len(values) > 1:
                faint += [Line(name, one, colour, width=0.7, faint=True) for one in values]
        strips.append(Strip(f"{dimension.name}{unit}", (*lines, *faint), {}))
    steps = np.arange(before.space.n_steps)
    return strips_figure(steps, strips, "step of the chunk", width=width, dark=dark)
