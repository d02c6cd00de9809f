"""How each head's attention differs between two runs: a map, who changed most, difference maps."""

from dataclasses import dataclass, replace
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update, set_props

from ablation.attention_change import (
    AttentionRun,
    Pair,
    attention_change,
    with_ablation,
    with_model,
    with_prompt,
)
from ablation.types import Ablation, HeadValues, Progress
from app import ids, notices, words
from app.panels.head_maps import HEIGHT, large_map
from app.panels.pieces import (
    GRAPH_CONFIG,
    browser,
    choose_on_click,
    empty,
    graph,
    head_bars,
    segmented,
)
from app.panels.progress import Bar, cancels, progress_place, watch_page
from app.services import Services, intervention_of, prompt_of
from app.view import MAX_PROMPT_CHARACTERS, View, head_from_text
from models.errors import ErrorKind, UserError
from models.types import AttentionMaps, Head
from viz.difference import difference_figure, largest_difference

WAYS = (("ablated", "Ablated run"), ("prompt", "Another prompt"), ("model", "Another model"))
HELP = {
    "ablated": "The clean run against the one with the chosen heads ablated, by the intervention "
    "on the left.",
    "prompt": "The prompt on the left against another of as many tokens, position by position.",
    "model": "The model above against another with the same tokenizer, on the prompt on the left.",
}
N_LEADERS = 16
MAX_MAPS = 6


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
                        "Layers by heads map of how much attention differs; a click chooses a head",
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


def pair_of(services: Services, view: View, way: str, text: str) -> Pair:
    """Return the two runs that are compared.

    Args:
        way: a name of `WAYS`.
        text: the other prompt, or the name of the other model.

    Raises:
        UserError: something is missing, or the runs do not correspond.
    """
    model = services.model(view.model)
    prompt = prompt_of(view, model)
    if way == "ablated":
        if not view.heads:
            raise UserError(
                ErrorKind.HEADS, "No heads are chosen to be ablated; choose some on the left first."
            )
        return with_ablation(model, prompt, Ablation(view.heads, *intervention_of(view, prompt)))
    if not text.strip():
        what = "prompt" if way == "prompt" else "model"
        raise UserError(
            ErrorKind.OPTION, f"There is no other {what} to compare with; type one above."
        )
    if way == "model":
        return with_model(model, prompt, services.model(text.strip()))
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise UserError(
            ErrorKind.PROMPT,
            f"The other prompt has {len(text):,} characters; at most {MAX_PROMPT_CHARACTERS:,} "
            "can be compared. Shorten it.",
        )
    return with_prompt(model, prompt, prompt_of(replace(view, prompt=text), model))


def caption(pair: Pair, change: HeadValues) -> str:
    """Say what was compared, and what the numbers are."""
    heads = pair.after.ablation.heads if pair.after.ablation is not None else ()
    ablated = f": {words.count(len(heads), 'head')}" if heads else ""
    label = f"{pair.label[0].upper()}{pair.label[1:]}{ablated}."
    cancelled = f"Cancelled after {words.count(len(change.ranked()), 'head')}. "
    said = f"{label} Per head: {change.metric.description}. Click a head to see its map."
    return cancelled + said if change.stopped == "cancelled" else said


def leaders(change: HeadValues) -> list[Any]:
    """Return the heads whose attention changed most, each a button that chooses it."""
    places = change.ranked()[:N_LEADERS]
    largest = places[0][1] if places else 0.0
    return [
        html.H3("Changed most, nats", className="small-title"),
        head_bars("js", places, largest),
    ]


@dataclass(frozen=True, slots=True)
class Live:
    """Shows a running comparison on its page: how far it is, and the heads compared so far."""

    bar: Bar
    view: View
    dark: bool

    def __call__(self, progress: Progress) -> None:
        if self.bar.shown(progress) and isinstance(progress.partial, HeadValues):
            chosen = [head.short for head in self.view.heads or ()]
            figure = large_map(progress.partial, chosen, self.dark)
            set_props(ids.COMPARE_MAP, {"figure": figure})
            set_props(ids.COMPARE_CAPTION, {"children": ""})
            set_props(ids.COMPARE_LEADERS, {"children": leaders(progress.partial)})
            set_props(ids.COMPARE_EMPTY, {"hidden": True})
            set_props(ids.COMPARE_BODY, {"hidden": False})


