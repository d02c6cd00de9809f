"""What the discovery of circuits asks and finds: plain data, no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from models.edge_graph import EdgeGraph
from models.types import FloatArray, Head

SCHEMA = 1
"""Of the JSON of a circuit; raised when what stands is renamed or changes its meaning."""


Repair = tuple[str, str, float]
"""(ablated head, another part, the change of what that one adds directly to the answer's logit,
less the distractor's, mean over the pairs)."""


@dataclass(frozen=True, slots=True)
class PromptPair:
    """A clean prompt and a corrupted one of as many tokens, and what is expected after them."""

    clean: str
    corrupt: str
    answer: str
    """One token, as text (with its space): what the clean prompt leads to."""
    distractor: str = ""
    """One token: what it is weighed against, by a logit difference; empty if there is none."""
    template: str = field(default="", compare=False)
    """What it was made from, of a task set: pairs of one template differ in words alone."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a circuit was asked with, beside its pairs: for what is said of it, and for files."""

    source: str = ""
    """"prompt", "task" or "file"; empty where nobody said."""
    name: str = ""
    """Of the task set or of the file."""
    seed: int | None = None
    """Of the task set."""
    steps: int | None = None
    """Of integrated gradients; None where the method takes none."""
    held_out: tuple[PromptPair, ...] = ()
    """Pairs that the circuit was measured on in the end."""


@dataclass(frozen=True, slots=True)
class MetricValues:
    """What a metric is, mean over the pairs."""

    clean: float
    corrupt: float
    """With no edge kept: on the corrupted prompt, or what the baseline leaves."""
    circuit: float

    @property
    def faithfulness(self) -> float:
        """(circuit - corrupt) / (clean - corrupt); not clipped."""
        return (self.circuit - self.corrupt) / (self.clean - self.corrupt)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """How faithful the best so many edges are."""

    n_edges: int
    faithfulness: float
    random: float | None = None
    """Mean over random sets of as many edges; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class HeadRole:
    """A role that a head passed a test of."""

    head: Head
    role: str
    test: str
    """How it was tested, in a few words."""
    score: float


@dataclass(frozen=True, slots=True)
class LeastDrop:
    """The edge of a circuit whose loss costs least, among those tried."""

    edge: str
    drop: float
    """Of faithfulness; negative where it gets better without."""
    n_tried: int
    """How many edges were taken away, one by one: those whose loss seemed to cost least."""


@dataclass(frozen=True, slots=True, eq=False)
class EdgesByPosition:
    """Where along the prompt the edges of a circuit carry what they carry."""

    tokens: tuple[str, ...]
    """Of the first pair's clean prompt; the other pairs are as long."""
    edges: np.ndarray
    """int64 [n_edges, 2]: (target, source)."""
    scores: FloatArray
    """float32 [n_edges, n_positions]: what an edge adds to the metric at each position, to first
    order; mean over the pairs."""
    attention: Mapping[Head, FloatArray]
    """Head of the circuit -> float32 [n_query, n_key]: its weights on the clean prompts, mean over
    the pairs."""

    def rows(self, graph: EdgeGraph) -> list[dict[str, Any]]:
        """Return {from, to, input, position, score} of every edge at every position where it adds
        anything, strongest first."""
        places = np.argwhere(self.scores != 0)
        order = np.argsort(-np.abs(self.scores[tuple(places.T)]), kind="stable")
        found = []
        for index, position in places[order].tolist():
            target, source = self.edges[index].tolist()
            found.append(
                {
                    "from": str(graph.sources[source]),
                    "to": str(graph.targets[target].component),
                    "input": graph.targets[target].input,
                    "position": position,
                    "score": float(self.scores[index, position]),
                }
            )
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Circuit:
    """The edges that carry a prediction, and the proof that they do."""

    model: str
    pairs: tuple[PromptPair, ...]
    tokens: tuple[tuple[str, ...], tuple[str, ...]]
    """The labels of the first pair's tokens: clean, corrupted."""
    method: str
    metric: str
    baseline: str
    graph: EdgeGraph
    scores: FloatArray
    """float32 [n_targets, n_sources]: what keeping each edge adds to the metric; NaN where it was
    not measured."""
    kept: np.ndarray
    """bool [n_targets, n_sources]: the circuit."""
    values: MetricValues
    asked: float
    """The faithfulness that the circuit was to have at least."""
    curve: tuple[CurvePoint, ...] = ()
    """By number of edges."""
    cpr: float | None = None
    """Area under faithfulness by share of edges (MIB, arXiv 2504.13151)."""
    cmd: float | None = None
    """Area between that and 1."""
    completeness: float | None = None
    """Faithfulness of all edges but the circuit's: what is left without it."""
    least_drop: LeastDrop | None = None
    """Minimality: the edge whose loss costs least, among the weakest ones."""
    held_out: float | None = None
    """The circuit's faithfulness on pairs that it was not found on."""
    random: float | None = None
    """The faithfulness of as many random edges as the circuit has, mean over `n_random` draws."""
    n_random: int = 0
    notes: tuple[str, ...] = ()
    """What could not be measured, in sentences."""
    roles: tuple[HeadRole, ...] = ()
    repairs: tuple[Repair, ...] = ()
    """Self-repair, the largest changes first."""
    n_runs: int = 0
    """Exact runs with edges patched, over all pairs."""
    seconds: float = 0.0
    stopped: str = "complete"
    """"complete"; "cancelled" when not everything was measured."""
    by_position: EdgesByPosition | None = None
    """None where that was not asked for."""
    origin: Origin = Origin()

    @property
    def faithfulness(self) -> float:
        return self.values.faithfulness

    @property
    def reached(self) -> bool:
        """Whether it is as faithful as was asked."""
        return self.faithfulness >= self.asked

    @property
    def n_edges(self) -> int:
        return int(self.kept.sum())

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads whose output is used, in order."""
        used = np.any(self.kept, axis=0).tolist()
        return tuple(
            Head(source.layer, source.head)
            for source, is_used in zip(self.graph.sources, used, strict=True)
            if is_used and source.kind == "head"
        )

    def edge_rows(self) -> list[dict[str, Any]]:
        """Return the circuit's edges as {from, to, input, score}, strongest first."""
        rows = [
            {
                "from": str(edge.source),
                "to": str(edge.target.component),
                "input": edge.target.input,
                "score": float(self.scores[target, source]),
            }
            for target, source, edge in self.graph.edges(self.kept)
        ]
        return sorted(rows, key=lambda row: -abs(row["score"]))

    def to_frame(self) -> pd.DataFrame:
        """Return one row an edge, strongest first: `from`, `to`, `input`, `score`."""
        return pd.DataFrame(self.edge_rows(), columns=["from", "to", "input", "score"])

    def to_json(self) -> dict[str, Any]:
        first = self.pairs[0]
        return {
            "schema": SCHEMA,
            "model": self.model,
            "prompt": first.clean,
            "corrupt": first.corrupt,
            "tokens": list(self.tokens[0]),
            "answer": first.answer,
            "distractor": first.distractor,
            "n_pairs": len(self.pairs),
            "pairs": [_pair_json(pair) for pair in self.pairs],
            "source": self.origin.source or None,
            "task": self.origin.name if self.origin.source == "task" else None,
            "file": self.origin.name if self.origin.source == "file" else None,
            "seed": self.origin.seed,
            "held_out_pairs": [_pair_json(pair) for pair in self.origin.held_out],
            "steps": self.origin.steps,
            "method": self.method,
            "metric": self.metric,
            "baseline": self.baseline,
            "values": {
                "clean": self.values.clean,
                "corrupt": self.values.corrupt,
                "circuit": self.values.circuit,
            },
            "faithfulness": self.faithfulness,
            "asked": self.asked,
            "reached": self.reached,
            "edges": self.edge_rows(),
            "n_edges": self.n_edges,
            "n_edges_total": self.graph.n_edges,
            "key_value_groups": self.graph.layers[0].n_kv_heads if self.graph.grouped else None,
            "curve": [
                {"n_edges": p.n_edges, "faithfulness": p.faithfulness, "random": p.random}
                for p in self.curve
            ],
            "cpr": self.cpr,
            "cmd": self.cmd,
            "completeness": self.completeness,
            "least_drop": None if self.least_drop is None else asdict(self.least_drop),
            "held_out": self.held_out,
            "random": self.random,
            "n_random": self.n_random,
            "notes": list(self.notes),
            "roles": [
                {"head": [r.head.layer, r.head.head], "role": r.role, "test": r.test,
                 "score": r.score}
                for r in self.roles
            ],
            "repairs": [
                {"ablated": ablated, "head": head, "change": change}
                for ablated, head, change in self.repairs
            ],
            "by_position": None if self.by_position is None else {
                "tokens": list(self.by_position.tokens),
                "edges": self.by_position.rows(self.graph),
            },
            "n_runs": self.n_runs,
            "seconds": self.seconds,
            "stopped": self.stopped,
        }  # fmt: skip


def _pair_json(pair: PromptPair) -> dict[str, str]:
    return {
        "clean": pair.clean,
        "corrupt": pair.corrupt,
        "answer": pair.answer,
        "distractor": pair.distractor,
    }
