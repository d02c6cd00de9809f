"""The strip at the foot of the middle: what the page waits for, how far it is, and Cancel.

One for all parts of the page that may have to wait for a long prompt. It shows itself only when
that takes a while, so that short prompts cost nothing; and it is told by the callbacks that wait,
so that nothing is asked for in between.
"""

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, html, set_props

from app import ids
from app.jobs import Pace
from app.panels.progress import REPORT_SECONDS, watch_page
from app.services import Services, wanted
from app.view import View
from app.waits import Standing, Wait

SHOWN_AFTER = 1.0
"""Seconds that a wait takes before it is shown."""
CANCELLED = "Cancelled. What was shown before stays."
STALE = {
    "maps": (ids.ATTENTION_NOTE, "These are still the earlier maps."),
    "prediction": (ids.PREDICTION_CAPTION, "This is still the earlier prediction."),
    "explanation": (ids.EXPLAIN_BODY, "Click the cell again to ask once more."),
}
"""Kind of a wait -> where its part of the page says, once it is cancelled, what stands there."""


def layout() -> html.Div:
    """Return the strip's place, which takes no room."""
    return html.Div(
        [
            html.Div(
                [
                    dmc.Progress(
                        id=ids.WAIT_BAR,
                        value=0,
                        size="sm",
                        transitionDuration=200,
                        className="grow",
                        **{"aria-label": "Progress of what the page waits for"},
                    ),
                    html.Span(id=ids.WAIT_STATUS, className="muted", role="status"),
                    dmc.Button("Cancel", id=ids.WAIT_CANCEL, size="compact-xs", variant="default"),
                ],
                id=ids.WAIT_STRIP,
                className="wait-strip",
                hidden=True,
            ),
            html.Div(
                [
                    html.Span(CANCELLED, className="muted grow", role="status"),
                    dmc.Button(
                        "Compute again", id=ids.WAIT_AGAIN, size="compact-xs", variant="default"
                    ),
                ],
                id=ids.WAIT_CANCELLED,
                className="wait-strip",
                hidden=True,
            ),
        ],
        className="wait-place",
    )


class Strip:
    """Shows on its page, from within a callback, what that callback waits for."""

    def __init__(self, services: Services) -> None:
        self._waits = services.waits
        self._pace = Pace(REPORT_SECONDS)
        self._begins = time.monotonic() + SHOWN_AFTER
        self._is_shown = False
        self.wait: Wait | None = None

    def show(self, standing: Standing) -> None:
        wait = self.wait
        if wait is None or time.monotonic() < self._begins or not self._pace.ready():
            return
        if watch_page()():
            wait.job.cancel.set()
        elif self._waits.leads(wait):
            set_props(ids.WAIT_BAR, {"value": standing.percent})
            set_props(ids.WAIT_STATUS, {"children": standing.sentence})
            if not self._is_shown:
                self._is_shown = True
                self._waits.shown(wait)
                set_props(ids.WAIT_STRIP, {"hidden": False})
                set_props(ids.WAIT_CANCELLED, {"hidden": True})


@contextmanager
def awaiting(
    services: Services, tab: str, kind: str, view: View, about: Hashable = None
) -> Iterator[Wait]:
    """Run the body of the `with`, part of a callback, as what its page waits for.

    Args:
        kind: which part of the page waits.
        about: see `Wanted`.

    Raises:
        GivenUp: it was cancelled, or is not wanted any more. The page's `on_error` lets all stand
            as it is then.
    """
    strip = Strip(services)
    strip.wait = wait = Wait(tab, wanted(view, kind, about), strip.show)
    if services.waits.was_cancelled(tab):
        set_props(ids.WAIT_CANCELLED, {"hidden": True})
    try:
        with services.waits.start(wait):
            yield wait
    finally:
        if services.waits.hides(tab):
            set_props(ids.WAIT_STRIP, {"hidden": True})


def register(app: Dash, services: Services) -> None:
    """Add the callback that cancels."""

    @app.callback(
        Output(ids.WAIT_STRIP, "hidden"),
        Output(ids.WAIT_CANCELLED, "hidden"),
        Input(ids.WAIT_CANCEL, "n_clicks"),
        State(ids.TAB_ID, "data"),
        prevent_initial_call=True,
    )
    def cancel(n_clicks: int | None, tab: str) -> tuple[bool, bool]:
        kinds = services.waits.cancel(tab)
        for kind in kinds & STALE.keys():
            place, sentence = STALE[kind]
            tag = html.Span("Cancelled", className="tag failed")
            set_props(place, {"children": [tag, f" {sentence}"]})
        return True, not kinds
