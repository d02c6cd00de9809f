"""Recorded episodes in every form that is read, and what is said of those that cannot be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from recorded import CAMERA, FPS, expert_recording, write_dataset

from models.errors import ErrorKind, UserError
from models.picture import Cell
from models.recordings import EPISODE_FILE, Recording, open_recording
from models.recordings.folder import write_folder
from models.recordings.types import cells_showing

EPISODES = ("tabletop:7", "tabletop:11")


def same_numbers(found: Recording, expected: Recording) -> None:
    assert found.instruction == expected.instruction
    assert found.action_names == expected.action_names == ("dx", "dy", "gripper")
    assert [frame.action for frame in found.frames] == [f.action for f in expected.frames]
    assert len(found.cameras) == 1


def test_a_folder_is_written_and_read_back(tmp_path: Path) -> None:
    recording = expert_recording()
    write_folder(recording, tmp_path / "episode", fps=3)
    found = open_recording(tmp_path / "episode")
    same_numbers(found, recording)
    assert found.frames == recording.frames
    assert found.object_names == tuple(recording.frames[0].objects)
    for i in range(len(found)):
        np.testing.assert_array_equal(found.pictures(i)[0].pixels, recording.pictures(i)[0].pixels)
    assert len(open_recording(tmp_path / "episode" / EPISODE_FILE)) == len(recording)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("video", [False, True])
def test_each_episode_of_a_dataset_is_read(tmp_path: Path, version: int, video: bool) -> None:
    episodes = [expert_recording(name) for name in EPISODES]
    write_dataset(tmp_path / "set", episodes, version, video)
    for number, expected in enumerate(episodes):
        found = open_recording(tmp_path / "set", number)
        same_numbers(found, expected)
        assert found.cameras == (CAMERA,)
        assert [frame.time for frame in found.frames] == [i / FPS for i in range(len(expected))]
        state = expected.frames[1].state
        assert isinstance(state, str)
        x, y, _ = state.split()
        assert found.frames[1].state == (float(x[1:]), float(y[1:]), 0.0)
        for i in range(len(expected)):
            [seen], [drawn] = found.pictures(i), expected.pictures(i)
            away = np.abs(seen.pixels.astype(int) - drawn.pixels.astype(int))
            # A video is compressed: its colours are nearly the same, and other frames far off.
            assert away.max() <= (40 if video else 0)
            assert away.mean() < 1.5
            others = expected.pictures((i + 2) % len(expected))[0].pixels.astype(int)
            assert np.abs(seen.pixels.astype(int) - others).mean() > away.mean()


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ((4, 0, 10, 2), (True, True, False, False)),  # two thirds and a third of the box
        ((4, 0, 9, 8), (True, False, False, False)),  # an eighth of the second cell
        ((0, 0, 16, 8), (True, True, False, False)),
        ((1, 1, 3, 3), (True, False, False, False)),  # smaller than a cell
        ((20, 0, 30, 8), (False, False, False, False)),
    ],
)
def test_cells_that_show_a_thing(box: tuple[float, ...], shown: tuple[bool, ...]) -> None:
    cells = (
        Cell(0, 0, 0, 0.0, 0.0, 8.0, 8.0),
        Cell(0, 0, 1, 8.0, 0.0, 16.0, 8.0),
        Cell(1, 0, 0, 0.0, 0.0, 8.0, 8.0),
        None,
    )
    left, top, right, bottom = box
    assert tuple(cells_showing(cells, (left, top, right, bottom))) == shown


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(name)


def _frame(i: int, **changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["frames"][i].update(changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("instruction"), "'instruction' is missing"),
        (_without("frames"), "'frames' is missing"),
        (lambda data: data.update(frames=[]), "must have 1 to 20,000 frames"),
        (lambda data: data.update(fps=0), "its fps must be more than 0"),
        (lambda data: data.update(cameras=["a", "b"]), "it names 2 cameras and its frames have 1"),
        (_frame(2, image="gone.png"), "the picture 'gone.png' of frame 2 is missing"),
        (_frame(2, image="../x.png"), "'../x.png' of frame 2 lies outside of the folder"),
        (_frame(1, image=["00001.png", "00000.png"]), "frame 1 has 2 pictures and frame 0 1"),
        (_frame(1, image=[]), "frame 1 has no picture"),
        (_frame(1, action=[1, 2]), 'the action of frame 1 has 2 numbers, and "actions" names 3'),
        (_frame(1, action={"dx": 1}), "'dy' is missing"),
        (_frame(1, state=7), "the state of frame 1 is neither words nor a list of numbers"),
        (_frame(1, objects={"x": [5, 5, 5, 9]}), "an object of frame 1 has no area"),
        (_frame(1, objects={"x": [5, 5]}), "does not have the form"),
        (_frame(1, time=float("nan")), "the time of frame 1 is no number"),
        (_frame(1, time=99), "the time of frame 2 is no number, or before that of the last"),
        (_frame(1, state=[10**400]), "does not have the form"),
        (lambda data: data.update(instruction=None), "its instruction is no text"),
    ],
)
def test_a_folder_that_cannot_be_used(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    write_folder(expert_recording(), tmp_path / "episode")
    path = tmp_path / "episode" / EPISODE_FILE
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    refused(tmp_path / "episode", said)


def open_whole(path: Path | str, episode: int) -> None:
    found = open_recording(path, episode)
    for i in range(len(found)):
        found.pictures(i)


def refused(path: Path | str, said: str, episode: int = 0) -> None:
    with pytest.raises(UserError) as caught:
        open_whole(path, episode)
    assert caught.value.kind in (ErrorKind.RECORDING, ErrorKind.PICTURE)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_recording(tmp_path: Path) -> None:
    refused("", "No recording is named")
    refused(tmp_path, "There is no recording in")
    refused(tmp_path / "nowhere", "There is no recording in")
    refused("~nosuchuser/x", "cannot be read")
    write_folder(expert_recording(), tmp_path / "episode")
    refused(tmp_path / "episode", "holds one episode, number 0; there is no episode 3", 3)
    (tmp_path / "episode" / EPISODE_FILE).write_text("{")
    refused(tmp_path / "episode", "line 1 is not valid JSON")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UserError, match="there are files in it already"):
        write_folder(expert_recording(), tmp_path / "other")


def test_a_dataset_that_cannot_be_used(tmp_path: Path) -> None:
    def fresh() -> Path:
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        write_dataset(tmp_path / "set", [expert_recording()], 3, video=True)
        return tmp_path / "set"

    refused(fresh(), "it has 1 episodes, counted from 0, and 4 was asked for", 4)
    refused(fresh(), "and -1 was asked for", -1)
    data, video = "data/chunk-000/file-000.parquet", f"videos/{CAMERA}/chunk-000/file-000.mp4"
    for name in (data, video):
        (fresh() / name).unlink()
        refused(tmp_path / "set", f"the file {name} is missing")
    (fresh() / data).write_bytes(b"PAR1 and nothing else")
    refused(tmp_path / "set", "its episode 0 cannot be read")
    (fresh() / video).write_bytes(b"no video")
    refused(tmp_path / "set", "the video is damaged or of a kind that is not read")
    info = fresh() / "meta" / "info.json"
    told = json.loads(info.read_text())
    info.write_text(json.dumps({**told, "features": {}}))
    refused(tmp_path / "set", "no camera recorded pictures")
    info.write_text(json.dumps({k: v for k, v in told.items() if k != "fps"}))
    refused(tmp_path / "set", "'fps' is missing")
    info.write_text("[")
    refused(tmp_path / "set", "line 1 is not valid JSON")
    for change, said in (
        ({"fps": 0}, "its fps must be more than 0"),
        ({"data_path": "../{episode_index}.parquet"}, "lies outside of it"),
        ({"data_path": "{episode_index.__class__}"}, "its pattern of paths"),
        ({"data_path": "{episode_index:999999999d}"}, "its pattern of paths"),
        ({"data_path": "{no_such_name}"}, "'no_such_name' is missing"),
        ({"chunks_size": 0}, "its episode 0 cannot be read"),
    ):
        info.write_text(json.dumps({**told, **change}))
        refused(tmp_path / "set", said)
    action = {**told["features"]["action"], "shape": [4], "names": None}
    info.write_text(json.dumps({**told, "features": {**told["features"], "action": action}}))
    refused(tmp_path / "set", "the action of frame 0 has 3 numbers, and meta/info.json names 4")
    shutil.rmtree(fresh() / "meta" / "episodes")
    refused(tmp_path / "set", "where its episode 0 lies stands nowhere in meta/episodes")
    shutil.rmtree(tmp_path / "set")
    write_dataset(tmp_path / "set", [expert_recording()], 2, video=False)
    (tmp_path / "set" / "meta" / "tasks.jsonl").unlink()
    refused(tmp_path / "set", "what its task 0 is stands nowhere in meta/")


def test_rows_of_a_dataset_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "set"
    write_dataset(path, [expert_recording()], 2, video=False)
    [file] = path.glob("data/**/*.parquet")
    rows = polars.read_parquet(file)
    for column, said in (
        (polars.lit(float("nan")).alias("timestamp"), "the time of frame 0 is no number"),
        ((-polars.col("timestamp")).alias("timestamp"), "or before that of the last one"),
        (polars.lit("../../secret.png").alias(CAMERA), "lies outside of it"),
        (polars.lit("gone.png").alias(CAMERA), "the picture of frame 0 is missing"),
        (polars.lit(None).alias(CAMERA), "the picture of frame 0 is missing"),
        (polars.lit(7).alias(CAMERA), "the pictures of frame 0 cannot be read"),
    ):
        rows.with_columns(column).write_parquet(file)
        refused(path, said)


def test_names_by_their_places_and_tasks_that_change(tmp_path: Path) -> None:
    path = tmp_path / "set"
    write_dataset(path, [expert_recording("tabletop:11"), expert_recording()], 2, video=False)
    info = path / "meta" / "info.json"
    told = json.loads(info.read_text())
    told["features"]["action"]["names"] = {"gripper": 2, "dx": 0, "dy": 1}
    info.write_text(json.dumps(told))
    file = path / "data" / "chunk-000" / "episode_000000.parquet"
    rows = polars.read_parquet(file)
    later = (polars.col("frame_index") > 1).cast(polars.Int64)
    rows.with_columns(later.alias("task_index")).write_parquet(file)
    found = open_recording(path)
    assert found.action_names == ("dx", "dy", "gripper")
    assert [found.told(i) for i in range(3)] == [
        "find the red cross",
        "find the red cross",
        "touch the yellow triangle",
    ]


def test_some_of_a_recordings_cameras(tmp_path: Path) -> None:
    recording = expert_recording()
    path = tmp_path / "episode"
    write_folder(recording, path)
    data = json.loads((path / EPISODE_FILE).read_text())
    for frame in data["frames"]:
        frame["image"] = [frame["image"], "00000.png"]
    data["cameras"] = ["top", "wrist"]
    (path / EPISODE_FILE).write_text(json.dumps(data))
    both = open_recording(path)
    assert [len(both.pictures(i)) for i in range(len(both))] == [2] * len(both)
    wrist = both.seen_by(["wrist"])
    assert wrist.cameras == ("wrist",)
    assert wrist.pictures(1) == both.pictures(0)[:1]
    with pytest.raises(UserError, match=r"has no camera 'left'; its cameras are top, wrist\."):
        both.seen_by(["left"])
    with pytest.raises(UserError, match="needs one camera at least"):
        both.seen_by([])
