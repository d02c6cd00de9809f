"""The layers x heads map as the heads tab shows it, of whatever number a head."""

from collections.abc import Sequence
from typing import Any

from ablation.types import HeadValues
from app.panels.study import SWEEP_MAP_HEIGHT
from app.view import head_from_text
from viz.heads import head_map_figure

WIDTH, HEIGHT = 330, SWEEP_MAP_HEIGHT
"""In CSS pixels: that of the ablation study's map, so that the eye finds a head again."""


def large_map(scores: HeadValues, chosen: Sequence[str], dark: bool) -> Any:
    """Draw the map.

    Args:
        chosen: the heads to outline, as the page's control holds them: "5.3".
    """
    n_layers, n_heads = scores.values.shape
    heads = [head_from_text(text) for text in chosen]
    return head_map_figure(n_layers, n_heads, scores, heads, dark=dark, width=WIDTH, height=HEIGHT)
