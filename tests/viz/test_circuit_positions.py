"""The picture of a circuit by token: what stands where, and what leads from column to column."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from circuit_samples import by_chance, graph, induction

from ablation.circuit.types import Circuit, EdgesByPosition
from models.types import Head
from viz.circuit import circuit_svg
from viz.circuit_layout import Layout
from viz.circuit_positions import MOST_PLACES, MOST_SHARE, lay_out_by_token
from viz.circuit_text import by_token_sentences


def placed(circuit: Circuit, scores: np.ndarray, looks: dict[Head, np.ndarray]) -> Circuit:
    tokens = tuple(f"t{position}" for position in range(scores.shape[1]))
    edges = np.argwhere(circuit.kept)
    found = EdgesByPosition(tokens, edges, scores.astype(np.float32), looks)
    return replace(circuit, by_position=found)


def layout_of(circuit: Circuit, *size: float) -> Layout:
    assert circuit.by_position is not None
    return lay_out_by_token(circuit, circuit.by_position, *size)


def wired() -> Circuit:
    """L0H1 is fed at 1 and read by L1H2 as a key at 1, which writes at 3 and looks at 1."""
    circuit = induction()
    scores = np.zeros((4, 4))
    for index, (target, _) in enumerate(np.argwhere(circuit.kept).tolist()):
        of = circuit.graph.targets[target]
        early = str(of.component) == "L0H1" or of.input == "k"
        scores[index, 1 if early else 3] = 1 + index
    weights = np.zeros((4, 4))
    weights[3] = [0.3, 0.6, 0.1, 0.0]
    return placed(circuit, scores, {Head(1, 2): weights, Head(0, 1): np.eye(4)})


def test_parts_stand_at_the_tokens_where_they_read_and_write() -> None:
    layout = layout_of(wired())
    columns = {token: (x - w / 2, x + w / 2) for token, x, w in layout.columns}
    assert list(columns) == ["t0", "t1", "t2", "t3"]
    for part in layout.parts:
        left, right = columns[f"t{part.position}"]
        assert left <= part.x - part.width / 2 < part.x + part.width / 2 <= right
    assert {part.name for part in layout.parts} == {
        "embed at 1", "L0H1 at 1", "L1H2 k, v at 1", "L1H2 at 3", "MLP1 at 3", "logits at 3",
    }  # fmt: skip
    for line in layout.lines:
        assert columns[f"t{line.position}"][0] <= line.start[0] <= columns[f"t{line.position}"][1]


def test_only_attention_leads_from_token_to_token() -> None:
    (look,) = layout_of(wired()).looks
    assert (str(look.head), look.query, look.key) == ("L1H2", 3, 1)
    assert look.weight == pytest.approx(0.6)
    assert (look.source, look.target) == ("L1H2 k, v at 1", "L1H2 at 3")
    svg = circuit_svg(wired(), by_token=True)
    assert "L1H2 looks from t3 (3) to t1 (1)" in svg
    assert "L0H1 → L1H2, key at t1 (1)" in svg
    # A circuit without scores by position is drawn by layer.
    assert circuit_svg(induction(), by_token=True) == circuit_svg(induction())


def test_places_that_add_next_to_nothing_are_left_out() -> None:
    circuit = wired()
    assert circuit.by_position is not None
    scores = circuit.by_position.scores + np.float32(1e-4)
    faint = placed(circuit, scores, {})
    assert np.count_nonzero(scores) == scores.size
    assert len(layout_of(faint).lines) == 4  # 4 + 3 + 2 of 10 are not 99 %
    assert "the 4 strongest of 16 places" in by_token_sentences(faint)[0]


@pytest.mark.parametrize("n_tokens", [6, 60])
def test_a_large_circuit_shows_its_strongest_places_without_overlap(n_tokens: int) -> None:
    circuit = by_chance(graph(12, 6, 2), 300)
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((circuit.n_edges, n_tokens)) ** 3
    weights = rng.dirichlet(np.ones(n_tokens), n_tokens)
    circuit = placed(circuit, scores, dict.fromkeys(circuit.heads, weights))
    layout = layout_of(circuit, 1000, 600)
    assert len(layout.lines) == MOST_PLACES
    sizes = np.sort(np.abs(scores).ravel())[::-1]
    assert layout.lines[-1].score == pytest.approx(sizes[MOST_PLACES - 1], rel=1e-5) or (
        -layout.lines[-1].score == pytest.approx(sizes[MOST_PLACES - 1], rel=1e-5)
    )
    # No two parts of a row overlap.
    by_row: dict[float, list[tuple[float, float]]] = {}
    for part in layout.parts:
        spans = by_row.setdefault(part.y, [])
        spans.append((part.x - part.width / 2, part.x + part.width / 2))
    for spans in by_row.values():
        spans.sort()
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(spans))
    share = sizes[:MOST_PLACES].sum() / sizes.sum()
    assert share < MOST_SHARE
    assert f"{100 * share:.2g} %" in by_token_sentences(circuit)[0]
