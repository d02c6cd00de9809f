"""How each head's attention differs between two runs: a map, who changed most, difference maps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import Dash, Input, Output, State, dcc, html, no_update, set_props

from ablation.attention_change import (
    Pair,
    attention_change,
    with_ablation,
    with_model,
    with_prompt,
)
from ablation.types import Ablation, HeadValues, Progress
from app import ids, notices, words
from app.panels.differences import difference_maps, hint, looked_at
from app.panels.export_menu import export_menu
from app.panels.head_maps import HEIGHT, large_map
from app.panels.pieces import browser, empty, graph, head_bars, segmented
from app.panels.progress import Bar, cancels, progress_place, watch_page
from app.services import Services, intervention_of
from app.view import MAX_PROMPT_CHARACTERS, View
from models.errors import ErrorKind, UserError
from models.types import Head

WAYS = (("ablated", "Ablated run"), ("prompt", "Another prompt"), ("model", "Another model"))
HELP = {
    "ablated": "The clean run against the one with the chosen heads ablated, by the intervention "
    "on the left.",
    "prompt": "The prompt on the left against another of as many tokens, position by position; a "
    "field left empty is what stands on the left.",
    "model": "The model above against another with the same tokenizer, on the prompt on the left.",
}
N_LEADERS = 16
NAMED = 8
"""Of more ablated heads, only so many are named."""
LEAST = 1e-7
"""Smaller divergences, in nats, are rounding."""


def layout() -> html.Div:
    """Return the part of the tab that compares."""
    return html.Div(
        [
            html.Div(
                [
                    segmented(ids.COMPARE_WAY, WAYS, "ablated", "What the run is compared with"),
                    html.Div(className="grow"),
                    dmc.Button("Compare", id=ids.COMPARE_RUN, size="xs"),
                    dmc.Button(
                        "Cancel", id=ids.COMPARE_CANCEL, size="xs", variant="default", disabled=True
                    ),
                    export_menu("compare"),
                ],
                className="toolbar",
            ),
            html.P(id=ids.COMPARE_HELP, className="help"),
            dmc.TextInput(
                id=ids.COMPARE_PROMPT,
                size="xs",
                debounce=True,
                spellCheck=False,
                placeholder="The other prompt",
                **{"aria-label": "The other prompt"},
            ),
            dmc.TextInput(
                id=ids.COMPARE_SECOND,
                size="xs",
                debounce=True,
                spellCheck=False,
                placeholder="The other decoder text",
                **{"aria-label": "The other decoder text"},
            ),
            dmc.Autocomplete(
                id=ids.COMPARE_MODEL,
                value="",
                data=[],
                debounce=True,
                size="xs",
                placeholder="The other model: name, hub id or directory",
                filter={"function": "filterModels"},
                inputProps={"spellCheck": False},
                **{"aria-label": "The other model"},
            ),
            html.P(id=ids.COMPARE_PROBLEM, className="error", role="alert"),
            progress_place(
                ids.COMPARE_PROGRESS,
                ids.COMPARE_BAR,
                ids.COMPARE_STATUS,
                "Progress of the comparison",
            ),
            empty(
                "Compare two runs to see which heads change what they attend to, and by how much.",
                id=ids.COMPARE_EMPTY,
            ),
            _result(),
            dcc.Store(id=ids.COMPARISON),
            dcc.Store(id=ids.COMPARE_REQUEST),
            dcc.Store(id=ids.COMPARE_LOOKED, data=[]),
        ],
        id=ids.COMPARE_PLACE,
        hidden=True,
    )


def _result() -> html.Div:
    return html.Div(
        [
            html.P(id=ids.COMPARE_CAPTION, className="caption"),
            html.Div(
                [
                    graph(
                        ids.COMPARE_MAP,
                        "Layers by heads map of how much attention differs; a click shows a head's "
                        "difference map",
                        HEIGHT,
                    ),
                    html.Div(id=ids.COMPARE_LEADERS, className="leaders"),
                ],
                className="sweep-columns",
            ),
            html.P(id=ids.COMPARE_HINT, className="note"),
            html.Div(id=ids.COMPARE_MAPS, className="map-grid"),
        ],
        id=ids.COMPARE_BODY,
        hidden=True,
    )


def pair_of(services: Services, view: View, way: str, text: str, second: str = "") -> Pair:
    """Return the two runs that are compared.

    Args:
        way: a name of `WAYS`.
        text: the other prompt, or the name of the other model.
        second: beside another prompt, the other text of an encoder-decoder's decoder; of both, what
            is empty stays as it is in the view.

    Raises:
        UserError: something is missing, or the runs do not correspond.
    """
    model, stack = services.model(view.model), view.stack_name
    prompt = services.prompt(view, model)
    if way == "ablated":
        if not view.heads:
            raise UserError(
                ErrorKind.HEADS, "No heads are chosen to be ablated; choose some on the left first."
            )
        ablation = Ablation(view.heads, *intervention_of(view, prompt))
        return with_ablation(model, prompt, ablation, stack)
    second = second if model.kind == "encoder-decoder" and way == "prompt" else ""
    if not text.strip() and not second.strip():
        what = "prompt" if way == "prompt" else "model"
        raise UserError(
            ErrorKind.OPTION, f"There is no other {what} to compare with; type one above."
        )
    if way == "model":
        return with_model(model, prompt, services.model(text.strip()), stack)
    longest = max(len(text), len(second))
    if longest > MAX_PROMPT_CHARACTERS:
        raise UserError(
            ErrorKind.PROMPT,
            f"The other prompt has {longest:,} characters; at most {MAX_PROMPT_CHARACTERS:,} "
            "can be compared. Shorten it.",
        )
    text = text if text.strip() else view.prompt
    other = replace(view, prompt=text, second=second or view.second)
    return with_prompt(model, prompt, services.prompt(other, model), stack)


def caption(pair: Pair, change: HeadValues) -> str:
    """Say what was compared, and what the numbers are."""
    heads = pair.after.ablation.heads if pair.after.ablation is not None else ()
    of_stack = pair.before.model.stacks.named(pair.stack).label
    several = len(pair.before.model.stacks.stacks) > 1
    whose = f" Told are heads of the {of_stack}." if several else ""
    label = f"{pair.label[0].upper()}{pair.label[1:]}{_named(heads)}.{whose}"
    if change.stopped == "complete" and not differs(change):
        return f"{label} Nothing differs: every head attends alike in both runs."
    cancelled = f"Cancelled after {words.count(len(change.ranked()), 'head')}. "
    said = f"{label} Per head: {change.metric.description}. Click a head to see its map."
    return cancelled + said if change.stopped == "cancelled" else said


def _named(heads: Sequence[Head]) -> str:
    """Say which heads are ablated: they stay the same whichever are looked at."""
    if not heads:
        return ""
    more = f" and {len(heads) - NAMED} more" if len(heads) > NAMED else ""
    return f": {', '.join(map(str, heads[:NAMED]))}{more}"


def differs(change: HeadValues) -> bool:
    """Return whether any head's attention changed by more than rounding."""
    return bool(np.nan_to_num(change.values).max(initial=0.0) > LEAST)


