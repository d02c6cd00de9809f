"""A policy along a recording, as a figure and as a film."""

import io
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from recorded import expert_recording

from ablation import Ablation, Zero
from ablation.traces import Look, Trace
from app.films import recording_film
from models.actions import ActionDimension, ActionSpace
from models.errors import UserError
from models.picture import Cell
from models.types import Head
from viz.film import film, frames_a_second
from viz.trace import trace_figure

SPACE = ActionSpace(
    (
        ActionDimension("dx", "px", (1, 2, 3), np.array([-8.0, 0.0, 8.0]), {}, "x"),
        ActionDimension("gripper", "", (4, 5), np.array([0.0, 1.0]), {0.0: "open", 1.0: "close"}),
    )
)
N = 4
CELLS = (Cell(0, 0, 0, 0.0, 0.0, 32.0, 64.0), Cell(0, 0, 1, 32.0, 0.0, 64.0, 64.0))


def traced(ablated: bool = True, done: int = N) -> Trace:
    before = np.array([[8.0, 0], [8, 0], [0, 0], [0, 1]])
    before[done:] = np.nan
    after = before.copy()
    after[1, 0] = -8
    weights = [np.array([[0.1 * (i + 1), 0.5]], np.float32) for i in range(done)]
    on_objects = np.full((1, 1, N), np.nan)
    on_objects[0, 0, :done] = 0.5
    return Trace(
        SPACE,
        np.arange(N) / 2,
        np.full((N, 2), np.nan),
        before,
        after if ablated else None,
        np.zeros((N, 2)) if ablated else None,
        np.array([0.0, 1, 0, 0]) if ablated else None,
        "parts of reach",
        Ablation((Head(0, 0),), Zero()) if ablated else None,
        (Head(1, 2),),
        np.full((1, N), 0.6),
        on_objects,
        ("red cross",),
        tuple(Look(CELLS, one) for one in weights),
        "complete",
    )


def lines(figure: Any) -> dict[tuple[str, str], list[float | None]]:
    return {(line.name, line.yaxis): list(line.y) for line in figure.data}


def test_each_quantity_has_a_strip() -> None:
    figure = trace_figure(traced(), now=0.5)
    assert lines(figure) == {
        ("whole", "y"): [8, 8, 0, 0],
        ("ablated", "y"): [8, -8, 0, 0],
        ("whole", "y2"): [0, 0, 0, 1],
        ("ablated", "y2"): [0, 0, 0, 1],
        ("moved by ablating", "y3"): [0, 1, 0, 0],
        ("picture", "y4"): [0.6] * N,
        ("red cross", "y4"): [0.5] * N,
    }
    assert [line.showlegend for line in figure.data] == [True, True, False, False, *[True] * 3]
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["dx (px)", "gripper", "moved (parts of reach)", "attention of L1H2"]
    assert list(figure.layout.yaxis2.ticktext) == ["open", "close"]
    [now] = figure.layout.shapes
    assert (now.x0, now.x1) == (0.5, 0.5)
    domains = [figure.layout[f"yaxis{i or ''}"].domain for i in ("", 2, 3, 4)]
    assert domains[0][1] == 1
    assert domains[-1][0] == pytest.approx(0)
    assert all(upper[0] > lower[1] for upper, lower in pairwise(domains))


def test_what_is_not_known_is_left_out() -> None:
    figure = trace_figure(traced(ablated=False, done=2))
    assert lines(figure)["whole", "y"] == [8, 8, None, None]
    assert {name for name, _ in lines(figure)} == {"whole", "picture", "red cross"}
    assert not figure.layout.shapes


def test_a_film_shows_where_a_head_looks_and_what_is_done() -> None:
    recording = expert_recording()
    trace = traced()
    content = recording_film(recording, traced(done=len(recording)), 0)
    image = Image.open(io.BytesIO(content))
    assert image.n_frames == len(recording) < len(trace.times)
    frame = np.asarray(image.convert("RGB")).astype(int)[:256, :256]
    plain = np.asarray(
        Image.open(io.BytesIO(recording_film(recording, traced(done=1)))).convert("RGB")
    ).astype(int)[:256, :256]
    moved = np.abs(frame - plain).mean(axis=2)
    assert moved[:, 128:].mean() > 3 * moved[:, :128].mean() > 0  # 0.5 against 0.1


def test_a_video_has_a_frame_a_shot_at_the_recordings_rate() -> None:
    recording = expert_recording()
    content = recording_film(recording, traced(done=len(recording)), None, "mp4")
    with av.open(io.BytesIO(content)) as container:
        [stream] = container.streams.video
        assert stream.average_rate == 2
        assert sum(1 for _ in container.decode(stream)) == len(recording)


def test_films_of_unlike_frames_have_one_size() -> None:
    recording = expert_recording()
    trace = traced(done=len(recording))
    trace.recorded[1] = (8.0, 0.0)  # the others are not told
    content = recording_film(recording, trace, None, "mp4")
    with av.open(io.BytesIO(content)) as container:
        sizes = {(frame.width, frame.height) for frame in container.decode(video=0)}
    assert len(sizes) == 1
    with pytest.raises(UserError, match="No frame was followed"):
        recording_film(recording, traced(done=0))


def test_rates() -> None:
    assert frames_a_second(np.arange(5) / 30) == pytest.approx(30)
    assert frames_a_second(np.zeros(1)) == 1
    assert frames_a_second(np.arange(3) / 1000) == 60
    with pytest.raises(ValueError, match="a film is one of"):
        film(1, lambda _: SimpleNamespace(), 1, "avi")  # type: ignore[arg-type, return-value]
