"""The circuit tab, what was found: the picture, the proof, the tables, the files."""

from typing import Any

from dash import Dash, Input, Output, State, html, no_update

from ablation.circuit.methods import METHODS, METRICS
from ablation.circuit.types import Circuit
from app import ids
from app.panels.circuit_edge import about_edge
from app.panels.pieces import browser
from app.services import Services
from viz.circuit import circuit_svg
from viz.circuit_caption import caption
from viz.circuit_curve import faithfulness_figure
from viz.circuit_layout import Line, lay_out
from viz.circuit_legend import role_words
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
    """Return the picture as the browser takes it, and what tells it from that of another circuit or
    layout."""
    width, height = size_of(room)
    svg = circuit_svg(circuit, dark=dark, width=width, height=height, by_token=by_token)
    return {"svg": svg, "of": [by_token, circuit.n_edges, circuit.values.circuit]}


def labels(circuit: Circuit) -> tuple[str, str]:
    """Return what its metric and its method are called."""
    return METRICS[circuit.metric].label, METHODS[circuit.method].label


def told(circuit: Circuit, by_token: bool) -> list[html.P]:
    """Return what is said above the picture."""
    about_picture = by_token_sentences(circuit) if by_token else undrawn_sentence(circuit)
    return [html.P(sentence) for sentence in (*headline(circuit), *about_picture)]


def told_so_far(circuit: Circuit) -> list[html.P]:
    """Return what is said above the picture while the circuit is searched."""
    n = circuit.n_edges
    return [html.P(f"{n:,} edges so far." if n else "No edges chosen yet.")]


def proof(circuit: Circuit) -> list[html.P]:
    """Return what is said beside the curve."""
    return [html.P(sentence) for sentence in proof_sentences(circuit, *labels(circuit))]


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


def shown(
    circuit: Circuit, room: dict[str, Any] | None, dark: bool, layout: str, so_far: bool
) -> tuple[Any, ...]:
    """Return what stands in the place of the result, in the order of `SHOWN`.

    Args:
        layout: "layer" or "token".
        so_far: whether it is yet being searched.
    """
    has_tokens = circuit.by_position is not None
    by_token = has_tokens and layout == "token"
    return (
        told_so_far(circuit) if so_far else told(circuit, by_token),
        "" if so_far else " ".join(filter(None, (caption(circuit), role_words(circuit)))),
        [] if so_far else proof(circuit),
        faithfulness_figure(circuit, labels(circuit)[1], dark=dark),
        drawn(circuit, room, dark, by_token) if circuit.n_edges or not so_far else None,
        True,
        False,
        not has_tokens,
    )


SHOWN = (
    Output(ids.CIRCUIT_HEADLINE, "children"),
    Output(ids.CIRCUIT_CAPTION, "children"),
    Output(ids.CIRCUIT_SENTENCES, "children"),
    Output(ids.CIRCUIT_CURVE, "figure"),
    Output(ids.CIRCUIT_DRAWN, "data"),
    Output(ids.CIRCUIT_EMPTY, "hidden"),
    Output(ids.CIRCUIT_BODY, "hidden"),
    Output(ids.CIRCUIT_LAYOUT_PLACE, "hidden"),
)
NOT_SHOWN: tuple[Any, ...] = ([], "", [], no_update, None, False, True, True)


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that draw, and that answer to clicks."""

    @app.callback(
        *SHOWN,
        Input(ids.CIRCUIT_ROOM, "data"),
        Input(ids.DARK, "data"),
        Input(ids.MODEL, "data"),
        Input(ids.CIRCUIT_LAYOUT, "value"),
        Input(ids.CIRCUIT_PARTIAL, "data"),
        State(ids.CIRCUIT, "data"),
        prevent_initial_call=True,
    )
    def draw(
        room: dict[str, Any] | None,
        dark: bool,
        name: str,
        layout: str,
        partial: dict[str, Any] | None,
        kept: dict[str, Any] | None,
    ) -> tuple[Any, ...]:
        so_far = found_of(services, partial, name)
        circuit = so_far or found_of(services, kept, name)
        if circuit is None:
            return NOT_SHOWN
        return shown(circuit, room, bool(dark), layout, so_far is not None)

    _register_tables(app, services)
    _register_edge(app, services)
    _register_clientside(app)


def _register_tables(app: Dash, services: Services) -> None:
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


def _register_edge(app: Dash, services: Services) -> None:
    @app.callback(
        Output(ids.CIRCUIT_EDGE, "children"),
        Output(ids.CIRCUIT_EDGE_PLACE, "hidden"),
        Input(ids.CIRCUIT_OPENED, "data"),
        State(ids.CIRCUIT_PARTIAL, "data"),
        State(ids.CIRCUIT, "data"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def tell_edge(
        opened: dict[str, Any] | None,
        partial: dict[str, Any] | None,
        kept: dict[str, Any] | None,
        name: str,
    ) -> tuple[list[Any], bool]:
        of = partial if found_of(services, partial, name) else kept
        circuit = found_of(services, of, name)
        line = line_of(circuit, opened["edge"]) if circuit is not None and opened else None
        if circuit is None or line is None or of is None:
            return [], True
        return about_edge(circuit, line, services.model(name), of["bos"]), False

    app.clientside_callback(
        browser("markEdge", "circuit"),
        Input(ids.CIRCUIT_OPENED, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("closeEdge", "circuit"),
        Output(ids.CIRCUIT_OPENED, "data", allow_duplicate=True),
        Input(ids.CIRCUIT_EDGE_CLOSE, "n_clicks"),
        prevent_initial_call=True,
    )


def _register_clientside(app: Dash) -> None:
    # It has no outputs, so that what draws does not wait for the work to end: Dash holds back all
    # that comes, by whatever way, behind the outputs of a callback that runs.
    app.clientside_callback(
        browser("begin", "circuit"), Input(ids.CIRCUIT, "data"), prevent_initial_call=True
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
