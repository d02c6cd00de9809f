"""What parts of a model add to the answer directly, and how others make up for a head's loss.

The direct effect of a part is what it adds to the answer's logit, less the distractor's where there
is one, through the final norm, whose scale is held at the clean run's. When a head is ablated (its
output replaced by the reference's everywhere), other parts may add more than before: self-repair
(McGrath et al., arXiv 2307.15771).
"""

import numpy as np
import torch
from torch import Tensor

from ablation.circuit.question import Batch, CircuitQuestion
from ablation.circuit.types import Repair
from models.types import FloatArray, Head

LEAST_SHARE = 0.02
"""Of the largest direct effect: a smaller change is not told."""


def direct_effects(question: CircuitQuestion, kept: np.ndarray | None = None) -> FloatArray:
    """Return the direct effect of every source, float64 [n_sources], mean over the pairs.

    Args:
        kept: the edges that carry the clean run, bool [n_targets, n_sources]; None for all.
    """
    total = np.zeros(len(question.graph.sources))
    for batch in question.not_cancelled():
        total += _of_batch(question, batch, kept)
    return total / question.n_pairs


def _of_batch(question: CircuitQuestion, batch: Batch, kept: np.ndarray | None) -> FloatArray:
    outputs = batch.clean.parts.outputs
    if kept is not None:
        outputs = question.patching.outputs(batch.clean, batch.reference, kept)
    rows = torch.arange(len(batch.pairs), device=outputs.device)
    read = outputs[:, rows, torch.tensor(batch.clean.reads)]  # [n_sources, row, d_model]
    effects: Tensor = torch.einsum("srd,rd->s", read, _directions(question, batch).to(read))
    return effects.double().cpu().numpy()


def _directions(question: CircuitQuestion, batch: Batch) -> Tensor:
    """Return along which direction a part adds to the answer, [row, d_model]."""
    ending = question.model.residual.ending
    found = []
    for row, (pair, read) in enumerate(zip(batch.pairs, batch.clean.reads, strict=True)):
        weights = {pair.answer_id: 1.0}
        if pair.distractor_id is not None:
            weights[pair.distractor_id] = -1.0
        found.append(ending.direction(batch.clean.parts.final[row, read], weights))
    return torch.stack(found)


def repairs_of(question: CircuitQuestion, heads: list[Head], most: int = 12) -> tuple[Repair, ...]:
    """Ablate heads one by one and return which parts' direct effects change most, mean over the
    pairs.

    Args:
        heads: those ablated, each by itself.
        most: how many changes are returned, the largest first.
    """
    graph = question.graph
    before = direct_effects(question)
    least = LEAST_SHARE * float(np.abs(before).max())
    found: list[Repair] = []
    for head in heads:
        source = graph.first_source(head.layer) + head.head
        without = graph.possible.copy()
        without[:, source] = False
        change = direct_effects(question, without) - before
        found += [
            (str(head), str(component), float(change[i]))
            for i, component in enumerate(graph.sources)
            if i > source and abs(change[i]) >= least
        ]
    return tuple(sorted(found, key=lambda repair: -abs(repair[2]))[:most])
