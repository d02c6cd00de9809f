"""Long work on the page: how far it is, shown where its result will stand."""

from collections.abc import Callable
from dataclasses import dataclass, field

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, ctx, html, set_props

from ablation.types import Progress
from app import ids
from app.jobs import STUDY, Job, Pace
from app.services import Services

REPORT_SECONDS = 0.25


def progress_place(place: str, bar: str, status: str, label: str) -> html.Div:
    """Return the hidden place of a bar and of the sentence under it.

    Args:
        place, bar, status: their ids.
        label: names the bar for screen readers.
    """
    return html.Div(
        [
            dmc.Progress(
                id=bar, value=0, size="sm", transitionDuration=200, **{"aria-label": label}
            ),
            html.P(id=status, className="muted", role="status"),
        ],
        id=place,
        hidden=True,
    )


def watch_page() -> Callable[[], bool]:
    """Return, from within a callback, what tells whether its page has gone since."""
    socket = ctx.websocket
    return lambda: socket is not None and socket.is_shutdown


@dataclass(frozen=True, slots=True)
class Bar:
    """Shows how far a job is, and ends the job when its page has gone."""

    job: Job
    bar: str
    status: str
    """The ids of `progress_place`."""
    page_gone: Callable[[], bool]
    pace: Pace = field(default_factory=lambda: Pace(REPORT_SECONDS))

    def start(self) -> None:
        """Put the bar back to its beginning."""
        set_props(self.bar, {"value": 0})
        set_props(self.status, {"children": "Starting"})

    def __call__(self, progress: Progress) -> None:
        self.shown(progress)

    def shown(self, progress: Progress) -> bool:
        """Show a report if it is time for one; return whether it was shown."""
        if self.page_gone():
            self.job.cancel.set()
            return False
        if not self.pace.ready():
            return False
        set_props(self.bar, {"value": 100 * progress.done / max(1, progress.total)})
        set_props(self.status, {"children": self.job.status(progress)})
        return True


def cancels(app: Dash, services: Services, button: str, status: str, kind: str = STUDY) -> None:
    """Let a button cancel its page's job of a kind, and say so where the job's status stands."""

    @app.callback(
        Output(status, "children", allow_duplicate=True),
        Input(button, "n_clicks"),
        State(ids.TAB_ID, "data"),
        prevent_initial_call=True,
    )
    def cancel(n_clicks: int | None, tab: str) -> str:
        return "Cancelling" if services.jobs.cancel(tab, kind) else ""
