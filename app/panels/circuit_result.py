"""The circuit tab, what was found: the picture, the proof, the tables, the files."""

from typing import Any

from dash import Dash, Input, Output, State, html, no_update, set_props

from ablation.circuit.methods import METHODS, METRICS
from ablation.circuit.types import Circuit
from app import ids
from app.panels.circuit_edge import about_edge
from app.panels.pieces import browser
from app.services import Services
from viz.circuit import circuit_svg
from viz.circuit_curve import faithfulness_figure
from viz.circuit_layout import Line, lay_out
from viz.circuit_text import (
    by_token_sentences,
    edge_rows,
    headline,
    proof_sentences,
    repair_rows,
    role_rows,
    undrawn_sentence,
)

WIDTH, HEIGHT = 900, 600
"""px of the picture where the browser did not say how much room there is."""
LEAST_WIDTH, LEAST_HEIGHT, MOST = 360, 420, 4000


def size_of(room: dict[str, Any] | None) -> tuple[float, float]:
    """Return width and height of the picture for the room that the browser tells of."""
    told = room or {}
    width, height = told.get("width") or WIDTH, told.get("height") or HEIGHT
    return min(max(width, LEAST_WIDTH), MOST), min(max(height, LEAST_HEIGHT), MOST)


def drawn(
    circuit: Circuit, room: dict[str, Any] | None, dark: bool, by_token: bool = False
) -> dict[str, Any]:
    """Return the picture as the browser takes it."""
    width, height = size_of(room)
    svg = circuit_svg(circuit, dark=dark, width=width, height=height, by_token=by_token)
    return {"svg": svg}


def labels(circuit: Circuit) -> tuple[str, str]:
    """Return what its metric and its method are called."""
    return METRICS[circuit.metric].label, METHODS[circuit.method].label


def told(circuit: Circuit, by_token: bool) -> tuple[list[html.P], list[html.P]]:
    """Return what is said above the picture, and what beside the curve: the proof."""
    first, rest = headline(circuit), proof_sentences(circuit, *labels(circuit))
    about_picture = by_token_sentences(circuit) if by_token else undrawn_sentence(circuit)
    return (
        [html.P(sentence) for sentence in (*first, *about_picture)],
        [html.P(sentence) for sentence in rest],
    )


def show_partial(circuit: Circuit, room: dict[str, Any] | None, dark: bool) -> None:
    """Put what was found so far on the page from within a callback."""
    figure = faithfulness_figure(circuit, labels(circuit)[1], dark=dark)
    set_props(ids.CIRCUIT_CURVE, {"figure": figure})
    chosen = f"{circuit.n_edges:,} edges so far." if circuit.n_edges else "No edges chosen yet."
    set_props(ids.CIRCUIT_HEADLINE, {"children": html.P(chosen)})
    set_props(ids.CIRCUIT_SENTENCES, {"children": []})
    picture = drawn(circuit, room, dark) if circuit.n_edges else None
    set_props(ids.CIRCUIT_DRAWN, {"data": picture})
    set_props(ids.CIRCUIT_EMPTY, {"hidden": True})
    set_props(ids.CIRCUIT_BODY, {"hidden": False})


def line_of(circuit: Circuit, edge: str) -> Line | None:
    """Return an edge of the picture by its name there, "target-source"; None if it is not in it."""
    lines = lay_out(circuit).lines
    return next((line for line in lines if "{}-{}".format(*line.index) == edge), None)


