"""The prediction: next tokens before and after, and what changed in numbers."""

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update

from app import ids
from app.panels.pieces import browser, graph, section
from app.panels.wait_strip import awaiting
from app.runs import Outcome, parse_positions
from app.services import Services, acted_of, form_problem, most_positions
from app.view import View
from models.errors import UserError
from models.types import CLASSIFIER, POLICY, Prediction, TokenProbability
from viz.labels import probability
from viz.predictions import MetricRow, metric_rows, prediction_figure

SHOWN_TOKENS = 10


def layout() -> html.Section:
    """Return the prediction's part of the right column."""
    return section(
        "Prediction",
        html.P(id=ids.PREDICTION_CAPTION, className="caption"),
        graph(ids.PREDICTION_FIGURE, "Most likely tokens before and after", 200),
        html.Div(id=ids.PREDICTION_NUMBERS, className="prediction-numbers"),
        html.Div(
            [
                html.Span("Watch", className="field-label"),
                dmc.Select(
                    id=ids.WATCHED_PICKER,
                    data=[],
                    searchable=True,
                    clearable=True,
                    size="xs",
                    placeholder="a token's rank",
                    **{"aria-label": "Watched token: choose one of the 20 most likely"},
                ),
                dmc.TextInput(
                    id=ids.WATCHED_TEXT,
                    size="xs",
                    debounce=True,
                    placeholder="or type one",
                    spellCheck=False,
                    **{"aria-label": "Watched token: type its text, with its leading space"},
                ),
            ],
            className="token-choice",
        ),
        dcc.Store(id=ids.PREDICTED),
        id=ids.PREDICTION_PANEL,
    )


def token_options(top: tuple[TokenProbability, ...]) -> list[dict[str, str]]:
    """Return tokens with their probabilities as options of a list; values are ids."""
    return [
        {"value": str(token.id), "label": f"{token.label}  {probability(token.prob)}"}
        for token in top
    ]


def caption(outcome: Outcome, kind: str) -> list[Any]:
    """Say where the prediction is read, and what is compared."""
    if kind == CLASSIFIER:
        return ["which class the picture shows"]
    position = outcome.before.position
    label = html.Span(outcome.prompt.labels[position], className="token-inline")
    return ["at " if kind == "masked" else "after ", label, f" (position {position})"]


def number_table(rows: list[MetricRow]) -> html.Table:
    """Return the numbers of the panel, a row each."""
    compared = any(row.after for row in rows)
    heads = ("", "before", "after", "change") if compared else ("", "")
    body = [_number_row(row, compared) for row in rows]
    return html.Table(
        [html.Thead(html.Tr([html.Th(head) for head in heads])), html.Tbody(body)]
        if compared
        else html.Tbody(body),
        className="numbers",
    )


def _number_row(row: MetricRow, compared: bool) -> html.Tr:
    unit = html.Span(f" {row.unit}", className="unit") if row.unit else None
    name = html.Th([row.label, unit], scope="row")
    values = (row.before, row.after, row.change) if compared else (row.before,)
    return html.Tr([name, *(html.Td(value, className="figure") for value in values)])


def watched_token(before: Prediction, model: Any, watched: int | None) -> TokenProbability | None:
    """Return the token whose rank is followed, if one is chosen."""
    if watched is None or watched >= len(before.log_probs):
        return None
    return model.describe_token(watched, float(before.log_probs[watched]))


def shown_tokens(before: Prediction, after: Prediction | None) -> int:
    """Return how many of the likeliest tokens of each run to draw, so that the rows fit."""
    if after is None:
        return SHOWN_TOKENS
    for n in range(SHOWN_TOKENS, 1, -1):
        if len({token.id for token in (*before.top[:n], *after.top[:n])}) <= SHOWN_TOKENS:
            return n
    return 1


