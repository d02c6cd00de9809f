"""The order in which edges join a circuit, and how few are enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.circuit.proof import area, cmd, cpr
from ablation.circuit.pruning import (
    drop_unneeded,
    first_edges,
    greedy_order,
    random_order,
    smallest_count,
    without_idle,
)
from ablation.circuit.types import CurvePoint
from models.edge_graph import EdgeGraph, LayerShape

GROUPED = EdgeGraph((LayerShape(4, 2, parallel=False), LayerShape(4, 2, parallel=True)))
PLAIN = EdgeGraph((LayerShape(2, 2, parallel=False),) * 3)


@pytest.mark.parametrize("graph", [GROUPED, PLAIN])
@given(seed=st.integers(0, 50), count=st.integers(1, 60))
def test_the_first_edges_always_hang_together(graph: EdgeGraph, seed: int, count: int) -> None:
    order = random_order(graph, seed)
    kept = first_edges(graph, order, count)
    logits = len(graph.targets) - 1
    used = {logits}
    for target, source in order[:count]:
        assert target in used  # its end is used already
        used |= set(graph.inputs_of(graph.sources[source]))
    assert np.array_equal(without_idle(graph, kept, needs_inputs=False), kept)


def test_all_edges_join_in_the_end() -> None:
    order = random_order(GROUPED, 0)
    assert len(order) == GROUPED.n_edges
    assert np.array_equal(first_edges(GROUPED, order, len(order)), GROUPED.possible)


def test_the_strongest_open_edge_joins_first() -> None:
    scores = np.zeros((len(PLAIN.targets), len(PLAIN.sources)))
    scores[-1, 3] = -5.0  # the MLP of layer 0 into the logits
    scores[6, 0] = 9.0  # the embedding into that MLP; open only afterwards
    scores[-1, 0] = 1.0
    assert PLAIN.targets[6].component.kind == "mlp"
    assert greedy_order(PLAIN, scores)[:3].tolist() == [
        [len(PLAIN.targets) - 1, 3],
        [6, 0],
        [len(PLAIN.targets) - 1, 0],
    ]


def test_edges_that_carry_nothing_are_taken_away() -> None:
    kept = np.zeros_like(PLAIN.possible)
    kept[-1, 3] = True  # MLP0 -> logits, but nothing goes into MLP0
    kept[2, 0] = True  # embed -> a key of layer 0, which nothing reads
    assert not without_idle(PLAIN, kept, needs_inputs=True).any()
    left = without_idle(PLAIN, kept, needs_inputs=False)
    assert np.argwhere(left).tolist() == [[len(PLAIN.targets) - 1, 3]]


@given(needed=st.integers(1, 1000))
def test_bisection_finds_the_number_that_is_enough(needed: int) -> None:
    runs = []

    def measure(kept: np.ndarray) -> float:
        runs.append(int(kept[0]))
        return float(kept[0] >= needed)

    found = smallest_count(measure, lambda n: np.array([n]), 0, 1000, 0.5)
    assert needed <= found <= needed + max(1, needed // 99)
    assert len(runs) <= 14


def test_edges_that_are_not_needed_are_dropped() -> None:
    kept = np.zeros_like(PLAIN.possible)
    kept[-1, :6] = True
    scores = np.zeros(kept.shape)
    scores[-1, :6] = [0.1, 6, 0.2, 5, 0.3, 0.4]
    needed = {1, 3}

    def measure(tried: np.ndarray) -> float:
        return float(needed <= set(np.flatnonzero(tried[-1]).tolist()))

    left = drop_unneeded(measure, lambda _kept: scores, kept, 1.0, 50, lambda k: k)
    assert set(np.flatnonzero(left[-1]).tolist()) == needed
    # An estimate that is wrong throughout costs runs, and drops nothing that is needed.
    left = drop_unneeded(measure, lambda _kept: -scores, kept, 1.0, 50, lambda k: k)
    assert set(np.flatnonzero(left[-1]).tolist()) == needed
    # What is not faithful enough to begin with is left alone.
    assert drop_unneeded(measure, lambda _kept: scores, kept, 1.1, 50, lambda k: k) is kept


def test_areas_are_those_of_the_trapezoids() -> None:
    points = [CurvePoint(10, 0.5), CurvePoint(100, 1.2)]
    # From (0, 0) over (0.1, 0.5) to (1, 1.2).
    assert cpr(points, 100) == pytest.approx(0.1 * 0.25 + 0.9 * 0.85)
    # |1 - f|: 1, 0.5, 0.2.
    assert cmd(points, 100) == pytest.approx(0.1 * 0.75 + 0.9 * 0.35)
    assert area(points, 100, lambda _f: 2.0) == pytest.approx(2)
