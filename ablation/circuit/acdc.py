"""Automated circuit discovery (ACDC, Conmy et al., arXiv 2304.14997, algorithm 1).

From the logits down, every edge into a part that is used is taken away; if the metric then falls
by less than a threshold, or rises, for good. Exact, one run an edge; what comes first decides among
edges that could stand in for each other.
"""

from collections.abc import Callable

import numpy as np

from ablation.circuit.attribution import Report
from ablation.circuit.pruning import Measure, without_idle
from models.edge_graph import EdgeGraph

THRESHOLD = 0.01
"""Of the effect of the corruption: an edge that carries less is taken away."""

MOST_EDGES = 400
"""Of a model with more edges, the ones tried are the best so many by EAP-IG."""


def acdc(
    graph: EdgeGraph,
    measure: Measure,
    start: np.ndarray,
    threshold: float = THRESHOLD,
    report: Report | None = None,
    offer: Callable[[np.ndarray, float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Take away every edge that can be missed.

    Args:
        measure: the faithfulness of a set of edges.
        start: bool [n_targets, n_sources], the edges to begin with.
        offer: called with the edges left so far, and how faithful they are.

    Returns:
        The edges left, and float64 [n_targets, n_sources]: how far faithfulness fell when each was
        tried, NaN where it was not.
    """
    kept, drops = start.copy(), np.full(start.shape, np.nan)
    current, done, n_all = measure(kept), 0, int(start.sum())
    for target in reversed(range(len(graph.targets))):
        # Later sources first: what is near the target is the most direct path.
        for source in np.flatnonzero(kept[target])[::-1]:
            if not kept[target, source]:
                continue  # fell away with others
            fewer = kept.copy()
            fewer[target, source] = False
            value = measure(fewer)
            drops[target, source] = current - value
            if current - value < threshold:
                kept, current = without_idle(graph, fewer, needs_inputs=False), value
                if offer is not None:
                    offer(kept, current)
            done += 1
            if report is not None:
                report(done, n_all, f"ACDC: {done} of at most {n_all} edges tried")
    return kept, drops
