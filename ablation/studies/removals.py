"""Removing many heads at once: what is left of the predictions, and of the model's groups."""

from collections.abc import Sequence

import numpy as np

from ablation.studies.asked import AskedPrompt
from ablation.studies.columns import HeadSet
from ablation.studies.prompts import PromptSet
from ablation.studies.statistics import halves
from models.language_model import LanguageModel
from models.types import FloatArray, Head


def removal_effects(asked: Sequence[AskedPrompt], sets: Sequence[Sequence[Head]]) -> FloatArray:
    """Remove each set of heads on each prompt; return float64 [n_prompts, n_sets, 4] (`columns`).

    Raises:
        Cancelled: the work was cancelled.
    """
    return np.stack([one.effects(sets) for one in asked])


def parted(prompts: PromptSet, n: int | None = None) -> tuple[list[int], list[int]]:
    """Return indices of the prompts that are fitted on, and of those held out.

    No template is in both where there are several. The second is empty for a single prompt.
    """
    templates = [prompt.template for prompt in prompts.prompts[:n]]
    first, second = halves(templates)
    return (first, second) if second else halves([""] * len(templates))


def kv_groups(model: LanguageModel) -> list[HeadSet]:
    """Return the query heads that share a key-value head, group by group; none where none do."""
    groups = []
    for layer, site in enumerate(model.sites):
        size = site.n_heads // site.n_kv_heads
        for first in range(0, site.n_heads, size) if size > 1 else ():
            groups.append(tuple(Head(layer, first + i) for i in range(size)))
    return groups
