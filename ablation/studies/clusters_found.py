"""What the study of head clusters measures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ablation.studies.columns import HeadSet
from ablation.studies.partition import Stability
from ablation.studies.statistics import Interval, mean_interval
from ablation.studies.types import plain
from models.types import FloatArray, Head

TESTED = 10
"""Clusters of several heads that are removed together (not the rest), those with the largest
effects first."""


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """A cluster's heads removed together on the prompts held out, and random heads of its layers
    (`random_like`).

    All are changes of the right token's log-probability, in nats.
    """

    cluster: int
    heads: HeadSet
    together: FloatArray
    """float64 [n_held]."""
    alone: FloatArray
    """float64 [n_held, n_heads], without each of them."""
    random_together: FloatArray
    """float64 [n_held, n_random]."""
    random_sum: FloatArray
    """float64 [n_held, n_random], the sum of each of the random heads alone."""

    @property
    def beyond(self) -> FloatArray:
        """float64 [n_held]: together less the sum alone; 0 where heads do not interact."""
        difference: FloatArray = self.together - self.alone.sum(axis=1)
        return difference

    @property
    def random_beyond(self) -> FloatArray:
        """float64 [n_held, n_random]."""
        return self.random_together - self.random_sum

    @property
    def more(self) -> Interval:
        """By how much the cluster interacts more than random heads: the mean of |beyond| less that
        of the random sets'."""
        return mean_interval(np.abs(self.beyond) - np.abs(self.random_beyond).mean(axis=1))

    @property
    def interacts(self) -> bool:
        """Whether it interacts more than random heads of its layers, with 95 % confidence."""
        return bool(self.more.low > 0)

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "together": self.together.mean(),
            "sum_alone": self.alone.sum(axis=1).mean(),
            "beyond": self.beyond.mean(),
            "random_together": self.random_together.mean(),
            "random_sum_alone": self.random_sum.mean(),
            "interacts": self.interacts,
        }


@dataclass(frozen=True, slots=True, eq=False)
class HeadClusters:
    """What was measured."""

    n_layers: int
    n_heads: int
    by: str
    """What heads are clustered by: "all" or one of `likeness.MEASURES`."""
    heads: HeadSet
    """Those that were clustered, in the order of the model."""
    silent: HeadSet
    """Those that do nothing measurable to predictions."""
    effects: FloatArray
    """float64 [n_fitted, n_heads], change of the right token's log-probability without each."""
    likeness: dict[str, FloatArray]
    """Measure -> float64 [n_heads, n_heads]."""
    ranks: FloatArray
    """float64 [n_heads, n_heads], what was clustered: mean ranks in [0, 1]."""
    linked: FloatArray
    """The tree, in SciPy's form [n_heads - 1, 4]."""
    labels: FloatArray
    """int [n_heads], each head's cluster, counted from 1: those with the largest effects first."""
    agreements: dict[tuple[str, str], float]
    """Two measures -> rank correlation over pairs of heads."""
    stable: dict[str, Stability]
    """Of what was clustered by, and of each measure alone."""
    again: float | None
    """Adjusted Rand index of the clusters with those of the prompts held out; None if not done."""
    joints: tuple[Joint, ...]

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
    def rest(self) -> int | None:
        """The cluster that holds more than half of all heads: what is left when the others are
        told apart; None if there is none."""
        number = int(np.bincount(self.labels).argmax())
        return number if len(self.members(number)) > len(self.heads) / 2 else None

    @property
    def several(self) -> dict[int, HeadSet]:
        """The clusters of several heads, but for the rest."""
        told = enumerate(self.clusters, start=1)
        return {i: heads for i, heads in told if len(heads) > 1 and i != self.rest}

    @property
    def untested(self) -> int:
        """How many clusters that were to be removed were not."""
        return min(TESTED, len(self.several)) - len(self.joints)

    def to_json(self) -> dict[str, Any]:
        stable = {
            way: {
                "counts": one.counts,
                "agreement": one.agreement.mean(axis=0),
                "by_chance": one.by_chance,
            }
            for way, one in self.stable.items()
        }
        return plain({
            "by": self.by,
            "clusters": [[head.to_json() for head in heads] for heads in self.clusters],
            "silent": [head.to_json() for head in self.silent],
            "tree": self.linked,
            "agreements": {f"{a}/{b}": value for (a, b), value in self.agreements.items()},
            "stability": stable,
            "again": self.again,
            "joint": [joint.to_json() for joint in self.joints],
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


def random_like(heads: HeadSet, pool: HeadSet, rng: np.random.Generator) -> HeadSet:
    """Return as many random heads of the same layers: others than these in layers that have as
    many, and any elsewhere."""
    found: list[Head] = []
    for layer in sorted({head.layer for head in heads}):
        n = sum(head.layer == layer for head in heads)
        of_layer = [head for head in pool if head.layer == layer]
        others = [head for head in of_layer if head not in heads]
        choice = others if len(others) >= n else of_layer
        found += [choice[i] for i in rng.permutation(len(choice))[:n]]
    return tuple(sorted(found))
