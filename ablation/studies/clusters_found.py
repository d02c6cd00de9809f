"""What the study of head clusters measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ablation.studies.columns import HeadSet
from ablation.studies.joint import Joint
from ablation.studies.partition import Separation, Stability
from ablation.studies.types import means, plain
from models.types import FloatArray, Head

TESTED = 6
"""Clusters of several heads that are removed together, those with the largest effects first."""


@dataclass(frozen=True, eq=False)
class RemovedCluster(Joint):
    """A cluster removed on the prompts held out, and random heads of its layers.

    All are changes of the right token's logit (`likeness.changes`), or sums of them.
    """

    cluster: int
    random_together: FloatArray
    """float64 [n_held, n_random]."""
    random_alone: FloatArray
    """float64 [n_held, n_random, n_heads], without each of the random heads."""

    @property
    def departure(self) -> float:
        """How far it is from the sum of its heads, as a part of what these do: |beyond| over the
        absolute values of their effects alone, each summed over prompts."""
        return _part(np.abs(self.beyond).sum(), np.abs(self.alone).sum())

    @property
    def random_departures(self) -> FloatArray:
        """float64 [n_random], the same of the random sets."""
        beyond = np.abs(self.random_together - self.random_alone.sum(axis=-1)).sum(axis=0)
        sizes = np.abs(self.random_alone).sum(axis=(0, -1))
        return np.array([_part(*pair) for pair in zip(beyond, sizes, strict=True)])

    @property
    def more(self) -> int:
        """With 95 % confidence, whether it does more than the sum of its heads (1), less, or the
        opposite (-1); 0 where it is not sure."""
        interval, along = self.interval, np.sign(self.alone.sum(axis=1).mean())
        return int(along) * (int(interval.low > 0) - int(interval.high < 0))

    @property
    def reached(self) -> int:
        """How many random sets depart from their sum as far."""
        return int((self.random_departures >= self.departure).sum())

    def to_json(self) -> dict[str, Any]:
        interval = self.interval
        return {
            "cluster": self.cluster,
            **super().to_json(),
            "beyond_low": interval.low,
            "beyond_high": interval.high,
            "departure": self.departure,
            "random_departures": self.random_departures,
        }


@dataclass(frozen=True, slots=True)
class Link:
    """The strongest composition of one kind."""

    kind: str
    """Of `composition.KINDS`: what of the later head is fed."""
    earlier: Head
    later: Head
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class HeadClusters:
    """What was measured."""

    n_layers: int
    n_heads: int
    by: str
    """What heads are clustered by: "all" or one of `likeness.MEASURES`."""
    intervention: str
    heads: HeadSet
    """Those that were clustered, in the order of the model."""
    silent: HeadSet
    """Those that do nothing measurable to predictions."""
    effects: FloatArray
    """float64 [n_fitted, n_heads], change of the right token's logit without each."""
    likeness: dict[str, FloatArray]
    """Measure -> float64 [n_heads, n_heads]."""
    ranks: FloatArray
    """float64 [n_heads, n_heads], what was clustered: ranks in [0, 1]."""
    linked: FloatArray
    """The tree, in SciPy's form [n_heads - 1, 4]."""
    labels: FloatArray
    """int [n_heads], each head's cluster, counted from 1: those with the largest effects first."""
    agreements: dict[tuple[str, str], float]
    """Two measures -> rank correlation over pairs of heads."""
    links: tuple[Link, ...]
    """The strongest composition of each kind; none where it is not known."""
    chance: float
    """What independent directions score."""
    stable: dict[str, Stability]
    """Of what was clustered by, and of each measure alone."""
    separation: Separation | None
    again: float | None = None
    """Adjusted Rand index with the clusters of the prompts held out; None if it was not measured,
    or nothing that differs between prompts was clustered by."""
    n_held: int = 0
    """Prompts held out that clusters were looked for and removed on; 0 if it did not come to it."""
    removed: tuple[RemovedCluster, ...] = ()
    others: Mapping[str, FloatArray] = field(default_factory=dict)
    """Other interventions -> float64 [n_held, n_removed], change of the right token's logit without
    each cluster."""

    @property
    def n_clusters(self) -> int:
        return int(self.labels.max())

    @property
    def chosen(self) -> Stability:
        return self.stable[self.by]

    def members(self, cluster: int) -> HeadSet:
        """Return the heads of a cluster, those of the largest effects first."""
        size = np.abs(self.effects).mean(axis=0)
        at = sorted(np.flatnonzero(self.labels == cluster), key=lambda i: -size[i])
        return tuple(self.heads[i] for i in at)

    @property
    def clusters(self) -> tuple[HeadSet, ...]:
        return tuple(self.members(i + 1) for i in range(self.n_clusters))

    @property
    def several(self) -> dict[int, HeadSet]:
        """The clusters of several heads, by number."""
        told = enumerate(self.clusters, start=1)
        return {number: heads for number, heads in told if len(heads) > 1}

    @property
    def untested(self) -> int:
        """How many clusters that were to be removed were not."""
        return min(TESTED, len(self.several)) - len(self.removed)

    def to_json(self) -> dict[str, Any]:
        apart = self.separation
        return plain({
            "by": self.by,
            "intervention": self.intervention,
            "clusters": [[head.to_json() for head in heads] for heads in self.clusters],
            "silent": [head.to_json() for head in self.silent],
            "tree": self.linked,
            "agreements": {f"{a}/{b}": value for (a, b), value in self.agreements.items()},
            "composition": [
                {"kind": link.kind, "earlier": link.earlier.to_json(),
                 "later": link.later.to_json(), "score": link.score}
                for link in self.links
            ],
            "stability": {
                way: {
                    "counts": one.counts,
                    "agreement": one.agreement.mean(axis=0),
                    "by_chance": one.by_chance,
                }
                for way, one in self.stable.items()
            },
            "silhouette": None if apart is None else apart.silhouette,
            "silhouette_of_clouds": [] if apart is None else apart.clouds,
            "again": self.again,
            "removed": [one.to_json() for one in self.removed],
            "other_interventions": means(self.others),
        })  # fmt: skip


def numbered_by_effect(labels: FloatArray, effects: FloatArray) -> FloatArray:
    """Return labels counted from 1, the clusters with the largest summed effects first.

    Args:
        labels: int [n_heads].
        effects: [n_prompts, n_heads].
    """
    size = np.abs(effects).mean(axis=0)
    names = sorted(np.unique(labels), key=lambda name: -size[labels == name].sum())
    place = {name: i for i, name in enumerate(names, start=1)}
    return np.array([place[name] for name in labels])


def _part(amount: float, of: float) -> float:
    return float(amount / of) if of > 0 else 0.0
