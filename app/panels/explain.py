"""Why does this head look there? Opened by a click on a cell of a heat map."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, html, set_props

import ablation
from ablation.attribution_types import QueryKeyDetail, ScoreSources
from app import ids, words
from app.panels.pieces import browser, switch, waiting
from app.panels.term_list import term_list
from app.panels.wait_strip import awaiting
from app.services import Services
from app.view import View, head_from_text
from app.waits import step
from models.errors import UserError
from models.types import FloatArray, Head, TokenizedPrompt
from viz.sink import without_first
from viz.terms import dimension_bars, signed, term_bars

SHOWN_SOURCES, SHOWN_DIMENSIONS = 7, 3
LOOKS = 0.05
"""Of smaller weights it is asked why the head does not look there."""


def layout() -> html.Section:
    """Return the panel."""
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Why there?", id=ids.EXPLAIN_NAME, className="section-title"),
                    html.Button(
                        "×",
                        id=ids.EXPLAIN_CLOSE,
                        type="button",
                        className="close",
                        **{"aria-label": "Close the explanation"},
                    ),
                ],
                className="section-head",
            ),
            switch(ids.EXPLAIN_RELATIVE, "against the other keys it can see", True),
            waiting("Computing", ids.EXPLAIN_WAITING),
            html.Div(id=ids.EXPLAIN_BODY, **{"aria-live": "polite"}),
        ],
        id=ids.EXPLAIN_PANEL,
        className="section token-panel",
        hidden=True,
    )


def title(head: Head, weight: float = 1.0) -> str:
    """Return the panel's heading for a head and the weight of its cell."""
    return f"Why does {head} look there?" if weight >= LOOKS else f"Why does {head} not look there?"


def largest_in(weights: FloatArray, query: int, key: int, step: int) -> tuple[int, int]:
    """Return the place of the largest weight of a cell, as a query and a key.

    Args:
        weights: a map [query, key], NaN where it is blank.
        query, key: the first of the cell's.
        step: how many queries, and how many keys, share it.
    """
    cell = np.nan_to_num(weights[query : query + step, key : key + step], nan=-1.0)
    row, column = np.unravel_index(int(cell.argmax()), cell.shape)
    return query + int(row), key + int(column)


def pair(prompt: TokenizedPrompt, query: int, key: int) -> html.P:
    """Return the two tokens of a cell; a click on one opens the token panel."""
    return html.P(
        [_token(prompt, query), html.Span(" → ", className="muted"), _token(prompt, key)],
        className="pair-line",
    )


def _token(prompt: TokenizedPrompt, position: int) -> html.Button:
    return html.Button(
        prompt.unique_labels[position],
        type="button",
        className="token",
        title=f"Position {position}: show what is known of this token",
        **{"data-token": str(position)},
    )


OF_CLEAN_RUN = "Of the clean run: what ablating the chosen heads changes is not explained."


def _of_cell(step: int) -> list[html.P]:
    """Say that a cell stood for several weights."""
    said = f"The largest of the {step}×{step} weights of that dot."
    return [html.P(said, className="help")] if step > 1 else []


def _run_note(view: View) -> list[html.P]:
    """Say which run is explained, where the map is of another."""
    return [html.P(OF_CLEAN_RUN, className="help")] if view.ablate and view.heads else []


def body(detail: QueryKeyDetail, strongest: str = "") -> list[Any]:
    """Return what the panel says of one cell.

    Args:
        strongest: see `against_strongest`.
    """
    score = _score(detail, strongest)
    if not detail.sources:
        return [score, html.P(detail.problem, className="help"), _dimensions(detail)]
    sides = [_side(side, detail) for side in detail.sources]
    return [score, html.Div(sides, className="two-lists"), _dimensions(detail)]


def _score(detail: QueryKeyDetail, strongest: str) -> html.P:
    score = f"score {words.number(detail.score, 2)}"
    if detail.relative:
        score = f"score {signed(detail.score)} from the mean of all keys it can see"
    parts = [f"weight {detail.weight:.3g}", score]
    if not detail.visible:
        parts.append("masked: the query cannot see this key")
    if strongest:
        parts.append(strongest)
    if detail.bias:
        parts.append(f"position bias {detail.bias:+.2f}")
    if detail.softcap is not None:
        parts.append(f"soft cap {detail.softcap:g}")
    if detail.sink is not None:
        parts.append(f"sink {detail.sink:.2f}")
    return html.P(" · ".join(parts), className="muted")


