"""What is found when heads' outputs are shuffled over positions: plain data, no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ablation.studies.columns import KL
from ablation.studies.statistics import Interval, mean_interval
from ablation.studies.types import plain
from models.types import FloatArray, Head

INTERVENTIONS = ("permute", "zero", "mean")
"""What is done to each set of heads: z shuffled over positions, 0, or its mean over them."""
PERMUTE, ZERO, MEAN = range(3)

LOSS = 2
"""Column of effects beside `KL` and `RIGHT`, which are read at the end of the passage: the change
of the mean loss over all its tokens, in nats."""

N_DRAWS = 3
"""Of random sets."""
N_NEW = 16
"""Tokens by which passages are continued."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A passage continued with heads ablated."""

    start: str
    heads: str
    """Which are ablated, in words; empty for the clean run."""
    intervention: str
    text: str
    surprise: float
    """Of the clean model at the text, given the passage: mean loss a token, in nats."""
    n_same: int
    """Tokens up to the first that differs from the clean continuation."""


@dataclass(frozen=True, slots=True, eq=False)
class Permutation:
    """What was measured."""

    n_layers: int
    n_heads: int
    heads: tuple[Head, ...]
    clean_loss: FloatArray
    """float64 [n_prompts], mean over the tokens of each, in nats."""
    layers: FloatArray
    """float64 [n_prompts, n_interventions, n_layers, 3]: all heads of a layer."""
    sizes: tuple[int, ...]
    """Of random sets; the last is all heads."""
    grown: FloatArray
    """float64 [n_prompts, n_interventions, n_draws, n_sizes, 3]: random sets, each a part of the
    next."""
    singles: FloatArray
    """float64 [n_prompts, n_heads_in_all], KL with one head shuffled."""
    order: tuple[int, ...]
    """Indices of heads, the largest mean of `singles` first."""
    compared: FloatArray | None = None
    """float64 [n_prompts, n_interventions, n_leaders], KL of the first of `order`."""
    continuations: tuple[Continuation, ...] = ()

    @property
    def of_layers(self) -> Interval:
        """Of the effects of layers, [n_interventions, n_layers, 3]."""
        return mean_interval(self.layers)

    @property
    def of_random(self) -> Interval:
        """Of the effects of random sets, mean over draws, [n_interventions, n_sizes, 3]."""
        return mean_interval(self.grown.mean(axis=2))

    @property
    def clean_perplexity(self) -> float:
        return float(np.exp(self.clean_loss.mean()))

    def perplexity(self, added_loss: FloatArray) -> FloatArray:
        """Return the perplexity at a mean loss that is so much above the clean one."""
        found: FloatArray = np.exp(self.clean_loss.mean() + added_loss)
        return found

    def compare_layers(self, other: int) -> Interval:
        """Return by how much shuffling a layer costs more KL than another intervention, [layer]."""
        return mean_interval(self.layers[:, PERMUTE, :, KL] - self.layers[:, other, :, KL])

    def to_json(self) -> dict[str, Any]:
        layers, grown = self.of_layers.mean, self.of_random.mean
        return plain({
            "clean_perplexity": self.clean_perplexity,
            "layers": {
                name: {"kl": layers[i, :, KL], "perplexity": self.perplexity(layers[i, :, LOSS])}
                for i, name in enumerate(INTERVENTIONS)
            },
            "random_sizes": self.sizes,
            "random": {
                name: {"kl": grown[i, :, KL], "perplexity": self.perplexity(grown[i, :, LOSS])}
                for i, name in enumerate(INTERVENTIONS)
            },
            "heads": [
                {"head": self.heads[i].to_json(), "kl": self.singles[:, i].mean()}
                for i in self.order
            ],
            "continuations": [
                {
                    "start": one.start,
                    "heads": one.heads,
                    "intervention": one.intervention,
                    "text": one.text,
                    "surprise": one.surprise,
                    "n_same": one.n_same,
                }
                for one in self.continuations
            ],
        })  # fmt: skip
