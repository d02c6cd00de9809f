"""What head patching will take, before it starts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablation.timing import pass_seconds

if TYPE_CHECKING:
    from models.language_model import LanguageModel

HEAD_COST, PLACE_COST = 0.28, 0.8
"""What a head takes, and one at one position, in forward passes of one prompt by itself: measured
on the built-in model, prompts of 9 to 16 tokens, on one core."""


@dataclass(frozen=True, slots=True)
class PatchingPlan:
    """What patching heads takes."""

    n_runs: int
    """Heads patched, over all pairs and positions."""
    seconds: float
    """About: from the time of one forward pass, measured just now."""


def plan_patching(
    model: "LanguageModel", prompt: str, n_pairs: int, n_chosen: int, bos: bool | None = None
) -> PatchingPlan:
    """Say what patching every head of a model takes, running the model twice.

    Args:
        prompt: about as long as the prompts of the pairs.
        n_chosen: heads that are patched at each position too.

    Raises:
        UserError: the prompt cannot be used.
    """
    tokens = model.tokenize(prompt, bos)
    n_heads, n_places = n_pairs * len(model.all_heads()), n_chosen * len(tokens)
    cost = HEAD_COST * n_heads + PLACE_COST * n_places
    return PatchingPlan(n_heads + n_places, pass_seconds(model, tokens) * cost)