def _side(side: ScoreSources, detail: QueryKeyDetail) -> html.Div:
    label = detail.prompt.unique_labels[side.position]
    heading = html.H3(
        [f"{side.side} ", html.Span(label, className="token-inline")],
        className="small-title clipped",
        title=f"What each part of the model put into the {side.side}, the other side held fixed; "
        f"adds up to the score within {side.error:.1g}",
    )
    bars = term_bars(side.terms, SHOWN_SOURCES)
    return html.Div([heading, term_list(bars, f"Sources of the {side.side}")])


def _dimensions(detail: QueryKeyDetail) -> html.Div:
    bars = dimension_bars(detail.ranked_dimensions(), SHOWN_DIMENSIONS)
    key_head = "" if detail.key_head == detail.head.head else f" (key head {detail.key_head})"
    heading = html.H3(f"q·k by dimension{key_head}", className="small-title")
    return html.Div([heading, term_list(bars, "Dimensions of query and key")])


def _shown_map(services: Services, view: View, pages: int, head: Head) -> FloatArray:
    """Return a head's map as the page shows it, [query, key]."""
    shown = services.outcome(view, pages)
    maps = next(one for one in shown.maps if head in one.heads)
    return without_first(maps.values[0], view.sink)


def against_strongest(row: FloatArray, key: int, names: Sequence[str]) -> str:
    """Say how far a key's score is below that of the strongest key of its query.

    Weights of one query are in the proportion of their scores' exponentials, so the logarithm of
    the proportion is the difference of the scores, with position bias and soft cap.

    Args:
        row: the weights of the query, float32 [key].
        names: of the keys.
    """
    best = int(row.argmax())
    if best == key:
        return "the strongest key of this query"
    if row[key] <= 0:
        return f"the strongest key of this query is {names[best]}, weight {row[best]:.3g}"
    below = signed(float(np.log(row[key] / row[best])))
    return f"score {below} from that of the strongest key, {names[best]}, weight {row[best]:.3g}"


def _explained(
    services: Services, view: View, opened: dict[str, Any], relative: bool, pages: int
) -> tuple[Any, ...]:
    """Return the panel's title and body for a cell, and which panels are hidden."""
    head = head_from_text(opened["head"])
    model = services.model(view.model)
    prompt = services.prompt(view, model)
    query, key, side = int(opened["query"]), int(opened["key"]), int(opened["step"])
    if side > 1:
        shown = _shown_map(services, view, pages, head)
        query, key = largest_in(shown, query, key, side)
        set_props(ids.TOKEN, {"data": query if opened["direction"] == "at" else key})
    opening = [pair(prompt, query, key), *_of_cell(side), *_run_note(view)]
    stream = None
    with suppress(UserError):  # said below, beside what can be told without it
        stream = services.streams.get(model, prompt)
    try:
        with step("Telling the score apart", head.layer + 1):
            detail = ablation.explain_attention(
                model, prompt, head, query, key, relative=relative, stream=stream
            )
    except UserError as error:
        return title(head), [*opening, html.P(str(error), className="help")], False, True
    clean = services.runs.outcome(model, prompt, view.position, [head], None)
    row = clean.maps[0].values[0, query]
    strongest = against_strongest(row, key, prompt.unique_labels) if detail.visible else ""
    return title(head, detail.weight), [*opening, *body(detail, strongest)], False, True


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that open, fill and close the panel."""

    @app.callback(
        Output(ids.EXPLAIN_NAME, "children"),
        Output(ids.EXPLAIN_BODY, "children"),
        Output(ids.EXPLAIN_PANEL, "hidden"),
        Output(ids.TOKEN_PANEL, "hidden", allow_duplicate=True),
        Input(ids.EXPLAIN_OPEN, "data"),
        Input(ids.EXPLAIN_RELATIVE, "checked"),
        State(ids.VIEW, "data"),
        State(ids.SHOWN, "data"),
        State(ids.TAB_ID, "data"),
        running=[
            (Output(ids.EXPLAIN_WAITING, "hidden"), False, True),
            (Output(ids.EXPLAIN_BODY, "className"), "waiting", ""),
            (Output(ids.EXPLAIN_PANEL, "hidden"), False, False),
        ],
        prevent_initial_call=True,
    )
    def show(
        opened: dict[str, Any] | None, relative: bool, data: dict[str, Any], pages: int, tab: str
    ) -> tuple[Any, ...]:
        if opened is None:
            return "", [], True, True
        view, about = View.from_json(data), tuple(opened.items())
        with awaiting(services, tab, "explanation", view, about):
            return _explained(services, view, opened, relative, pages)

    app.clientside_callback(
        browser("close", "attribution"),
        Output(ids.EXPLAIN_PANEL, "hidden", allow_duplicate=True),
        Input(ids.EXPLAIN_CLOSE, "n_clicks"),
        Input(ids.TOKEN_OPEN, "data"),
        Input(ids.PROMPT, "data"),
        Input(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
