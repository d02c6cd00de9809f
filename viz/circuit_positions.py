"""Where the parts of a circuit stand when its picture goes by token.

Tokens go from left to right, layers upward. A part stands in the column of the token at which it
reads and writes; an edge stays in its column, as it leads from and to the same position. Only
attention leads from column to column: from a bar, where a head reads keys and values, to where the
same head writes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ablation.circuit.types import Circuit, EdgesByPosition
from models.edge_graph import Edge, EdgeGraph, Target
from models.types import Component, FloatArray, Head
from viz.circuit_layout import (
    LEGEND,
    MARGIN,
    NAMED_BAR,
    ROUGHLY_STRAIGHT,
    ROW_NAMES,
    TALLEST_PART,
    WIDEST_PART,
    WIDEST_PITCH,
    Layout,
    Line,
    Look,
    Part,
    Point,
    part_name,
)

MOST_PLACES, MOST_SHARE = 300, 0.99
"""Drawn are the strongest (edge, position) that make this share of all |scores|, at most so many:
more would be a smear."""
LEAST_WEIGHT = 0.05
"""Attention below this is not drawn."""
TOKEN_ROOM = 18  # px: of the tokens' names, under the lowest row
LEAST_PITCH = 34  # px from row to row: the picture gets taller rather than tighter
ALL_COLUMNS_UP_TO = 24
"""Up to so many tokens each has its column; beyond, only those at which something is drawn."""
EMPTY_COLUMN, BESIDE = 0.7, 0.35
"""In slots: the width of a column without parts; what is left free at the side of each column."""

_Place = tuple[Component, int, bool]
"""(part, position, whether it is a bar)"""


def lay_out_by_token(
    circuit: Circuit, by_position: EdgesByPosition, width: float = 900, height: float = 600
) -> Layout:
    """Place what the circuit's strongest edges use, at the tokens where they use it.

    Args:
        width: of the picture, in px.
        height: about so many px; more where rows would lie too tight.
    """
    chosen = _strongest(by_position)
    sizes = np.abs(by_position.scores.astype(float))
    largest, total = float(sizes.max(initial=0.0)), float(sizes.sum())
    graph = circuit.graph
    edges = [
        (Edge(graph.sources[s], graph.targets[t]), (t, s), position)
        for (t, s), position in ((by_position.edges[i].tolist(), p) for i, p in chosen)
    ]
    strengths = [float(sizes[place]) / (largest or 1.0) for place in chosen]
    places = sorted({place(edge, at) for edge, _, at in edges for place in (_from, _into)})
    grid = _Grid.of(graph, places, len(by_position.tokens), width, height)
    parts = {place: grid.part(place) for place in places}
    lines = tuple(
        Line(
            edge,
            index,
            rank,
            float(by_position.scores[chosen[rank - 1]]),
            strengths[rank - 1],
            float(sizes[chosen[rank - 1]]) / (total or 1.0),
            *_path(parts[_from(edge, position)], parts[_into(edge, position)], edge, grid, rank),
            position,
        )
        for rank, (edge, index, position) in enumerate(edges, start=1)
    )
    return Layout(
        width,
        grid.height,
        grid.pitch,
        grid.slot,
        grid.named_rows(),
        tuple(parts.values()),
        lines,
        largest,
        int(np.count_nonzero(sizes)),
        tuple((by_position.tokens[p], *grid.column(p)) for p in grid.positions),
        tuple(_looks(graph, by_position.attention, parts)),
    )


def _strongest(by_position: EdgesByPosition) -> list[tuple[int, int]]:
    """Return the (edge, position) to draw, strongest first."""
    sizes = np.abs(by_position.scores)
    places = np.argwhere(sizes > 0)
    order = np.argsort(-sizes[tuple(places.T)], kind="stable")
    return [(int(edge), int(position)) for edge, position in places[order[: n_drawn(sizes)]]]


def n_drawn(sizes: FloatArray) -> int:
    """Return how many of the strongest places are drawn, from all |scores|."""
    strongest = np.sort(sizes.ravel())[::-1]
    so_far = np.cumsum(strongest, dtype=float)
    enough = int(np.searchsorted(so_far, MOST_SHARE * so_far[-1])) + 1 if so_far.size else 0
    return min(enough, MOST_PLACES, int(np.count_nonzero(strongest)))


def _from(edge: Edge, position: int) -> _Place:
    return edge.source, position, False


def _into(edge: Edge, position: int) -> _Place:
    return edge.target.component, position, edge.target.input in ("k", "v")


@dataclass(frozen=True, slots=True)
class _Grid:
    """The rows, and the columns with the slots in which parts stand side by side."""

    graph: EdgeGraph
    layers: tuple[int, ...]
    has_embedding: bool
    positions: tuple[int, ...]
    starts: Mapping[int, float]
    """Position -> px at which its column starts."""
    ends: Mapping[int, float]
    slots: Mapping[_Place, int]
    slot: float
    """px."""
    width: float
    pitch: float
    height: float

    @staticmethod
    def of(
        graph: EdgeGraph, places: Sequence[_Place], n: int, width: float, height: float
    ) -> "_Grid":
        layers = tuple(sorted({part.layer for part, _, _ in places if part.layer >= 0}))
        kinds = {part.kind for part, _, _ in places}
        slots, needed = _slots(places)
        used = set(needed)
        positions = tuple(range(n)) if n <= ALL_COLUMNS_UP_TO else tuple(sorted(used))
        widths = [needed.get(p, EMPTY_COLUMN) + BESIDE for p in positions]
        slot = (width - 2 * MARGIN - ROW_NAMES) / max(sum(widths), 1.0)
        edges = MARGIN + ROW_NAMES + slot * np.cumsum([0.0, *widths])
        columns = dict(zip(positions, pairwise(edges.tolist()), strict=True))
        n_rows = max(1, len(layers) + len(kinds & {"embed", "logits"}))
        around = 2 * MARGIN + LEGEND + TOKEN_ROOM
        pitch = max(LEAST_PITCH, min(WIDEST_PITCH, (height - around) / n_rows))
        return _Grid(
            graph,
            layers,
            "embed" in kinds,
            positions,
            {p: start for p, (start, _) in columns.items()},
            {p: end for p, (_, end) in columns.items()},
            slots,
            slot,
            width,
            pitch,
            around + pitch * n_rows,
        )

    def column(self, position: int) -> tuple[float, float]:
        """Return the middle of a column and its width."""
        start, end = self.starts[position], self.ends[position]
        return (start + end) / 2, end - start

    @property
    def part_height(self) -> float:
        return min(TALLEST_PART, 0.5 * self.pitch)

    def y(self, part: Component, is_bar: bool = False) -> float:
        if part.kind == "embed":
            row = 0
        elif part.kind == "logits":
            row = len(self.layers) + self.has_embedding
        else:
            row = self.layers.index(part.layer) + self.has_embedding
        middle = self.height - MARGIN - LEGEND - TOKEN_ROOM - (row + 0.5) * self.pitch
        return middle + 0.5 * self.part_height + 0.6 * NAMED_BAR + 1 if is_bar else middle

    def part(self, place: _Place) -> Part:
        component, position, is_bar = place
        middle, column = self.column(position)
        width = min(0.86 * self.slot, WIDEST_PART)
        alike = [
            other for other in self.slots
            if other[1:] == place[1:] and _row(other[0]) == _row(component)
        ]  # fmt: skip
        x = middle + (self.slots[place] - (len(alike) - 1) / 2) * min(self.slot, width * 1.16)
        if component.kind in ("embed", "logits"):
            x, width = middle, min(column - 4, 2 * WIDEST_PART)
        sharing = self.graph.heads_of(Target(component, "k"))
        heads = tuple(Head(head.layer, head.head) for head in sharing)
        height = NAMED_BAR if is_bar else self.part_height
        y = self.y(component, is_bar)
        return Part(component, x, y, width, height, heads, position, is_bar)

    def named_rows(self) -> tuple[tuple[str, float], ...]:
        return tuple((f"L{layer}", self.y(Component("mlp", layer))) for layer in self.layers)


def _row(part: Component) -> tuple[str, int]:
    """Return what parts of one row have in common."""
    return (part.kind if part.layer < 0 else "", part.layer)


def _slots(places: Sequence[_Place]) -> tuple[dict[_Place, int], dict[int, float]]:
    """Return which place of its row and column each part has, and how many the columns need."""
    slots: dict[_Place, int] = {}
    counts: dict[tuple[tuple[str, int], int, bool], int] = defaultdict(int)
    needed: dict[int, float] = {}
    for place in places:
        part, position, is_bar = place
        cell = (_row(part), position, is_bar)
        slots[place] = counts[cell]
        counts[cell] += 1
        needed[position] = max(needed.get(position, 1.0), float(counts[cell]))
    return slots, needed


def _path(
    source: Part, target: Part, edge: Edge, grid: _Grid, rank: int
) -> tuple[Point, tuple[Point, Point], Point]:
    """Return start, bends and end of an edge: out at the top, in at the bottom, and on a long way
    along the side of the column rather than across the parts that stand in it."""
    port = {"k": -0.25, "v": 0.25}.get(edge.target.input or "", 0.0)
    x0, x1 = source.x, target.x + port * target.width
    y0, y1 = source.y - source.height / 2, target.y + target.height / 2
    rise = y0 - y1
    if rise < ROUGHLY_STRAIGHT * grid.pitch:
        return (x0, y0), ((x0, y0 - 0.35 * rise), (x1, y1 + 0.35 * rise)), (x1, y1)
    position = source.position or 0
    middle, width = grid.column(position)
    right = (x0 + x1) / 2 > middle or ((x0 + x1) / 2 == middle and rank % 2 == 0)
    # Neighbours at the side lie beside each other, not on each other.
    aside = (width / 2 - 0.5 * BESIDE * grid.slot) + 0.1 * BESIDE * grid.slot * (rank % 9 - 4)
    side = middle + aside if right else middle - aside
    bend = min(0.3 * rise, 1.2 * grid.pitch)
    return (x0, y0), ((side, y0 - bend), (side, y1 + bend)), (x1, y1)


def _looks(
    graph: EdgeGraph, attention: Mapping[Head, np.ndarray], parts: Mapping[_Place, Part]
) -> Iterator[Look]:
    """Yield where heads look, from the part that writes to the bar that is read."""
    for (component, key, is_bar), bar in parts.items():
        if not is_bar:
            continue
        for head in graph.heads_of(Target(component, "k")):
            weights = attention.get(Head(head.layer, head.head))
            for (writer, query, reads), part in parts.items():
                if reads or writer != head or weights is None or weights[query, key] < LEAST_WEIGHT:
                    continue
                yield _look(head, query, key, float(weights[query, key]), bar, part)


def _look(
    head: Component, query: int, key: int, weight: float, bar: Part, writer: Part
) -> Look:  # fmt: skip
    start = (bar.x, bar.y - bar.height / 2)
    end = (writer.x, writer.y + writer.height / 2)
    if key != query:
        start = (bar.x + bar.width / 2 * (1 if query > key else -1), bar.y)
    # Under the bars, so that what lies between is not crossed.
    bend = ((start[0] + end[0]) / 2, max(start[1], end[1]) + (bar.height if key != query else 0))
    return Look(
        head,
        query,
        key,
        weight,
        part_name(bar.component, key, is_bar=True),
        part_name(writer.component, query),
        start,
        bend,
        end,
    )
