"""A policy's action, before and after heads are ablated: numbers, and motion on the picture.

Pure: actions and a picture in, rows of text and SVG out.
"""

import base64
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from viz.theme import LIGHT

ARROW_HEAD = 7.0
"""Length of an arrow's head, in CSS pixels."""
THICKNESS = (4.5, 2.0)
"""Of the clean policy's arrow and of the ablated one's, which may lie on it, in CSS pixels."""
LEAST_NATS = 1e-4
"""Smaller divergences are shown as none."""
SHORTEST = 1.0
"""A motion shorter than this, in CSS pixels, is a dot."""


@dataclass(frozen=True, slots=True)
class ActionRow:
    """One dimension of an action in words."""

    name: str
    before: str
    after: str
    """Empty where nothing is ablated."""
    kl: str
    changed: bool
    confidence: str
    """How likely the policy finds the value it chose."""


def action_rows(before: Any, change: Any = None) -> list[ActionRow]:
    """Return a row for each dimension of an `ablation.actions.PolicyAction`.

    Args:
        change: the `ActionChange` that it is part of, where heads are ablated.
    """
    rows = []
    for i, dimension in enumerate(before.space.dimensions):
        value = float(before.values[i])
        after = "" if change is None else dimension.said(float(change.after.values[i]))
        rows.append(
            ActionRow(
                dimension.name,
                dimension.said(value),
                after,
                "" if change is None else _small(float(change.kl[i])),
                change is not None and float(change.after.values[i]) != value,
                f"{float(np.exp(before.log_probs[i].max())):.2f}".removeprefix("0"),
            )
        )
    return rows


def flips_said(change: Any) -> list[str]:
    """Say which quantities of an action change their sign, and which choices flip.

    Args:
        change: an `ablation.actions.ActionChange`, or a `ChunkChange` of a chunk of actions.
    """
    signs = [f"{name} changes its sign" for name in change.sign_flips]
    return signs + [f"{name} flips" for name in change.choice_flips]


def _small(nats: float) -> str:
    """Return a divergence in two digits."""
    return "0" if nats < LEAST_NATS else f"{nats:.2g}".replace("0.", ".", 1)


def motion_svg(
    png: bytes,
    size: tuple[int, int],
    origin: tuple[float, float],
    moves: list[tuple[float, float]],
    *,
    width: int = 180,
) -> str:
    """Return a picture with arrows from where what acts is: the clean policy's, then the ablated.

    Args:
        png: the picture, as a file.
        size: its width and height, pixels.
        origin: where the arrows begin, pixels.
        moves: how far each goes, to the right and down, pixels.
        width: of what is returned, CSS pixels.
    """
    scale = width / size[0]
    height = round(size[1] * scale)
    strokes = (LIGHT.text, LIGHT.accent)  # pictures are as bright in either theme
    href = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    arrows = "".join(
        _arrow(origin, move, scale, stroke, thick)
        for move, stroke, thick in zip(moves, strokes, THICKNESS, strict=False)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><image href="{href}" width="{width}" height="{height}" '
        f'style="image-rendering:{"pixelated" if scale > 1.5 else "auto"}"/>{arrows}</svg>'
    )


def _arrow(
    origin: tuple[float, float],
    move: tuple[float, float],
    scale: float,
    stroke: str,
    thick: float,
) -> str:
    start = (np.array(origin) + 0.5) * scale
    way = np.array(move) * scale
    length = float(np.hypot(*way))
    if length < SHORTEST:
        x, y = start
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{escape(stroke)}" stroke="#fff" '
            'stroke-width="1.5"/>'
        )
    end = start + way
    ahead = way / length
    aside = np.array([-ahead[1], ahead[0]])
    base = end - ahead * min(ARROW_HEAD, length)
    tip = [end, base + aside * ARROW_HEAD / 2, base - aside * ARROW_HEAD / 2]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in tip)
    line = " ".join(
        f'{name}="{value:.1f}"'
        for name, value in zip(("x1", "y1", "x2", "y2"), (*start, *base), strict=True)
    )
    return (
        f'<g stroke="#fff" stroke-width="{thick + 3}" stroke-linejoin="round"><line {line} '
        f'stroke-linecap="round"/><polygon points="{points}" stroke-width="3"/></g>'
        f'<line {line} stroke="{escape(stroke)}" stroke-width="{thick}" stroke-linecap="round"/>'
        f'<polygon points="{points}" fill="{escape(stroke)}"/>'
    )
