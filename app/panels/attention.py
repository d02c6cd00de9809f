"""The attention tab: what the chosen heads attend to, in one of several pictures.

A new picture is an entry of `PICTURES` in `app.view`, and a place that `layout` puts beside the
others; tools that mean something for it name it in `_for`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update

from app import ids, words
from app.panels import overview
from app.panels.attention_tools import EXPORTS, shown_for, toolbar
from app.panels.pieces import browser, empty, waiting
from app.runs import Outcome, map_key
from app.services import Services, build_intervention, drawable, most_positions
from app.view import BETWEEN, View
from models.types import MAP_KINDS, AttentionMaps, TokenizedPrompt
from viz.attention import (
    SINK_NOTES,
    Look,
    attention_message,
    dots_across,
    token_message,
    token_names,
)
from viz.cells import Region
from viz.combined import combined, combined_extent, combined_name
from viz.extent import Extent, shared_largest, unit_of

STORES = (
    ids.TOKEN, ids.DRAWN, ids.MAPS, ids.ZOOM_REQUEST, ids.ZOOMED, ids.DROP_HEAD,
    ids.WEIGHTS_REQUEST, ids.WEIGHTS, ids.EXPORT_MAP,
)  # fmt: skip


READING = {
    "lines": "queries left, keys right; point at a token for its lines alone, click to keep it",
    "text": "point at a token to see where it looks, click to keep it; arrow keys move it",
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
            html.Div(_chosen_heads(), **shown_for("matrix", "lines", "text")),
            html.Div(overview.layout(), **shown_for("overview")),
            *(dcc.Store(id=store) for store in STORES),
            dcc.Store(id=ids.SHOWN, data=1),
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


def look(view: View, outcome: Outcome, extents: Sequence[Extent], dark: bool) -> Look:
    """Return how all maps of a view are drawn.

    Args:
        extents: of the maps of the outcome.
    """
    return Look(
        position=outcome.before.position,
        threshold=view.threshold,
        unit=unit_of(outcome.kind, extents),
        zmax=shared_largest(extents) if view.scale == "shared" else None,
        log=view.log,
        dark=dark,
        size=view.size,
        sink=view.sink,
        between=BETWEEN[view.between],
    )


def signature(view: View, outcome: Outcome, how: Look) -> str:
    """Return what all maps that are drawn have in common: if it changes, all change."""
    data = view.to_json()
    same = {name: data[name] for name in ("model", "prompt", "second", "bos", "ablate")}
    if view.ablate:
        same |= {name: data[name] for name in ("heads", "intervention", "acted")}
    return hashlib.sha256(
        json.dumps([same, outcome.kind, repr(how)], sort_keys=True).encode()
    ).hexdigest()


@dataclass(frozen=True, slots=True)
class Shown:
    """One map of the page: of a chosen head, or of all of them together."""

    key: str
    name: str
    sides: tuple[str, str]
    """Of what queries and keys are the positions: "prompt", or "source" (an encoder's)."""
    read: Callable[[], AttentionMaps]
    """Returns the map; that of all heads is made only when it is needed."""
    extent: Callable[[AttentionMaps], Extent]
    """Returns the map's."""
    is_of_all: bool = False

    def message(self, how: Look, region: Region | None = None) -> dict[str, Any]:
        if self.sides[0] == "source":  # where no prediction is read
            how = replace(how, position=None)
        maps = self.read()
        how = replace(how, done=self.is_of_all)
        drawn = attention_message(maps, 0, how, region, self.name, self.extent(maps))
        return {**drawn, "sides": list(self.sides)}


def shown_maps(outcome: Outcome, extents: Sequence[Extent]) -> list[Shown]:
    """Return the maps of the chosen heads."""
    each = zip(outcome.maps, extents, strict=True)
    return [_of_head(maps, extent, outcome.prompt) for maps, extent in each]


def _of_head(maps: AttentionMaps, extent: Extent, prompt: TokenizedPrompt) -> Shown:
    sides = _sides(maps, prompt)
    return Shown(map_key(maps), maps.title(0), sides, lambda: maps, lambda _: extent)


def _sides(maps: AttentionMaps, prompt: TokenizedPrompt) -> tuple[str, str]:
    queries, keys = (
        "prompt" if positions.content == prompt.content else "source"
        for positions in (maps.prompt, maps.keys)
    )
    return queries, keys


def extra_map(view: View, outcome: Outcome, extents: Sequence[Extent]) -> list[Shown]:
    """Return the map of all heads that are drawn together, if the view asks for one.

    Heads of different stacks, whose positions differ, make a map a stack.

    Args:
        extents: of the maps of the outcome.
    """
    if view.extra == "none":
        return []
    of_stacks: dict[str, list[tuple[AttentionMaps, Extent]]] = {}
    for maps, extent in zip(outcome.maps, extents, strict=True):
        of_stacks.setdefault(maps.heads[0].stack, []).append((maps, extent))
    return [_of_all(view, several, outcome.prompt) for several in of_stacks.values()]


def _of_all(
    view: View, each: Sequence[tuple[AttentionMaps, Extent]], prompt: TokenizedPrompt
) -> Shown:
    several = [maps for maps, _ in each]
    causal = all(extent.causal for _, extent in each)
    heads = ",".join(map_key(maps) for maps in several)
    stack = several[0].heads[0].stack
    return Shown(
        f"{view.extra} {heads}",
        combined_name(view.extra, several) + (f" ({stack})" if stack else ""),
        _sides(several[0], prompt),
        lambda: combined(several, view.extra, view.sink),
        lambda one: combined_extent(one, causal, view.sink),
        is_of_all=True,
    )


def message(
    view: View,
    outcome: Outcome,
    extents: Sequence[Extent],
    how: Look,
    serial: str,
    drawn: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return what `assets/pictures.js` draws from, or None if all stand as they should.

    Args:
        extents: of the maps of the outcome.
        serial: the signature of how they are drawn.
        drawn: `heads` and `serial` of the maps that stand; those are not sent again.
    """
    of_heads, extra = shown_maps(outcome, extents), extra_map(view, outcome, extents)
    order, extras = [one.key for one in of_heads], [one.key for one in extra]
    prompt = outcome.prompt
    standing = set(drawn["heads"]) if drawn is not None and drawn["serial"] == serial else set()
    if drawn is not None and standing and list(drawn["heads"]) == order + extras:
        return None
    new = {
        one.key: {"name": one.name, "figure": one.message(how)}
        for one in (*of_heads, *extra)
        if one.key not in standing
    }
    return {
        "serial": serial,
        "order": order,
        "extra": extras,
        "names": token_names(prompt),
        "labels": list(prompt.labels),
        "source": None if prompt.source is None else _names_and_labels(prompt.source),
        "marked": how.position,
        "maps": new,
    }


def _standing(sent: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what must be known of the maps that stand once these are drawn."""
    return {"heads": [*sent["order"], *sent["extra"]], "serial": sent["serial"], "kind": kind}


def _names_and_labels(positions: TokenizedPrompt) -> dict[str, list[str]]:
    return {"names": token_names(positions), "labels": list(positions.labels)}


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
    longest = max(outcome.prompt, outcome.prompt.typed, key=len)
    if len(longest) > dots_across(longest, view.size):
        return (
            f"{axes}; each dot is the largest of several weights: click it to ask about that one, "
            "drag to see them all, double-click to go back"
        )
    if is_rolled_out:
        return axes
    explained = outcome.prompt.source is None
    asked = "to see why the head looks there" if explained else "for its query token"
    return f"{axes}; click a cell {asked}"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A view, and what its maps are drawn from."""

    view: View
    outcome: Outcome
    extents: tuple[Extent, ...]
    look: Look
    serial: str


def _as_drawn(services: Services, view: View, dark: bool, pages: int) -> Drawn:
    """Return what the maps of a view are drawn from."""
    outcome = services.outcome(view, pages)
    extents = services.extents(view, outcome)
    how = look(view, outcome, extents, bool(dark))
    return Drawn(view, outcome, extents, how, signature(view, outcome, how))


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that draw the maps."""

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
        running=[(Output(ids.ATTENTION_WAITING, "hidden"), False, True)],
        prevent_initial_call=True,
    )
    def draw(
        data: dict[str, Any] | None, dark: bool, pages: int, drawn: dict[str, Any] | None
    ) -> tuple[Any, ...]:
        if data is None:
            return (no_update,) * 7
        view = View.from_json(data)
        if view.picture == "overview":  # which has a panel of its own
            return (no_update,) * 7
        now = _as_drawn(services, view, dark, pages)
        outcome = now.outcome
        sent = message(view, outcome, now.extents, now.look, now.serial, drawn)
        n_chosen = len(view.heads or ())
        hidden = n_chosen - len(drawable(view.heads or (), pages, most_positions(outcome.prompt)))
        return (
            no_update if sent is None else sent,
            no_update if sent is None else _standing(sent, outcome.kind),
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
        prevent_initial_call=True,
    )
    def zoom(
        request: dict[str, Any] | None, data: dict[str, Any] | None, dark: bool, pages: int
    ) -> Any:
        if request is None or data is None:
            return no_update
        drawn = _as_drawn(services, View.from_json(data), dark, pages)
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
        prevent_initial_call=True,
    )
    def read_token(
        request: dict[str, Any] | None, data: dict[str, Any] | None, dark: bool, pages: int
    ) -> Any:
        if request is None or data is None:
            return no_update
        drawn = _as_drawn(services, View.from_json(data), dark, pages)
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
