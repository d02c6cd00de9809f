"""The proof of a circuit: its figure and its sentences."""

from dataclasses import replace

import numpy as np
import pytest
from circuit_samples import by_chance, circuit_of, graph, induction

from ablation.circuit.types import CurvePoint, LeastDrop
from viz.circuit_curve import faithfulness_figure
from viz.circuit_layout import lay_out
from viz.circuit_text import edge_sentence, number, summary_sentences


def said(circuit: object, **names: str) -> str:
    return " ".join(summary_sentences(circuit, **names))  # type: ignore[arg-type]


# --- the figure ---


def test_the_curve_shows_method_random_edges_and_the_circuit() -> None:
    figure = faithfulness_figure(induction(), "EAP-IG")
    by_name = {trace.name: trace for trace in figure.data}
    assert list(by_name) == ["random edges", "EAP-IG", "the circuit"]
    assert by_name["EAP-IG"].x == (1, 10, 100)
    assert by_name["random edges"].y == (-0.01, 0.02, 0.4)
    assert by_name["the circuit"].x == (4,)
    assert by_name["the circuit"].y[0] == pytest.approx(0.9)
    assert figure.layout.xaxis.type == "log"


def test_values_outside_of_0_to_1_are_drawn_as_they_are_and_in_range() -> None:
    figure = faithfulness_figure(circuit_of(graph(), induction().kept, induction().scores, 4.0))
    method = next(trace for trace in figure.data if trace.name == "eap-ig")
    assert method.y == (-0.2, 0.5, 1.1)
    low, high = figure.layout.yaxis.range
    assert low < -0.2
    assert high > 1.5


def test_a_line_stands_at_1_and_at_what_was_asked() -> None:
    assert [shape.y0 for shape in faithfulness_figure(induction()).layout.shapes] == [1.0, 0.85]


def test_a_circuit_that_is_not_as_faithful_as_asked_is_marked_so() -> None:
    poor = replace(induction(), asked=0.95)
    mark = faithfulness_figure(poor).data[-1]
    assert mark.name == "the circuit (not as asked)"
    assert mark.marker.symbol == "diamond-open"
    assert faithfulness_figure(induction()).data[-1].marker.symbol == "diamond"


def test_what_has_no_place_on_a_log_scale_or_was_not_measured_is_left_out() -> None:
    curve = (CurvePoint(0, 0.0, 0.0), CurvePoint(3, 0.5))
    figure = faithfulness_figure(replace(induction(), curve=curve))
    assert [trace.name for trace in figure.data] == ["eap-ig", "the circuit"]
    assert figure.data[0].x == (3,)


# --- the sentences ---


def test_the_first_sentence_says_how_many_edges_and_how_faithful() -> None:
    circuit = induction()
    first = summary_sentences(circuit)[0]
    total = circuit.graph.n_edges
    assert first.startswith(f"4 of {total} edges (")
    assert first.endswith("are a circuit of faithfulness 0.9; at least 0.85 was asked.")


def test_a_circuit_that_does_not_reach_it_is_said_plainly() -> None:
    first = summary_sentences(replace(induction(), asked=0.95))[0]
    assert first.startswith("NOT reached: 4 of ")
    assert "faithfulness of 0.9 only; at least 0.95 was asked" in first


def test_faithfulness_beyond_1_is_not_clipped() -> None:
    assert "faithfulness 1.5" in said(
        circuit_of(graph(), induction().kept, induction().scores, 4.0)
    )


def test_a_cancelled_one_says_so_first() -> None:
    assert summary_sentences(replace(induction(), stopped="cancelled"))[0].startswith("Cancelled:")


def test_the_values_name_the_metric() -> None:
    assert "Logit difference: 3 with all edges, 1 with none, 2.8 with the circuit alone." in said(
        induction(), metric="logit difference"
    )


def test_the_proof_is_told_where_it_was_measured() -> None:
    assert "Completeness" not in said(induction())
    told = said(
        replace(
            induction(),
            completeness=-0.05,
            least_drop=LeastDrop("L0H1 -> L1H2.k", 0.125, 16),
            held_out=0.71,
            cpr=0.8,
            cmd=0.2,
        )
    )
    assert "all edges but the circuit's have a faithfulness of −0.05;" in told
    assert "L0H1 -> L1H2.k is missed least; without it faithfulness drops by 0.125." in told
    assert "its faithfulness is 0.71." in told
    assert "CPR 0.8, CMD 0.2 (areas" in told


def test_an_edge_that_is_not_missed_makes_the_circuit_not_minimal() -> None:
    told = said(replace(induction(), least_drop=LeastDrop("embed -> L0H1.q", -0.01, 16)))
    assert "does not drop (+0.01), so the circuit is not minimal" in told


def test_shared_keys_and_values_are_said_only_where_there_are_some() -> None:
    assert "Grouped-query" not in said(induction())
    assert "in a layer 9 heads share 3 keys and values" in said(by_chance(graph(3, 9, 3), 10))


def test_how_it_was_judged_is_told() -> None:
    told = said(induction(), method="EAP-IG")
    assert "Edges ranked by EAP-IG on 1 pair of prompts and judged by 40 exact runs" in told
    assert "every other edge carries its value on the corrupted prompt; 12 s." in told


def test_an_edge_is_told_with_score_share_and_rank() -> None:
    lines = lay_out(induction()).lines
    assert edge_sentence(lines[0], 4) == (
        "L0H1 → L1H2, key: score +1, 50 % of the sum of all |scores| of the circuit; number 1 of 4 "
        "by |score|."
    )


def test_what_is_not_a_number_is_said_to_be_not_measured() -> None:
    assert number(np.nan) == "not measured"
    assert number(-1.25) == "−1.25"
