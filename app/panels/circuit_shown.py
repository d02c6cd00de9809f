"""The circuit tab, where what was found stands: picture, proof, tables, what is told of an edge."""

import dash_mantine_components as dmc
from dash import html

from app import ids
from app.panels.circuit_tables import edge_columns, repair_columns, role_columns, table
from app.panels.export_menu import menu_of
from app.panels.pieces import graph, segmented
from viz.circuit_curve import HEIGHT as CURVE_HEIGHT

EXPORTS = (
    (ids.CIRCUIT_PNG, "PNG picture"),
    (ids.CIRCUIT_SVG, "SVG picture"),
    (ids.CIRCUIT_JSON, "JSON, all numbers"),
    (ids.CIRCUIT_GRAPHML, "GraphML"),
)
HINT = "Click a head or an edge; Ctrl + wheel zooms."


def result_place() -> html.Div:
    """Return what is hidden until there is a circuit."""
    return html.Div(
        [
            html.Div(
                [
                    html.Div(id=ids.CIRCUIT_HEADLINE, className="headline"),
                    html.P(id=ids.CIRCUIT_CAPTION, className="help of-what"),
                    _picture_tools(),
                    html.Div(id=ids.CIRCUIT_PICTURE, className="circuit-picture"),
                ],
                className="card",
            ),
            html.Div(
                [
                    graph(
                        ids.CIRCUIT_CURVE,
                        "Faithfulness against number of edges: method, random edges, circuit",
                        CURVE_HEIGHT,
                    ),
                    html.Div(id=ids.CIRCUIT_SENTENCES, className="sentences"),
                ],
                className="card",
            ),
            html.Div(_tables(), id=ids.CIRCUIT_TABLES, className="circuit-tables"),
            _edge_strip(),
        ],
        id=ids.CIRCUIT_BODY,
        className="circuit-body",
        hidden=True,
    )


def _tables() -> list[html.Div]:
    return [
        table("Edges", ids.CIRCUIT_EDGES, edge_columns(), "params.data.edge", 300),
        table(
            "Roles", ids.CIRCUIT_ROLES, role_columns(), "params.data.id",
            place=ids.CIRCUIT_ROLES_PLACE,
        ),
        table(
            "Self-repair", ids.CIRCUIT_REPAIRS, repair_columns(), "params.data.id",
            place=ids.CIRCUIT_REPAIRS_PLACE,
        ),
    ]  # fmt: skip


def _edge_strip() -> html.Div:
    """Return where the clicked edge is told of: at the end of what is seen, wherever that is."""
    return html.Div(
        [
            html.Button(
                "×",
                id=ids.CIRCUIT_EDGE_CLOSE,
                type="button",
                className="close",
                **{"aria-label": "Close what is told of the edge"},
            ),
            html.Div(id=ids.CIRCUIT_EDGE, role="status"),
        ],
        id=ids.CIRCUIT_EDGE_PLACE,
        className="edge-strip help",
        hidden=True,
    )


def _picture_tools() -> html.Div:
    return html.Div(
        [
            html.Div(
                segmented(
                    ids.CIRCUIT_LAYOUT,
                    (("layer", "By layer"), ("token", "By token")),
                    "layer",
                    "Where parts stand in the picture",
                ),
                id=ids.CIRCUIT_LAYOUT_PLACE,
                hidden=True,
            ),
            html.Span("Strongest", className="field-label"),
            dmc.Slider(
                id=ids.CIRCUIT_THRESHOLD,
                min=0,
                max=100,
                step=1,
                value=100,
                size="sm",
                w=160,
                label=None,
                updatemode="drag",
                thumbLabel="How many of the strongest edges are drawn, by their logarithm",
            ),
            html.Span(id=ids.CIRCUIT_SHOWN, className="reading"),
            html.Span(HINT, className="muted grow clipped", title=HINT),
            menu_of(EXPORTS, id=ids.CIRCUIT_EXPORT),
        ],
        className="toolbar circuit-tools",
    )
