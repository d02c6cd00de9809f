"""Recorded episodes on the page: open one, go through its frames, follow the policy along."""

import time
from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, Patch, State, ctx, dcc, html, no_update

from app import ids, words
from app.panels import recording_follow
from app.panels.episodes import beginning
from app.panels.pieces import graph
from app.panels.progress import progress_place
from app.panels.recording_follow import KEPT_BYTES, Followed, followed_of
from app.services import Services, ablation_of
from app.view import View
from models.errors import ErrorKind, UserError
from models.recordings import Recording
from models.robot import written_state
from models.tabletop import NAME as TABLETOP_NAME

HEIGHT = 120  # px


def layout() -> html.Section:
    """Return the panel; it shows for policies."""
    return html.Section(
        [
            html.Div(html.H2("Recording", className="section-title"), className="section-head"),
            html.Div(
                [
                    dmc.TextInput(
                        id=ids.RECORDING_PATH,
                        value="",
                        size="xs",
                        debounce=True,
                        placeholder="a recorded folder",
                        persistence=True,  # a reload must not lose it
                        persistence_type="session",
                        spellCheck=False,
                        className="grow",
                        **{"aria-label": "Folder of frames, or LeRobot dataset's directory"},
                    ),
                    dmc.NumberInput(
                        id=ids.RECORDING_NUMBER,
                        value=0,
                        min=0,
                        allowDecimal=False,
                        persistence=True,
                        persistence_type="session",
                        size="xs",
                        w=56,
                        **{"aria-label": "Which episode of the dataset"},
                    ),
                    dmc.Button("Open", id=ids.RECORDING_OPEN, size="compact-xs"),
                ],
                className="row",
            ),
            dmc.Button(
                "Let it act from this scene",
                id=ids.RECORDING_PLAY,
                size="compact-xs",
                variant="default",
                my=6,
            ),
            html.P(id=ids.RECORDING_ERROR, className="error", role="alert"),
            html.Div(_body(), id=ids.RECORDING_BODY, hidden=True),
            dcc.Store(id=ids.RECORDING),
            dcc.Store(id=ids.RECORDING_AT),
            dcc.Download(id=ids.RECORDING_FILE),
        ],
        id=ids.RECORDING_PLACE,
        className="section",
        hidden=True,
    )


def _body() -> Sequence[Any]:
    small: dict[str, Any] = {"size": "compact-xs", "variant": "default"}
    return [
        dmc.MultiSelect(
            id=ids.RECORDING_CAMERAS,
            data=[],
            value=[],
            size="xs",
            **{"aria-label": "Cameras whose pictures the policy is shown"},
        ),
        html.P(id=ids.RECORDING_CAPTION, className="caption", **{"aria-live": "polite"}),
        html.P(id=ids.RECORDING_AWAY, className="caption", role="status"),
        html.Div(
            [
                dmc.Button("◀", id=ids.RECORDING_BACK, **small, **{"aria-label": "Frame before"}),
                dmc.Slider(
                    id=ids.RECORDING_FRAME,
                    min=0,
                    max=1,
                    value=0,
                    size="sm",
                    className="grow",
                    updatemode="mouseup",
                    **{"aria-label": "Frame of the recording"},
                ),
                dmc.Button("▶", id=ids.RECORDING_ON, **small, **{"aria-label": "Next frame"}),
            ],
            className="row",
        ),
        html.Div(
            [
                dmc.Button("Follow", id=ids.TRACE_RUN, size="compact-xs"),
                dmc.Button("Cancel", id=ids.TRACE_CANCEL, disabled=True, **small),
                html.Div(className="grow"),
                dmc.Button("GIF", id=ids.FILM_GIF, disabled=True, **small),
                dmc.Button("MP4", id=ids.FILM_MP4, disabled=True, **small),
            ],
            className="row episodes-tools",
        ),
        progress_place(ids.TRACE_PROGRESS, ids.TRACE_BAR, ids.TRACE_STATUS, "Frames followed"),
        html.P(id=ids.TRACE_CAPTION, className="caption"),
        html.Div(
            graph(ids.TRACE, "The policy along the recording", HEIGHT),
            id=ids.TRACE_PLACE,
            hidden=True,
        ),
    ]


