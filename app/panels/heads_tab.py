"""The tab about all heads at once: roles, attention over a corpus, differences between runs."""

from dash import ALL, Dash, Input, Output, State, html

from app import ids
from app.panels import comparison, dossier, over_corpus
from app.panels.pieces import browser, segmented
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
            dossier.layout(),
            over_corpus.layout(),
            comparison.layout(),
        ],
        className="tab-body",
    )


def register(app: Dash, services: Services) -> None:
    """Add the callbacks of the tab and of what stands in it."""
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
