"""Following a policy along an open recording: its curves, and the recording as a film."""

from dataclasses import dataclass
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, no_update, set_props

from app import ids
from app.panels.progress import Bar, cancels, watch_page
from app.services import Services, ablation_of
from app.view import View
from models.errors import ErrorKind, UserError
from models.recordings import Recording
from models.types import VISION, Head

WIDTH = 296  # px
KEPT_BYTES = 2**20
"""What an open recording is counted as: its pictures are read when they are shown."""
MOST_HEADS = 4
"""Heads that are watched along a recording: each has a strip of its own."""
STILL = (
    ids.RECORDING_OPEN,
    ids.RECORDING_PLAY,
    ids.RECORDING_FRAME,
    ids.RECORDING_BACK,
    ids.RECORDING_ON,
    ids.RECORDING_CAMERAS,
)
"""What may not change while a policy is followed."""


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """A recording that was opened, and the policy along it, once that was asked for."""

    recording: Recording
    trace: Any = None
    cameras: tuple[str, ...] = ()
    """Of which the trace is."""


def watched_heads(view: View) -> tuple[Head, ...]:
    """Return the chosen heads that a policy's answer is read through, which a vision tower's are
    not, as many as are drawn."""
    return tuple(head for head in view.heads or () if head.stack != VISION)[:MOST_HEADS]


def followed_of(services: Services, opened: dict[str, Any]) -> Followed:
    """Return an open recording; raise `UserError` if it had to make room for others."""
    found: Followed | None = services.results.get(opened["key"])
    if found is None:
        set_props(ids.RECORDING_BODY, {"hidden": True})
        raise UserError(ErrorKind.RECORDING, "This recording is not open any more; open it again.")
    return found