def leaders(change: HeadValues) -> list[Any]:
    """Return the heads whose attention changed most, each a button that shows its map."""
    if not differs(change):
        return []
    places = change.ranked()[:N_LEADERS]
    largest = places[0][1] if places else 0.0
    return [
        html.H3("Changed most, nats", className="small-title"),
        head_bars("js", places, largest, "Show the difference map of"),
    ]


@dataclass(frozen=True, slots=True)
class Live:
    """Shows a running comparison on its page: how far it is, and the heads compared so far."""

    bar: Bar
    view: View
    dark: bool

    def __call__(self, progress: Progress) -> None:
        if self.bar.shown(progress) and isinstance(progress.partial, HeadValues):
            figure = large_map(progress.partial, (), self.dark)
            set_props(ids.COMPARE_MAP, {"figure": figure})
            set_props(ids.COMPARE_CAPTION, {"children": ""})
            set_props(ids.COMPARE_LEADERS, {"children": leaders(progress.partial)})
            set_props(ids.COMPARE_EMPTY, {"hidden": True})
            set_props(ids.COMPARE_BODY, {"hidden": False})


def _problem(error: Exception) -> None:
    """Say beside the button why two runs cannot be compared."""
    if isinstance(error, UserError) and error.kind is not ErrorKind.BUSY:
        set_props(ids.COMPARE_PROBLEM, {"children": str(error)})
    else:
        notices.show_error(error)


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that compare, cancel and draw."""

    @app.callback(
        Output(ids.COMPARISON, "data"),
        Output(ids.COMPARE_PROBLEM, "children"),
        Input(ids.COMPARE_REQUEST, "data"),
        State(ids.VIEW, "data"),
        State(ids.COMPARE_WAY, "value"),
        State(ids.COMPARE_PROMPT, "value"),
        State(ids.COMPARE_SECOND, "value"),
        State(ids.COMPARE_MODEL, "value"),
        State(ids.TAB_ID, "data"),
        State(ids.DARK, "data"),
        running=[
            (Output(ids.COMPARE_RUN, "disabled"), True, False),
            (Output(ids.COMPARE_CANCEL, "disabled"), False, True),
            (Output(ids.COMPARE_PROGRESS, "hidden"), False, True),
        ],
        on_error=_problem,
        prevent_initial_call=True,
    )
    def run(
        request: int | None,
        data: dict[str, Any],
        way: str,
        prompt: str,
        second: str,
        name: str,
        tab: str,
        dark: bool,
    ) -> tuple[Any, ...]:
        view = View.from_json(data)
        text, second = (prompt if way == "prompt" else name) or "", second or ""
        with services.jobs.start(tab) as job:
            bar = Bar(job, ids.COMPARE_BAR, ids.COMPARE_STATUS, watch_page())
            bar.start()
            pair = pair_of(services, view, way, text, second)
            live = Live(bar, view, bool(dark))
            change = attention_change(pair, progress=live, cancel=job.cancel)
        key = services.results.keep(change, change.values.nbytes)
        said = caption(pair, change)
        asked = {"view": data, "way": way, "text": text, "second": second}
        return {"key": key, "caption": said, **asked}, None

    cancels(app, services, ids.COMPARE_CANCEL, ids.COMPARE_STATUS)

    @app.callback(
        Output(ids.COMPARE_MAP, "figure"),
        Output(ids.COMPARE_LEADERS, "children"),
        Output(ids.COMPARE_CAPTION, "children"),
        Output(ids.COMPARE_EMPTY, "hidden"),
        Output(ids.COMPARE_BODY, "hidden"),
        Input(ids.COMPARISON, "data"),
        Input(ids.DARK, "data"),
        Input(ids.MODEL, "data"),
        State(ids.COMPARE_LOOKED, "data"),
        prevent_initial_call=True,
    )
    def draw(
        kept: dict[str, Any] | None, dark: bool, name: str, looked: list[str]
    ) -> tuple[Any, ...]:
        change = services.results.get(kept["key"]) if kept else None
        if kept is None or change is None or kept["view"]["model"] != name:
            return no_update, [], "", False, True
        figure = large_map(change, looked, bool(dark))
        return figure, leaders(change), kept["caption"], True, False

    @app.callback(
        Output(ids.COMPARE_MAPS, "children"),
        Output(ids.COMPARE_HINT, "children"),
        Input(ids.COMPARISON, "data"),
        Input(ids.DARK, "data"),
        Input(ids.HEADS_TAB, "value"),
        Input(ids.IN_HEADS_TAB, "data"),
        Input(ids.COMPARE_LOOKED, "data"),
        State(ids.HEADS, "value"),
        State(ids.TABS, "value"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def draw_maps(
        kept: dict[str, Any] | None,
        dark: bool,
        part: str,
        changes: int | None,
        looked: list[str],
        heads: list[str],
        tab: str,
        name: str,
    ) -> tuple[Any, Any]:
        if (tab, part) != ("heads", "compare"):
            return no_update, no_update
        change = services.results.get(kept["key"]) if kept else None
        if kept is None or change is None or kept["view"]["model"] != name:
            return [], ""
        view = View.from_json(kept["view"])
        pair = pair_of(services, view, kept["way"], kept["text"], kept["second"])
        shown, n_all = looked_at(looked, heads, change)
        maps = difference_maps(services, pair, change, shown, view.size, bool(dark))
        return maps, hint(n_all)

    _register_clientside(app)


def _register_clientside(app: Dash) -> None:
    app.clientside_callback(
        browser("showWay", "heads"),
        Output(ids.COMPARE_HELP, "children"),
        Output(ids.COMPARE_PROMPT, "display"),
        Output(ids.COMPARE_SECOND, "display"),
        Output(ids.COMPARE_MODEL, "display"),
        Output(ids.COMPARE_PROBLEM, "children", allow_duplicate=True),
        Input(ids.COMPARE_WAY, "value"),
        Input(ids.MODEL_SHAPE, "data"),
        State(ids.LIMITS, "data"),
        prevent_initial_call="initial_duplicate",
    )
    app.clientside_callback(
        browser("offerModels", "heads"),
        Output(ids.COMPARE_MODEL, "data"),
        Input(ids.MODEL_PICKER, "data"),
    )
    app.clientside_callback(
        browser("requestStudy"),
        Output(ids.COMPARE_REQUEST, "data"),
        Input(ids.COMPARE_RUN, "n_clicks"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("watchLooked", "chosen"),
        Input(ids.COMPARE_MAP, "figure"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("showLooked", "chosen"),
        Input(ids.COMPARE_LOOKED, "data"),
        prevent_initial_call=True,
    )
