"""What a search for heads that move a chunk of actions found: its trace, its steps, its sentences.

Pure: an `ablation.chunk_actions.ChunkSearch` in, a figure, rows and text out.
"""

from typing import Any

import plotly.graph_objects as go

from viz.labels import literal
from viz.theme import base_layout, palette, plain_axis

REASONS = {
    "target_reached": "The goal is reached.",
    "no_improvement": "No remaining head brings the action nearer to the goal.",
    "max_heads": "The limit of heads was reached.",
    "all_heads": "Every head is ablated.",
    "cancelled": "Cancelled; what was found until then is kept.",
}
"""What `ChunkSearch.stopped` can be, and the sentence for a person."""
_HEIGHT = 260  # px
_WIDE_STEP = 44  # px that "L10H11" needs below a step without being turned
_ASSUMED_WIDTH = 640  # px


def chunk_trace_figure(search: Any, *, dark: bool = False) -> go.Figure:
    """Draw how far the chunk is moved with each head that the search adds; heads that were dropped
    in the end are hollow. The figure takes its container's width."""
    colours = palette(dark)
    unit = search.clean.space.unit
    moved = [0.0, *(step.moved for step in search.steps)]
    names = ["clean", *(str(step.head) for step in search.steps)]
    fills = [
        colours.surface if step.head in search.dropped else colours.accent for step in search.steps
    ]
    turned = len(names) * _WIDE_STEP > _ASSUMED_WIDTH or any(":" in name for name in names)
    return go.Figure(
        data=go.Scatter(
            x=list(range(len(moved))),
            y=moved,
            mode="lines+markers",
            line={"color": colours.accent, "width": 2},
            marker={
                "size": 9,
                "color": [colours.accent, *fills],
                "line": {"color": colours.accent, "width": 2},
            },
            customdata=[action_said(search.clean), *(action_said(s.action) for s in search.steps)],
            hovertemplate=f"%{{y:.3g}} {unit}<br>%{{customdata}}<extra></extra>",
        ),
        layout={
            **base_layout(dark),
            "height": _HEIGHT,
            "margin": {"l": 54, "r": 16, "t": 26, "b": 84 if turned else 58, "autoexpand": False},
            "hovermode": "closest",
            "showlegend": False,
            "xaxis": plain_axis(dark)
            | {
                "tickvals": list(range(len(names))),
                "ticktext": [literal(name) for name in names],
                "tickangle": -45 if turned else 0,
                "range": [-0.4, max(1, len(names) - 1) + 0.4],
                "fixedrange": True,
            },
            "yaxis": plain_axis(dark)
            | {
                "title": {"text": f"action moved, {unit}", "font": {"size": 11}},
                "rangemode": "tozero",
                "gridcolor": colours.grid,
                "showgrid": True,
                "fixedrange": True,
            },
        },
    )


def chunk_steps_table(search: Any) -> list[dict[str, Any]]:
    """Return a row for each step: `step` (from 1), `head`, `layer`, `head_index`, `moved`,
    `action` in words, `kept`."""
    return [
        {
            "step": number,
            "head": str(step.head),
            "layer": step.head.layer,
            "head_index": step.head.head,
            "moved": step.moved,
            "action": action_said(step.action),
            "kept": "no" if step.head in search.dropped else "yes",
        }
        for number, step in enumerate(search.steps, start=1)
    ]


def chunk_sentences(search: Any) -> list[str]:
    """Tell what was found in plain sentences."""
    if not search.steps:
        return [f"The action is {action_said(search.clean)}.", REASONS[search.stopped]]
    named = ", ".join(map(str, search.heads))
    wanted = "" if search.goal is None else f" Wanted: {search.goal}."
    told = [
        f"With {named} ablated: {action_said(search.final)}, moved by {search.moved:.3g} "
        f"{search.clean.space.unit}; before: {action_said(search.clean)}.{wanted}"
    ]
    if search.dropped:
        told.append(f"Not needed in the end: {', '.join(map(str, search.dropped))}.")
    return [*told, REASONS[search.stopped]]


def action_said(action: Any) -> str:
    """Return an action in words: of each dimension the mean, of a choice how it ends."""
    pairs = zip(action.space.dimensions, action.summary.tolist(), strict=True)
    return ", ".join(f"{dimension.name} {dimension.said(value)}" for dimension, value in pairs)
