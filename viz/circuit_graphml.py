"""A circuit as GraphML, which graph programs read (http://graphml.graphdrawing.org)."""

import json
import math
from xml.etree import ElementTree

from ablation.circuit.types import Circuit
from models.types import Component
from viz.circuit_caption import caption, for_xml

NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_KEYS = (
    ("node", "kind", "string"),
    ("node", "layer", "int"),
    ("node", "head", "int"),
    ("node", "role", "string"),
    ("edge", "input", "string"),
    ("edge", "score", "double"),
    ("edge", "sign", "int"),
    ("graph", "model", "string"),
    ("graph", "method", "string"),
    ("graph", "metric", "string"),
    ("graph", "baseline", "string"),
    ("graph", "faithfulness", "double"),
    ("graph", "asked", "double"),
    ("graph", "caption", "string"),
    ("graph", "prompt", "string"),
    ("graph", "corrupt", "string"),
    ("graph", "answer", "string"),
    ("graph", "distractor", "string"),
    ("graph", "n_pairs", "int"),
    ("graph", "pairs", "string"),
    ("graph", "task", "string"),
    ("graph", "seed", "int"),
    ("graph", "steps", "int"),
)
"""(what it is of, its name, its type). What a part or an edge does not have is left out."""


def circuit_graphml(circuit: Circuit) -> str:
    """Write a circuit's parts and edges.

    Nodes go by their names ("L5H3"); an edge's `input` is "q", "k" or "v", its `sign` 1 or -1 (0
    for a score of 0). A key-value head that several heads share is a node of kind "kv", and edges
    of input "shared" lead from it to each of those heads that the circuit uses. Of several pairs
    `prompt` and what follows is the first; `pairs` has all of them, as JSON.
    """
    root = ElementTree.Element("graphml", xmlns=NAMESPACE)
    for of, name, kind in _KEYS:
        attributes = {"id": f"{of}-{name}", "for": of, "attr.name": name, "attr.type": kind}
        ElementTree.SubElement(root, "key", attributes)
    graph = ElementTree.SubElement(root, "graph", id="circuit", edgedefault="directed")
    _question(graph, circuit)
    edges = list(circuit.graph.edges(circuit.kept))
    used = {part for *_, edge in edges for part in (edge.source, edge.target.component)}
    for part in sorted(used):
        _node(graph, part, circuit)
    for target, source, edge in edges:
        score = float(circuit.scores[target, source])
        element = _edge(graph, edge.source, edge.target.component)
        _data(element, "edge", "input", edge.target.input)
        _data(element, "edge", "score", None if math.isnan(score) else score)
        _data(element, "edge", "sign", None if math.isnan(score) else (score > 0) - (score < 0))
    shared = {edge.target.component: edge.target for *_, edge in edges
              if edge.target.component.kind == "kv"}  # fmt: skip
    for part in sorted(shared):
        for head in circuit.graph.heads_of(shared[part]):
            if head in used:
                _data(_edge(graph, part, head), "edge", "input", "shared")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _question(graph: ElementTree.Element, circuit: Circuit) -> None:
    for name in ("model", "method", "metric", "baseline", "faithfulness", "asked"):
        _data(graph, "graph", name, getattr(circuit, name))
    _data(graph, "graph", "caption", caption(circuit))
    told = circuit.to_json()
    for name in ("prompt", "corrupt", "answer", "distractor", "n_pairs", "task", "seed", "steps"):
        _data(graph, "graph", name, told[name])
    _data(graph, "graph", "pairs", json.dumps(told["pairs"], ensure_ascii=False))


def _node(graph: ElementTree.Element, part: Component, circuit: Circuit) -> None:
    element = ElementTree.SubElement(graph, "node", id=str(part))
    roles = [role.role for role in circuit.roles if str(role.head) == str(part)]
    _data(element, "node", "kind", part.kind)
    _data(element, "node", "layer", part.layer if part.layer >= 0 else None)
    _data(element, "node", "head", part.head if part.head >= 0 else None)
    _data(element, "node", "role", ", ".join(roles) or None)


def _edge(graph: ElementTree.Element, source: Component, target: Component) -> ElementTree.Element:
    return ElementTree.SubElement(graph, "edge", source=str(source), target=str(target))


def _data(element: ElementTree.Element, of: str, name: str, value: object) -> None:
    if value is not None:
        ElementTree.SubElement(element, "data", key=f"{of}-{name}").text = for_xml(str(value))
