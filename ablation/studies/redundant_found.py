"""What the study of redundant heads measures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ablation.studies.columns import KL, RANK, SAME, HeadSet
from ablation.studies.joint import Joint
from ablation.studies.types import means, plain
from models.types import FloatArray, Head

THRESHOLDS = (0.01, 0.1, 1.0)
"""Mean KL (nats) up to which heads are counted."""
LAST_KL = THRESHOLDS[-1]
"""Nats; elimination ends above it."""
N_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class EliminationStep:
    """Heads removed in one step."""

    removed: HeadSet
    """In the order in which they rank."""
    effects: FloatArray
    """float64 [n_prompts, 4] of all that is removed so far; columns of `columns`."""

    @property
    def kl(self) -> float:
        return float(self.effects[:, KL].mean())


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """How many heads go before a threshold, and what is left of the predictions then."""

    threshold: float
    n_heads: int
    low: int
    high: int
    """95 % interval over prompts; as `n_heads` where there was one prompt."""
    rank: float
    """Median rank of the right token; NaN where no head goes."""
    same: float
    """Part of the prompts whose likeliest token is the clean run's; NaN where no head goes."""
    open_ended: bool
    """Whether the threshold was not reached by all that was removed."""


@dataclass(frozen=True, slots=True, eq=False)
class RedundantHeads:
    """What was measured."""

    n_layers: int
    n_heads: int
    heads: HeadSet
    intervention: str
    strategy: str
    singles: FloatArray
    """float64 [n_fitted, n_heads_in_all, 4], each head alone; columns of `columns`."""
    clean: FloatArray
    """float64 [n_judged, 4], of the prompts that are judged on, without removing anything."""
    steps: tuple[EliminationStep, ...]
    """Of the elimination, on the prompts fitted on."""
    held_out: FloatArray | None
    """float64 [n_held, n_steps, 4], the same sets removed on the prompts held out."""
    compared: dict[str, FloatArray]
    """"single" (least effect alone first) and "random" -> float64 [n_held, n_compared], KL."""
    compared_sizes: tuple[int, ...]
    pairs: tuple[Joint, ...]
    """In KL (nats), of the heads with the largest effect alone."""
    others: dict[str, FloatArray]
    """Other interventions -> float64 [n_judged, n_reached], KL without what went before each
    threshold (`reached`)."""
    groups: tuple[Joint, ...]
    """Heads that share a key-value head; none where no heads do."""
    group_pairs: tuple[Joint, ...]
    """Pairs within the groups that cost most beyond the sum of their heads."""

    @property
    def order(self) -> tuple[Head, ...]:
        """The heads removed, in their order."""
        return tuple(head for step in self.steps for head in step.removed)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many heads were removed after each step."""
        return tuple(np.cumsum([len(step.removed) for step in self.steps]).tolist())

    @property
    def fitted(self) -> FloatArray:
        """float64 [n_fitted, n_steps, 4]."""
        if not self.steps:
            return np.zeros((len(self.singles), 0, 4))
        return np.stack([step.effects for step in self.steps], axis=1)

    @property
    def judged(self) -> FloatArray:
        """The effects that the counts are read from: held out where there are such prompts."""
        return self.fitted if self.held_out is None else self.held_out

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """One for each of `THRESHOLDS`, judged; none where no step was taken."""
        if not self.steps:
            return ()
        return tuple(self._reach(threshold, self.judged) for threshold in THRESHOLDS)

    @property
    def reaches_fitted(self) -> tuple[Reach, ...]:
        """The same on the prompts that the heads were chosen on."""
        if not self.steps:
            return ()
        return tuple(self._reach(threshold, self.fitted) for threshold in THRESHOLDS)

    @property
    def reached(self) -> tuple[HeadSet, ...]:
        """What is removed before each threshold, where that is any head and more than before the
        one below it."""
        return tuple(self.order[: self.sizes[at]] for at in self.reached_at)

    @property
    def reached_at(self) -> tuple[int, ...]:
        """The steps after which that is, as indices of `steps`."""
        kl = self.judged[..., KL].mean(axis=0)
        last = dict.fromkeys(_last_below(kl, threshold) for threshold in THRESHOLDS)
        return tuple(count - 1 for count in last if count)

    @property
    def clean_rank(self) -> float:
        """Median rank of the right token when nothing is removed."""
        return float(np.median(self.clean[:, RANK]))

    def _reach(self, threshold: float, effects: FloatArray) -> Reach:
        sizes = np.array([0, *self.sizes])
        kl = effects[..., KL]
        last = _last_below(kl.mean(axis=0), threshold)
        low = high = last
        if len(kl) > 1:
            rng = np.random.default_rng(0)
            draws = rng.integers(len(kl), size=(N_RESAMPLES, len(kl)))
            ends = [_last_below(kl[draw].mean(axis=0), threshold) for draw in draws]
            low, high = (int(q) for q in np.quantile(ends, [0.025, 0.975], method="nearest"))
        here = effects[:, last - 1] if last else np.full((len(kl), 4), np.nan)
        return Reach(
            threshold,
            int(sizes[last]),
            int(sizes[low]),
            int(sizes[high]),
            float(np.median(here[:, RANK])),
            float(here[:, SAME].mean()),
            last == len(self.steps),
        )

    def to_json(self) -> dict[str, Any]:
        judged = self.judged.mean(axis=0)
        return plain({
            "intervention": self.intervention,
            "strategy": self.strategy,
            "steps": [
                {
                    "removed": [head.to_json() for head in step.removed],
                    "n_removed": size,
                    "kl_fitted": step.kl,
                    **({"kl": judged[i, KL]} if i < len(judged) else {}),
                }
                for i, (step, size) in enumerate(zip(self.steps, self.sizes, strict=True))
            ],
            "thresholds": [
                {"kl": one.threshold, "n_heads": one.n_heads, "low": one.low, "high": one.high,
                 "median_rank": one.rank, "same_token": one.same}
                for one in self.reaches
            ],
            "clean_median_rank": self.clean_rank,
            "thresholds_fitted": [one.n_heads for one in self.reaches_fitted],
            "compared_sizes": self.compared_sizes,
            "compared": means(self.compared),
            "other_interventions": means(self.others),
            "pairs": [pair.to_json() for pair in self.pairs],
            "groups": [group.to_json() for group in self.groups],
            "group_pairs": [pair.to_json() for pair in self.group_pairs],
        })  # fmt: skip


def _last_below(kl: FloatArray, threshold: float) -> int:
    """Return after how many steps the KL is first at the threshold or above, less one."""
    above = np.flatnonzero(kl >= threshold)
    return int(above[0]) if len(above) else len(kl)
