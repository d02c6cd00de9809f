"""The token panel: everything known of one clicked position."""

import math
from typing import Any

from dash import Dash, Input, Output, State, html

from app import ids, words
from app.panels.pieces import browser
from app.panels.wait_strip import awaiting
from app.services import Services
from app.view import View
from app.waits import step
from models.types import POLICY, TokenDetail, TokenProbability
from viz.labels import probability


def layout() -> html.Section:
    """Return the panel, which a click on a token or on a cell of a map opens."""
    return html.Section(
        [
            html.Div(
                [
                    html.H2(["Token ", html.Span(id=ids.TOKEN_NAME)], className="section-title"),
                    html.Button(
                        "×",
                        id=ids.TOKEN_CLOSE,
                        type="button",
                        className="close",
                        **{"aria-label": "Close the token panel"},
                    ),
                ],
                className="section-head",
            ),
            html.Div(id=ids.TOKEN_BODY, **{"aria-live": "polite"}),
        ],
        id=ids.TOKEN_PANEL,
        className="section token-panel",
        hidden=True,
    )


def body(detail: TokenDetail, kind: str) -> list[Any]:
    """Return what the panel says of a position.

    Args:
        kind: of the model: what a prediction at a position is about depends on it.
    """
    what = "token here" if kind == "masked" else "next token"
    has_norm = math.isfinite(detail.embedding_norm)  # what stands for a picture may have none
    facts = (
        ("position", f"{detail.position}"),
        ("id", f"{detail.id:,}"),
        ("text", repr(detail.text)),
        ("kind", detail.kind),
        *([("embedding norm", words.number(detail.embedding_norm))] if has_norm else []),
    )
    listed = html.Dl(
        [html.Div([html.Dt(name), html.Dd(value)]) for name, value in facts],
        className="facts",
    )
    if kind == POLICY:  # no token is predicted anywhere
        return [listed]
    return [
        listed,
        html.H3(f"Predicted {what}, clean run", className="small-title"),
        html.Ol([_predicted(token) for token in detail.prediction.top], className="bars"),
    ]


def _predicted(token: TokenProbability) -> html.Li:
    return html.Li(
        [
            html.Span(token.label, className="bar-label"),
            html.Span(probability(token.prob), className="bar-value"),
            html.Span(className="bar", style={"width": f"{100 * token.prob:.2f}%"}),
        ]
    )


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that open, fill and close the panel."""

    @app.callback(
        Output(ids.TOKEN_NAME, "children"),
        Output(ids.TOKEN_BODY, "children"),
        Output(ids.TOKEN_PANEL, "hidden", allow_duplicate=True),
        Input(ids.TOKEN_OPEN, "data"),
        State(ids.VIEW, "data"),
        State(ids.TAB_ID, "data"),
        prevent_initial_call=True,
    )
    def show(
        opened: dict[str, int] | None, data: dict[str, Any], tab: str
    ) -> tuple[str, Any, bool]:
        if opened is None:
            return "", [], True
        view = View.from_json(data)
        model = services.model(view.model)
        prompt = services.prompt(view, model)
        position = opened["position"]
        with (
            awaiting(services, tab, "token", view, position),
            step("Reading the prediction at a token", len(model.sites)),
        ):
            detail = model.token_detail(prompt, position)
        return detail.label, body(detail, model.kind), False

    app.clientside_callback(
        browser("closeToken"),
        Output(ids.TOKEN_PANEL, "hidden", allow_duplicate=True),
        Input(ids.TOKEN_CLOSE, "n_clicks"),
        Input(ids.PROMPT, "data"),
        Input(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
