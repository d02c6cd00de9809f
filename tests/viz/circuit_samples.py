"""Circuits made by hand, and by chance, that pictures are drawn from."""

import numpy as np

from ablation.circuit.types import Circuit, CurvePoint, HeadRole, MetricValues, PromptPair
from models.edge_graph import EdgeGraph, LayerShape
from models.types import Head

PAIR = PromptPair("When Mary and John", "When Anna and John", " Mary", " John")


def graph(n_layers: int = 2, n_heads: int = 4, n_kv_heads: int = 4) -> EdgeGraph:
    return EdgeGraph((LayerShape(n_heads, n_kv_heads, False),) * n_layers)


def circuit_of(
    of: EdgeGraph, kept: np.ndarray, scores: np.ndarray, circuit_value: float = 2.8, **more: object
) -> Circuit:
    """A circuit of these edges; faithfulness 0.9 unless another value is given (1 to 3)."""
    tokens = (("When", "·Mary", "·and", "·John"), ("When", "·Anna", "·and", "·John"))
    values = MetricValues(3.0, 1.0, circuit_value)
    given = {
        "curve": (CurvePoint(1, -0.2, -0.01), CurvePoint(10, 0.5, 0.02), CurvePoint(100, 1.1, 0.4)),
        "n_runs": 40,
        "seconds": 12.3,
        **more,
    }
    return Circuit(
        "tiny", (PAIR,), tokens, "eap-ig", "logit_diff", "resample", of,
        scores.astype(np.float32), kept, values, 0.85, **given,
    )  # fmt: skip


def by_chance(of: EdgeGraph, n_edges: int, seed: int = 0, **more: object) -> Circuit:
    """So many edges, grown from the logits downward as a pruned circuit is, with scores that fall
    off as real ones do."""
    rng = np.random.default_rng(seed)
    scores = 0.1 * rng.standard_normal(of.possible.shape) * rng.exponential(1, of.possible.shape)
    # Parts that matter much matter to many.
    scores *= rng.exponential(1, len(of.sources)) ** 2
    scores[:, 0] *= 3
    scores[~of.possible] = np.nan
    kept, reached = np.zeros_like(of.possible), np.zeros(len(of.targets), bool)
    reached[-1] = True
    for _ in range(n_edges):
        open_edges = np.where(of.possible & ~kept & reached[:, None], np.abs(scores), -1)
        target, source = np.unravel_index(open_edges.argmax(), kept.shape)
        kept[target, source] = True
        reached[list(of.inputs_of(of.sources[source]))] = True
    return circuit_of(of, kept, scores, **more)


def induction() -> Circuit:
    """Embedding to the query of L0H1, that to the key of L1H2, that to MLP1, that to the logits."""
    of = graph()
    scores = np.where(of.possible, 0.0, np.nan)
    kept = np.zeros_like(of.possible)
    names = {str(target): i for i, target in enumerate(of.targets)}
    sources = {str(source): i for i, source in enumerate(of.sources)}
    for target, source, score in (
        ("L0H1.q", "embed", 0.25),
        ("L1H2.k", "L0H1", 1.0),
        ("MLP1", "L1H2", -0.5),
        ("logits", "MLP1", 0.25),
    ):
        kept[names[target], sources[source]] = True
        scores[names[target], sources[source]] = score
    role = HeadRole(Head(0, 1), "previous token", "random tokens twice", 0.97)
    return circuit_of(of, kept, scores, roles=(role,), repairs=(("L0H1", "L1H0", 0.3),))