def played(services: Services, view: View) -> Recording:
    """Return the episode that the policy of the table acts out from a view's scene on, with what is
    ablated in the view.

    Raises:
        UserError: the view's picture is no scene of the table.
    """
    from ablation.closed_loop import run_episode
    from models.tabletop.recording import recording_of
    from models.tabletop.scenes import named_scene

    name = beginning(view)
    model = services.model(view.model)
    ablation, problem = ablation_of(view, services.prompt(view, model))
    if problem is not None:
        raise problem
    episode = run_episode(model, named_scene(name), ablation)
    how = "" if ablation is None else f", acted without {words.some_of(ablation.heads)}"
    return recording_of(episode.scenes, episode.actions, f"{name}{how}")


def shown(services: Services, view: View, recording: Recording, index: int) -> dict[str, Any]:
    """Return the request that makes a recording's frame the page's prompt.

    Raises:
        UserError: the frame's pictures cannot be read, or its state does not fit the policy.
    """
    from ablation.traces import frame_told

    told, robot = frame_told(services.model(view.model), recording, index)
    kept = [services.images.keep_picture(picture) for picture in recording.pictures(index)]
    return {
        "text": told,
        "second": view.second if robot is None else written_state(robot.state),
        "bos": view.bos,
        "images": kept,
        "at": time.time(),
    }


def caption(recording: Recording, index: int) -> str:
    """Say which frame is shown, and what was done in it."""
    frame = recording.frames[index]
    where = f"{recording.name}, frame {index + 1} of {len(recording)}, {frame.time:.2f} s"
    said = f"{where}: {recording.told(index)}"
    if frame.action is None or not recording.action_names:
        return said
    pairs = zip(recording.action_names, frame.action, strict=True)
    return f"{said}. Done: {', '.join(f'{name} {value:g}' for name, value in pairs)}"


