"""Removing many heads at once: what is left of the predictions, and of the model's groups."""

from collections.abc import Sequence

import numpy as np

from ablation.studies import statistics
from ablation.studies.asked import AskedPrompt
from ablation.studies.columns import HeadSet
from ablation.studies.prompts import PromptSet
from models.language_model import LanguageModel
from models.types import FloatArray, Head


def removal_effects(asked: Sequence[AskedPrompt], sets: Sequence[Sequence[Head]]) -> FloatArray:
    """Remove each set of heads on each prompt; return float64 [n_prompts, n_sets, 4] (`columns`).

    Raises:
        Cancelled: the work was cancelled.
    """
    return np.stack([one.effects(sets) for one in asked])


def parted(prompts: PromptSet) -> tuple[list[int], list[int]]:
    """Return indices of the prompts that are fitted on, and of those held out.

    No template is in both where there are several. The second is empty for a single prompt.
    """
    return statistics.parted([prompt.template for prompt in prompts.prompts])


def kv_groups(model: LanguageModel) -> list[HeadSet]:
    """Return the query heads that share a key-value head, group by group; none where none do."""
    groups = []
    for layer, site in enumerate(model.sites):
        size = site.n_heads // site.n_kv_heads
        for first in range(0, site.n_heads, size) if size > 1 else ():
            groups.append(tuple(Head(layer, first + i) for i in range(size)))
    return groups


def random_sets(
    model: LanguageModel, heads: Sequence[Head], count: int, seed: int
) -> list[HeadSet]:
    """Return random sets with as many heads in each layer as `heads` have, drawn from all of that
    layer."""
    rng = np.random.default_rng(seed)
    by_layer: dict[int, int] = {}
    for head in heads:
        by_layer[head.layer] = by_layer.get(head.layer, 0) + 1
    members: dict[int, list[Head]] = {}
    for head in model.all_heads():
        members.setdefault(head.layer, []).append(head)
    return [
        tuple(
            members[layer][i]
            for layer, n in by_layer.items()
            for i in rng.choice(len(members[layer]), n, replace=False)
        )
        for _ in range(count)
    ]
