"""What the parts of the heads tab share: of which models it tells, and its layers x heads map."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ablation.types import HeadValues
from app.panels.study import SWEEP_MAP_HEIGHT
from app.view import head_from_text
from models.errors import UserError
from viz.heads import head_map_figure

if TYPE_CHECKING:
    from models.language_model import LanguageModel

WIDTH, HEIGHT = 330, SWEEP_MAP_HEIGHT
"""In CSS pixels: that of the ablation study's map, so that the eye finds a head again."""


def refusal(model: "LanguageModel") -> str | None:
    """Return why the tab has nothing to ask of a model, or None."""
    try:
        model.check_one_stack("What this tab asks of all heads")
    except UserError as error:
        return str(error)
    return None


def large_map(scores: HeadValues, chosen: Sequence[str], dark: bool) -> Any:
    """Draw the map.

    Args:
        chosen: the heads to outline, as the page's control holds them: "5.3".
    """
    n_layers, n_heads = scores.values.shape
    heads = [head_from_text(text) for text in chosen]
    return head_map_figure(n_layers, n_heads, scores, heads, dark=dark, width=WIDTH, height=HEIGHT)
