"""The heads: chosen from a list, in typed notation, or on the layers x heads map."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, ctx, html, no_update

from ablation.heads import parse_heads
from ablation.types import HeadScores, HeadValues
from app import ids
from app.panels.pieces import browser, choose_on_click, graph, section
from app.services import Services
from app.view import MAIN_STACK, View, head_from_text
from models.errors import UserError
from models.types import POLICY, Head, Stack
from viz.heads import head_map_figure

if TYPE_CHECKING:
    from models.language_model import LanguageModel

THUMBNAIL = View().cells
"""What the overview shows of each head as long as no metric is picked."""

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
                html.Div(
                    dmc.Select(
                        id=ids.STACK,
                        data=[MAIN_STACK],
                        value=MAIN_STACK,
                        allowDeselect=False,
                        size="xs",
                        w=108,
                        **{"aria-label": "Stack of layers whose heads are on the map"},
                    ),
                    id=ids.STACK_PLACE,
                    hidden=True,
                ),
                html.Span(id=ids.HEADS_COUNT, className="muted"),
                dmc.Button("Clear", id=ids.HEADS_CLEAR, size="compact-xs", variant="subtle"),
            ],
            className="row",
        ),
    )


def options(all_heads: Sequence[Head], stacks: Sequence[Stack] = ()) -> list[dict[str, Any]]:
    """Return every head as an option of the list, grouped by layer (of each stack)."""
    labels = {stack.name: stack.label.capitalize() for stack in stacks}
    groups: dict[str, list[dict[str, str]]] = {}
    for head in all_heads:
        place = f"layer {head.layer}"
        group = f"{labels[head.stack]}, {place}" if len(stacks) > 1 else place.capitalize()
        groups.setdefault(group, []).append({"value": head.short, "label": str(head)})
    return [{"group": group, "items": items} for group, items in groups.items()]


def shape(model: "LanguageModel") -> dict[str, Any]:
    """Return what the page keeps of a model's heads: how many there are of each stack."""
    stacks = [asdict(stack) for stack in model.info.stacks]
    return {
        "model": model.name,
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "stacks": stacks,
        "acts": "numbers" if model.kind == POLICY else "tokens" if model.actions else "",
    }


def stack_choices(stacks: Sequence[Stack]) -> list[dict[str, str]]:
    """Return the stacks as choices of the control above the map."""
    return [
        {"value": stack.name or MAIN_STACK, "label": stack.name or stack.label} for stack in stacks
    ]


def _stacks(shape: dict[str, Any]) -> list[Stack]:
    return [Stack(**stack) for stack in shape["stacks"]]


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
        text: str, chosen: list[str], shape: dict[str, Any]
    ) -> tuple[list[str], str, None]:
        named = len(shape["stacks"]) > 1 or shape["acts"] == "numbers"
        stacks = _stacks(shape) if named else ()
        heads = parse_heads(text or "", shape["n_layers"], shape["n_heads"], stacks)
        return list(dict.fromkeys([*chosen, *(head.short for head in heads)])), "", None

    @app.callback(
        Output(ids.HEADS_MAP, "figure"),
        Input(ids.SWEEP, "data"),
        Input(ids.DARK, "data"),
        Input(ids.PROMPT, "data"),
        Input(ids.SECOND, "data"),
        Input(ids.IMAGES, "data"),
        Input(ids.STACK, "value"),
        Input(ids.MODEL_SHAPE, "data"),
        Input(ids.CELLS, "value"),
        Input(ids.OVERVIEW_DRAWN, "data"),
        Input(ids.BOS_USED, "data"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
    def draw_map(
        sweep: dict[str, Any] | None,
        dark: bool,
        prompt: str,
        second: str | None,
        images: list[str] | None,
        stack_value: str,
        shape: dict[str, Any] | None,
        cells: str,
        overview: str | None,
        bos: bool | None,
        chosen: list[str],
    ) -> Any:
        causes = set(ctx.triggered_prop_ids.values())
        about_sweep = causes <= {ids.PROMPT, ids.SECOND, ids.IMAGES}
        about_metric = causes <= {ids.OVERVIEW_DRAWN, ids.BOS_USED}
        plain = cells == THUMBNAIL and (about_metric or (about_sweep and sweep is None))
        if shape is None or plain:
            return no_update
        known = {stack.name or MAIN_STACK: stack for stack in _stacks(shape)}
        stack = known.get(stack_value, known[MAIN_STACK])
        view = View(shape["model"], prompt, second or "", tuple(images or ()), bos)
        scores: HeadScores | HeadValues | None = _metric(services, view, cells, stack.name)
        if scores is None:
            scores = _scores(services, sweep, shape, (prompt, second or "", list(images or ())))
        if scores is not None and scores.stack != stack.name:
            scores = None
        figure = head_map_figure(
            stack.n_layers,
            stack.n_heads,
            scores,
            [head_from_text(text) for text in chosen],
            stack=stack.name,
            dark=bool(dark),
            width=MAP_WIDTH,
            height=MAP_HEIGHT,
        )
        if scores is None:  # its title would say once more how many heads are chosen
            figure.update_layout(title=None, margin={"t": 4})
        return figure

    choose_on_click(app, ids.HEADS_MAP)
    app.clientside_callback(
        browser("clearHeads"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Input(ids.HEADS_CLEAR, "n_clicks"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("show", "chosen"),
        Output(ids.HEADS_COUNT, "children"),
        Input(ids.HEADS, "value"),
        State(ids.MODEL_SHAPE, "data"),
    )


def _metric(services: Services, view: View, cells: str, stack: str) -> HeadValues | None:
    """Return the metric by which the overview shows heads, if it was read of the clean run.

    Nothing is run for it: the map follows the overview, and costs no more than its drawing.

    Args:
        view: whose model, texts and opening token count.
        cells: see `View`.
    """
    if cells == THUMBNAIL:
        return None
    model = services.model(view.model)
    try:
        known = services.overviews.known(model, services.prompt(view, model), None, stack)
    except UserError:  # of the prompt, which is said beside it
        return None
    if known is None:
        return None
    info = next(info for info in known.metrics if info.name == cells)
    return HeadValues(info, known.values_of(cells), stack=known.stack)


def _scores(
    services: Services,
    sweep: dict[str, Any] | None,
    shape: dict[str, Any],
    texts: tuple[str, str, list[str]],
) -> HeadScores | None:
    """Return the last sweep, if it is of the model, the texts and the pictures that are shown."""
    if sweep is None or sweep["model"] != shape["model"]:
        return None
    if (sweep["prompt"], sweep["second"], sweep["images"]) != texts:
        return None
    return services.results.get(sweep["key"])
