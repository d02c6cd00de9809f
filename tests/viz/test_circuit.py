"""The picture of a circuit: what stands where, what is drawn how, and what is said."""

from dataclasses import replace
from xml.etree import ElementTree

import networkx
import numpy as np
import pytest
from circuit_samples import by_chance, circuit_of, graph, induction

from ablation.circuit.types import Circuit
from models.edge_graph import EdgeGraph, LayerShape
from models.types import Head
from viz.circuit import DASHES, circuit_svg, sign_colours
from viz.circuit_graphml import NAMESPACE, circuit_graphml
from viz.circuit_layout import MOST_LINES, ROUGHLY_STRAIGHT, Layout, Part, lay_out
from viz.circuit_text import edge_rows, part_lines, repair_rows, role_rows, undrawn_sentence

SVG = "{http://www.w3.org/2000/svg}"


def parts_of(layout: Layout) -> dict[str, Part]:
    return {part.name: part for part in layout.parts}


def elements(svg: str, kind: str) -> list[ElementTree.Element]:
    return [
        element
        for element in ElementTree.fromstring(svg).iter(f"{SVG}g")
        if element.get("class", "").split()[:1] == [kind]
    ]


def drawn(element: ElementTree.Element) -> ElementTree.Element:
    """The visible line of an edge: the first path is what the pointer hits."""
    return element.findall(f"{SVG}path")[1]


# --- where things stand ---


def test_only_what_the_circuit_uses_stands_in_the_picture() -> None:
    assert set(parts_of(lay_out(induction()))) == {"embed", "L0H1", "L1H2", "MLP1", "logits"}


def test_layers_go_upward_between_the_embedding_and_the_logits() -> None:
    parts = parts_of(lay_out(induction()))
    heights = [parts[name].y for name in ("embed", "L0H1", "L1H2", "MLP1", "logits")]
    assert heights == sorted(heights, reverse=True)


def test_an_mlp_beside_the_attention_stands_at_the_height_of_the_heads() -> None:
    of = EdgeGraph((LayerShape(4, 4, True),) * 2)
    kept = np.zeros_like(of.possible)
    kept[-1, [of.sources.index(part) for part in of.sources if part.layer == 1]] = True
    parts = parts_of(lay_out(circuit_of(of, kept, np.ones(of.possible.shape))))
    assert parts["MLP1"].y == parts["L1H0"].y


def test_heads_stand_across_by_their_index_and_the_mlp_at_their_right() -> None:
    layout = lay_out(by_chance(graph(3, 6, 6), 120))
    for part in layout.parts:
        for other in layout.parts:
            if part.component.kind == other.component.kind == "head":
                assert (part.x < other.x) == (part.component.head < other.component.head)
            if (part.component.kind, other.component.kind) == ("head", "mlp"):
                assert part.x < other.x


@pytest.mark.parametrize("n_edges", [10, 60, 300])
@pytest.mark.parametrize(
    ("of", "size"),
    [
        (graph(30, 9, 3), (900, 600)),
        (graph(12, 12, 12), (900, 600)),
        (graph(12, 12, 12), (620, 560)),
    ],
)
def test_no_part_covers_another_and_none_leaves_the_picture(
    of: EdgeGraph, size: tuple[int, int], n_edges: int
) -> None:
    layout = lay_out(by_chance(of, n_edges), *size)
    assert len(layout.lines) == n_edges
    assert layout.height <= size[1]
    boxes = [(p.x - p.width / 2, p.y - p.height / 2, p.width, p.height) for p in layout.parts]
    for i, (x, y, w, h) in enumerate(boxes):
        assert x >= 0
        assert y >= 0
        assert x + w <= layout.width
        assert y + h <= layout.height
        for x2, y2, w2, h2 in boxes[:i]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_names_are_readable_with_300_edges() -> None:
    svg = circuit_svg(by_chance(graph(30, 9, 3), 300))
    for element in elements(svg, "circuit-part"):
        if "kv" not in element.get("class", ""):
            name = element.find(f"{SVG}text")
            assert name is not None
            assert float(name.get("font-size", "0")) >= 7


def test_many_heads_a_layer_have_columns_only_where_they_are_used() -> None:
    of = graph(2, 64, 64)
    kept = np.zeros_like(of.possible)
    kept[-1, [of.sources.index(part) for part in of.sources if part.head in (5, 60)]] = True
    layout = lay_out(circuit_of(of, kept, np.ones(of.possible.shape)))
    assert layout.column > 200
    assert parts_of(layout)["L0H5"].x < parts_of(layout)["L0H60"].x


