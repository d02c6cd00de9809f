"""The attention tab: what the chosen heads attend to, in one of several pictures.

A new picture is an entry of `PICTURES` in `app.view`, and a place that `layout` puts beside the
others; tools that mean something for it name it in `_for`.
"""

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update

from app import ids, words
from app.panels import over_picture, overview
from app.panels.attention_tools import EXPORTS, shown_for, toolbar
from app.panels.drawn_maps import Drawn, as_drawn, extra_map, message, shown_maps, standing
from app.panels.pieces import browser, empty, waiting
from app.panels.wait_strip import awaiting
from app.runs import Outcome, map_key
from app.services import Services, acted_of, build_intervention, drawable, most_positions
from app.view import PICTURES, View
from models.types import MAP_KINDS
from viz.attention import dots_across, token_message
from viz.cells import Region
from viz.sink import SINK_NOTES


def picture_options(sees: bool) -> list[dict[str, str]]:
    """Return the pictures that can be chosen: that on an image for models that read images."""
    kinds = ((name, word) for name, word in PICTURES.items() if sees or name != "image")
    return [{"value": name, "label": word} for name, word in kinds]


STORES = (
    ids.TOKEN, ids.DRAWN, ids.MAPS, ids.ZOOM_REQUEST, ids.ZOOMED, ids.DROP_HEAD,
    ids.WEIGHTS_REQUEST, ids.WEIGHTS, ids.EXPORT_MAP,
)  # fmt: skip


READING = {
    "lines": "queries left, keys right; point at a token for its lines alone, click to keep it",
    "text": "point at a token to see where it looks, click to keep it; arrow keys move it",
    "image": "where the selected token looks on the image; click a patch or a token to select it",
}
"""How to read each picture but the matrix."""
AXES = {
    "attention": "rows are queries, columns are keys",
    "moved": "of the clean run",
    "rollout": "one map a layer, of the clean run: from where each row got what it holds",
}
"""How to read the maps of each kind."""
ROLLED_OUT_SINK = (
    "; most of it comes from the first token: Display, First token, renormalise shows the rest"
)


def layout() -> html.Div:
    """Return the contents of the tab."""
    return html.Div(
        [
            toolbar(),
            html.Div(_chosen_heads(), **shown_for("matrix", "lines", "text", "image")),
            html.Div(over_picture.layout(), **shown_for("image")),
            html.Div(overview.layout(), **shown_for("overview")),
            *(dcc.Store(id=store) for store in STORES),
            dcc.Store(id=ids.SHOWN, data=1),
            dcc.Store(id=ids.OVER_PICTURE_SHOWN),
        ],
        className="tab-body",
    )


def _chosen_heads() -> list[Any]:
    return [
        html.Div(id=ids.ATTENTION_NOTE, className="note", role="status"),
        waiting("Computing", ids.ATTENTION_WAITING),
        empty(
            "Choose heads to see what they attend to: search the list on the left, type "
            "5.3 or L2, or click cells of the map.",
            id=ids.ATTENTION_EMPTY,
            hidden=True,
        ),
        html.Div(
            [
                _place("matrix", id=ids.ATTENTION_GRID, className="map-grid"),
                _place("lines", className="lines"),
                _place("text", className="text"),
                _place("image", className="on-image"),
            ],
            id=ids.ATTENTION_PICTURES,
            className="pictures",
        ),
        html.Div(
            dmc.Button("Show more", id=ids.SHOW_MORE, size="xs", variant="default"),
            className="show-more",
            id=ids.SHOW_MORE_PLACE,
            hidden=True,
        ),
    ]


def _place(picture: str, **attributes: Any) -> html.Div:
    """Return where a picture is drawn by its script in assets/."""
    return html.Div(**attributes, **shown_for(picture), **{"data-place": picture})


def note(view: View, outcome: Outcome, n_chosen: int) -> list[Any]:
    """Say which run the maps are of, and why it is not the ablated one if that was asked for."""
    if outcome.problem is not None:
        return [
            html.Span("Not ablated: attention of the clean run", className="tag failed"),
            f" {outcome.problem}",
        ]
    refused = "" if outcome.refused is None else f" {outcome.refused}"
    if outcome.after is not None:
        label = build_intervention(view.intervention).label
        where = f" at positions {view.acted}" if view.acted.strip() else ""
        return [
            html.Span("Attention of the ablated run", className="tag ablated"),
            f" {words.count(n_chosen, 'head')}: {label}{where}{refused and '.'}{refused}",
        ]
    shown = MAP_KINDS[outcome.kind].capitalize()
    tag = f"{shown} of the clean run" if outcome.kind == "attention" else shown
    return [html.Span(tag, className="tag"), refused or f" {_reading(view, outcome)}"]


