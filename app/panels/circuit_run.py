"""The circuit tab, the work: discover, report, cancel."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dash import Dash, Input, Output, State, no_update, set_props

from ablation.circuit.methods import DIRECTIONS
from ablation.circuit.types import Circuit
from ablation.types import Progress
from app import ids, notices
from app.jobs import Job, Pace
from app.panels import circuit_result, head_patching
from app.panels.circuit_question import FIELDS, Asked, asked_of, pairs_of
from app.panels.pieces import browser
from app.panels.progress import REPORT_SECONDS, Bar, cancels, watch_page
from app.services import Services
from app.view import View
from models.errors import ErrorKind, UserError


@dataclass(frozen=True, slots=True)
class Live:
    """Shows a running discovery on its page: how far it is, and what was found so far."""

    bar: Bar
    room: dict[str, Any] | None
    dark: bool
    picture: Pace = field(default_factory=lambda: Pace(4 * REPORT_SECONDS))

    def __call__(self, progress: Progress) -> None:
        shown = self.bar.shown(progress)
        if shown and isinstance(progress.partial, Circuit) and self.picture.ready():
            circuit_result.show_partial(progress.partial, self.room, self.dark)


def discover(
    services: Services, view: View, asked: Asked, report: Callable[[Progress], None], job: Job
) -> Circuit:
    """Find the circuit that a form asks for.

    Raises:
        UserError: a choice that does not fit the model or the pairs.
    """
    from ablation.circuit.by_position import have_one_length
    from ablation.circuit.discovery import discover_circuit

    model = services.model(view.model)
    pairs, held_out = pairs_of(services, view, asked, model)
    return discover_circuit(
        model,
        pairs,
        asked.method,
        asked.metric,
        asked.baseline,
        asked.faithfulness,
        held_out=held_out,
        steps=asked.steps,
        by_position=asked.by_position and have_one_length(model, pairs, view.bos),
        bos=view.bos,
        progress=report,
        cancel=job.cancel,
    )


def _finished(services: Services, view: View, asked: Asked, found: Circuit) -> dict[str, Any]:
    """Keep a circuit; return what the page keeps of it."""
    n_bytes = found.scores.nbytes + found.kept.nbytes + 2**16
    return {
        "key": services.results.keep(found, n_bytes),
        "model": view.model,
        "prompt": view.prompt if asked.pairs == "prompt" else None,
        "bos": view.bos,
        "heads": [head.short for head in found.heads],
    }


def _problem(error: Exception) -> None:
    """Say beside the question why it cannot be answered."""
    if isinstance(error, UserError) and error.kind is not ErrorKind.BUSY:
        set_props(ids.CIRCUIT_PROBLEM, {"children": str(error)})
    else:
        notices.show_error(error)


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that discover and cancel."""

    @app.callback(
        Output(ids.CIRCUIT, "data"),
        Output(ids.PATCHING, "data"),
        Output(ids.CIRCUIT_PROBLEM, "children"),
        Input(ids.CIRCUIT_REQUEST, "data"),
        State(ids.VIEW, "data"),
        State(ids.TAB_ID, "data"),
        State(ids.DARK, "data"),
        State(ids.CIRCUIT_ROOM, "data"),
        *FIELDS,
        running=[
            (Output(ids.CIRCUIT_RUN, "disabled"), True, False),
            (Output(ids.CIRCUIT_CANCEL, "disabled"), False, True),
            (Output(ids.CIRCUIT_PROGRESS, "hidden"), False, True),
            (Output(ids.CIRCUIT_OUTDATED, "hidden"), True, False),
            (Output(ids.PATCHING_OUTDATED, "hidden"), True, False),
        ],
        on_error=_problem,
        prevent_initial_call=True,
    )
    def run(
        request: dict[str, Any] | None,
        data: dict[str, Any],
        tab: str,
        dark: bool,
        room: dict[str, Any] | None,
        *form: Any,
    ) -> tuple[Any, ...]:
        view, asked = View.from_json(data), asked_of(form)
        with services.jobs.start(tab) as job:
            bar = Bar(job, ids.CIRCUIT_BAR, ids.CIRCUIT_STATUS, watch_page())
            bar.start()
            if asked.method in DIRECTIONS:
                patched = head_patching.patch(services, view, asked, bar, job)
                return no_update, head_patching.finished(services, view, asked, patched), None
            found = discover(services, view, asked, Live(bar, room, bool(dark)), job)
        return _finished(services, view, asked, found), no_update, None

    cancels(app, services, ids.CIRCUIT_CANCEL, ids.CIRCUIT_STATUS)
    app.clientside_callback(
        browser("request", "circuit"),
        Output(ids.CIRCUIT_REQUEST, "data"),
        Output(ids.CIRCUIT_ROOM, "data", allow_duplicate=True),
        Input(ids.CIRCUIT_RUN, "n_clicks"),
        prevent_initial_call=True,
    )
    for note, store in (
        (ids.CIRCUIT_OUTDATED, ids.CIRCUIT),
        (ids.PATCHING_OUTDATED, ids.PATCHING),
    ):
        app.clientside_callback(
            browser("sayOutdated", "circuit"),
            Output(note, "children"),
            Input(store, "data"),
            Input(ids.PROMPT, "data"),
        )
