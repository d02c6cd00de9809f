"""The menu with which a tab's figures and its table are written to files."""

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, State

from app import ids
from app.panels.pieces import browser

KINDS = (
    ("png", "Figures as PNG"),
    ("svg", "Figures as SVG"),
    ("csv", "Table as CSV"),
    ("json", "All of it as JSON"),
)
"""Kind of file -> what the menu calls it."""


def export_menu(of: str) -> dmc.Menu:
    """Return the menu.

    Args:
        of: what is exported: a key of `app.tables.TABLES`.
    """
    items = [
        dmc.MenuItem(label, id=ids.export_item(of, kind), fz="xs", py=4, n_clicks=0)
        for kind, label in KINDS
    ]
    opener = dmc.Button("Export", size="compact-xs", variant="default", className="export")
    return dmc.Menu(
        [dmc.MenuTarget(opener), dmc.MenuDropdown(items)], position="bottom-end", shadow="md"
    )


def register(app: Dash) -> None:
    """Let the browser ask for a file from what the page keeps of each result."""
    app.clientside_callback(
        browser("exportPart", "menus"),
        Input(ids.export_item(ALL, ALL), "n_clicks"),
        State(ids.VIEW, "data"),
        State(ids.ATTRIBUTION_SHOW, "value"),
        State(ids.ATTRIBUTION_TARGET, "value"),
        State(ids.ATTRIBUTION_VERSUS, "value"),
        State(ids.DOSSIER, "data"),
        State(ids.CORPUS, "data"),
        State(ids.CORPUS_HEAD, "value"),
        State(ids.COMPARISON, "data"),
        State(ids.STUDIES, "data"),
        prevent_initial_call=True,
    )
