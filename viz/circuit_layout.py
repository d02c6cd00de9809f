"""Where the parts of a circuit stand in its picture, and how its edges run between them.

Layers go upward, the embedding below them, the logits above; heads stand across by their index, an
MLP at the right of its layer, a little higher where it reads what the heads wrote. Key-value heads
that several heads share are bars under those heads. Only what the circuit uses is there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ablation.circuit.types import Circuit
from models.edge_graph import Edge, EdgeGraph, Target
from models.types import Component, FloatArray, Head

Point = tuple[float, float]

MARGIN, LEGEND, ROW_NAMES = 10, 24, 34
"""px: around everything, of the legend at the bottom, of the names of layers at the left."""
WIDEST_PITCH, TALLEST_PART, WIDEST_PART = 64, 22, 62  # px
NAMED_BARS_FROM, NAMED_BAR = 40, 11
"""px from row to row from which on bars have room for their names, and their height then."""
MLP_ROOM, MLP_PLACE = 1.7, 0.7
"""In columns: the room of the MLPs, where their middle is in it. Edges from one MLP to another go
by on both sides."""
MOST_INDEXED_HEADS = 16
"""Up to so many heads a layer every index has its column; beyond, only those in use."""
MOST_LINES = 600
"""Of a larger circuit so many of the strongest edges are drawn: more would be a smear."""
ROUGHLY_STRAIGHT = 1.6
"""An edge that spans fewer rows than this does not go around anything."""
_PORTS: Mapping[str | None, float] = {"q": -0.3, "k": 0.0, "v": 0.3, None: 0.0}
_SHARED_PORTS: Mapping[str | None, float] = {"k": -0.25, "v": 0.25}
"""Input -> where its edges enter, in widths of the part from its middle."""


@dataclass(frozen=True, slots=True)
class Part:
    """A node of the picture: a part of the model, placed. Lengths in px, y downward."""

    component: Component
    x: float
    """Of its middle, as `y`."""
    y: float
    width: float
    height: float
    heads: tuple[Head, ...]
    """What a click on it chooses: the head; all heads that share a key-value head."""
    position: int | None = None
    """Of its token, where parts stand by token."""
    is_bar: bool = False
    """Whether it is where keys and values are read."""

    @property
    def name(self) -> str:
        """What tells it from all others."""
        return part_name(self.component, self.position, self.is_bar)


@dataclass(frozen=True, slots=True)
class Line:
    """An edge of the picture: two quadratic curves, which meet midway between their bends."""

    edge: Edge
    index: tuple[int, int]
    """(target, source), in the arrays of the circuit."""
    rank: int
    """1 for the strongest."""
    score: float
    """NaN where it was not measured."""
    strength: float
    """|score|, relative to the largest of the circuit; 0 where it was not measured."""
    share: float
    """|score|, of the sum of all of the circuit; 0 where it was not measured."""
    start: Point
    bends: tuple[Point, Point]
    end: Point
    position: int | None = None
    """Of the token at which it carries this, where parts stand by token."""

    @property
    def source(self) -> str:
        """The name of the part that it starts from."""
        return part_name(self.edge.source, self.position)

    @property
    def target(self) -> str:
        """The name of the part that it leads to."""
        is_bar = self.position is not None and self.edge.target.input in ("k", "v")
        return part_name(self.edge.target.component, self.position, is_bar)


@dataclass(frozen=True, slots=True)
class Look:
    """A head's attention from where it writes to where it reads keys and values."""

    head: Component
    query: int
    key: int
    weight: float
    source: str
    """The name of the part where it reads."""
    target: str
    """The name of the part where it writes."""
    start: Point
    bend: Point
    end: Point


@dataclass(frozen=True, slots=True)
class Layout:
    """A circuit's picture before it has colours."""

    width: float
    height: float
    pitch: float
    """px from one row to the next."""
    column: float
    """px from one head's index to the next."""
    rows: tuple[tuple[str, float], ...]
    """The name of each row and its y, lowest first."""
    parts: tuple[Part, ...]
    lines: tuple[Line, ...]
    """Strongest first."""
    largest: float
    """The largest |score|."""
    n_edges: int
    """Of the circuit; more than there are lines where it has more than `MOST_LINES`."""
    columns: tuple[tuple[str, float, float], ...] = ()
    """The token of each column, its middle and its width, where parts stand by token."""
    looks: tuple[Look, ...] = ()