def test_a_shared_key_and_value_are_a_bar_under_the_heads_that_share_it() -> None:
    of = graph(2, 9, 3)
    kept = np.zeros_like(of.possible)
    into = {str(target): i for i, target in enumerate(of.targets)}
    kept[into["L1KV1.k"], 0] = kept[into["L1KV1.v"], 0] = True
    kept[-1, [of.sources.index(part) for part in of.sources if part.layer == 1]] = True
    layout = lay_out(circuit_of(of, kept, np.ones(of.possible.shape)))
    parts = parts_of(layout)
    bar = parts["L1KV1"]
    assert bar.heads == (Head(1, 3), Head(1, 4), Head(1, 5))
    left, right = parts["L1H3"], parts["L1H5"]
    assert bar.y > left.y
    assert bar.x - bar.width / 2 == pytest.approx(left.x - left.width / 2)
    assert bar.x + bar.width / 2 == pytest.approx(right.x + right.width / 2)
    ends = {line.edge.target.input: line.end[0] for line in layout.lines[:2]}
    assert ends["k"] < bar.x < ends["v"]


def test_an_edge_leaves_at_the_top_and_enters_at_the_bottom() -> None:
    layout = lay_out(by_chance(graph(12, 12, 12), 120))
    parts = parts_of(layout)
    for line in layout.lines:
        source, target = parts[str(line.edge.source)], parts[str(line.edge.target.component)]
        assert line.start[1] == source.y - source.height / 2
        assert line.end[1] == target.y + target.height / 2
        assert abs(line.end[0] - target.x) <= target.width / 2


def test_a_long_edge_within_a_column_goes_around_the_heads_between() -> None:
    of = graph(8, 4, 4)
    kept = np.zeros_like(of.possible)
    into = {str(target): i for i, target in enumerate(of.targets)}
    sources = {str(source): i for i, source in enumerate(of.sources)}
    kept[into["L7H2.k"], sources["L0H2"]] = True
    kept[-1, [sources[f"L{layer}H2"] for layer in range(8)]] = True
    layout = lay_out(circuit_of(of, kept, np.ones(of.possible.shape)))
    line = next(line for line in layout.lines if str(line.edge) == "L0H2 -> L7H2.k")
    assert line.start[1] - line.end[1] > ROUGHLY_STRAIGHT * layout.pitch
    half = parts_of(layout)["L3H2"].width / 2
    assert all(abs(x - line.start[0]) > half for x, _ in line.bends)


def test_edges_between_mlps_stay_in_the_picture() -> None:
    of = graph(12, 12, 12)
    mlps = [index for index, part in enumerate(of.sources) if part.kind == "mlp"]
    kept = np.zeros_like(of.possible)
    for index, target in enumerate(of.targets):
        if target.component.kind in ("mlp", "logits"):
            kept[index, mlps] = of.possible[index, mlps]
    layout = lay_out(circuit_of(of, kept, np.ones(of.possible.shape)), 620, 560)
    points = [p for line in layout.lines for p in (line.start, *line.bends, line.end)]
    assert max(x for x, _ in points) <= layout.width


def test_a_circuit_without_edges_is_an_empty_picture() -> None:
    of = graph()
    layout = lay_out(circuit_of(of, np.zeros_like(of.possible), np.zeros(of.possible.shape), 1.0))
    assert layout.parts == layout.lines == ()
    assert layout.largest == 0


def test_of_a_large_circuit_the_strongest_edges_are_drawn_and_their_share_is_of_all() -> None:
    circuit = by_chance(graph(12, 12, 12), 700)
    layout = lay_out(circuit)
    assert (len(layout.lines), layout.n_edges) == (MOST_LINES, 700)
    left = np.sort(np.abs(circuit.scores[circuit.kept]))[: 700 - MOST_LINES]
    assert min(abs(line.score) for line in layout.lines) >= left.max()
    assert sum(line.share for line in layout.lines) < 1
    assert undrawn_sentence(circuit)[0].startswith("The 600 edges of largest |score|")
    assert undrawn_sentence(by_chance(graph(), 20)) == []


# --- how edges are drawn ---


def test_strength_is_relative_to_the_largest_and_share_to_the_sum() -> None:
    lines = {str(line.edge): line for line in lay_out(induction()).lines}
    assert lines["L0H1 -> L1H2.k"].strength == 1
    assert lines["L1H2 -> MLP1"].strength == 0.5
    assert lines["L1H2 -> MLP1"].share == pytest.approx(0.25)
    assert sum(line.share for line in lines.values()) == pytest.approx(1)
    assert [line.rank for line in lay_out(induction()).lines] == [1, 2, 3, 4]


@pytest.mark.parametrize("dark", [False, True])
def test_colour_is_the_sign_and_width_the_size(dark: bool) -> None:
    raising, lowering = sign_colours(dark)
    found = {}
    for element in elements(circuit_svg(induction(), dark=dark), "circuit-edge"):
        line = drawn(element)
        found[element.get("data-source")] = (line.get("stroke"), float(line.get("stroke-width", 0)))
    assert found["L0H1"][0] == found["MLP1"][0] == raising
    assert found["L1H2"][0] == lowering
    assert found["L0H1"][1] > found["L1H2"][1] > found["MLP1"][1]


def test_inputs_are_told_apart_by_dashes() -> None:
    of = graph(2, 2, 2)
    kept = np.zeros_like(of.possible)
    into = {str(target): i for i, target in enumerate(of.targets)}
    for name in "qkv":
        kept[into[f"L1H0.{name}"], 1] = True
    svg = circuit_svg(circuit_of(of, kept, np.ones(of.possible.shape)))
    dashes = {drawn(element).get("stroke-dasharray") for element in elements(svg, "circuit-edge")}
    assert dashes == {None, DASHES["k"], DASHES["v"]}


