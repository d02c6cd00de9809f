"""The tab about all heads at once: roles, attention over a corpus, differences between runs."""

from typing import Any

from dash import ALL, Dash, Input, Output, State, html, no_update

from app import ids
from app.panels import comparison, dossier, over_corpus
from app.panels.head_maps import refusal
from app.panels.pieces import browser, empty, segmented
from app.services import Services

SECTIONS = (("roles", "Roles"), ("corpus", "Corpus"), ("compare", "Compare"))


def layout() -> html.Div:
    """Return the contents of the tab."""
    return html.Div(
        [
            html.Div(
                segmented(ids.HEADS_TAB, SECTIONS, "roles", "What is asked of all heads"),
                className="toolbar",
            ),
            empty("", id=ids.HEADS_TAB_NOTE, hidden=True),
            html.Div(
                [dossier.layout(), over_corpus.layout(), comparison.layout()],
                id=ids.HEADS_TAB_PARTS,
            ),
        ],
        className="tab-body",
    )


def register(app: Dash, services: Services) -> None:
    """Add the callbacks of the tab and of what stands in it."""

    @app.callback(
        Output(ids.HEADS_TAB_NOTE, "children"),
        Output(ids.HEADS_TAB_NOTE, "hidden"),
        Output(ids.HEADS_TAB_PARTS, "hidden"),
        Input(ids.TABS, "value"),
        Input(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def refuse(tab: str, name: str | None) -> tuple[Any, ...]:
        if tab != "heads" or name is None:
            return (no_update,) * 3
        sentence = refusal(services.model(name))
        return html.P(sentence), sentence is None, sentence is not None

    dossier.register(app, services)
    over_corpus.register(app, services)
    comparison.register(app, services)
    app.clientside_callback(
        browser("showSection", "heads"),
        Output(ids.ROLES_PLACE, "hidden"),
        Output(ids.CORPUS_PLACE, "hidden"),
        Output(ids.COMPARE_PLACE, "hidden"),
        Input(ids.HEADS_TAB, "value"),
    )
    app.clientside_callback(
        browser("addLeader", "heads"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Input(ids.leader(ALL, ALL), "n_clicks"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
