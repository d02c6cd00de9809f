"""The attention tab: a heat map for each chosen head, as many as are chosen."""

import json
from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, Patch, State, dcc, html, no_update

from app import ids, words
from app.panels.pieces import GRAPH_CONFIG, browser, empty, segmented, switch
from app.runs import Outcome
from app.services import Services, build_intervention
from app.view import MAX_SIZE, MIN_SIZE, View
from models.types import Head
from viz.attention import attention_figure, shared_maximum

MAPS_AT_ONCE = 24
"""More maps are drawn on demand: each costs the browser time and the connection n^2 numbers."""
_MAX_CELLS_AT_ONCE = 400_000


def layout() -> html.Div:
    """Return the contents of the tab."""
    return html.Div(
        [
            _toolbar(),
            html.Div(id=ids.ATTENTION_NOTE, className="note", role="status"),
            empty(
                "Choose heads to see what they attend to: search the list on the left, type "
                "5.3 or L2, or click cells of the map.",
                id=ids.ATTENTION_EMPTY,
                hidden=True,
            ),
            html.Div(id=ids.ATTENTION_GRID, className="map-grid", children=[]),
            html.Div(
                dmc.Button("Show more", id=ids.SHOW_MORE, size="xs", variant="default"),
                className="show-more",
                id=ids.SHOW_MORE_PLACE,
                hidden=True,
            ),
            dcc.Store(id=ids.DRAWN),
            dcc.Store(id=ids.SHOWN, data=1),
        ],
        className="tab-body",
    )


def _toolbar() -> html.Div:
    return html.Div(
        [
            html.Div(
                [
                    html.Span("Weights ≥", className="field-label"),
                    dmc.Slider(
                        id=ids.THRESHOLD,
                        min=0,
                        max=0.5,
                        step=0.01,
                        value=0,
                        size="sm",
                        w=110,
                        updatemode="mouseup",
                        label=None,
                        thumbLabel="Threshold: smaller weights are not drawn",
                    ),
                    html.Span("0", id=ids.THRESHOLD_READING, className="reading"),
                ],
                className="tool",
            ),
            html.Div(
                [
                    html.Span("Colours", className="field-label"),
                    segmented(
                        ids.SCALE,
                        (("shared", "shared"), ("own", "per map")),
                        "shared",
                        "Colour scale: shared by all maps, or each map its own",
                    ),
                    switch(ids.LOG, "log"),
                ],
                className="tool",
            ),
            html.Div(
                [
                    html.Span("Size", className="field-label"),
                    dmc.Slider(
                        id=ids.SIZE,
                        min=MIN_SIZE,
                        max=MAX_SIZE,
                        step=10,
                        value=View().size,
                        size="sm",
                        w=90,
                        updatemode="mouseup",
                        label=None,
                        thumbLabel="Size of each map in pixels",
                    ),
                ],
                className="tool",
            ),
        ],
        className="toolbar",
    )