def whole_number(value: int | str | None) -> int:
    """Return what stands in the field of an episode's number; raise `UserError` if it is none."""
    try:
        return int(value or 0)
    except ValueError:
        raise UserError(
            ErrorKind.RECORDING, f"{str(value)[:20]!r} is no episode's number; write 0, 1, 2."
        ) from None


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that open recordings, go through them and follow a policy along."""

    @app.callback(
        Output(ids.RECORDING_PLACE, "hidden"),
        Output(ids.RECORDING_PLAY, "display"),
        Output(ids.RECORDING_BODY, "hidden", allow_duplicate=True),
        Output(ids.RECORDING, "data", allow_duplicate=True),
        Input(ids.MODEL, "data"),
        State(ids.RECORDING, "data"),
        prevent_initial_call=True,
    )
    def show(name: str | None, opened: dict[str, Any] | None) -> Any:
        model = None if name is None else services.model(name)
        acts = model is not None and (model.actions is not None or model.chunk is not None)
        other = opened is None or opened["model"] != name
        kept = None if other else no_update  # a recording is of the policy that it was opened for
        return not acts, "block" if name == TABLETOP_NAME else "none", other, kept

    @app.callback(
        Output(ids.RECORDING, "data"),
        Output(ids.RECORDING_ERROR, "children"),
        Output(ids.RECORDING_BODY, "hidden"),
        Output(ids.RECORDING_FRAME, "max"),
        Output(ids.RECORDING_FRAME, "value"),
        Output(ids.TRACE_PLACE, "hidden", allow_duplicate=True),
        Output(ids.TRACE_CAPTION, "children", allow_duplicate=True),
        Output(ids.FILM_GIF, "disabled", allow_duplicate=True),
        Output(ids.FILM_MP4, "disabled", allow_duplicate=True),
        Output(ids.RECORDING_CAMERAS, "data"),
        Output(ids.RECORDING_CAMERAS, "value"),
        Output(ids.RECORDING_CAMERAS, "display"),
        Input(ids.RECORDING_OPEN, "n_clicks"),
        Input(ids.RECORDING_PLAY, "n_clicks"),
        State(ids.RECORDING_PATH, "value"),
        State(ids.RECORDING_NUMBER, "value"),
        State(ids.VIEW, "data"),
        running=[
            (Output(ids.RECORDING_OPEN, "disabled"), True, False),
            (Output(ids.RECORDING_PLAY, "disabled"), True, False),
        ],
        prevent_initial_call=True,
    )
    def open_one(
        _open: int | None,
        _play: int | None,
        path: str | None,
        number: int | str | None,
        data: dict[str, Any] | None,
    ) -> Any:
        if data is None:
            return (no_update,) * 12
        from models.recordings import open_recording

        view = View.from_json(data)
        try:
            if ctx.triggered_id == ids.RECORDING_PLAY:
                recording = played(services, view)
            else:
                recording = open_recording(path or "", whole_number(number))
            shown(services, view, recording, 0)  # what does not fit is said before anything moves
        except UserError as error:
            return no_update, str(error), *(no_update,) * 10
        key = services.results.keep(Followed(recording), KEPT_BYTES)
        opened = {"key": key, "model": view.model, "at": time.time()}
        cameras = list(recording.cameras)
        several = "block" if len(cameras) > 1 else "none"
        last = max(1, len(recording) - 1)
        return opened, None, False, last, 0, True, None, True, True, cameras, cameras, several

    @app.callback(
        Output(ids.PROMPT_REQUEST, "data", allow_duplicate=True),
        Output(ids.PROMPT_TEXT, "value", allow_duplicate=True),
        Output(ids.SECOND_TEXT, "value", allow_duplicate=True),
        Output(ids.RECORDING_CAPTION, "children"),
        Output(ids.TRACE, "figure", allow_duplicate=True),
        Output(ids.RECORDING_ERROR, "children", allow_duplicate=True),
        Output(ids.RECORDING_AT, "data"),
        Input(ids.RECORDING, "data"),
        Input(ids.RECORDING_FRAME, "value"),
        Input(ids.RECORDING_CAMERAS, "value"),
        State(ids.VIEW, "data"),
        State(ids.DARK, "data"),
        prevent_initial_call=True,
    )
    def go(
        opened: dict[str, Any] | None,
        index: int,
        cameras: list[str],
        data: dict[str, Any] | None,
        dark: bool,
    ) -> Any:
        if opened is None or data is None:
            return (no_update,) * 7
        from viz.strips import now_line

        followed = followed_of(services, opened)
        index = min(int(index or 0), len(followed.recording) - 1)
        try:
            seen = followed.recording.seen_by(cameras)
            request = shown(services, View.from_json(data), seen, index)
        except UserError as error:
            return *(no_update,) * 5, str(error), no_update
        marked: Any = no_update
        if followed.trace is not None:
            marked = Patch()
            now = followed.recording.frames[index].time
            marked["layout"]["shapes"] = [now_line(now, bool(dark))]
        said = caption(followed.recording, index)
        written = request["second"]
        return request, request["text"], written, said, marked, None, request["images"]

    app.clientside_callback(
        """(view, at) => !view || !at || JSON.stringify(view.images) === JSON.stringify(at)
            ? "" : "The prompt is not this frame any more; move the slider to come back." """,
        Output(ids.RECORDING_AWAY, "children"),
        Input(ids.VIEW, "data"),
        State(ids.RECORDING_AT, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        """(back, on, at, most) => {
            const step = window.dash_clientside.callback_context.triggered_id ===
                "recording-back" ? -1 : 1;
            return Math.max(0, Math.min(most, at + step));
        }""",
        Output(ids.RECORDING_FRAME, "value", allow_duplicate=True),
        Input(ids.RECORDING_BACK, "n_clicks"),
        Input(ids.RECORDING_ON, "n_clicks"),
        State(ids.RECORDING_FRAME, "value"),
        State(ids.RECORDING_FRAME, "max"),
        prevent_initial_call=True,
    )
    recording_follow.register(app, services)
