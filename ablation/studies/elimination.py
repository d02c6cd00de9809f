"""Backward greedy elimination of heads: remove what costs least, look again, and go on.

The exact strategy removes in each step, of all heads left, the one without which the mean KL from
the clean predictions is least. The screened one ranks the heads left by an estimate, evaluates the
first few alone and ever longer lists of the first ones together, and removes the longest of these
that raises the KL by no more than a fixed part (or, if all do, the best single head). Whatever it
removes was run; only the order in which heads are tried is estimated.

The estimate is of second order. Near the clean run KL is quadratic in the gates of the heads: what
a head adds to a set that is removed already is its effect alone, which was measured, and its
interaction with the set, which is the slope of the KL in the head's gate at that set. The slopes of
all heads come from one backward pass (`models.gated_run`).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ablation.evaluation import stop_if
from ablation.studies.asked import AskedPrompt
from ablation.studies.columns import KL, HeadSet
from ablation.studies.redundant_found import EliminationStep
from ablation.studies.removals import removal_effects
from models.gated_run import GatedRun
from models.language_model import LanguageModel
from models.types import FloatArray, Head

STRATEGIES = ("screened", "exact")
ALONE = 4
"""Heads that a screened step tries alone."""
TOGETHER = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""How many of the first heads a screened step tries together."""
GROWTH, LEAST_GROWTH = 1.5, 2e-3
"""A screened step that removes several heads raises the KL at most by this factor, or to so many
nats."""


def eliminate(
    model: LanguageModel,
    asked: Sequence[AskedPrompt],
    singles: FloatArray,
    strategy: str,
    until: float,
) -> Iterator[EliminationStep]:
    """Remove heads until all are gone or the mean KL is above `until` nats.

    Args:
        singles: float64 [n_heads], mean KL without each head alone, in the order of `all_heads`.
        strategy: of `STRATEGIES`.

    Raises:
        Cancelled: the work was cancelled.
    """
    alone = dict(zip(model.all_heads(), singles, strict=True))
    ranked = _by_estimate(model, asked, alone) if strategy == "screened" else None
    removed: HeadSet = ()
    kl = 0.0
    while len(removed) < len(alone) and kl <= until:
        left = [head for head in alone if head not in removed]
        if ranked is None:
            tried: list[HeadSet] = [(head,) for head in left]
        else:
            order = ranked(removed, left)
            tried = [(head,) for head in order[:ALONE]]
            tried += [tuple(order[:size]) for size in TOGETHER if size <= len(order)]
        effects = removal_effects(asked, [(*removed, *more) for more in tried])
        best = _best(tried, effects[..., KL].mean(axis=0), kl)
        step = EliminationStep(tried[best], effects[:, best])
        removed, kl = (*removed, *step.removed), step.kl
        yield step


def _best(tried: Sequence[HeadSet], kls: FloatArray, kl: float) -> int:
    """Return the index of the most heads that cost little, of these the cheapest; else of the
    cheapest head."""
    allowed = max(GROWTH * kl, LEAST_GROWTH)
    cheap = [i for i in range(len(tried)) if kls[i] <= allowed and len(tried[i]) > 1]
    if cheap:
        return max(cheap, key=lambda i: (len(tried[i]), -kls[i]))
    return min((i for i in range(len(tried)) if len(tried[i]) == 1), key=lambda i: kls[i])


def _by_estimate(
    model: LanguageModel, asked: Sequence[AskedPrompt], alone: dict[Head, float]
) -> Callable[[HeadSet, list[Head]], list[Head]]:
    """Return what ranks the heads that are left, the cheapest first."""
    run = model.head_sets.gated([one.question.posed for one in asked])

    def ranked(removed: HeadSet, left: list[Head]) -> list[Head]:
        if not removed:  # where KL is flat
            return sorted(left, key=lambda head: alone[head])
        stop_if(asked[0].question.cancel)
        gates = torch.ones(len(asked), *run.shape)
        for head in removed:
            gates[:, head.layer, head.head] = 0
        slopes = -kl_gradient(run, asked, gates)[1].mean(dim=0)
        cost = {head: alone[head] + float(slopes[head.layer, head.head]) for head in left}
        return sorted(left, key=lambda head: cost[head])

    return ranked


def kl_gradient(
    run: GatedRun,
    asked: Sequence[AskedPrompt],
    gates: Tensor,
    chosen: Sequence[int] | None = None,
) -> tuple[float, Tensor]:
    """Return the summed KL from the clean predictions, and its gradient; see `GatedRun`."""

    def score(indices: Sequence[int], log_probs: Tensor) -> Tensor:
        rows = np.stack([asked[index].question.baseline.log_probs for index in indices])
        clean = torch.as_tensor(rows, device=log_probs.device)
        p = clean.exp()
        return (p * (clean - log_probs)).where(p > 0, 0.0).sum()

    return run.gradient(gates, score, chosen)
