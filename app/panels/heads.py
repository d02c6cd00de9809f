"""The heads: chosen from a list, in typed notation, or on the layers x heads map."""

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, ctx, html, no_update

from ablation.heads import parse_heads
from ablation.types import HeadScores
from app import ids
from app.panels.pieces import browser, graph, section
from app.services import Services
from app.view import head_from_text
from models.types import Head
from viz.heads import head_map_figure

MAP_WIDTH, MAP_HEIGHT = 284, 224
"""The map's size in CSS pixels: the left column's width, and what is left of its height."""


def layout() -> html.Section:
    """Return the heads' part of the left column."""
    return section(
        "Heads",
        dmc.MultiSelect(
            id=ids.HEADS,
            data=[],
            value=[],
            searchable=True,
            clearable=False,
            hidePickedOptions=False,
            size="xs",
            className="heads-select",
            placeholder="Search a head: L5H3 or 5.3",
            nothingFoundMessage="No such head",
            maxDropdownHeight=300,
            filter={"function": "filterHeads"},
            **{"aria-label": "Chosen heads"},
        ),
        dmc.TextInput(
            id=ids.HEADS_TEXT,
            size="xs",
            debounce=True,
            placeholder="Add several: 5.3, 9.*, L2",
            spellCheck=False,
            **{"aria-label": "Add heads in notation, for example 5.3, 9.*, L2, and press Enter"},
        ),
        graph(
            ids.HEADS_MAP, "Layers by heads map; a click on a cell chooses that head", MAP_HEIGHT
        ),
        right=html.Div(
            [
                html.Span(id=ids.HEADS_COUNT, className="muted"),
                dmc.Button("Clear", id=ids.HEADS_CLEAR, size="compact-xs", variant="subtle"),
            ],
            className="row",
        ),
    )


def options(all_heads: tuple[Head, ...]) -> list[dict[str, Any]]:
    """Return every head as an option of the list, grouped by layer."""
    layers: dict[int, list[dict[str, str]]] = {}
    for head in all_heads:
        layers.setdefault(head.layer, []).append({"value": head.short, "label": str(head)})
    return [{"group": f"Layer {layer}", "items": items} for layer, items in layers.items()]


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that choose heads and draw the map of them."""

    @app.callback(
        Output(ids.HEADS, "value", allow_duplicate=True),
        Output(ids.HEADS_TEXT, "value"),
        Output(ids.HEADS_TEXT, "error"),
        Input(ids.HEADS_TEXT, "value"),
        State(ids.HEADS, "value"),
        State(ids.MODEL_SHAPE, "data"),
        prevent_initial_call=True,
    )
    def add_typed(
        text: str, chosen: list[str], shape: dict[str, int]
    ) -> tuple[list[str], str, None]:
        heads = parse_heads(text or "", shape["n_layers"], shape["n_heads"])
        return list(dict.fromkeys([*chosen, *(head.short for head in heads)])), "", None

    @app.callback(
        Output(ids.HEADS_MAP, "figure"),
        Input(ids.HEADS, "value"),
        Input(ids.SWEEP, "data"),
        Input(ids.DARK, "data"),
        Input(ids.PROMPT, "data"),
        State(ids.MODEL_SHAPE, "data"),
        prevent_initial_call=True,
    )
    def draw_map(
        chosen: list[str],
        sweep: dict[str, Any] | None,
        dark: bool,
        prompt: str,
        shape: dict[str, Any] | None,
    ) -> Any:
        about_sweep = set(ctx.triggered_prop_ids.values()) == {ids.PROMPT}
        if shape is None or (about_sweep and sweep is None):
            return no_update
        scores = _scores(services, sweep, shape, prompt)
        figure = head_map_figure(
            shape["n_layers"],
            shape["n_heads"],
            scores,
            [head_from_text(text) for text in chosen],
            dark=bool(dark),
            width=MAP_WIDTH,
            height=MAP_HEIGHT,
        )
        if scores is None:  # its title would say once more how many heads are chosen
            figure.update_layout(title=None, margin={"t": 4})
        return figure

    app.clientside_callback(
        browser("toggleHeadOnMap"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Output(ids.HEADS_MAP, "clickData"),
        Input(ids.HEADS_MAP, "clickData"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("clearHeads"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Input(ids.HEADS_CLEAR, "n_clicks"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("countHeads"),
        Output(ids.HEADS_COUNT, "children"),
        Input(ids.HEADS, "value"),
        State(ids.MODEL_SHAPE, "data"),
    )


def _scores(
    services: Services, sweep: dict[str, Any] | None, shape: dict[str, Any], prompt: str
) -> HeadScores | None:
    """Return the last sweep, if it is of the model and prompt that are shown."""
    if sweep is None or sweep["model"] != shape["model"] or sweep["prompt"] != prompt:
        return None
    return services.results.get(sweep["key"])