def moment(followed: Followed, index: int | None) -> float:
    """Return the time of the frame that the slider is at, seconds."""
    frames = followed.recording.frames
    return frames[min(int(index or 0), len(frames) - 1)].time


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that follow a policy and make films."""
    _register_films(app, services)

    @app.callback(
        Output(ids.TRACE, "figure"),
        Output(ids.TRACE_PLACE, "hidden"),
        Output(ids.TRACE_CAPTION, "children"),
        Output(ids.FILM_GIF, "disabled"),
        Output(ids.FILM_MP4, "disabled"),
        Input(ids.TRACE_RUN, "n_clicks"),
        State(ids.RECORDING, "data"),
        State(ids.RECORDING_FRAME, "value"),
        State(ids.RECORDING_CAMERAS, "value"),
        State(ids.VIEW, "data"),
        State(ids.DARK, "data"),
        State(ids.TAB_ID, "data"),
        running=[
            *((Output(part, "disabled"), True, False) for part in STILL),
            (Output(ids.TRACE_RUN, "disabled"), True, False),
            (Output(ids.TRACE_CANCEL, "disabled"), False, True),
            (Output(ids.TRACE_PROGRESS, "hidden"), False, True),
        ],
        prevent_initial_call=True,
    )
    def follow(
        n_clicks: int | None,
        opened: dict[str, Any] | None,
        index: int,
        cameras: list[str],
        data: dict[str, Any] | None,
        dark: bool,
        tab: str,
    ) -> Any:
        if not n_clicks or opened is None or data is None:
            return (no_update,) * 5
        from ablation.traces import trace, unmatched
        from viz.trace import trace_figure

        followed, view = followed_of(services, opened), View.from_json(data)
        model, heads = services.model(view.model), watched_heads(view)
        try:
            ablation, problem = ablation_of(view, services.prompt(view, model))
            if problem is not None:
                raise problem
            seen = followed.recording.seen_by(cameras)
            with services.jobs.start(tab) as job:
                bar = Bar(job, ids.TRACE_BAR, ids.TRACE_STATUS, watch_page())
                bar.start()
                found = trace(
                    model, seen, ablation, heads, bos=view.bos, progress=bar, cancel=job.cancel
                )
        except UserError as error:  # what stood is of another question
            return no_update, True, f"Not followed: {error}", True, True
        if not found.n_done:
            return no_update, no_update, "Cancelled.", no_update, no_update
        kept = Followed(followed.recording, found, seen.cameras)
        services.results.put(opened["key"], kept, KEPT_BYTES + found.n_bytes)
        figure = trace_figure(found, now=moment(followed, index), width=WIDTH, dark=bool(dark))
        cut = "" if found.stopped == "complete" else f"Cancelled after {found.n_done} frames. "
        first = "" if model.chunk is None else "Curves are of the first action of each chunk. "
        said = cut + _said(found) + first + unmatched(found.space, seen)
        return figure, False, said, False, False

    cancels(app, services, ids.TRACE_CANCEL, ids.TRACE_STATUS)

    @app.callback(
        Output(ids.TRACE, "figure", allow_duplicate=True),
        Input(ids.DARK, "data"),
        State(ids.RECORDING, "data"),
        State(ids.RECORDING_FRAME, "value"),
        prevent_initial_call=True,
    )
    def redraw(dark: bool, opened: dict[str, Any] | None, index: int) -> Any:
        followed = None if opened is None else services.results.get(opened["key"])
        if followed is None or followed.trace is None:
            return no_update
        from viz.trace import trace_figure

        now = moment(followed, index)
        return trace_figure(followed.trace, now=now, width=WIDTH, dark=bool(dark))

    @app.callback(
        Output(ids.RECORDING_FRAME, "value", allow_duplicate=True),
        Input(ids.TRACE, "clickData"),
        State(ids.RECORDING, "data"),
        prevent_initial_call=True,
    )
    def go_to(clicked: dict[str, Any] | None, opened: dict[str, Any] | None) -> Any:
        if not clicked or opened is None:
            return no_update
        times = [frame.time for frame in followed_of(services, opened).recording.frames]
        at = float(clicked["points"][0]["x"])
        return min(range(len(times)), key=lambda i: abs(times[i] - at))


def _said(trace: Any) -> str:
    """Say in a sentence what ablating does along the episode."""
    if trace.moved is None:
        return "Nothing is ablated; switch heads off on the left and follow again to compare. "
    moved = trace.moved[: trace.n_done]
    named = ", ".join(map(str, trace.ablation.heads[:8])) + (
        " and more" if len(trace.ablation.heads) > 8 else ""
    )
    what = f"{named} ({trace.ablation.intervention.label})"
    if not moved.any():
        return f"Ablating {what} changes no action. "
    most = int(moved.argmax())
    return (
        f"Ablating {what} moves the action by {moved.mean():.2g} {trace.unit} on average, most "
        f"({moved[most]:.2g}) at {trace.times[most]:.2f} s. "
    )


def _register_films(app: Dash, services: Services) -> None:
    @app.callback(
        Output(ids.RECORDING_FILE, "data"),
        Input(ids.FILM_GIF, "n_clicks"),
        Input(ids.FILM_MP4, "n_clicks"),
        State(ids.RECORDING, "data"),
        running=[
            (Output(ids.FILM_GIF, "loading"), True, False),
            (Output(ids.FILM_MP4, "loading"), True, False),
        ],
        prevent_initial_call=True,
    )
    def save(_gif: int | None, _mp4: int | None, opened: dict[str, Any] | None) -> Any:
        if opened is None:
            return no_update
        from app.films import recording_film

        followed = followed_of(services, opened)
        if followed.trace is None:
            return no_update
        kind = "gif" if ctx.triggered_id == ids.FILM_GIF else "mp4"
        watched = 0 if followed.trace.heads else None
        seen = followed.recording.seen_by(followed.cameras)
        film = recording_film(seen, followed.trace, watched, kind)
        return dcc.send_bytes(film, f"recording.{kind}")
