"""Parting heads into clusters, into as many as are found again when the prompts are resampled.

The tree is that of average linkage. It is cut into so many clusters that the clusterings of two
random halves of the prompts agree best, by the adjusted Rand index (Hubert and Arabie 1985; 1: the
same, 0: as much as chance). Where there are enough heads, each half sees a random part of them
only, and those that both see are compared (Ben-Hur et al. 2002): what comes from the weights, and
is the same in both halves, has to hold for other heads too.

That clusters are found again does not make them clusters: a tree parts a single cloud too, and in
the same way each time if the cloud stays the same. Whether heads of a cluster are nearer to each
other than to those of the next one is told by the silhouette (Rousseeuw 1987), beside that of
clouds made from its spectrum: points that lie along as many directions as far (those in which
likeness is positive), turned at random, which undoes which heads are together.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import ortho_group
from sklearn.metrics import adjusted_rand_score, silhouette_score

from ablation.evaluation import stop_if
from ablation.studies.likeness import ranked
from ablation.studies.statistics import parted
from models.types import FloatArray

COUNTS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
"""Numbers of clusters that are tried."""
HEADS_EACH = 3
"""Heads that a cluster has on average, at least: heads that are all alone agree by being so."""
N_DRAWS = 20
"""Pairs of halves."""
N_NULLS = 19
"""How often heads are shuffled, and clouds drawn: what beats all of them does so by chance once in
20 times."""
PART = 0.8
"""Of the heads that each half sees, from `ENOUGH` of them on."""
ENOUGH = 10

LikenessOf = Callable[[Sequence[int], FloatArray], FloatArray]
"""(indices of prompts, indices of heads) -> [n, n] in [0, 1], how alike these heads are."""


@dataclass(frozen=True, slots=True, eq=False)
class Stability:
    """How well clusterings of halves agree, by the number of clusters."""

    counts: tuple[int, ...]
    agreement: FloatArray
    """float64 [n_draws, n_counts], adjusted Rand index."""
    chance: FloatArray
    """float64 [n_nulls, n_counts], mean over halves, one half's heads shuffled."""

    @property
    def best(self) -> int:
        """The index of the number of clusters at which halves agree most."""
        return int(np.argmax(self.agreement.mean(axis=0)))

    @property
    def count(self) -> int:
        """The number of clusters at which halves agree most."""
        return self.counts[self.best]

    @property
    def mean(self) -> float:
        return float(self.agreement[:, self.best].mean())

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the most that two halves agree."""
        own = self.agreement[:, self.best]
        return float(own.min()), float(own.max())

    @property
    def by_chance(self) -> float:
        """The most that shuffled halves agree at any number of clusters; NaN if none were made."""
        return float(self.chance.max()) if len(self.chance) else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Separation:
    """How far clusters lie apart."""

    silhouette: float
    """Mean over heads: (distance to the nearest other cluster - to the own) / the larger."""
    clouds: FloatArray
    """float64 [n_nulls], of single clouds made from its spectrum, cut into as many clusters."""

    @property
    def holds(self) -> bool:
        """Whether clusters lie farther apart than those of all clouds."""
        return bool(self.silhouette > self.clouds.max())


def tree(likeness: FloatArray, *, ordered: bool = False) -> FloatArray:
    """Return the tree of average linkage, in SciPy's form [n - 1, 4]; heights are 1 - likeness.

    Args:
        likeness: [n, n] in [0, 1].
        ordered: let neighbouring leaves be as alike as the tree allows, for a drawing; slow.
    """
    condensed = squareform(_distances(likeness), checks=False)
    found: FloatArray = linkage(condensed, "average", optimal_ordering=ordered)
    return found


def cut(linked: FloatArray, n: int) -> FloatArray:
    """Return the cluster of each head, int [n_heads], of a tree cut into at most `n`."""
    found: FloatArray = fcluster(linked, n, "maxclust")
    return found


def agreement_of(first: FloatArray, second: FloatArray) -> float:
    """Return the adjusted Rand index of two clusterings of the same heads; 0 where one of them
    does not part the heads at all."""
    if min(len(np.unique(first)), len(np.unique(second))) < 2:
        return 0.0
    return float(adjusted_rand_score(first, second))


def stability(
    likeness_of: LikenessOf,
    n_heads: int,
    templates: Sequence[str],
    seed: int,
    n_draws: int = N_DRAWS,
    n_nulls: int = N_NULLS,
    cancel: threading.Event | None = None,
) -> Stability:
    """Return how well clusterings of halves of the prompts agree.

    Args:
        n_heads: at least 3, so that there is something to part.
        templates: of each prompt; no template is in both halves where there are several.

    Raises:
        Cancelled: the work was cancelled.
    """
    counts = tuple(count for count in COUNTS if count <= max(2, n_heads // HEADS_EACH))
    rng, shuffling = (np.random.default_rng([seed, i]) for i in range(2))
    agreement = np.zeros((n_draws, len(counts)))
    chance = np.zeros((n_nulls, len(counts)))
    for draw in range(n_draws):
        stop_if(cancel)
        sides = []
        for chosen in parted(list(templates), seed + draw):
            heads = _seen(n_heads, rng)
            sides.append((heads, tree(likeness_of(chosen, heads))))
        (heads, one), (others, other) = sides
        both, at_one, at_other = np.intersect1d(heads, others, return_indices=True)
        shuffles = [shuffling.permutation(len(both)) for _ in range(n_nulls)]
        for i, count in enumerate(counts):
            first, second = cut(one, count)[at_one], cut(other, count)[at_other]
            agreement[draw, i] = agreement_of(first, second)
            chance[:, i] += [agreement_of(first, second[shuffled]) for shuffled in shuffles]
    return Stability(counts, agreement, chance / n_draws)


def separation(
    likeness: FloatArray, labels: FloatArray, seed: int, cancel: threading.Event | None = None
) -> Separation | None:
    """Return how far clusters lie apart, beside single clouds; None where there is one, or every
    head is its own.

    Args:
        likeness: [n_heads, n_heads], ranks in [0, 1].
        labels: int [n_heads].

    Raises:
        Cancelled: the work was cancelled.
    """
    n = len(np.unique(labels))
    if not 2 <= n < len(labels):
        return None
    rng = np.random.default_rng(seed)
    clouds = []
    for _ in range(N_NULLS):
        stop_if(cancel)
        cloud = _turned(likeness, rng)
        parts = cut(tree(cloud), n)
        clouds.append(_silhouette(cloud, parts) if len(np.unique(parts)) > 1 else -1.0)
    return Separation(_silhouette(likeness, labels), np.array(clouds))


def _turned(likeness: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return how alike heads of a single cloud are that is made from the spectrum of this likeness
    and turned at random; ranked like it."""
    about_zero = (likeness + likeness.T) / 2 - 0.5
    np.fill_diagonal(about_zero, 0.5)
    spectrum = np.sqrt(np.linalg.eigvalsh(about_zero).clip(0))
    points = ortho_group.rvs(len(likeness), random_state=rng) * spectrum
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return np.nan_to_num(ranked(points @ points.T))


def _silhouette(likeness: FloatArray, labels: FloatArray) -> float:
    return float(silhouette_score(_distances(likeness), labels, metric="precomputed"))


def _distances(likeness: FloatArray) -> FloatArray:
    apart: FloatArray = 1 - (likeness + likeness.T) / 2
    np.fill_diagonal(apart, 0)
    return apart


def _seen(n_heads: int, rng: np.random.Generator) -> FloatArray:
    """Return the heads that a half sees, in order."""
    if n_heads < ENOUGH:
        return np.arange(n_heads)
    return np.sort(rng.choice(n_heads, round(PART * n_heads), replace=False))