def found_of(services: Services, kept: dict[str, Any] | None, name: str) -> Circuit | None:
    """Return the circuit that the page keeps, if it is of the model that stands and still there."""
    if kept is None or kept["model"] != name:
        return None
    circuit: Circuit | None = services.results.get(kept["key"])
    return circuit


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that draw, and that answer to clicks."""

    @app.callback(
        Output(ids.CIRCUIT_HEADLINE, "children"),
        Output(ids.CIRCUIT_SENTENCES, "children"),
        Output(ids.CIRCUIT_CURVE, "figure"),
        Output(ids.CIRCUIT_DRAWN, "data"),
        Output(ids.CIRCUIT_EMPTY, "hidden"),
        Output(ids.CIRCUIT_BODY, "hidden"),
        Output(ids.CIRCUIT_LAYOUT_PLACE, "hidden"),
        Input(ids.CIRCUIT_ROOM, "data"),
        Input(ids.DARK, "data"),
        Input(ids.MODEL, "data"),
        Input(ids.CIRCUIT_LAYOUT, "value"),
        State(ids.CIRCUIT, "data"),
        prevent_initial_call=True,
    )
    def draw(
        room: dict[str, Any] | None,
        dark: bool,
        name: str,
        layout: str,
        kept: dict[str, Any] | None,
    ) -> tuple[Any, ...]:
        circuit = found_of(services, kept, name)
        if circuit is None:
            return [], [], no_update, None, False, True, True
        has_tokens = circuit.by_position is not None
        by_token = has_tokens and layout == "token"
        figure = faithfulness_figure(circuit, labels(circuit)[1], dark=bool(dark))
        picture = drawn(circuit, room, bool(dark), by_token)
        return *told(circuit, by_token), figure, picture, True, False, not has_tokens

    @app.callback(
        Output(ids.CIRCUIT_EDGES, "rowData"),
        Output(ids.CIRCUIT_ROLES, "rowData"),
        Output(ids.CIRCUIT_REPAIRS, "rowData"),
        Output(ids.CIRCUIT_ROLES_PLACE, "hidden"),
        Output(ids.CIRCUIT_REPAIRS_PLACE, "hidden"),
        Input(ids.CIRCUIT, "data"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def fill_tables(kept: dict[str, Any] | None, name: str) -> tuple[Any, ...]:
        circuit = found_of(services, kept, name)
        if circuit is None:
            return [], [], [], True, True
        edges, roles = edge_rows(lay_out(circuit).lines), role_rows(circuit)
        repairs = repair_rows(circuit)
        return edges, roles, repairs, not roles, not repairs

    @app.callback(
        Output(ids.CIRCUIT_EDGE, "children"),
        Input(ids.CIRCUIT_OPENED, "data"),
        Input(ids.CIRCUIT, "data"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def tell_edge(
        opened: dict[str, Any] | None, kept: dict[str, Any] | None, name: str
    ) -> list[Any]:
        circuit = found_of(services, kept, name)
        line = line_of(circuit, opened["edge"]) if circuit is not None and opened else None
        if circuit is None or line is None or kept is None:
            return []
        return about_edge(circuit, line, services.model(name), kept["bos"])

    _register_clientside(app)


def _register_clientside(app: Dash) -> None:
    # How much room there is decides how the picture is laid out: asked anew for each result.
    app.clientside_callback(
        browser("measure", "circuit"),
        Output(ids.CIRCUIT_ROOM, "data"),
        Input(ids.CIRCUIT, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("show", "circuit"),
        Output(ids.CIRCUIT_SHOWN, "children"),
        Input(ids.CIRCUIT_DRAWN, "data"),
        Input(ids.CIRCUIT_THRESHOLD, "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("choose", "circuit"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Output(ids.TABS, "value", allow_duplicate=True),
        Input(ids.CIRCUIT_CHOSEN, "data"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("openRow", "circuit"),
        Output(ids.CIRCUIT_OPENED, "data"),
        Input(ids.CIRCUIT_EDGES, "cellClicked"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("exported", "circuit"),
        *(Input(item, "n_clicks") for item in (
            ids.CIRCUIT_PNG, ids.CIRCUIT_SVG, ids.CIRCUIT_JSON, ids.CIRCUIT_GRAPHML)),
        State(ids.CIRCUIT, "data"),
        prevent_initial_call=True,
    )  # fmt: skip