def drawable(chosen: Sequence[Head], pages: int, n_tokens: int) -> tuple[Head, ...]:
    """Return the chosen heads whose maps are drawn after "Show more" was pressed so often."""
    at_once = max(4, min(MAPS_AT_ONCE, _MAX_CELLS_AT_ONCE // max(1, n_tokens**2)))
    return tuple(chosen[: pages * at_once])


def card(outcome: Outcome, index: int, view: View, zmax: float | None, dark: bool) -> html.Div:
    """Return the map of one head with the button that takes the head out of the choice."""
    head = outcome.maps[index].heads[0]
    figure = attention_figure(
        outcome.maps[index],
        0,
        position=outcome.before.position,
        threshold=view.threshold,
        zmax=zmax,
        log=view.log,
        dark=dark,
        size=view.size,
    )
    return html.Div(
        [
            html.Div(
                dcc.Graph(id=ids.attention_map(head.short), figure=figure, config=GRAPH_CONFIG),
                role="img",
                **{"aria-label": f"Attention of head {head}"},
            ),
            html.Button(
                "×",
                id=ids.drop_head(head.short),
                type="button",
                className="drop-head",
                title=f"Take {head} out of the choice",
                **{"aria-label": f"Take {head} out of the choice"},
            ),
        ],
        className="map-card",
        key=head.short,
    )


def signature(view: View, zmax: float | None, dark: bool) -> str:
    """Return what all maps that are drawn have in common: if it changes, all change."""
    data = view.to_json()
    kept = ("model", "prompt", "bos", "position", "threshold", "log", "size", "ablate")
    same = {name: data[name] for name in kept}
    if view.ablate:
        same |= {name: data[name] for name in ("heads", "intervention", "acted")}
    return json.dumps([same, zmax, dark], sort_keys=True)


def changes(drawn: Sequence[str], wanted: Sequence[str], cards: Sequence[html.Div]) -> Patch | None:
    """Return how to get from the cards that stand to the wanted ones without drawing any again.

    Args:
        cards: of the heads in `wanted` that are not in `drawn`, in that order.

    Returns:
        None if the order of those that stay changes: then all are drawn anew.
    """
    staying = [head for head in drawn if head in set(wanted)]
    if list(wanted[: len(staying)]) != staying:
        return None
    patch = Patch()
    for index in reversed([i for i, head in enumerate(drawn) if head not in set(wanted)]):
        del patch[index]
    for new in cards:
        patch.append(new)
    return patch


def note(view: View, outcome: Outcome, n_chosen: int) -> list[Any]:
    """Say which run the maps are of, and why it is not the ablated one if that was asked for."""
    if outcome.problem is not None:
        return [
            html.Span("Not ablated: attention of the clean run", className="tag failed"),
            f" {outcome.problem}",
        ]
    if outcome.after is not None:
        label = build_intervention(view.intervention).label
        where = f" at positions {view.acted}" if view.acted.strip() else ""
        return [
            html.Span("Attention of the ablated run", className="tag ablated"),
            f" {words.count(n_chosen, 'head')}: {label}{where}",
        ]
    return [
        html.Span("Attention of the clean run", className="tag"),
        " rows are queries, columns are keys; click a cell for its query token",
    ]


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that draw the maps."""

    @app.callback(
        Output(ids.ATTENTION_GRID, "children"),
        Output(ids.DRAWN, "data"),
        Output(ids.ATTENTION_NOTE, "children"),
        Output(ids.ATTENTION_EMPTY, "hidden"),
        Output(ids.SHOW_MORE_PLACE, "hidden"),
        Output(ids.SHOW_MORE, "children"),
        Input(ids.VIEW, "data"),
        Input(ids.DARK, "data"),
        Input(ids.SHOWN, "data"),
        State(ids.DRAWN, "data"),
        prevent_initial_call=True,
    )
    def draw(
        data: dict[str, Any] | None, dark: bool, pages: int, drawn: dict[str, Any] | None
    ) -> tuple[Any, ...]:
        if data is None:
            return (no_update,) * 6
        view = View.from_json(data)
        chosen = view.heads or ()
        n_tokens = len(services.model(view.model).tokenize(view.prompt, view.bos))
        shown = drawable(chosen, pages, n_tokens)
        outcome = services.outcome(view, shown)
        grid, state = _grid(view, outcome, bool(dark), drawn)
        hidden = len(chosen) - len(shown)
        return (
            grid,
            state,
            note(view, outcome, len(chosen)),
            bool(chosen),
            hidden == 0,
            f"Show more ({words.count(hidden, 'head')} left)",
        )

    app.clientside_callback(
        browser("readThreshold"),
        Output(ids.THRESHOLD_READING, "children"),
        Input(ids.THRESHOLD, "value"),
    )
    app.clientside_callback(
        browser("showMore"),
        Output(ids.SHOWN, "data"),
        Input(ids.SHOW_MORE, "n_clicks"),
        Input(ids.PROMPT, "data"),
        Input(ids.MODEL, "data"),
        State(ids.SHOWN, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("dropHead"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Input(ids.drop_head(ALL), "n_clicks"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("openQuery"),
        Output(ids.TOKEN_OPEN, "data", allow_duplicate=True),
        Input(ids.attention_map(ALL), "clickData"),
        prevent_initial_call=True,
    )


def _grid(
    view: View, outcome: Outcome, dark: bool, drawn: dict[str, Any] | None
) -> tuple[Any, dict[str, Any]]:
    """Return the cards, or the change to those that stand, and what stands then."""
    zmax = shared_maximum(*outcome.maps) if view.scale == "shared" else None
    wanted = [maps.heads[0].short for maps in outcome.maps]
    state = {"heads": wanted, "signature": signature(view, zmax, dark)}
    if drawn is not None and drawn["signature"] == state["signature"]:
        if drawn["heads"] == wanted:
            return no_update, state
        new = [i for i, head in enumerate(wanted) if head not in set(drawn["heads"])]
        patch = changes(drawn["heads"], wanted, [card(outcome, i, view, zmax, dark) for i in new])
        if patch is not None:
            return patch, state
    return [card(outcome, i, view, zmax, dark) for i in range(len(wanted))], state
