"""The menus with which figures and tables are written to files."""

from collections.abc import Sequence
from typing import Any

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


def menu_of(items: Sequence[tuple[Any, str]], **button: Any) -> dmc.Menu:
    """Return a menu of files.

    Args:
        items: id and label of each.
        button: properties of what opens it, its id, say.
    """
    shown = [dmc.MenuItem(label, id=item, fz="xs", py=4, n_clicks=0) for item, label in items]
    opener = dmc.Button("Export", size="compact-xs", variant="default", **button)
    return dmc.Menu(
        [dmc.MenuTarget(opener), dmc.MenuDropdown(shown)], position="bottom-end", shadow="md"
    )


PAGE = ("html", "All of it as HTML")


def export_menu(of: str, *, page: bool = False) -> dmc.Menu:
    """Return the menu of a tab whose figures the browser has and whose table the program keeps.

    Args:
        of: what is exported: a key of `app.tables.TABLES`.
        page: whether it can be written as one HTML file too.
    """
    kinds = (*KINDS, PAGE) if page else KINDS
    items = [(ids.export_item(of, kind), label) for kind, label in kinds]
    return menu_of(items, className="export")


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