def part_name(component: Component, position: int | None = None, is_bar: bool = False) -> str:
    """Return what tells a part of the picture from all others."""
    if position is None:
        return str(component)
    return f"{component}{' k, v' if is_bar else ''} at {position}"


def lay_out(circuit: Circuit, width: float = 900, height: float = 600) -> Layout:
    """Place what a circuit uses.

    Args:
        width: of the picture, in px.
        height: at most so many px; few rows need less.
    """
    chosen, sizes = _strongest(circuit)
    edges = [Edge(circuit.graph.sources[s], circuit.graph.targets[t]) for t, s in chosen]
    largest, total = float(sizes.max(initial=0.0)), float(sizes.sum())
    strengths = [float(sizes[index]) / (largest or 1.0) for index in chosen]
    grid = _Grid.of(circuit, edges, width, height)
    used = {part for edge in edges for part in (edge.source, edge.target.component)}
    parts = {part: _part(part, grid) for part in sorted(used)}
    lines = []
    for rank, (index, edge) in enumerate(zip(chosen, edges, strict=True), start=1):
        start, bends, end = _path(
            parts[edge.source], parts[edge.target.component], edge.target, grid, rank
        )
        lines.append(
            Line(
                edge,
                index,
                rank,
                float(circuit.scores[index]),
                strengths[rank - 1],
                float(sizes[index]) / (total or 1.0),
                start,
                bends,
                end,
            )
        )
    return Layout(
        width,
        grid.height,
        grid.pitch,
        grid.column,
        grid.named_rows(),
        tuple(parts.values()),
        tuple(lines),
        largest,
        circuit.n_edges,
    )


def _strongest(circuit: Circuit) -> tuple[list[tuple[int, int]], FloatArray]:
    """Return the edges to draw as (target, source), strongest first, and |score| of each edge of
    the circuit, [n_targets, n_sources]: 0 outside of it and where it was not measured."""
    sizes = np.where(circuit.kept, np.abs(np.nan_to_num(circuit.scores.astype(float))), 0.0)
    kept = np.argwhere(circuit.kept & circuit.graph.possible)
    order = np.argsort(-sizes[kept[:, 0], kept[:, 1]], kind="stable")
    return [(int(t), int(s)) for t, s in kept[order[:MOST_LINES]]], sizes


@dataclass(frozen=True, slots=True)
class _Grid:
    """The rows and columns on which parts stand."""

    graph: EdgeGraph
    layers: tuple[int, ...]
    columns: tuple[int, ...]
    """The heads' indices that have a column, from left to right."""
    has_embedding: bool
    has_logits: bool
    width: float
    pitch: float
    height: float

    @staticmethod
    def of(circuit: Circuit, edges: Sequence[Edge], width: float, height: float) -> "_Grid":
        used = {part for edge in edges for part in (edge.source, edge.target.component)}
        layers = tuple(sorted({part.layer for part in used if part.layer >= 0}))
        kinds = {part.kind for part in used}
        ends = ("embed" in kinds, "logits" in kinds)
        n_rows = max(1, len(layers) + sum(ends))
        around = 2 * MARGIN + LEGEND
        pitch = min(WIDEST_PITCH, (height - around) / n_rows)
        columns = _columns(circuit.graph, used)
        return _Grid(circuit.graph, layers, columns, *ends, width, pitch, around + pitch * n_rows)

    @property
    def column(self) -> float:
        return (self.width - 2 * MARGIN - ROW_NAMES) / (len(self.columns) + MLP_ROOM)

    @property
    def part_width(self) -> float:
        return min(0.76 * self.column, WIDEST_PART)

    @property
    def part_height(self) -> float:
        return min(TALLEST_PART, 0.5 * self.pitch)

    @property
    def bar_height(self) -> float:
        return NAMED_BAR if self.pitch >= NAMED_BARS_FROM else max(3.5, 0.12 * self.pitch)

    def x(self, index: int) -> float:
        """Return the middle of a head's column; of an index without one, that of the MLPs."""
        mlp = len(self.columns) + MLP_PLACE
        place = self.columns.index(index) + 0.5 if index in self.columns else mlp
        return MARGIN + ROW_NAMES + place * self.column

    def y(self, part: Component) -> float:
        if part.kind == "embed":
            row = 0
        elif part.kind == "logits":
            row = len(self.layers) + self.has_embedding
        else:
            row = self.layers.index(part.layer) + self.has_embedding
        middle = self.height - MARGIN - LEGEND - (row + 0.5) * self.pitch
        if part.kind == "kv":
            return middle + 0.5 * self.part_height + 0.6 * self.bar_height + 1
        if part.kind == "mlp" and not self.graph.layers[part.layer].parallel:
            return middle - 0.3 * self.pitch
        return middle

    def named_rows(self) -> tuple[tuple[str, float], ...]:
        return tuple((f"L{layer}", self.y(Component("head", layer, 0))) for layer in self.layers)


