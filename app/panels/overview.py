"""All heads at once: a grid of thumbnails, or of one number a head, drawn by assets/overview.js."""

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update, set_props

from ablation.head_metrics import HEAD_METRICS
from ablation.types import Ablation, HeadSummaries, Progress
from app import ids, words
from app.jobs import Job
from app.overviews import named, shows_overview, summary_of
from app.panels.pieces import browser
from app.panels.wait_strip import awaiting
from app.services import Services, ablation_of
from app.view import View
from models.errors import UserError
from viz.overview import overview_message
from viz.sink import SINK_NOTES

KIND = "overview"
"""The kind of its jobs: the next one takes the place of one that runs."""
FRAME = "overview-frame"
ALL_COUNTED = (
    " The first token counts in these numbers: what it takes is a part of what they tell of a head."
)
"""Said of metrics where thumbnails leave the first token out."""


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
        html.Div(html.Div(id=ids.OVERVIEW_FRAME, className=FRAME), className="stage"),
        dcc.Store(id=ids.OVERVIEW_SENT),
        dcc.Store(id=ids.OVERVIEW_DRAWN),
    ]


@contextmanager
def waiting(
    services: Services, tab: str, about: Hashable, view: View
) -> Iterator[tuple[Job, Callable[[Progress], None]]]:
    """Give the job in which all heads are read, and what shows on the page how far that is."""
    set_props(ids.OVERVIEW_FRAME, {"className": f"{FRAME} waiting"})
    try:
        with (
            awaiting(services, tab, KIND, view, about) as wait,
            services.jobs.replace(tab, KIND, about, wait.job.cancel) as job,
        ):
            yield job, lambda progress: wait.tell(named(progress))
    finally:
        if services.jobs.current(tab, KIND) is None:
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
    prompt = services.prompt(view, model)
    asked = summary_of(model, prompt, ablation_of(view, prompt)[0], view.stack_name, view.sink)
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
    prompt = services.prompt(view, model)
    ablation, problem = ablation_of(view, prompt)

    def read(ablation: Ablation | None) -> HeadSummaries:
        stack, position = view.stack_name, view.position
        return services.overviews.of(
            model, prompt, ablation, stack, position, report, job.cancel, view.sink
        )

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
    # Which the stylesheet hides where the heads are numbers, or where they are not.
    said = [f" {heads}.", html.Span(shown, className="of-thumbnails")]
    if summaries.sink != "show":
        left_out = f" {SINK_NOTES[summaries.sink].capitalize()}."
        said += [html.Span(left_out, className="of-thumbnails")]
        said += [html.Span(ALL_COUNTED, className="of-numbers")]
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
        Input(ids.WAIT_AGAIN, "n_clicks"),
        prevent_initial_call=True,
    )
    def read_all(
        data: dict[str, Any] | None,
        clicks: int | None,
        drawn: str | None,
        tab: str,
        *clicks_again: int | None,
    ) -> tuple[Any, ...]:
        view = None if data is None else View.from_json(data)
        again = ctx.triggered_id in (ids.OVERVIEW_AGAIN, ids.WAIT_AGAIN)
        key = wanted(services, view, tab, None if again else drawn)
        if view is None or key is None:
            return (no_update,) * 4
        with waiting(services, tab, key, view) as (job, report):
            try:
                summaries, problem = summarise(services, view, job, report)
            except UserError as error:
                return (None, key, not_shown(error), {"display": "none"})
            if services.jobs.current(tab, KIND) is not job:  # another has taken its place
                return (no_update,) * 4
        more = {} if summaries.stopped == "cancelled" else {"display": "none"}
        nothing = np.isnan(summaries.thumbnails).all()  # what stands is better than that
        sent = no_update if nothing else overview_message(summaries)
        return sent, key, note(summaries, problem), more

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
