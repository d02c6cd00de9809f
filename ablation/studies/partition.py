"""Parting heads into clusters, into as many as are found again when the prompts are resampled.

The tree is that of average linkage. It is cut into so many clusters that the clusterings of two
random halves of the prompts agree best, by the adjusted Rand index (Hubert and Arabie 1985; 1: the
same, 0: as much as chance). Where there are enough heads, each half sees a random part of them
only, and those that both see are compared (Ben-Hur et al. 2002): what comes from the weights, and
is the same in both halves, has to hold for other heads too.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from ablation.evaluation import stop_if
from models.types import FloatArray

COUNTS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
"""Numbers of clusters that are tried."""
HEADS_EACH = 3
"""Heads that a cluster has on average, at least: heads that are all alone agree by being so."""
N_DRAWS = 20
"""Pairs of halves."""
N_SHUFFLES = 19
"""How often heads are shuffled: what beats all of them does so by chance once in 20 times."""
PART = 0.8
"""Of the heads that each half sees, from `ENOUGH` of them on."""
ENOUGH = 20

LikenessOf = Callable[[Sequence[int], FloatArray], FloatArray]
"""(indices of prompts, indices of heads) -> [n, n] in [0, 1], how alike these heads are."""


@dataclass(frozen=True, slots=True, eq=False)
class Stability:
    """How well clusterings of halves agree, by the number of clusters."""

    counts: tuple[int, ...]
    agreement: FloatArray
    """float64 [n_draws, n_counts], adjusted Rand index."""
    chance: FloatArray
    """float64 [n_shuffles, n_counts], mean over halves, one half's heads shuffled."""

    @property
    def best(self) -> int:
        """The index of the number of clusters at which halves agree most."""
        return int(np.argmax(self.agreement.mean(axis=0)))

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

    @property
    def holds(self) -> bool:
        """Whether halves agree more than shuffled ones."""
        return self.mean > self.by_chance


def tree(likeness: FloatArray, *, ordered: bool = False) -> FloatArray:
    """Return the tree of average linkage, in SciPy's form [n - 1, 4]; heights are 1 - likeness.

    Args:
        likeness: [n, n] in [0, 1].
        ordered: let neighbouring leaves be as alike as the tree allows, for a drawing; slow.
    """
    apart = 1 - (likeness + likeness.T) / 2
    np.fill_diagonal(apart, 0)
    found: FloatArray = linkage(
        squareform(apart, checks=False), "average", optimal_ordering=ordered
    )
    return found


def cut(linked: FloatArray, n: int) -> FloatArray:
    """Return the cluster of each head, int [n_heads], of a tree cut into at most `n`."""
    found: FloatArray = fcluster(linked, n, "maxclust")
    return found


def agreement_of(first: FloatArray, second: FloatArray) -> float:
    """Return the adjusted Rand index of two clusterings of the same heads."""
    return float(adjusted_rand_score(first, second))


def stability(
    likeness_of: LikenessOf,
    n_heads: int,
    n_prompts: int,
    seed: int,
    n_shuffles: int = N_SHUFFLES,
    cancel: threading.Event | None = None,
) -> Stability:
    """Return how well clusterings of halves of the prompts agree.

    Args:
        n_heads: at least 3, so that there is something to part.
        n_prompts: at least 2.

    Raises:
        Cancelled: the work was cancelled.
    """
    counts = tuple(count for count in COUNTS if count <= max(2, n_heads // HEADS_EACH))
    rng = np.random.default_rng(seed)
    agreement = np.zeros((N_DRAWS, len(counts)))
    chance = np.zeros((n_shuffles, len(counts)))
    for draw in range(N_DRAWS):
        stop_if(cancel)
        prompts, half = rng.permutation(n_prompts), n_prompts // 2
        sides = []
        for chosen in (prompts[:half], prompts[half : 2 * half]):
            heads = _seen(n_heads, rng)
            sides.append((heads, tree(likeness_of(chosen.tolist(), heads))))
        (heads, one), (others, other) = sides
        both, at_one, at_other = np.intersect1d(heads, others, return_indices=True)
        shuffles = [rng.permutation(len(both)) for _ in range(n_shuffles)]
        for i, count in enumerate(counts):
            first, second = cut(one, count)[at_one], cut(other, count)[at_other]
            agreement[draw, i] = agreement_of(first, second)
            chance[:, i] += [agreement_of(first, second[shuffled]) for shuffled in shuffles]
    return Stability(counts, agreement, chance / N_DRAWS)


def _seen(n_heads: int, rng: np.random.Generator) -> FloatArray:
    """Return the heads that a half sees, in order."""
    if n_heads < ENOUGH:
        return np.arange(n_heads)
    return np.sort(rng.choice(n_heads, round(PART * n_heads), replace=False))