def _reading(view: View, outcome: Outcome) -> str:
    """Say how to read the picture, and to see more of maps that have more weights than pixels."""
    if view.picture != "matrix":
        # Maps say so in their titles.
        left_out = "" if view.sink == "show" else f"{SINK_NOTES[view.sink]}; "
        return left_out + READING.get(view.picture, "")
    is_rolled_out = outcome.kind == "rollout"
    axes = AXES[outcome.kind] + (ROLLED_OUT_SINK if is_rolled_out and view.sink == "show" else "")
    shown = (positions for maps in outcome.maps for positions in (maps.prompt, maps.keys))
    longest = max(shown, key=len, default=outcome.prompt)
    if len(longest) > dots_across(longest, view.size):
        return (
            f"{axes}; each dot is the largest of several weights: click it to ask about that one, "
            "drag to see them all, double-click to go back"
        )
    if is_rolled_out:
        return axes
    explained = outcome.prompt.source is None and not outcome.prompt.pictures
    asked = "to see why the head looks there" if explained else "for its query token"
    return f"{axes}; click a cell {asked}"


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that draw the maps."""

    def awaited(kind: str, view: View, dark: bool, pages: int, tab: str) -> Drawn:
        with awaiting(services, tab, kind, view):
            return as_drawn(services, view, dark, pages)

    @app.callback(
        Output(ids.MAPS, "data"),
        Output(ids.DRAWN, "data"),
        Output(ids.ATTENTION_PICTURES, "className"),  # so that they show that they are awaited
        Output(ids.ATTENTION_NOTE, "children"),
        Output(ids.ATTENTION_EMPTY, "hidden"),
        Output(ids.SHOW_MORE_PLACE, "hidden"),
        Output(ids.SHOW_MORE, "children"),
        Input(ids.VIEW, "data"),
        Input(ids.DARK, "data"),
        Input(ids.SHOWN, "data"),
        State(ids.DRAWN, "data"),
        State(ids.TAB_ID, "data"),
        Input(ids.WAIT_AGAIN, "n_clicks"),
        running=[(Output(ids.ATTENTION_WAITING, "hidden"), False, True)],
        prevent_initial_call=True,
    )
    def draw(
        data: dict[str, Any] | None,
        dark: bool,
        pages: int,
        drawn: dict[str, Any] | None,
        tab: str,
        *again: int | None,
    ) -> tuple[Any, ...]:
        if data is None:
            return (no_update,) * 7
        view = View.from_json(data)
        if view.picture == "overview":  # which has a panel of its own
            return (no_update,) * 7
        with awaiting(services, tab, "maps", view, (view.values, acted_of(view))):
            now = as_drawn(services, view, dark, pages)
            outcome = now.outcome
            sent = message(view, outcome, now.extents, now.look, now.serial, drawn)
        n_chosen = len(view.heads or ())
        hidden = n_chosen - len(drawable(view.heads or (), pages, most_positions(outcome.prompt)))
        return (
            no_update if sent is None else sent,
            no_update if sent is None else standing(sent, outcome.kind),
            "pictures",
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
        State(ids.TAB_ID, "data"),
        prevent_initial_call=True,
    )
    def zoom(
        request: dict[str, Any] | None,
        data: dict[str, Any] | None,
        dark: bool,
        pages: int,
        tab: str,
    ) -> Any:
        if request is None or data is None:
            return no_update
        drawn = awaited("weights", View.from_json(data), dark, pages, tab)
        if request["serial"] != drawn.serial:
            return no_update
        outcome, extents, how = drawn.outcome, drawn.extents, drawn.look
        region = Region(**request["region"])
        asked = set(request["heads"])
        figures = {
            one.key: one.message(how, region)
            for one in (*shown_maps(outcome, extents), *extra_map(drawn.view, outcome, extents))
            if one.key in asked
        }
        return {**request, "figures": figures}

    @app.callback(
        Output(ids.WEIGHTS, "data"),
        Input(ids.WEIGHTS_REQUEST, "data"),
        State(ids.VIEW, "data"),
        State(ids.DARK, "data"),
        State(ids.SHOWN, "data"),
        State(ids.TAB_ID, "data"),
        prevent_initial_call=True,
    )
    def read_token(
        request: dict[str, Any] | None,
        data: dict[str, Any] | None,
        dark: bool,
        pages: int,
        tab: str,
    ) -> Any:
        if request is None or data is None:
            return no_update
        drawn = awaited("weights", View.from_json(data), dark, pages, tab)
        if request["serial"] != drawn.serial:
            return {**request, "heads": {}}
        outcome, extents, how = drawn.outcome, drawn.extents, drawn.look
        token, direction = request["token"], request["direction"]
        asked = set(request["heads"])
        return {
            **request,
            "heads": {
                map_key(maps): token_message(maps, 0, how, token, direction, extent)
                for maps, extent in zip(outcome.maps, extents, strict=True)
                if map_key(maps) in asked
            },
        }

    app.clientside_callback(
        browser("receive", "pictures"), Input(ids.MAPS, "data"), prevent_initial_call=True
    )
    app.clientside_callback(
        browser("receiveWeights", "pictures"), Input(ids.WEIGHTS, "data"), prevent_initial_call=True
    )
    app.clientside_callback(browser("choose", "pictures"), Input(ids.PICTURE, "value"))
    app.clientside_callback(
        browser("select", "pictures"), Input(ids.TOKEN, "data"), Input(ids.DIRECTION, "value")
    )
    app.clientside_callback(browser("link", "maps"), Input(ids.LINKED, "checked"))
    app.clientside_callback(
        browser("zoom", "maps"), Input(ids.ZOOMED, "data"), prevent_initial_call=True
    )
    app.clientside_callback(
        browser("exportPicture", "menus"),
        *(Input(item, "n_clicks") for item, _ in EXPORTS),
        State(ids.VIEW, "data"),
        State(ids.SHOWN, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("exportMap", "menus"),
        Input(ids.EXPORT_MAP, "data"),
        State(ids.VIEW, "data"),
        State(ids.SHOWN, "data"),
        prevent_initial_call=True,
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
        Input(ids.DRAWN, "data"),
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
