"""All heads at once: a grid of thumbnails, or of one number a head, drawn by assets/overview.js."""

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update, set_props

from ablation.head_metrics import HEAD_METRICS
from ablation.types import Ablation, HeadSummaries, Progress
from app import ids, words
from app.jobs import Job, Pace
from app.overviews import shows_overview, summary_of
from app.panels.pieces import browser
from app.panels.progress import cancels
from app.services import Services, ablation_of, prompt_of
from app.view import View
from models.errors import UserError
from viz.overview import overview_message

KIND = "overview"
"""The kind of its jobs: the next one takes the place of one that runs."""
REPORT_SECONDS = 0.25
FRAME = "overview-frame"


def tools() -> list[Any]:
    """Return what stands in the toolbar: what is shown of each head."""
    choices = [{"value": "thumbnail", "label": "Thumbnails"}]
    choices += [{"value": name, "label": m.info.label} for name, m in HEAD_METRICS.items()]
    return [
        html.Span("Heads as", className="field-label"),
        dmc.Select(
            id=ids.CELLS,
            data=choices,
            value="thumbnail",
            allowDeselect=False,
            size="xs",
            w=176,
            **{"aria-label": "What the overview shows of each head"},
        ),
    ]


def legend() -> html.Div:
    """Return the place of the colours' scale, which assets/overview.js fills."""
    return html.Div(id=ids.OVERVIEW_LEGEND, className="overview-legend")


def layout() -> list[Any]:
    """Return the picture's place."""
    return [
        html.Div(
            [
                html.Span(id=ids.OVERVIEW_NOTE, role="status"),
                dmc.Button(
                    "Read all heads",
                    id=ids.OVERVIEW_AGAIN,
                    size="compact-xs",
                    variant="default",
                    style={"display": "none"},
                ),
            ],
            className="note",
        ),
        html.Div(
            [_progress(), html.Div(id=ids.OVERVIEW_FRAME, className=FRAME)], className="stage"
        ),
        dcc.Store(id=ids.OVERVIEW_SENT),
        dcc.Store(id=ids.OVERVIEW_DRAWN),
    ]


def _progress() -> html.Div:
    """Return what says how far reading is; the stylesheet shows it only if that takes a while."""
    return html.Div(
        [
            dmc.Progress(
                id=ids.OVERVIEW_BAR,
                value=0,
                size="sm",
                transitionDuration=200,
                className="grow",
                **{"aria-label": "Progress of reading all heads"},
            ),
            html.Span(id=ids.OVERVIEW_STATUS, className="muted", role="status"),
            dmc.Button("Cancel", id=ids.OVERVIEW_CANCEL, size="compact-xs", variant="default"),
        ],
        id=ids.OVERVIEW_PROGRESS,
        className="overview-progress",
        hidden=True,
    )


@dataclass(frozen=True, slots=True)
class Live:
    """Shows on the page how far reading all heads has got."""

    job: Job
    is_wanted: Callable[[], bool]
    page_gone: Callable[[], bool]
    bar: Pace = field(default_factory=lambda: Pace(REPORT_SECONDS))

    def __call__(self, progress: Progress) -> None:
        if self.page_gone():
            self.job.cancel.set()
            return
        if self.is_wanted() and self.bar.ready():
            set_props(ids.OVERVIEW_BAR, {"value": 100 * progress.done / progress.total})
            set_props(ids.OVERVIEW_STATUS, {"children": self.job.status(progress)})


@contextmanager
def waiting(services: Services, tab: str, about: Hashable) -> Iterator[Job]:
    """Give the job in which all heads are read, and say on the page meanwhile that one waits."""
    set_props(ids.OVERVIEW_BAR, {"value": 0})
    set_props(ids.OVERVIEW_STATUS, {"children": "Running the prompt"})
    set_props(ids.OVERVIEW_PROGRESS, {"hidden": False})
    set_props(ids.OVERVIEW_FRAME, {"className": f"{FRAME} waiting"})
    try:
        with services.jobs.replace(tab, KIND, about) as job:
            yield job
    finally:
        if services.jobs.current(tab, KIND) is None:
            set_props(ids.OVERVIEW_PROGRESS, {"hidden": True})
            set_props(ids.OVERVIEW_FRAME, {"className": FRAME})


