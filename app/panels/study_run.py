"""The ablation study, what it does: run, report, cancel, draw, use what was found.

The study by position has a module of its own, `by_position`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dash import Dash, Input, Output, State, ctx, html, no_update, set_props

import ablation
from ablation.action_metrics import CHUNK_METRIC
from ablation.chunk_types import ChunkSearch
from ablation.metrics import metric_named
from ablation.types import HeadScores, PositionScores, Progress, SearchResult
from app import ids, words
from app.jobs import Job, Pace
from app.panels import by_position, policy_study
from app.panels.heads import MAP_HEIGHT, MAP_WIDTH
from app.panels.pieces import browser, choose_on_click
from app.panels.progress import REPORT_SECONDS, Bar, cancels, watch_page
from app.panels.study import SWEEP_MAP_HEIGHT, search_columns, sweep_columns
from app.services import Services, build_intervention, intervention_of
from app.view import View
from models.errors import ErrorKind, UserError
from viz.chunk_search import chunk_sentences, chunk_steps_table, chunk_trace_figure
from viz.heads import head_map_figure, ranking_table
from viz.search import steps_table, summary_sentences, trace_figure

SWEEP_MAP_WIDTH = 330

STORES = {
    "sweep": ids.SWEEP,
    "positions": ids.BY_POSITION,
    "generic": ids.SEARCH,
    "targeted": ids.SEARCH,
}
"""Where the page keeps a finished study of each kind."""
KEPT_IN = tuple(dict.fromkeys(STORES.values()))


Studied = HeadScores | PositionScores | SearchResult | ChunkSearch
"""What a study finds."""


@dataclass(frozen=True, slots=True)
class Live:
    """Shows a running study on its page: how far it is, and what was found so far."""

    bar: Bar
    view: View
    dark: bool
    picture: Pace = field(default_factory=lambda: Pace(2 * REPORT_SECONDS))

    def __call__(self, progress: Progress) -> None:
        if self.bar.shown(progress) and progress.partial is not None and self.picture.ready():
            self._draw(progress.partial)

    def _draw(self, partial: object) -> None:
        if isinstance(partial, HeadScores):
            show_sweep(partial, self.view, self.dark)
        elif isinstance(partial, SearchResult):
            show_search(partial, self.dark)
        elif isinstance(partial, PositionScores):
            by_position.show(partial, self.dark)


def show_sweep(scores: HeadScores, view: View, dark: bool) -> None:
    """Put a sweep, finished or not, on the page from within a callback."""
    small = sweep_map(scores, view, dark, MAP_WIDTH, MAP_HEIGHT)
    set_props(ids.HEADS_MAP, {"figure": small})
    set_props(ids.SWEEP_MAP, {"figure": sweep_map(scores, view, dark)})
    rows, columns = ranking_table(scores), sweep_columns(scores.metric)
    set_props(ids.SWEEP_TABLE, {"rowData": rows, "columnDefs": columns})
    set_props(ids.SWEEP_EMPTY, {"hidden": True})
    set_props(ids.SWEEP_BODY, {"hidden": False})


def sweep_map(
    scores: HeadScores,
    view: View,
    dark: bool,
    width: int = SWEEP_MAP_WIDTH,
    height: int = SWEEP_MAP_HEIGHT,
) -> Any:
    n_layers, n_heads = scores.values.shape
    chosen = view.heads or ()
    return head_map_figure(
        n_layers,
        n_heads,
        scores,
        chosen,
        stack=scores.stack,
        dark=dark,
        width=width,
        height=height,
    )


def show_search(result: SearchResult, dark: bool) -> None:
    """Put a search, finished or not, on the page from within a callback."""
    figure, rows, columns, told = search_shown(result, dark)
    set_props(ids.SEARCH_TRACE, {"figure": figure})
    set_props(ids.SEARCH_TABLE, {"rowData": rows, "columnDefs": columns})
    set_props(ids.SEARCH_SENTENCES, {"children": told})
    set_props(ids.USE_HEADS, {"disabled": True})
    set_props(ids.SEARCH_EMPTY, {"hidden": True})
    set_props(ids.SEARCH_BODY, {"hidden": False})


def search_shown(result: SearchResult | ChunkSearch, dark: bool) -> tuple[Any, ...]:
    """Return a search as the page shows it: its trace, its steps, their columns, its sentences."""
    if isinstance(result, ChunkSearch):
        return (
            chunk_trace_figure(result, dark=dark),
            chunk_steps_table(result),
            policy_study.search_columns(result.clean.space.unit),
            [html.P(sentence) for sentence in chunk_sentences(result)],
        )
    return (
        trace_figure(result, dark=dark),
        steps_table(result),
        search_columns(result.target is not None),
        [html.P(sentence) for sentence in summary_sentences(result)],
    )


def run_study(
    services: Services, view: View, report: Callable[[Progress], None], job: Job
) -> Studied:
    """Do what the study tab of a view asks for.

    Raises:
        UserError: a choice that does not fit the model or the prompt.
    """
    model = services.model(view.model)
    prompt = services.prompt(view, model)
    if policy_study.is_about_action(view, model):
        return policy_study.run(model, prompt, view, report, job.cancel)
    if view.study == "positions":
        return by_position.run(model, prompt, view, report, job.cancel)
    intervention, positions = intervention_of(view, prompt)
    if view.study == "sweep":
        needs_target = metric_named(view.metric).info.needs_target
        return ablation.sweep_heads(
            model,
            prompt,
            intervention,
            view.metric,
            view.position,
            target=view.target if needs_target else None,
            positions=positions,
            stack=view.stack_name,
            progress=report,
            cancel=job.cancel,
        )
    if view.study == "targeted" and view.target is None:
        raise UserError(
            ErrorKind.TARGET, "Choose the token that should become the most likely one."
        )
    return ablation.search_heads(
        model,
        prompt,
        view.target if view.study == "targeted" else None,
        intervention,
        view.max_heads,
        position=view.position,
        positions=positions,
        strategy=view.strategy,
        progress=report,
        cancel=job.cancel,
    )


def finished(view: View, key: str, result: Studied) -> dict[str, Any]:
    """Return what the page keeps of a finished study."""
    kept: dict[str, Any] = {
        "key": key,
        "model": view.model,
        "prompt": view.prompt,
        "second": view.second,
        "images": list(view.images),
        "intervention": build_intervention(view.intervention).label,
        "acted": view.acted,
        "study": view.study,
        "goal": view.goal if view.study == "targeted" else "",
    }
    if isinstance(result, SearchResult | ChunkSearch):
        kept["heads"] = [head.short for head in result.heads]
    elif isinstance(result, HeadScores):
        kept["stack"] = result.stack
    else:
        kept["opens"] = result.read_here  # a token of the source has no prediction to open
    return kept


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that run, cancel and show studies."""

    @app.callback(
        *(Output(store, "data") for store in KEPT_IN),
        Output(ids.TARGET_TEXT, "error", allow_duplicate=True),
        Output(ids.HEADS_TEXT, "error", allow_duplicate=True),
        Input(ids.STUDY_REQUEST, "data"),
        State(ids.VIEW, "data"),
        State(ids.TAB_ID, "data"),
        State(ids.DARK, "data"),
        running=[
            (Output(ids.STUDY_RUN, "disabled"), True, False),
            (Output(ids.STUDY_CANCEL, "disabled"), False, True),
            (Output(ids.STUDY_PROGRESS, "hidden"), False, True),
            # What is drawn then is of the prompt that stands.
            (Output(ids.STUDY_OUTDATED, "hidden"), True, False),
        ],
        prevent_initial_call=True,
    )
    def run(request: int | None, data: dict[str, Any], tab: str, dark: bool) -> tuple[Any, ...]:
        view = View.from_json(data)
        set_props(ids.GOAL, {"error": None})
        with services.jobs.start(tab) as job:
            bar = Bar(job, ids.STUDY_BAR, ids.STUDY_STATUS, watch_page())
            bar.start()
            try:
                result = run_study(services, view, Live(bar, view, bool(dark)), job)
            except UserError as error:
                # The field of a target token is not there where a goal is asked for.
                about_goal = policy_study.is_about_action(view, services.model(view.model))
                if error.kind is not ErrorKind.TARGET or not about_goal:
                    raise
                set_props(ids.GOAL, {"error": str(error)})
                return *(no_update for _ in KEPT_IN), None, None
        key = services.results.keep(result, 2**20)
        kept = finished(view, key, result)
        place = STORES[view.study]
        return *(kept if store == place else no_update for store in KEPT_IN), None, None

    cancels(app, services, ids.STUDY_CANCEL, ids.STUDY_STATUS)

    @app.callback(
        Output(ids.SWEEP_MAP, "figure"),
        Output(ids.SWEEP_TABLE, "rowData"),
        Output(ids.SWEEP_TABLE, "columnDefs"),
        Output(ids.SWEEP_CAPTION, "children"),
        Output(ids.SWEEP_EMPTY, "hidden"),
        Output(ids.SWEEP_BODY, "hidden"),
        Input(ids.SWEEP, "data"),
        Input(ids.DARK, "data"),
        State(ids.HEADS, "value"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    def draw_sweep(
        kept: dict[str, Any] | None, dark: bool, heads: list[str], data: dict[str, Any]
    ) -> tuple[Any, ...]:
        scores = services.results.get(kept["key"]) if kept else None
        if kept is None or scores is None or kept["model"] != data["model"]:
            return no_update, [], no_update, "", False, True
        view = View.from_json({**data, "heads": heads})
        figure = sweep_map(scores, view, bool(dark))
        if ctx.triggered_id != ids.SWEEP:
            return figure, no_update, no_update, no_update, no_update, no_update
        rows, columns = ranking_table(scores), sweep_columns(scores.metric)
        return figure, rows, columns, sweep_caption(scores, kept), True, False

    @app.callback(
        Output(ids.SEARCH_TRACE, "figure"),
        Output(ids.SEARCH_TABLE, "rowData"),
        Output(ids.SEARCH_TABLE, "columnDefs"),
        Output(ids.SEARCH_SENTENCES, "children"),
        Output(ids.SEARCH_EMPTY, "hidden"),
        Output(ids.SEARCH_BODY, "hidden"),
        Output(ids.USE_HEADS, "disabled"),
        Input(ids.SEARCH, "data"),
        Input(ids.DARK, "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    def draw_search(
        kept: dict[str, Any] | None, dark: bool, data: dict[str, Any]
    ) -> tuple[Any, ...]:
        result = services.results.get(kept["key"]) if kept else None
        if kept is None or result is None or kept["model"] != data["model"]:
            return no_update, [], no_update, [], False, True, True
        return *search_shown(result, bool(dark)), True, False, not result.heads

    @app.callback(
        Output(ids.TARGET, "data", allow_duplicate=True),
        Output(ids.TARGET_PICKER, "data", allow_duplicate=True),
        Output(ids.TARGET_PICKER, "value", allow_duplicate=True),
        Output(ids.TARGET_TEXT, "value"),
        Output(ids.TARGET_TEXT, "error"),
        Input(ids.TARGET_TEXT, "value"),
        State(ids.MODEL, "data"),
        State(ids.TARGET_PICKER, "data"),
        prevent_initial_call=True,
    )
    def type_target(text: str, model_name: str, choices: list[dict[str, str]]) -> tuple[Any, ...]:
        if not text:
            return no_update, no_update, no_update, no_update, no_update
        model = services.model(model_name)
        token = model.describe_token(model.resolve_token(text))
        choice = {"value": str(token.id), "label": token.label}
        known = {option["value"] for option in choices}
        listed = choices if choice["value"] in known else [*choices, choice]
        return token.id, listed, choice["value"], "", None

    _register_clientside(app)


def sweep_caption(scores: HeadScores, kept: dict[str, Any]) -> str:
    """Say what the numbers of a sweep are of."""
    n_done, n_all = len(scores.ranked()), scores.values.size
    heads = words.count(n_done, "head")
    if scores.stopped == "cancelled":
        heads = f"Cancelled after {n_done} of {words.count(n_all, 'head')}"
    stack = f" of the stack {scores.stack}" if scores.stack else ""
    said = f"{heads}{stack}, each ablated alone ({kept['intervention']}). Click a head to add it."
    if scores.metric != CHUNK_METRIC or scores.stack:
        return said
    return (
        f"{said} Heads of layer {len(scores.values) - 1} move nothing: the action expert reads the "
        "keys and values of that layer alone."
    )


def _register_clientside(app: Dash) -> None:
    app.clientside_callback(
        browser("requestStudy"),
        Output(ids.STUDY_REQUEST, "data"),
        Input(ids.STUDY_RUN, "n_clicks"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("showStudy"),
        Output(ids.STUDY_HELP, "children"),
        Output(ids.SWEEP_OPTIONS, "hidden"),
        Output(ids.SEARCH_OPTIONS, "hidden"),
        Output(ids.TARGET_OPTIONS, "hidden"),
        Output(ids.GOAL_OPTIONS, "hidden"),
        Output(ids.SWEEP_RESULT, "hidden"),
        Output(ids.SEARCH_RESULT, "hidden"),
        Output(ids.BY_POSITION_RESULT, "hidden"),
        Input(ids.STUDY, "value"),
        Input(ids.METRIC, "value"),
        Input(ids.STRATEGY, "value"),
        Input(ids.MODEL_SHAPE, "data"),
        State(ids.LIMITS, "data"),
    )
    app.clientside_callback(
        browser("sayOutdated"),
        Output(ids.STUDY_OUTDATED, "children"),
        Input(ids.STUDY, "value"),
        Input(ids.SWEEP, "data"),
        Input(ids.SEARCH, "data"),
        Input(ids.BY_POSITION, "data"),
        Input(ids.PROMPT, "data"),
        Input(ids.SECOND, "data"),
        Input(ids.IMAGES, "data"),
        Input(ids.GOAL, "value"),
    )
    app.clientside_callback(
        browser("chooseTarget"),
        Output(ids.TARGET, "data", allow_duplicate=True),
        Output(ids.TARGET_TEXT, "error", allow_duplicate=True),
        Input(ids.TARGET_PICKER, "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("useHeads"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Output(ids.ABLATE, "checked", allow_duplicate=True),
        Input(ids.USE_HEADS, "n_clicks"),
        State(ids.SEARCH, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("addRow"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Input(ids.SWEEP_TABLE, "cellClicked"),
        Input(ids.SWEEP_TABLE, "eventData"),
        Input(ids.SEARCH_TABLE, "cellClicked"),
        Input(ids.SEARCH_TABLE, "eventData"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
    choose_on_click(app, ids.SWEEP_MAP)
