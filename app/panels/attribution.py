"""The attribution tab: what each part of the model adds to a logit, and the logit lens."""

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update

import ablation
from ablation.attribution_types import HeadTokens, LogitAttribution, LogitLens
from app import ids
from app.panels.export_menu import export_menu
from app.panels.pieces import browser, choose_on_click, graph, segmented, waiting
from app.panels.term_list import term_list
from app.panels.wait_strip import awaiting
from app.services import Services
from app.view import View
from models.errors import UserError
from models.types import TokenProbability
from viz.heads import head_map_figure
from viz.terms import LensRow, lens_rows, signed, term_bars

SHOWN_TERMS = 22
MAP_WIDTH, MAP_HEIGHT = 316, 470
SHOWS = (("direct", "Direct"), ("lens", "Logit lens"), ("tokens", "Tokens by head"))
MAX_HEADS, SHOWN_TOKENS = 48, 5
"""Of how many chosen heads how many tokens are shown."""


def layout() -> html.Div:
    """Return the contents of the tab."""
    return html.Div(
        [
            html.Div(
                [
                    segmented(ids.ATTRIBUTION_SHOW, SHOWS, "direct", "What is shown"),
                    _token_field(
                        ids.ATTRIBUTION_TARGET_PLACE,
                        ids.ATTRIBUTION_TARGET,
                        "Target",
                        "most likely token",
                    ),
                    _token_field(
                        ids.ATTRIBUTION_VERSUS_PLACE, ids.ATTRIBUTION_VERSUS, "less", "nothing"
                    ),
                    html.Div(className="grow"),
                    export_menu("attribution"),
                ],
                className="toolbar",
            ),
            html.Div(id=ids.ATTRIBUTION_NOTE, className="note", role="status"),
            waiting(
                "Reading what each part of the model adds; a long prompt takes a while.",
                ids.ATTRIBUTION_WAITING,
            ),
            html.Div(
                [
                    html.Div(id=ids.ATTRIBUTION_TERMS, className="card"),
                    graph(ids.ATTRIBUTION_MAP, "What each head adds, layers by heads", MAP_HEIGHT),
                ],
                id=ids.ATTRIBUTION_BODY,
                className="attribution-columns",
                hidden=True,
            ),
            html.Div(id=ids.ATTRIBUTION_TABLE, className="card", hidden=True),
            dcc.Store(id=ids.ATTRIBUTED),
            dcc.Store(id=ids.ADD_HEAD),
            dcc.Store(id=ids.EXPLAIN_OPEN),
        ],
        className="tab-body",
    )


def _token_field(place: str, component_id: str, label: str, placeholder: str) -> html.Div:
    return html.Div(
        [
            html.Span(label, className="field-label"),
            dmc.TextInput(
                id=component_id,
                size="xs",
                w=94,
                debounce=True,
                placeholder=placeholder,
                spellCheck=False,
                **{"aria-label": f"{label}: one token as typed, with its leading space"},
            ),
        ],
        id=place,
        className="tool",
    )


def summary(found: LogitAttribution) -> html.Span:
    """Say in a line what the terms add up to."""
    capped = ", before the soft cap" if found.capped else ""
    logit = [html.Span("logit of "), html.Span(found.target.label, className="token-inline")]
    if found.versus is not None:
        logit += [" less ", html.Span(found.versus.label, className="token-inline")]
    return html.Span(
        [
            *logit,
            f" = {found.logit:.2f}{capped}; {len(found.terms)} parts add up to it "
            f"(error {found.error:.0e}). Final norm frozen; what a part does by way of later "
            "parts is theirs.",
        ]
    )


def lens_summary(lens: LogitLens) -> html.Span:
    """Say what the lens shows, and which token it follows."""
    return html.Span(
        [
            "What would be predicted if the model stopped after each layer; ",
            html.Span(lens.watched.label, className="token-inline"),
            " is followed.",
        ]
    )


def lens_table(lens: LogitLens) -> html.Table:
    """Return the lens, a row a layer, the last layer at the top."""
    names = ("after", "most likely", "", "log p of target", "rank")
    return html.Table(
        [
            html.Thead(html.Tr([html.Th(name) for name in names])),
            html.Tbody([_lens_row(row) for row in lens_rows(lens)]),
        ],
        className="numbers lens",
    )


def _lens_row(row: LensRow) -> html.Tr:
    bar = html.Span(className="bar", style={"width": f"{100 * row.share:.2f}%"})
    top = html.Span(row.top, className="token-inline")
    return html.Tr(
        [
            html.Th(row.after, scope="row"),
            html.Td(top),
            html.Td([bar, html.Span(row.prob)], className="figure lens-bar"),
            html.Td(row.log_prob, className="figure"),
            html.Td(row.rank, className="figure"),
        ],
        className="watched" if row.is_watched else None,
    )


def head_tokens_summary(n_chosen: int) -> str:
    """Say what the tokens of heads are, and of how many heads."""
    if n_chosen == 0:
        return "Choose heads on the left to see which tokens each of them raises and lowers."
    few = f"The first {MAX_HEADS} of {n_chosen} heads. " if n_chosen > MAX_HEADS else ""
    return (
        f"{few}Tokens whose logits each chosen head itself raises and lowers most here, and by how "
        "much, less what it adds to all tokens alike; final norm frozen."
    )