def wanted(services: Services, view: View | None, tab: str, drawn: str | None) -> str | None:
    """Return what is to be read for a view, as the page knows it, or None if nothing is.

    A job of the tab that is about something else is dropped.

    Args:
        drawn: what stands on the page.
    """
    if view is None or not shows_overview(view):
        services.jobs.drop(tab, KIND)
        return None
    model = services.model(view.model)
    prompt = prompt_of(view, model)
    asked = summary_of(model, prompt, ablation_of(view, prompt)[0], view.stack_name)
    key = hashlib.sha256(repr(asked).encode()).hexdigest()
    running = services.jobs.current(tab, KIND)
    if running is not None and running.about == key:
        return None
    services.jobs.drop(tab, KIND)
    return None if key == drawn else key


def summarise(
    services: Services, view: View, job: Job, report: Callable[[Progress], None]
) -> tuple[HeadSummaries, UserError | None]:
    """Return the summary that a view asks for, and why it is not of the ablated run if it is not.

    Raises:
        UserError: the clean run cannot be done.
    """
    model = services.model(view.model)
    prompt = prompt_of(view, model)
    ablation, problem = ablation_of(view, prompt)

    def read(ablation: Ablation | None) -> HeadSummaries:
        stack, position = view.stack_name, view.position
        return services.overviews.of(model, prompt, ablation, stack, position, report, job.cancel)

    try:
        return read(ablation), problem
    except UserError as error:
        if ablation is None:
            raise
        return read(None), error


def note(summaries: HeadSummaries, problem: UserError | None) -> list[Any]:
    """Say which run the heads are of, and what their thumbnails show."""
    n_read = int((~np.isnan(summaries.thumbnails[..., 0, 0])).sum())
    heads = words.count(n_read, "head")
    cells = f", each cell the largest of {summaries.step}×{summaries.step} weights"
    shown = f" Rows are queries, columns keys{cells if summaries.step > 1 else ''}."
    # Which the stylesheet hides where the heads are numbers.
    said = [f" {heads}.", html.Span(shown, className="of-thumbnails")]
    said += [" Hover for numbers, click to choose."]
    if summaries.stopped == "cancelled":
        n_all = words.count(summaries.values[0].size, "head")
        said = [f" Cancelled after {n_read} of {n_all}. "]
    if problem is not None:
        return [
            html.Span("Not ablated: heads of the clean run", className="tag failed"),
            f" {problem}",
        ]
    if summaries.ablated:
        return [html.Span("Heads of the ablated run", className="tag ablated"), *said]
    return [html.Span("Heads of the clean run", className="tag"), *said]


def not_shown(error: UserError) -> list[Any]:
    """Say why there is no overview."""
    return [html.Span("Not shown", className="tag failed"), f" {error}"]


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that read all heads, cancel that, and draw them."""

    @app.callback(
        Output(ids.OVERVIEW_SENT, "data"),
        Output(ids.OVERVIEW_DRAWN, "data"),
        Output(ids.OVERVIEW_NOTE, "children"),
        Output(ids.OVERVIEW_AGAIN, "style"),
        Input(ids.VIEW, "data"),
        Input(ids.OVERVIEW_AGAIN, "n_clicks"),
        State(ids.OVERVIEW_DRAWN, "data"),
        State(ids.TAB_ID, "data"),
        prevent_initial_call=True,
    )
    def read_all(
        data: dict[str, Any] | None, clicks: int | None, drawn: str | None, tab: str
    ) -> tuple[Any, ...]:
        view = None if data is None else View.from_json(data)
        again = ctx.triggered_id == ids.OVERVIEW_AGAIN
        key = wanted(services, view, tab, None if again else drawn)
        if view is None or key is None:
            return (no_update,) * 4
        socket = ctx.websocket
        with waiting(services, tab, key) as job:
            live = Live(
                replace(job, started=time.monotonic()),
                lambda: services.jobs.current(tab, KIND) is job,
                lambda: socket is not None and socket.is_shutdown,
            )
            try:
                summaries, problem = summarise(services, view, job, live)
            except UserError as error:
                return (None, key, not_shown(error), {"display": "none"})
            if not live.is_wanted():
                return (no_update,) * 4
        more = {} if summaries.stopped == "cancelled" else {"display": "none"}
        return overview_message(summaries), key, note(summaries, problem), more

    cancels(app, services, ids.OVERVIEW_CANCEL, ids.OVERVIEW_STATUS, KIND)

    app.clientside_callback(
        browser("draw", "overview"),
        Input(ids.OVERVIEW_SENT, "data"),
        Input(ids.HEADS, "value"),
        Input(ids.CELLS, "value"),
        Input(ids.SCALE, "value"),
        Input(ids.LOG, "checked"),
        Input(ids.DARK, "data"),
        prevent_initial_call=True,
    )
