"""The edges of a model's computation: which part's output goes into which part's input.

Sources add to the residual stream: the embedding, every head, every MLP. Targets read it: the
query input of each head, the key and the value input of each key-value head, each MLP, and the
logits. Every source in front of a target feeds it. Plain data, no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from models.types import Component

INPUTS = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Target:
    """What reads the residual stream."""

    component: Component
    """A head, "kv" (a key-value head that several heads share), an MLP, or the logits."""
    input: str | None = None
    """Of attention: "q", "k" or "v"."""

    def __str__(self) -> str:
        return f"{self.component}.{self.input}" if self.input else str(self.component)


@dataclass(frozen=True, slots=True)
class Edge:
    """One part's contribution to another's input."""

    source: Component
    target: Target

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer has, and how its MLP stands to its attention."""

    n_heads: int
    n_kv_heads: int
    parallel: bool
    """Whether the MLP reads the stream in front of the attention, not behind it."""

    @property
    def n_inputs(self) -> int:
        """How many inputs its attention has: queries, keys, values."""
        return self.n_heads + 2 * self.n_kv_heads

    @property
    def grouped(self) -> bool:
        """Whether several heads share a key and a value."""
        return self.n_kv_heads < self.n_heads


@dataclass(frozen=True, slots=True, eq=False)
class EdgeGraph:
    """All edges of a model. Arrays of edges are [n_targets, n_sources].

    Sources stand in the order in which they are computed (the embedding; of each layer its heads,
    then its MLP), targets too (of each layer queries, keys, values, then the MLP; last the
    logits), so that the sources of a target are the first so many.
    """

    layers: tuple[LayerShape, ...]
    sources: tuple[Component, ...] = field(init=False)
    targets: tuple[Target, ...] = field(init=False)
    n_upstream: tuple[int, ...] = field(init=False)
    """How many sources feed each target: always the first ones."""

    def __post_init__(self) -> None:
        sources, targets, n_upstream = [Component("embed")], list[Target](), list[int]()
        for layer, shape in enumerate(self.layers):
            before = len(sources)
            targets += _attention_targets(layer, shape)
            n_upstream += [before] * shape.n_inputs
            sources += [Component("head", layer, head) for head in range(shape.n_heads)]
            targets.append(Target(Component("mlp", layer)))
            n_upstream.append(before if shape.parallel else len(sources))
            sources.append(Component("mlp", layer))
        targets.append(Target(Component("logits")))
        n_upstream.append(len(sources))
        object.__setattr__(self, "sources", tuple(sources))
        object.__setattr__(self, "targets", tuple(targets))
        object.__setattr__(self, "n_upstream", tuple(n_upstream))

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def n_edges(self) -> int:
        return sum(self.n_upstream)

    @property
    def grouped(self) -> bool:
        """Whether somewhere several heads share a key and a value."""
        return any(layer.grouped for layer in self.layers)

    @property
    def possible(self) -> np.ndarray:
        """Which edges there are, bool [n_targets, n_sources]."""
        return np.arange(len(self.sources)) < np.array(self.n_upstream)[:, None]

    def first_source(self, layer: int) -> int:
        """Return the index of a layer's first head among the sources."""
        return 1 + sum(shape.n_heads + 1 for shape in self.layers[:layer])

    def first_target(self, layer: int) -> int:
        """Return the index of a layer's first query among the targets."""
        return sum(shape.n_inputs + 1 for shape in self.layers[:layer])

    def heads_of(self, target: Target) -> tuple[Component, ...]:
        """Return the heads that an attention input belongs to; several for a shared one."""
        at = target.component
        if at.kind == "head":
            return (at,)
        if at.kind != "kv":
            return ()
        shape = self.layers[at.layer]
        size = shape.n_heads // shape.n_kv_heads
        first = at.head * size
        return tuple(Component("head", at.layer, head) for head in range(first, first + size))

    def inputs_of(self, source: Component) -> tuple[int, ...]:
        """Return the indices of the targets that a source's output is made from."""
        if source.kind == "embed":
            return ()
        shape, first = self.layers[source.layer], self.first_target(source.layer)
        if source.kind == "mlp":
            return (first + shape.n_inputs,)
        group = source.head // (shape.n_heads // shape.n_kv_heads)
        keys = first + shape.n_heads
        return first + source.head, keys + group, keys + shape.n_kv_heads + group

    def edges(self, kept: np.ndarray) -> Iterator[tuple[int, int, Edge]]:
        """Yield (target index, source index, edge) of the kept ones, in order."""
        for target, source in np.argwhere(kept & self.possible):
            edge = Edge(self.sources[source], self.targets[target])
            yield int(target), int(source), edge


def _attention_targets(layer: int, shape: LayerShape) -> list[Target]:
    shared = "kv" if shape.grouped else "head"
    queries = [Target(Component("head", layer, head), "q") for head in range(shape.n_heads)]
    pairs = [
        Target(Component(shared, layer, head), name)
        for name in ("k", "v")
        for head in range(shape.n_kv_heads)
    ]
    return queries + pairs
