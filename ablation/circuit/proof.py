"""How good a circuit is: faithfulness against the number of edges, and what no number hides.

Faithfulness of a set of edges C is (m(C) - m(nothing)) / (m(everything) - m(nothing)); it is never
clipped. CPR is the area under it by the share of edges kept, CMD the area between it and 1 (MIB,
Mueller et al., arXiv 2504.13151, section 3.2), both by the trapezoid rule over the same shares.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ablation.circuit.pruning import Estimate, Measure
from ablation.circuit.types import CurvePoint, LeastDrop
from models.edge_graph import EdgeGraph

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of all edges: where the curve is measured (MIB's, with all edges at the end)."""

WEAKEST_TRIED, ALL_TRIED_UP_TO = 16, 64
"""For minimality: how many of the circuit's edges are taken away, one by one; of a circuit that has
no more than the latter, all."""


def area(points: Sequence[CurvePoint], n_edges: int, of: Callable[[float], float]) -> float:
    """Return the area under a function of faithfulness by the share of edges, from 0 to 1."""
    shares = np.array([0.0, *(point.n_edges / n_edges for point in points)])
    values = np.array([of(0.0), *(of(point.faithfulness) for point in points)])
    return float(np.trapezoid(values, shares))


def cpr(points: Sequence[CurvePoint], n_edges: int) -> float:
    """Return the circuit performance ratio."""
    return area(points, n_edges, lambda faithfulness: faithfulness)


def cmd(points: Sequence[CurvePoint], n_edges: int) -> float:
    """Return the circuit-model distance."""
    return area(points, n_edges, lambda faithfulness: abs(1 - faithfulness))


def least_drop(
    graph: EdgeGraph, measure: Measure, estimate: Estimate, kept: np.ndarray
) -> LeastDrop | None:
    """Take edges of a circuit away, one by one, and return the one missed least.

    Of a large circuit those are tried whose loss is estimated to cost least.
    """
    costs = estimate(kept)
    edges = sorted(graph.edges(kept), key=lambda e: costs[e[0], e[1]])
    whole = measure(kept)
    found: LeastDrop | None = None
    tried = edges if len(edges) <= ALL_TRIED_UP_TO else edges[:WEAKEST_TRIED]
    for target, source, edge in tried:
        fewer = kept.copy()
        fewer[target, source] = False
        drop = whole - measure(fewer)
        if found is None or drop < found.drop:
            found = LeastDrop(str(edge), drop, len(tried))
    return found