def head_tokens_table(found: list[HeadTokens]) -> html.Table:
    """Return the tokens that heads raise and lower, a row a head."""
    rows = [
        html.Tr(
            [
                html.Th(str(entry.head), scope="row"),
                html.Td(_tokens(entry.raised)),
                html.Td(_tokens(entry.lowered)),
            ]
        )
        for entry in found
    ]
    head = html.Thead(html.Tr([html.Th("head"), html.Th("raises"), html.Th("lowers")]))
    return html.Table([head, html.Tbody(rows)], className="numbers head-tokens")


def _tokens(side: tuple[tuple[TokenProbability, float], ...]) -> list[Any]:
    return [
        html.Span(
            [html.Span(token.label, className="token-inline"), html.Small(signed(value))],
            className="token-effect",
        )
        for token, value in side
    ]


def _of_run(view: View, note: Any) -> list[Any]:
    """Say that a note is about the clean run, where heads are ablated beside it."""
    if not (view.ablate and view.heads):
        return [note]
    return [html.Span("Of the clean run", className="tag"), note]


def asked(view: View, dark: bool, *options: str | None) -> list[Any]:
    """Return all that the tab shows depends on: the same again, the same tab."""
    data = view.to_json()
    kept = ("model", "prompt", "second", "bos", "position", "heads", "ablate")
    return [*(data[name] for name in kept), dark, *options]


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that fill the tab."""

    @app.callback(
        Output(ids.ATTRIBUTION_NOTE, "children"),
        Output(ids.ATTRIBUTION_TERMS, "children"),
        Output(ids.ATTRIBUTION_MAP, "figure"),
        Output(ids.ATTRIBUTION_TABLE, "children"),
        Output(ids.ATTRIBUTION_BODY, "hidden"),
        Output(ids.ATTRIBUTION_TABLE, "hidden"),
        Output(ids.ATTRIBUTED, "data"),
        Input(ids.IN_ATTRIBUTION, "data"),
        Input(ids.DARK, "data"),
        Input(ids.ATTRIBUTION_SHOW, "value"),
        Input(ids.ATTRIBUTION_TARGET, "value"),
        Input(ids.ATTRIBUTION_VERSUS, "value"),
        State(ids.VIEW, "data"),
        State(ids.ATTRIBUTED, "data"),
        State(ids.TAB_ID, "data"),
        Input(ids.WAIT_AGAIN, "n_clicks"),
        running=[(Output(ids.ATTRIBUTION_WAITING, "hidden"), False, True)],
        prevent_initial_call=True,
    )
    def draw(
        changes: int | None,
        dark: bool,
        show: str,
        target: str | None,
        versus: str | None,
        data: dict[str, Any] | None,
        shown: list[Any] | None,
        tab: str,
        *again: int | None,
    ) -> tuple[Any, ...]:
        view = None if data is None else View.from_json(data)
        if view is None or view.tab != "attribution":
            return (no_update,) * 7
        now = asked(view, bool(dark), show, target, versus)
        if now == shown:
            return (no_update,) * 7
        try:
            with awaiting(services, tab, "attribution", view):
                note, *rest = _shown(services, view, bool(dark), show, target, versus)
            return (_of_run(view, note), *rest, now)
        except UserError as error:
            problem = [html.Span("Not shown", className="tag failed"), f" {error}"]
            return (problem, no_update, no_update, no_update, True, True, now)

    app.clientside_callback(
        browser("addHead", "attribution"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Input(ids.ADD_HEAD, "data"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("showTokenFields", "attribution"),
        Output(ids.ATTRIBUTION_TARGET_PLACE, "hidden"),
        Output(ids.ATTRIBUTION_VERSUS_PLACE, "hidden"),
        Input(ids.ATTRIBUTION_SHOW, "value"),
    )
    choose_on_click(app, ids.ATTRIBUTION_MAP)


def _shown(
    services: Services, view: View, dark: bool, show: str, target: str | None, versus: str | None
) -> tuple[Any, ...]:
    """Return what goes into the note, the terms, the map and the lens, and which are hidden."""
    model = services.model(view.model)
    prompt = services.prompt(view, model)
    stream = services.streams.get(model, prompt)
    if show == "lens":
        lens = ablation.logit_lens(model, prompt, view.position, target or None, 1, stream=stream)
        return lens_summary(lens), no_update, no_update, lens_table(lens), True, False
    if show == "tokens":
        heads = (view.heads or ())[:MAX_HEADS]
        tokens = ablation.tokens_by_head(
            model, prompt, heads, view.position, SHOWN_TOKENS, stream=stream
        )
        note = head_tokens_summary(len(view.heads or ()))
        return note, no_update, no_update, head_tokens_table(tokens), True, not heads
    found = ablation.attribute_logits(
        model, prompt, target or None, versus or None, view.position, stream=stream
    )
    terms = term_list(term_bars(found.terms, SHOWN_TERMS), "Largest terms")
    figure = head_map_figure(
        *found.shape,
        found.head_scores,
        view.heads or (),
        dark=dark,
        width=MAP_WIDTH,
        height=MAP_HEIGHT,
    )
    return summary(found), terms, figure, no_update, False, True
