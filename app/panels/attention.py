"""The attention tab: a heat map for each chosen head, as many as are chosen."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update

from app import ids, words
from app.panels.pieces import browser, empty, segmented, switch
from app.runs import Outcome
from app.services import Services, build_intervention
from app.view import DIRECTIONS, MAX_SIZE, MIN_SIZE, View
from models.types import AttentionMaps, TokenizedPrompt
from viz.attention import Look, attention_message, dots_across, shared_maximum, token_names
from viz.cells import Region

STORES = (ids.DRAWN, ids.MAPS, ids.ZOOM_REQUEST, ids.ZOOMED, ids.DROP_HEAD)


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
            html.Div(id=ids.ATTENTION_GRID, className="map-grid"),  # filled by assets/maps.js
            html.Div(
                dmc.Button("Show more", id=ids.SHOW_MORE, size="xs", variant="default"),
                className="show-more",
                id=ids.SHOW_MORE_PLACE,
                hidden=True,
            ),
            *(dcc.Store(id=store) for store in STORES),
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
                    html.Span("Sentences", className="field-label"),
                    segmented(
                        ids.BETWEEN,
                        (("all", "all"), ("a-b", "A→B"), ("b-a", "B→A")),
                        "all",
                        "Which sentence of the pair looks at which",
                    ),
                ],
                id=ids.BETWEEN_PLACE,
                className="tool",
                hidden=True,
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


def look(view: View, outcome: Outcome, dark: bool) -> Look:
    """Return how all maps of a view are drawn."""
    return Look(
        position=outcome.before.position,
        threshold=view.threshold,
        zmax=shared_maximum(*outcome.maps) if view.scale == "shared" else None,
        log=view.log,
        dark=dark,
        size=view.size,
        between=DIRECTIONS[view.between],
    )


def signature(view: View, how: Look) -> str:
    """Return what all maps that are drawn have in common: if it changes, all change."""
    data = view.to_json()
    same = {name: data[name] for name in ("model", "prompt", "second", "bos", "ablate")}
    if view.ablate:
        same |= {name: data[name] for name in ("heads", "intervention", "acted")}
    return hashlib.sha256(json.dumps([same, repr(how)], sort_keys=True).encode()).hexdigest()


def message(
    outcome: Outcome, how: Look, serial: str, drawn: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return what `assets/maps.js` needs to draw the maps, or None if they stand as they should.

    Args:
        serial: the signature of how they are drawn.
        drawn: `heads` and `serial` of the maps that stand; those are not sent again.
    """
    prompt = outcome.prompt
    order = [maps.heads[0].short for maps in outcome.maps]
    standing = set(drawn["heads"]) if drawn is not None and drawn["serial"] == serial else set()
    if drawn is not None and standing and list(drawn["heads"]) == order:
        return None
    new = {
        head: {"name": str(maps.heads[0]), "figure": map_message(maps, prompt, how)}
        for head, maps in zip(order, outcome.maps, strict=True)
        if head not in standing
    }
    return {
        "serial": serial,
        "order": order,
        "names": token_names(prompt),
        "source": None if prompt.source is None else token_names(prompt.source),
        "marked": how.position,
        "maps": new,
    }


def map_message(
    maps: AttentionMaps, prompt: TokenizedPrompt, how: Look, region: Region | None = None
) -> dict[str, Any]:
    """Return what draws one map: its figure, and of which side are its queries and its keys."""
    sides = [_side(of, prompt) for of in (maps.prompt, maps.keys)]
    if sides[0] == "source":  # where no prediction is read
        how = replace(how, position=None)
    return {**attention_message(maps, 0, how, region), "sides": sides}


def _side(positions: TokenizedPrompt, prompt: TokenizedPrompt) -> str:
    return "prompt" if positions.content == prompt.content else "source"


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
    return [html.Span("Attention of the clean run", className="tag"), f" {_reading(view, outcome)}"]


def _reading(view: View, outcome: Outcome) -> str:
    """Say how to read the maps, and to see more of those that have more weights than pixels."""
    axes = "rows are queries, columns are keys; "
    longest = max(outcome.prompt, outcome.prompt.typed, key=len)
    if len(longest) <= dots_across(longest, view.size):
        return axes + "click a cell for its query token"
    return axes + (
        "each dot is the largest of several weights: drag to see them all, double-click to go back"
    )


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that draw the maps."""

    @app.callback(
        Output(ids.MAPS, "data"),
        Output(ids.DRAWN, "data"),
        Output(ids.ATTENTION_GRID, "className"),  # so that the grid shows that it is awaited
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
            return (no_update,) * 7
        view = View.from_json(data)
        outcome = services.outcome(view, pages)
        how = look(view, outcome, bool(dark))
        serial = signature(view, how)
        sent = message(outcome, how, serial, drawn)
        n_chosen = len(view.heads or ())
        hidden = n_chosen - len(outcome.maps)
        return (
            no_update if sent is None else sent,
            no_update if sent is None else {"heads": sent["order"], "serial": serial},
            "map-grid",
            note(view, outcome, n_chosen),
            bool(n_chosen),
            hidden == 0,
            f"Show more ({words.count(hidden, 'head')} left)",
        )

    @app.callback(
        Output(ids.ZOOMED, "data"),
        Input(ids.ZOOM_REQUEST, "data"),
        State(ids.VIEW, "data"),
        State(ids.DARK, "data"),
        State(ids.SHOWN, "data"),
        prevent_initial_call=True,
    )
    def zoom(
        request: dict[str, Any] | None, data: dict[str, Any] | None, dark: bool, pages: int
    ) -> Any:
        if request is None or data is None:
            return no_update
        view = View.from_json(data)
        outcome = services.outcome(view, pages)
        how = look(view, outcome, bool(dark))
        shown = {maps.heads[0].short: maps for maps in outcome.maps}
        if request["head"] not in shown or request["serial"] != signature(view, how):
            return no_update
        region = Region(**request["region"])
        figure = map_message(shown[request["head"]], outcome.prompt, how, region)
        return {**request, "figure": figure}

    app.clientside_callback(
        browser("draw", "maps"), Input(ids.MAPS, "data"), prevent_initial_call=True
    )
    app.clientside_callback(
        browser("zoom", "maps"), Input(ids.ZOOMED, "data"), prevent_initial_call=True
    )
    app.clientside_callback(
        browser("hideDirections"),
        Output(ids.BETWEEN_PLACE, "hidden"),
        Input(ids.TOKENS, "data"),
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
        browser("dropHead", "maps"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Input(ids.DROP_HEAD, "data"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
