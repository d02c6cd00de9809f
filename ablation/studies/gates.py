"""Gates on heads learned with a penalty on those that are open: hard-concrete gates.

Louizos, Welling and Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization"
(arXiv:1712.01312); for attention heads: Voita et al. 2019 (arXiv:1905.09418). A gate is a random
number between 0 and 1 that is exactly 0 or exactly 1 with a probability of its own, which one
parameter a head sets, `log_alpha`. What is made small is the mean KL from the clean predictions
plus, for each head, the strength of the penalty times the probability that its gate is not 0. So a
strength is what a head must be worth, in nats, to stay. The model's weights stay as they are.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ablation.evaluation import stop_if
from ablation.studies.asked import AskedPrompt
from ablation.studies.elimination import kl_gradient
from models.gated_run import GatedRun
from models.types import FloatArray

TEMPERATURE, LOWEST, HIGHEST = 2 / 3, -0.1, 1.1
"""Of the concrete distribution, and to where it is stretched before it is cut to [0, 1]; as in
Louizos et al."""
START, SPREAD = 2.0, 1.0
"""Of `log_alpha` at the start, mean and standard deviation over heads: 97 % of the gates are not 0,
and most are 1. Heads of larger effect alone start higher, as the first steps tell little but noise.
"""
RATE, DECAYS = 0.25, (0.9, 0.99)
"""Of Adam."""
BATCH = 4
"""Prompts of a step; each has gates of its own drawn."""


def learn_gates(
    run: GatedRun,
    asked: Sequence[AskedPrompt],
    strengths: Sequence[float],
    steps: int,
    seed: int,
    effects: FloatArray,
) -> Iterator[tuple[int, float, FloatArray]]:
    """Learn gates at one strength of the penalty after another, each from where the last ended.

    Args:
        run: of the same prompts as `asked`.
        strengths: nats a head, ascending.
        steps: at each strength.
        effects: float64 [n_layers, n_heads], of each head alone; only their order counts, NaN where
            there is no head.

    Yields:
        After each step: (index of the strength, mean KL of the step's prompts with gates drawn,
        `log_alpha` float64 [n_layers, n_heads]).

    Raises:
        Cancelled: the work was cancelled.
    """
    generator = torch.Generator().manual_seed(seed)
    log_alpha = torch.tensor(first_gates(effects), dtype=torch.float32, requires_grad=True)
    adam = torch.optim.Adam([log_alpha], lr=RATE, betas=DECAYS)
    waiting: list[int] = []
    for index, strength in enumerate(strengths):
        for _ in range(steps):
            stop_if(asked[0].question.cancel)
            if not waiting:
                waiting = torch.randperm(len(asked), generator=generator).tolist()
            chosen, waiting = waiting[:BATCH], waiting[BATCH:]
            gates = draw_gates(log_alpha, len(chosen), generator)
            total, slopes = kl_gradient(run, asked, gates, chosen)
            adam.zero_grad()
            # The chain rule in two parts: through the model, then through the drawing of gates.
            gates.backward(slopes / len(chosen))
            (strength * open_probability(log_alpha).sum()).backward()
            adam.step()
            yield index, total / len(chosen), log_alpha.detach().numpy().astype(np.float64)


def first_gates(effects: FloatArray) -> FloatArray:
    """Return `log_alpha` at the start: normal scores of the ranks of effects, float64."""
    known = ~np.isnan(effects)
    ranks = stats.rankdata(effects[known]) / (known.sum() + 1)  # between 0 and 1
    start: FloatArray = np.full(effects.shape, START)
    start[known] += SPREAD * stats.norm.ppf(ranks)
    return start


def draw_gates(log_alpha: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return n gates a head, [n, n_layers, n_heads], differentiable in `log_alpha`."""
    uniform = torch.rand(n, *log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((torch.logit(uniform) + log_alpha) / TEMPERATURE)
    return (soft * (HIGHEST - LOWEST) + LOWEST).clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Return the probability that a gate is not 0."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOWEST / HIGHEST))


def is_open(log_alpha: FloatArray) -> FloatArray:
    """Return bool: whether a gate is rather 1 than 0 when nothing is drawn."""
    return log_alpha > 0