def test_a_score_that_was_not_measured_is_drawn_grey_and_said() -> None:
    circuit = induction()
    scores = circuit.scores.copy()
    scores[circuit.kept] = np.nan
    svg = circuit_svg(replace(circuit, scores=scores))
    for element in elements(svg, "circuit-edge"):
        assert drawn(element).get("stroke") not in sign_colours(False)
        assert "not measured" in element.get("data-told", "")


def test_the_strongest_edge_is_drawn_last() -> None:
    ranks = [
        int(element.get("data-rank", "0"))
        for element in elements(circuit_svg(by_chance(graph(6, 6, 6), 80)), "circuit-edge")
    ]
    assert ranks == list(range(len(ranks), 0, -1))


def test_every_part_of_an_edge_is_drawn() -> None:
    parts = [part.name for part in lay_out(induction()).parts]
    assert set(parts) == {"embed", "L0H1", "L1H2", "MLP1", "logits"}
    assert len(parts) == 5


def test_heads_can_be_chosen_and_other_parts_not() -> None:
    chosen = {
        element.get("data-name"): element.get("data-heads")
        for element in elements(circuit_svg(induction()), "circuit-part")
    }
    assert chosen == {"embed": None, "L0H1": "0.1", "L1H2": "1.2", "MLP1": None, "logits": None}


def test_a_hover_tells_score_share_and_rank() -> None:
    told = {
        element.get("data-source"): element.get("data-told", "")
        for element in elements(circuit_svg(induction()), "circuit-edge")
    }
    assert told["L0H1"].split("\n") == [
        "L0H1 → L1H2, key",
        "score +1, 50 % of the circuit's |scores|",
        "number 1 of 4 by |score|",
    ]
    assert told["L1H2"].split("\n")[1] == "score −0.5, 25 % of the circuit's |scores|"


def test_a_hover_tells_what_a_head_is_and_does() -> None:
    circuit = induction()
    layout = lay_out(circuit)
    told = part_lines(circuit, parts_of(layout)["L0H1"], layout.lines)
    assert told == [
        "L0H1",
        "out: 1 edge, score +1",
        "query: 1 edge, score +0.25",
        "previous token (random tokens twice): 0.97",
    ]


@pytest.mark.parametrize("n_edges", [10, 300])
def test_the_svg_is_well_formed_and_small(n_edges: int) -> None:
    svg = circuit_svg(by_chance(graph(30, 9, 3), n_edges))
    assert len(elements(svg, "circuit-edge")) == n_edges
    assert len(svg) < 1200 * n_edges + 30_000


# --- tables and files ---


def test_edge_rows_are_the_edges_strongest_first() -> None:
    rows = edge_rows(lay_out(induction()).lines)
    assert [row["score"] for row in rows] == [1, -0.5, 0.25, 0.25]
    assert rows[0] | {"edge": ""} == {
        "rank": 1, "edge": "", "from": "L0H1", "to": "L1H2", "input": "key", "score": 1.0,
        "share": 50.0,
    }  # fmt: skip
    assert len({row["edge"] for row in rows}) == 4


def test_roles_and_repairs_have_their_rows() -> None:
    assert role_rows(induction())[0]["head"] == "L0H1"
    # A click on a row chooses its head, whose name its id begins with.
    assert role_rows(induction())[0]["id"] == "0.1#0"
    assert repair_rows(induction())[0]["change"] == 0.3


def _read(circuit: Circuit) -> "networkx.MultiDiGraph":
    return networkx.parse_graphml(circuit_graphml(circuit), force_multigraph=True)


def test_graphml_is_read_back_with_all_that_was_known() -> None:
    read = _read(induction())
    assert read.is_directed()
    assert read.nodes["L0H1"] == {"kind": "head", "layer": 0, "head": 1, "role": "previous token"}
    assert read.nodes["MLP1"] == {"kind": "mlp", "layer": 1}
    assert read.nodes["logits"] == {"kind": "logits"}
    assert read.number_of_edges() == 4
    assert list(read.get_edge_data("L1H2", "MLP1").values()) == [{"score": -0.5, "sign": -1}]
    key = {"input": "k", "score": 1.0, "sign": 1}
    assert list(read.get_edge_data("L0H1", "L1H2").values()) == [key]
    assert read.graph["faithfulness"] == pytest.approx(0.9)


def test_graphml_leads_from_a_shared_key_to_the_heads_that_share_it() -> None:
    circuit = by_chance(graph(30, 9, 3), 60)
    read = _read(circuit)
    shared = [(a, b) for a, b, d in read.edges(data=True) if d.get("input") == "shared"]
    assert read.number_of_edges() == 60 + len(shared)
    for bar, head in shared:
        assert "KV" in bar
        assert int(head.split("H")[1]) // 3 == int(bar.split("KV")[1])
    assert circuit_graphml(circuit).startswith("<?xml")
    assert NAMESPACE in circuit_graphml(circuit)