def difference_maps(
    services: Services, pair: Pair, change: HeadValues, heads: list[Head], size: int, dark: bool
) -> list[html.Div]:
    """Return a difference map for each head; their colours can be compared."""
    before, after = (_maps(services, run, heads) for run in (pair.before, pair.after))
    both = list(zip(before, after, strict=True))
    zmax = max((largest_difference(b, a, 0) for b, a in both), default=0.0)
    return [_card(b, a, change, zmax, size, dark) for b, a in both]


def _maps(services: Services, run: AttentionRun, heads: list[Head]) -> tuple[AttentionMaps, ...]:
    """Return the map of each head, from the runs that the page keeps where it can."""
    outcome = services.runs.outcome(run.model, run.prompt, -1, heads, run.ablation)
    if outcome.problem is not None:
        raise outcome.problem
    return outcome.maps


def _card(
    before: AttentionMaps,
    after: AttentionMaps,
    change: HeadValues,
    zmax: float,
    size: int,
    dark: bool,
) -> html.Div:
    (head,) = before.heads
    note = f"{change.values[head.layer, head.head]:.3g} nats · after − before"
    figure = difference_figure(before, after, 0, zmax=zmax, note=note, dark=dark, size=size)
    label = f"Difference of the attention of head {head}"
    picture = dcc.Graph(figure=figure, config=GRAPH_CONFIG)
    return html.Div(html.Div(picture, role="img", **{"aria-label": label}), className="map-card")


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
        name: str,
        tab: str,
        dark: bool,
    ) -> tuple[Any, ...]:
        view = View.from_json(data)
        text = (prompt if way == "prompt" else name) or ""
        with services.jobs.start(tab) as job:
            bar = Bar(job, ids.COMPARE_BAR, ids.COMPARE_STATUS, watch_page())
            bar.start()
            pair = pair_of(services, view, way, text)
            live = Live(bar, view, bool(dark))
            change = attention_change(pair, progress=live, cancel=job.cancel)
        key = services.results.keep(change, change.values.nbytes)
        said = caption(pair, change)
        return {"key": key, "view": data, "way": way, "text": text, "caption": said}, None

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
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
    def draw(
        kept: dict[str, Any] | None, dark: bool, name: str, heads: list[str]
    ) -> tuple[Any, ...]:
        change = services.results.get(kept["key"]) if kept else None
        if kept is None or change is None or kept["view"]["model"] != name:
            return no_update, [], "", False, True
        figure = large_map(change, heads, bool(dark))
        return figure, leaders(change), kept["caption"], True, False

    @app.callback(
        Output(ids.COMPARE_MAPS, "children"),
        Output(ids.COMPARE_HINT, "children"),
        Input(ids.COMPARISON, "data"),
        Input(ids.DARK, "data"),
        Input(ids.HEADS_TAB, "value"),
        Input(ids.IN_HEADS_TAB, "data"),
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
        pair = pair_of(services, view, kept["way"], kept["text"])
        shown = [head_from_text(text) for text in heads[:MAX_MAPS]]
        maps = difference_maps(services, pair, change, shown, view.size, bool(dark))
        return maps, hint(len(heads))

    _register_clientside(app)


def hint(n_chosen: int) -> str:
    """Say how to read the difference maps, and whether there are more."""
    if not n_chosen:
        return "Choose heads to see where their attention grew and where it shrank."
    more = f" The first {MAX_MAPS} of {n_chosen} chosen heads." if n_chosen > MAX_MAPS else ""
    return f"Rows are queries, columns are keys: green grew, purple shrank.{more}"


def _register_clientside(app: Dash) -> None:
    app.clientside_callback(
        browser("showWay", "heads"),
        Output(ids.COMPARE_HELP, "children"),
        Output(ids.COMPARE_PROMPT, "display"),
        Output(ids.COMPARE_MODEL, "display"),
        Output(ids.COMPARE_PROBLEM, "children", allow_duplicate=True),
        Input(ids.COMPARE_WAY, "value"),
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
    choose_on_click(app, ids.COMPARE_MAP)