def asked(view: View, dark: bool) -> list[Any]:
    """Return all that the panel shows depends on, as plain data: the same again, the same panel."""
    data = view.to_json()
    kept = (
        "model",
        "prompt",
        "second",
        "images",
        "bos",
        "position",
        "watched",
        "ablate",
        "intervention",
        "acted",
    )
    return [*(data[name] for name in kept), data["heads"] if view.ablate else None, dark]


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that draw the prediction and choose the watched token."""

    @app.callback(
        Output(ids.PREDICTION_PANEL, "hidden"),
        Output(ids.PREDICTION_CAPTION, "children"),
        Output(ids.PREDICTION_FIGURE, "figure"),
        Output(ids.PREDICTION_NUMBERS, "children"),
        Output(ids.WATCHED_PICKER, "data"),
        Output(ids.WATCHED_PICKER, "value"),
        Output(ids.TARGET_PICKER, "data"),
        Output(ids.INTERVENTION_ERROR, "children"),
        Output(ids.ACTED_TEXT, "error"),
        Output(ids.PREDICTED, "data"),
        Input(ids.VIEW, "data"),
        Input(ids.DARK, "data"),
        State(ids.PREDICTED, "data"),
        State(ids.TAB_ID, "data"),
        Input(ids.WAIT_AGAIN, "n_clicks"),
        Input(ids.OVERVIEW_AGAIN, "n_clicks"),
        prevent_initial_call=True,
    )
    def draw(
        data: dict[str, Any] | None,
        dark: bool,
        predicted: list[Any] | None,
        tab: str,
        *again: int | None,
    ) -> tuple[Any, ...]:
        view = None if data is None else View.from_json(data)
        if view is None or asked(view, bool(dark)) == predicted:
            return (no_update,) * 10
        model = services.model(view.model)
        with awaiting(services, tab, "prediction", view, acted_of(view)):
            outcome = services.outcome(view, maps=False)
        if model.kind == POLICY:  # what it does stands under Action
            problem = _problem(view, outcome)
            return True, *(no_update,) * 6, *problem, asked(view, bool(dark))
        watched = watched_token(outcome.before, model, view.watched)
        before, after = outcome.before, outcome.after
        rows = metric_rows(before, after, outcome.comparison, watched)
        figure = prediction_figure(before, after, n=shown_tokens(before, after), dark=bool(dark))
        return (
            False,
            caption(outcome, model.kind),
            figure,
            number_table(rows),
            token_options(_with(before.top, watched)),
            None if watched is None else str(watched.id),
            token_options(before.top),
            *_problem(view, outcome),
            asked(view, bool(dark)),
        )

    @app.callback(
        Output(ids.WATCHED, "data", allow_duplicate=True),
        Output(ids.WATCHED_TEXT, "value"),
        Output(ids.WATCHED_TEXT, "error"),
        Input(ids.WATCHED_TEXT, "value"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def watch_typed(text: str, model_name: str) -> tuple[Any, Any, Any]:
        if not text:
            return no_update, no_update, None
        try:
            return services.model(model_name).resolve_token(text), "", None
        except UserError as error:
            return no_update, no_update, str(error)

    app.clientside_callback(
        browser("watchChosen"),
        Output(ids.WATCHED, "data", allow_duplicate=True),
        Input(ids.WATCHED_PICKER, "value"),
        State(ids.WATCHED, "data"),
        prevent_initial_call=True,
    )


def _with(
    top: tuple[TokenProbability, ...], token: TokenProbability | None
) -> tuple[TokenProbability, ...]:
    return top if token is None or token.id in {t.id for t in top} else (*top, token)


def _problem(view: View, outcome: Outcome) -> tuple[str, str | None]:
    """Return what the intervention's error and the error of the positions acted on say."""
    try:
        parse_positions(view.acted, most_positions(outcome.prompt))
    except UserError as error:
        return "", str(error)
    problem = outcome.problem or form_problem(view.intervention)
    return "" if problem is None else str(problem), None
