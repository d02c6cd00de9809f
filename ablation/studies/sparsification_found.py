"""What the study of sparsification measures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ablation.studies.columns import KL, SAME, HeadSet
from ablation.studies.types import plain
from models.types import FloatArray

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Of the penalty: nats that a head has to be worth."""
FRACTIONS = (0.5, 0.25, 0.1, 0.05)
"""Of the entries of every head's z that are kept, the largest ones."""
N_RESAMPLES = 1000
N_SHUFFLES = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """The essential heads."""

    heads: HeadSet
    low: int
    high: int
    """Between how many heads it has, with 95 % confidence over the prompts."""
    share: float
    """The part that it keeps, of 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Whole groups that the core leaves empty, against as many random heads."""

    n_groups: int
    empty: int
    chance: float
    """Mean number of empty groups for random heads."""
    p: float
    """Part of the random draws with at least as many empty groups."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseHeads:
    """What was measured."""

    n_layers: int
    n_heads: int
    heads: HeadSet
    groups: tuple[HeadSet, ...]
    """Heads that share a key-value head; none where no heads do."""
    intervention: str
    share: float
    """Percent that the core has to keep."""
    strengths: tuple[float, ...]
    learned: FloatArray
    """float64 [n_strengths, n_heads_in_all], `log_alpha`; a gate is open where it is above 0."""
    ranking: FloatArray | None
    """float64 [n_heads_in_all], mean KL without each head alone, on prompts fitted on."""
    sizes: tuple[int, ...]
    """How many heads stay."""
    kept: dict[str, FloatArray]
    """"learned", "single" and "random" -> float64 [n_held, n_sizes, 4]; columns of `columns`."""
    nothing: FloatArray | None
    """float64 [n_held, 4], without any head."""
    others: dict[str, FloatArray]
    """Other interventions -> float64 [n_held, 2], KL without any head, and with the core alone."""
    sparse: FloatArray | None
    """float64 [n_prompts, n_fractions, 4], with only a fraction of the entries of z."""
    entries: FloatArray | None
    """float64 [n_heads_in_all], the part of a head's entries that holds 90 % of its z; NaN where
    z is 0."""

    @property
    def open_counts(self) -> tuple[int, ...]:
        """How many gates are open at each strength."""
        return tuple((self.learned > 0).sum(axis=1).tolist())

    def shares(self, effects: FloatArray) -> FloatArray:
        """Return the parts kept, [n], of effects [n_prompts, n, 4]: 1 - KL / KL without heads."""
        assert self.nothing is not None
        nothing = self.nothing[: len(effects), KL].mean()
        kl: FloatArray = effects[..., KL].mean(axis=0)
        return 1 - kl / nothing if nothing > 0 else np.ones_like(kl)

    def core_size(self, way: str, rows: FloatArray | None = None) -> int:
        """Return from how many heads on the part kept is enough.

        Args:
            way: key of `kept`.
            rows: indices of the prompts; None for all.
        """
        assert self.nothing is not None
        chosen = np.arange(len(self.nothing)) if rows is None else rows
        nothing = self.nothing[chosen, KL].mean()
        kl = self.kept[way][chosen][..., KL].mean(axis=0)
        failing = np.flatnonzero(kl > (1 - self.share / 100) * nothing)
        sizes = (*self.sizes, len(self.heads))
        return sizes[int(failing[-1]) + 1] if len(failing) else sizes[0]

    def order_for(self, size: int) -> tuple[int, ...]:
        """Return indices of heads, the most essential first, as ranked where so many stay."""
        nearest = np.argmin([abs(count - size) for count in self.open_counts])
        return tuple(np.argsort(-self.learned[nearest], kind="stable").tolist())

    @property
    def core(self) -> Core | None:
        """The essential heads; None before anything was judged."""
        if self.nothing is None:
            return None
        size = self.core_size("learned")
        low = high = size
        n = len(self.nothing)
        if n > 1:
            rng = np.random.default_rng(0)
            draws = rng.integers(n, size=(N_RESAMPLES, n))
            ends = [self.core_size("learned", draw) for draw in draws]
            low, high = (int(q) for q in np.quantile(ends, [0.025, 0.975], method="nearest"))
        heads = tuple(sorted(self.heads[i] for i in self.order_for(size)[:size]))
        whole = size == len(self.heads)
        shares = self.shares(self.kept["learned"])
        kept = 1.0 if whole else float(shares[self.sizes.index(size)])
        return Core(heads, low, high, kept)

    @property
    def by_layer(self) -> FloatArray:
        """int [n_layers], heads of the core in each layer."""
        core = self.core
        layers = [] if core is None else [head.layer for head in core.heads]
        counts: FloatArray = np.bincount(np.array(layers, dtype=int), minlength=self.n_layers)
        return counts

    def grouping(self, core: Core) -> Grouping | None:
        """Say whether the core leaves whole key-value groups empty more than random heads would."""
        if not self.groups:
            return None
        place = {head: number for number, group in enumerate(self.groups) for head in group}
        member = np.array([place[head] for head in self.heads])
        n = len(self.groups)
        empty = n - len({place[head] for head in core.heads})
        rng = np.random.default_rng(0)
        draws = [
            n - len(np.unique(member[rng.permutation(len(member))[: len(core.heads)]]))
            for _ in range(N_SHUFFLES)
        ]
        return Grouping(n, empty, float(np.mean(draws)), float(np.mean(np.array(draws) >= empty)))

    def to_json(self) -> dict[str, Any]:
        core = self.core
        curves = {
            way: [
                {"n_heads": size, "kl": effects[:, i, KL].mean(),
                 "same_token": effects[:, i, SAME].mean(), "share": self.shares(effects)[i]}
                for i, size in enumerate(self.sizes)
            ]
            for way, effects in self.kept.items()
        }  # fmt: skip
        return plain({
            "intervention": self.intervention,
            "strengths": [
                {"nats_a_head": strength, "open": count}
                for strength, count in zip(self.strengths, self.open_counts, strict=True)
            ],
            "curves": curves,
            "core": None if core is None else {
                "heads": [head.to_json() for head in core.heads],
                "low": core.low, "high": core.high, "share": core.share,
                "by_layer": self.by_layer,
            },
            "other_interventions": {
                name: {"nothing_kl": values[:, 0].mean(), "core_kl": values[:, 1].mean()}
                for name, values in self.others.items()
            },
            "fractions": [] if self.sparse is None else [
                {"fraction": fraction, "kl": self.sparse[:, i, KL].mean()}
                for i, fraction in enumerate(FRACTIONS)
            ],
        })  # fmt: skip
