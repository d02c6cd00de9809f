"""The circuit tab, the work: discover, report, cancel."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dash import Dash, Input, Output, State, no_update, set_props

from ablation.circuit.types import Circuit
from ablation.types import Progress
from app import ids, notices
from app.jobs import Job, Pace
from app.panels import head_patching
from app.panels.circuit_asked import (
    FIELDS,
    FORM,
    Asked,
    asked_about,
    asked_of,
    origin_of,
    pairs_of,
)
from app.panels.pieces import browser
from app.panels.progress import REPORT_SECONDS, Bar, cancels, watch_page
from app.services import Services
from app.view import View
from models.errors import ErrorKind, UserError

NOTES = (
    (ids.CIRCUIT_OUTDATED, ids.CIRCUIT),
    (ids.PATCHING_OUTDATED, ids.PATCHING),
)
"""Where it is said that a result is of an earlier question, and what the page keeps of it."""


@dataclass(frozen=True, slots=True)
class Live:
    """Shows a running discovery on its page: how far it is, and what was found so far.

    That has a key of its own, so that what is drawn, told of edges, and laid out anew is of it for
    as long as the work goes on, and of the last result again if it fails.
    """

    bar: Bar
    services: Services
    view: View
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    picture: Pace = field(default_factory=lambda: Pace(4 * REPORT_SECONDS))

    def __call__(self, progress: Progress) -> None:
        shown, found = self.bar.shown(progress), progress.partial
        if shown and isinstance(found, Circuit) and self.picture.ready():
            self.services.results.put(self.key, found, _bytes(found))
            told = {"key": self.key, "model": self.view.model, "bos": self.view.bos}
            set_props(ids.CIRCUIT_PARTIAL, {"data": told | {"at": progress.done}})


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
    found = discover_circuit(
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
    return replace(found, origin=origin_of(asked, held_out))


def _bytes(circuit: Circuit) -> int:
    return circuit.scores.nbytes + circuit.kept.nbytes + 2**16


def _finished(services: Services, view: View, asked: Asked, found: Circuit) -> dict[str, Any]:
    """Keep a circuit; return what the page keeps of it."""
    return {
        "key": services.results.keep(found, _bytes(found)),
        "model": view.model,
        "asked": asked_about(asked, view),
        "bos": view.bos,
        "heads": [head.short for head in found.heads],
    }


def _problem(error: Exception) -> None:
    """Say beside the question why it cannot be answered; what was found so far is not shown as if
    it were the answer."""
    set_props(ids.CIRCUIT_PARTIAL, {"data": None})
    set_props(ids.CIRCUIT_OPENED, {"data": None})
    if isinstance(error, UserError) and error.kind is not ErrorKind.BUSY:
        set_props(ids.CIRCUIT_PROBLEM, {"children": str(error)})
    else:
        notices.show_error(error)


def answer(services: Services, view: View, asked: Asked, bar: Bar, job: Job) -> tuple[Any, Any]:
    """Do what a form asks for; return what the page keeps of a circuit, and of head patching.

    Raises:
        UserError: a choice that does not fit the model or the pairs.
    """
    bar.start()
    if asked.patches:
        patched = head_patching.patch(services, view, asked, bar, job)
        return no_update, head_patching.finished(services, view, asked, patched)
    found = discover(services, view, asked, Live(bar, services, view), job)
    return _finished(services, view, asked, found), no_update


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that discover and cancel."""

    @app.callback(
        Output(ids.CIRCUIT, "data"),
        Output(ids.PATCHING, "data"),
        Output(ids.CIRCUIT_PROBLEM, "children"),
        Input(ids.CIRCUIT_REQUEST, "data"),
        State(ids.VIEW, "data"),
        State(ids.TAB_ID, "data"),
        *FIELDS,
        running=[
            (Output(ids.CIRCUIT_RUN, "disabled"), True, False),
            (Output(ids.CIRCUIT_CANCEL, "disabled"), False, True),
            (Output(ids.CIRCUIT_PROGRESS, "hidden"), False, True),
            *((Output(note, "hidden"), True, False) for note, _ in NOTES),
            # They are of the last result, not of what is drawn meanwhile.
            (Output(ids.CIRCUIT_TABLES, "hidden"), True, False),
            (Output(ids.CIRCUIT_EXPORT, "disabled"), True, False),
            (Output(ids.PATCHING_EXPORT, "disabled"), True, False),
        ],
        on_error=_problem,
        prevent_initial_call=True,
    )
    def run(
        request: dict[str, Any] | None, data: dict[str, Any], tab: str, *form: Any
    ) -> tuple[Any, ...]:
        view, asked = View.from_json(data), asked_of(form)
        with services.jobs.start(tab) as job:
            bar = Bar(job, ids.CIRCUIT_BAR, ids.CIRCUIT_STATUS, watch_page())
            return *answer(services, view, asked, bar, job), None

    cancels(app, services, ids.CIRCUIT_CANCEL, ids.CIRCUIT_STATUS)
    _register_clientside(app)


def _register_clientside(app: Dash) -> None:
    app.clientside_callback(
        browser("request", "circuit"),
        Output(ids.CIRCUIT_REQUEST, "data"),
        Output(ids.CIRCUIT_PROBLEM, "children", allow_duplicate=True),
        Output(ids.CIRCUIT_OPENED, "data", allow_duplicate=True),
        Input(ids.CIRCUIT_RUN, "n_clicks"),
        prevent_initial_call=True,
    )
    for note, store in NOTES:
        app.clientside_callback(
            browser("sayOutdated", "circuit"),
            Output(note, "children"),
            Input(store, "data"),
            Input(ids.PROMPT, "data"),
            Input(ids.BOS_USED, "data"),
            *(Input(field.component, field.prop) for field in FORM),
            State(ids.LIMITS, "data"),
        )
