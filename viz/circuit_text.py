"""A circuit told: sentences, the rows of its tables, and what its picture says of a part."""

import math
from typing import Any

import numpy as np

from ablation.circuit.types import Circuit
from models.edge_graph import Edge, Target
from models.types import Component
from viz.circuit_layout import MOST_LINES, Line, Part
from viz.circuit_positions import LEAST_WEIGHT, n_drawn
from viz.terms import MINUS

INPUT_NAMES = {"q": "query", "k": "key", "v": "value"}
OUTSIDE = {
    "resample": "every other edge carries its value on the corrupted prompt",
    "mean": "every other edge carries its mean over the set",
    "zero": "every other edge carries nothing",
}
"""Baseline -> what the edges outside of a circuit do."""


def number(value: float, digits: int = 3) -> str:
    """Return a number in so many significant digits, with a true minus; "not measured" for NaN."""
    if math.isnan(value):
        return "not measured"
    return f"{value:.{digits}g}".replace("-", MINUS)


def signed(value: float) -> str:
    """Return a score with its sign, in three significant digits."""
    return "not measured" if math.isnan(value) else f"{value:+.3g}".replace("-", MINUS)


def percent(share: float) -> str:
    """Return a share in per cent, in two significant digits and more where it is large."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def summary_sentences(circuit: Circuit, metric: str = "", method: str = "") -> list[str]:
    """Tell what was found, and the proof of it, most important first.

    Args:
        metric, method: what they are called; by default their names.
    """
    return [*headline(circuit), *proof_sentences(circuit, metric, method)]


def headline(circuit: Circuit) -> list[str]:
    """Tell how many edges are how faithful, whether that is enough, and whether all was done."""
    return [*_cancelled(circuit), *_main(circuit)]


def proof_sentences(circuit: Circuit, metric: str = "", method: str = "") -> list[str]:
    """Tell what the numbers are, and what else speaks for the circuit and against it."""
    metric = metric or circuit.metric.replace("_", " ")
    return [
        _values(circuit, metric),
        *_proof(circuit),
        *_areas(circuit),
        *_sharing(circuit),
        *(f"Not measured: {note}" for note in circuit.notes),
        _how(circuit, method or circuit.method),
    ]


def _cancelled(circuit: Circuit) -> list[str]:
    if circuit.stopped != "cancelled":
        return []
    return ["Cancelled: this is what had been found until then; not everything was measured."]


def _main(circuit: Circuit) -> list[str]:
    total = circuit.graph.n_edges
    if not circuit.n_edges:
        return [f"No circuit: none of the {total:,} edges was chosen."]
    size = f"{circuit.n_edges:,} of {total:,} edges ({percent(circuit.n_edges / total)})"
    faithfulness, asked = number(circuit.faithfulness), number(circuit.asked)
    if circuit.reached:
        return [f"{size} are a circuit of faithfulness {faithfulness}; at least {asked} was asked."]
    return [
        f"NOT reached: {size} have a faithfulness of {faithfulness} only; at least {asked} was "
        "asked."
    ]


def _values(circuit: Circuit, metric: str) -> str:
    values = circuit.values
    said = (
        f"{metric[:1].upper()}{metric[1:]}: {number(values.clean)} with all edges, "
        f"{number(values.corrupt)} with none"
    )
    if circuit.n_edges:
        said += f", {number(values.circuit)} with the circuit alone"
    return f"{said}."


def _proof(circuit: Circuit) -> list[str]:
    said = []
    if circuit.completeness is not None:
        said.append(
            "Completeness: all edges but the circuit's have a faithfulness of "
            f"{number(circuit.completeness)}; 0 would mean that nothing is left without it."
        )
    if circuit.least_drop is not None:
        least = circuit.least_drop
        which = "all" if least.n_tried == circuit.n_edges else "those that seemed to matter least"
        tried = f"of {least.n_tried} edges ({which}), taken away one by one, "
        said.append(f"Minimality: {tried}{least.edge} is missed least; {_missed(least.drop)}.")
    if circuit.random is not None:
        draws = "one draw" if circuit.n_random == 1 else f"mean of {circuit.n_random} draws"
        said.append(
            f"As many random edges have a faithfulness of {number(circuit.random)} ({draws})."
        )
    if circuit.held_out is not None:
        said.append(
            "Held out: on pairs that it was not found on, its faithfulness is "
            f"{number(circuit.held_out)}."
        )
    return said


def _missed(drop: float) -> str:
    if drop > 0:
        return f"without it faithfulness drops by {number(drop)}"
    return f"without it faithfulness does not drop ({signed(-drop)}), so the circuit is not minimal"


def _areas(circuit: Circuit) -> list[str]:
    named = (("CPR", circuit.cpr), ("CMD", circuit.cmd))
    told = [f"{name} {number(value)}" for name, value in named if value is not None]
    if not told:
        return []
    meaning = "areas under faithfulness by share of edges, and between it and 1"
    return [f"{', '.join(told)} ({meaning})."]


def _sharing(circuit: Circuit) -> list[str]:
    shapes = {(shape.n_heads, shape.n_kv_heads) for shape in circuit.graph.layers if shape.grouped}
    if not shapes:
        return []
    counts = " or ".join(f"{heads} heads share {shared}" for heads, shared in sorted(shapes))
    return [
        f"Grouped-query attention: in a layer {counts} keys and values (bars under heads in the "
        "picture); an edge into one goes into all heads that share it."
    ]


def _how(circuit: Circuit, method: str) -> str:
    n = len(circuit.pairs)
    pairs = "1 pair of prompts" if n == 1 else f"{n:,} pairs of prompts"
    outside = OUTSIDE.get(circuit.baseline, f"every other edge is replaced: {circuit.baseline}")
    return (
        f"Edges ranked by {method} on {pairs} and judged by {circuit.n_runs:,} exact runs in which "
        f"{outside}; {circuit.seconds:.0f} s."
    )


def edge_sentence(line: Line, n_edges: int) -> str:
    """Tell of one edge of a circuit: between what, its score, its share and its rank."""
    return (
        f"{edge_name(line.edge)}: score {signed(line.score)}, {percent(line.share)} of the sum of "
        f"all |scores| of the circuit; number {line.rank} of {n_edges:,} by |score|."
    )


def edge_name(edge: Edge) -> str:
    into = edge.target.input
    where = f", {INPUT_NAMES[into]}" if into else ""
    return f"{edge.source} → {edge.target.component}{where}"


def part_lines(circuit: Circuit, drawn: Part, lines: tuple[Line, ...]) -> list[str]:
    """Tell of one part of a circuit, line by line: what it is, its edges, its roles."""
    part = drawn.component
    told = [_what(circuit, part, drawn.is_bar)]
    out = [line.score for line in lines if line.source == drawn.name and not drawn.is_bar]
    into = [line for line in lines if line.target == drawn.name]
    if out:
        told.append(f"out: {_several(out)}")
    for name in dict.fromkeys(line.edge.target.input for line in into):
        scores = [line.score for line in into if line.edge.target.input == name]
        told.append(f"{INPUT_NAMES[name] if name else 'in'}: {_several(scores)}")
    if part.kind == "head" and not drawn.is_bar:
        here = (part.layer, part.head)
        roles = [role for role in circuit.roles if (role.head.layer, role.head.head) == here]
        told += [f"{role.role} ({role.test}): {number(role.score)}" for role in roles]
    return told


def _what(circuit: Circuit, part: Component, is_bar: bool) -> str:
    if part.kind == "kv":
        sharing = circuit.graph.heads_of(Target(part, "k"))
        return f"{part}: the key and the value that {', '.join(map(str, sharing))} share"
    if is_bar:
        return f"{part}: its key and value"
    return {"embed": "embedding"}.get(part.kind, str(part))


def _several(scores: list[float]) -> str:
    measured = [score for score in scores if not math.isnan(score)]
    edges = "1 edge" if len(scores) == 1 else f"{len(scores)} edges"
    return f"{edges}, {'score' if len(scores) == 1 else 'scores add up to'} " + (
        signed(sum(measured)) if measured else "not measured"
    )


def edge_rows(lines: tuple[Line, ...]) -> list[dict[str, Any]]:
    """Return a row of the table for each edge, strongest first."""
    return [
        {
            "rank": line.rank,
            "edge": f"{line.index[0]}-{line.index[1]}",
            "from": str(line.edge.source),
            "to": str(line.edge.target.component),
            "input": INPUT_NAMES.get(line.edge.target.input or "", ""),
            "score": None if math.isnan(line.score) else line.score,
            "share": 100 * line.share,
        }
        for line in lines
    ]


def role_rows(circuit: Circuit) -> list[dict[str, Any]]:
    """Return a row for each role that a head passed the test of."""
    return [
        {
            "id": f"{role.head.short}#{index}",
            "head": str(role.head),
            "role": role.role,
            "score": role.score,
            "test": role.test,
        }
        for index, role in enumerate(circuit.roles)
    ]


def repair_rows(circuit: Circuit) -> list[dict[str, Any]]:
    """Return a row for each change of a head's direct effect after another was ablated."""
    return [
        {"id": f"{index}", "ablated": ablated, "head": head, "change": change}
        for index, (ablated, head, change) in enumerate(circuit.repairs)
    ]


def undrawn_sentence(circuit: Circuit) -> list[str]:
    """Say that not all edges are drawn and listed, where that is so."""
    if circuit.n_edges <= MOST_LINES:
        return []
    return [
        f"The {MOST_LINES} edges of largest |score| are drawn and listed; JSON and GraphML have "
        f"all {circuit.n_edges:,}."
    ]


def by_token_sentences(circuit: Circuit) -> list[str]:
    """Say what the picture by token shows of a circuit."""
    places = circuit.by_position
    if places is None:
        return []
    sizes = np.sort(np.abs(places.scores.astype(float)).ravel())[::-1]
    carrying, total = int(np.count_nonzero(sizes)), float(sizes.sum()) or 1.0
    shown = n_drawn(np.abs(places.scores))
    share = percent(float(sizes[:shown].sum()) / total)
    said = (
        "By token: each edge at the tokens where it carries its score. Drawn are at "
        f"most the {shown:,} strongest of {carrying:,} places ({share} of the circuit's |scores|), "
        f"and attention of {LEAST_WEIGHT:g} or more between them."
    )
    if len(circuit.pairs) > 1:
        said += " Tokens are those of the first pair; scores and attention are means over all."
    return [said]
