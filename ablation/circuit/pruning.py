"""From scores of edges to the smallest circuit that is as faithful as asked.

Edges join the circuit from the logits down, the largest |score| among those whose end is used
already first (as Hanna et al., arXiv 2403.17806, section 3.2), so that every set of the first so
many hangs together. How many are needed is found by bisection over exact runs.
"""

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from models.edge_graph import EdgeGraph

Measure = Callable[[np.ndarray], float]
"""Returns the faithfulness of a set of edges, exactly."""

Estimate = Callable[[np.ndarray], np.ndarray]
"""Returns by how much faithfulness falls without each edge of a set, to first order, [n_targets,
n_sources]."""

LAST_TRIED = 8
"""When so many edges in turn cannot be missed, no more are dropped."""


def greedy_order(graph: EdgeGraph, scores: np.ndarray) -> np.ndarray:
    """Return all edges that can be reached from the logits, in the order in which they join.

    Args:
        scores: [n_targets, n_sources].

    Returns:
        int64 [n_edges, 2]: (target, source).
    """
    used_targets, used_sources = set[int](), set[int]()
    waiting: list[tuple[float, int, int]] = []

    def open_target(target: int) -> None:
        if target in used_targets:
            return
        used_targets.add(target)
        for source in range(graph.n_upstream[target]):
            heapq.heappush(waiting, (-abs(float(scores[target, source])), target, source))

    order = []
    open_target(len(graph.targets) - 1)
    while waiting:
        _, target, source = heapq.heappop(waiting)
        order.append((target, source))
        if source not in used_sources:
            used_sources.add(source)
            for below in graph.inputs_of(graph.sources[source]):
                open_target(below)
    return np.array(order, dtype=np.int64)


def first_edges(graph: EdgeGraph, order: np.ndarray, count: int) -> np.ndarray:
    """Return the first so many edges as bool [n_targets, n_sources]."""
    kept = np.zeros((len(graph.targets), len(graph.sources)), dtype=bool)
    chosen = order[:count]
    kept[chosen[:, 0], chosen[:, 1]] = True
    return kept


def smallest_count(measure: Measure, make: Callable[[int], np.ndarray], low: int, high: int,
                   asked: float) -> int:  # fmt: skip
    """Return by bisection a number of edges that is as faithful as asked, `high` if none is.

    Args:
        make: number -> edges.
        low: a number that is not faithful enough; high: one that is.
    """
    while high - low > max(1, low // 100):  # to the percent, which the last pass betters
        middle = int(np.sqrt(max(low, 1) * high)) if high > 4 * max(low, 1) else (low + high) // 2
        middle = min(max(middle, low + 1), high - 1)
        if measure(make(middle)) >= asked:
            high = middle
        else:
            low = middle
    return high


def without_idle(graph: EdgeGraph, kept: np.ndarray, needs_inputs: bool) -> np.ndarray:
    """Return the edges without those that carry nothing to the logits.

    Args:
        needs_inputs: whether a source without any kept input puts out the reference, so that its
            edges change nothing (so with a corrupted prompt as reference).
    """
    kept = kept.copy()
    while True:
        before = int(kept.sum())
        for source in reversed(range(len(graph.sources))):
            inputs = list(graph.inputs_of(graph.sources[source]))
            if not inputs:
                continue
            if needs_inputs and not kept[inputs].any():
                kept[:, source] = False
        _drop_unread(graph, kept)
        if int(kept.sum()) == before:
            return kept


def _drop_unread(graph: EdgeGraph, kept: np.ndarray) -> None:
    """Take away edges into parts whose output nothing reads; later parts first."""
    readers: dict[int, list[int]] = {}
    for source, component in enumerate(graph.sources):
        for target in graph.inputs_of(component):
            readers.setdefault(target, []).append(source)
    for target in sorted(readers, reverse=True):
        if not any(kept[:, source].any() for source in readers[target]):
            kept[target] = False


def drop_unneeded(
    measure: Measure,
    estimate: Estimate,
    kept: np.ndarray,
    asked: float,
    most_runs: int,
    tidy: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Drop edges while the rest is as faithful as asked.

    Those go first whose loss is estimated to cost least in the run of this very circuit: as many at
    a time as may be afforded by the estimate, fewer if the exact run says no. It ends when none of
    the `LAST_TRIED` that seem to cost least can be taken away by itself.

    Args:
        most_runs: exact runs that may be spent.
        tidy: takes edges away that carry nothing.
    """
    value, runs = measure(kept), 0
    while value >= asked and runs < most_runs:
        costs = estimate(kept)
        edges = sorted(np.argwhere(kept).tolist(), key=lambda edge: costs[edge[0], edge[1]])
        spent = np.cumsum([max(0.0, costs[target, source]) for target, source in edges])
        size = max(1, min(int((spent <= value - asked).sum()), len(edges) - 1))
        first, fewer = 0, kept
        while runs < most_runs and first < min(LAST_TRIED, len(edges)):
            fewer = kept.copy()
            fewer[tuple(np.array(edges[first : first + size]).T)] = False
            fewer = tidy(fewer)
            value, runs = measure(fewer), runs + 1
            if value >= asked:
                break
            size, first = (size // 2, first) if size > 1 else (1, first + 1)
        if value < asked:
            return kept
        kept = fewer
    return kept


def random_order(graph: EdgeGraph, seed: int) -> np.ndarray:
    """Return edges in the order of `greedy_order` for random scores."""
    shape = (len(graph.targets), len(graph.sources))
    return greedy_order(graph, np.random.default_rng(seed).random(shape))


def counts_between(n_edges: int, shares: Sequence[float]) -> list[int]:
    """Return numbers of edges at given shares of all, each once, at least 1."""
    return sorted({max(1, round(share * n_edges)) for share in shares})