def _columns(graph: EdgeGraph, used: Iterable[Component]) -> tuple[int, ...]:
    most = max((shape.n_heads for shape in graph.layers), default=0)
    if most <= MOST_INDEXED_HEADS:
        return tuple(range(most))
    indices = {part.head for part in used if part.kind == "head"}
    for part in used:
        if part.kind == "kv":
            sharing = [head.head for head in graph.heads_of(Target(part, "k"))]
            indices |= set() if indices & set(sharing) else set(sharing[:1])
    return tuple(sorted(indices))


def _part(part: Component, grid: _Grid) -> Part:
    width, height, x = grid.part_width, grid.part_height, grid.x(part.head)
    sharing = grid.graph.heads_of(Target(part, "k"))
    heads = tuple(Head(head.layer, head.head) for head in sharing)
    if part.kind in ("embed", "logits"):
        left, right = MARGIN + ROW_NAMES, grid.width - MARGIN
        x, width = (left + right) / 2, right - left
    elif part.kind == "kv":
        places = [grid.x(head.head) for head in sharing if head.head in grid.columns]
        x, width = (places[0] + places[-1]) / 2, places[-1] - places[0] + width
        height = grid.bar_height
    is_bar = part.kind == "kv"
    return Part(part, x, grid.y(part), width, height, heads, is_bar=is_bar)


def _path(
    source: Part, target: Part, into: Target, grid: _Grid, rank: int
) -> tuple[Point, tuple[Point, Point], Point]:
    """Return start, bends and end of an edge: out at the top, in at the bottom, and on a long way
    between the columns rather than across the parts that stand in them."""
    ports = _SHARED_PORTS if target.component.kind == "kv" else _PORTS
    x1 = target.x + ports[into.input] * target.width
    # Neighbours in a gutter lie beside each other, not on each other.
    beside = grid.column * (0.5 + 0.045 * (rank % 5 - 2))
    x0 = source.x
    if target.component.kind == "logits":
        x1 = MARGIN + ROW_NAMES if source.component.kind == "embed" else x0 + beside
    if source.component.kind == "embed":
        x0 = x1 if target.component.kind == "logits" else x1 - beside
    y0, y1 = source.y - source.height / 2, target.y + target.height / 2
    rise = y0 - y1
    if rise < ROUGHLY_STRAIGHT * grid.pitch:
        return (x0, y0), ((x0, y0 - 0.35 * rise), (x1, y1 + 0.35 * rise)), (x1, y1)
    bend = min(0.3 * rise, 1.2 * grid.pitch)
    low, high = _gutters(x0, x1, beside * min(1.0, rise / (5 * grid.pitch)), rank)
    if source.component.kind == "embed":
        low = x0
    if target.component.kind == "logits":
        high = x1
    return (x0, y0), ((low, y0 - bend), (high, y1 + bend)), (x1, y1)


def _gutters(x0: float, x1: float, beside: float, rank: int) -> Point:
    """Return the x of both bends: in the gutters on the sides that face each other."""
    if abs(x1 - x0) < beside:
        side = beside if rank % 2 else -beside
        return x0 + 1.3 * side, x1 + 1.3 * side
    if abs(x1 - x0) < 2 * beside:
        return (x0 + x1) / 2, (x0 + x1) / 2
    side = beside if x1 > x0 else -beside
    return x0 + side, x1 - side
