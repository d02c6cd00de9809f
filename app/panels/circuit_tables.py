"""The tables of the circuit tab."""

from collections.abc import Sequence
from typing import Any

import dash_ag_grid as dag
from dash import html

from app.panels.study import GRID_THEME


def table(
    title: str,
    component_id: str,
    columns: Sequence[dict[str, Any]],
    row_id: str,
    height: int | None = None,
    place: str = "",
) -> html.Div:
    """Return a table under its title, if it has one.

    Args:
        row_id: an expression of the browser's.
        height: px; None to be as high as its rows.
        place: the id of all of it, where it may be hidden.
    """
    grid = dag.AgGrid(
        id=component_id,
        columnDefs=list(columns),
        rowData=[],
        getRowId=row_id,
        defaultColDef={"sortable": True, "resizable": True, "suppressMovable": True},
        dashGridOptions={
            "theme": {"function": GRID_THEME},
            "rowHeight": 27,
            "headerHeight": 29,
            "animateRows": False,
            "domLayout": "normal" if height else "autoHeight",
            "suppressNoRowsOverlay": True,
        },
        className="grid",
        style={"height": height, "width": "100%"},
    )
    named = {"id": place} if place else {}
    heading = [html.H3(title, className="small-title")] if title else []
    return html.Div([*heading, grid], **named)


def edge_columns() -> list[dict[str, Any]]:
    """Return the columns of the circuit's edges."""
    return [
        {"field": "rank", "headerName": "#", "width": 62},
        {"field": "from", "headerName": "From", "flex": 1},
        {"field": "to", "headerName": "To", "flex": 1},
        {"field": "input", "headerName": "Input", "width": 90},
        figures("score", "Score", "+.3~g"),
        figures("share", "% of the circuit's |scores|", ".2~g"),
    ]


def role_columns() -> list[dict[str, Any]]:
    """Return the columns of the roles of heads."""
    return [
        {"field": "head", "headerName": "Head", "width": 80},
        {"field": "role", "headerName": "Role", "width": 126},
        {**figures("score", "Score", ".3~g"), "flex": None, "width": 78},
        {"field": "test", "headerName": "Test", "flex": 1, "wrapText": True, "autoHeight": True},
    ]


def repair_columns() -> list[dict[str, Any]]:
    """Return the columns of what others make up for."""
    return [
        {"field": "ablated", "headerName": "Ablated", "flex": 1},
        {"field": "head", "headerName": "Part that changed", "flex": 1},
        figures("change", "Change of its direct effect", "+.3~g"),
    ]


def figures(name: str, header: str, spec: str) -> dict[str, Any]:
    """Return a column of numbers, written as d3 does."""
    return {
        "field": name,
        "headerName": header,
        "type": "rightAligned",
        "flex": 1,
        "valueFormatter": {
            "function": f"params.value == null ? '' : d3.format('{spec}')(params.value)"
        },
    }
