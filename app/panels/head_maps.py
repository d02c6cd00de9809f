"""What the parts of the heads tab share: its layers x heads map, and whose heads are on it."""

from collections.abc import Sequence
from typing import Any

from ablation.types import HeadValues
from app.panels.study import SWEEP_MAP_HEIGHT
from app.view import MAIN_STACK, head_from_text
from viz.heads import head_map_figure

WIDTH, HEIGHT = 330, SWEEP_MAP_HEIGHT
"""In CSS pixels: that of the ablation study's map, so that the eye finds a head again."""


def stack_name(value: str) -> str:
    """Return the stack that the control above the map holds, as heads name it."""
    return "" if value == MAIN_STACK else value


def large_map(scores: HeadValues, chosen: Sequence[str], dark: bool) -> Any:
    """Draw the map.

    Args:
        chosen: the heads to outline, as the page's control holds them: "5.3".
    """
    n_layers, n_heads = scores.values.shape
    heads = [head_from_text(text) for text in chosen]
    return head_map_figure(
        n_layers,
        n_heads,
        scores,
        heads,
        stack=scores.stack,
        dark=dark,
        width=WIDTH,
        height=HEIGHT,
    )
