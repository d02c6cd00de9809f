"""Episodes of datasets in LeRobot's form (versions 2 and 3): parquet, and pictures or videos.

`meta/info.json` says where everything lies. In version 2 each episode has files of its own, in
version 3 files hold many, and `meta/episodes/` says which rows and which seconds of a video are
an episode's. Pictures stand in the parquet files as encoded files, or lie beside them.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.picture import Picture, read_picture
from models.recordings.refusals import MOST_FRAMES, refusal, refuse_times, refusing
from models.recordings.types import Frame, Recording

if TYPE_CHECKING:
    import polars

INFO_FILE = "meta/info.json"
ACTION, STATE = "action", "observation.state"
PICTURES, VIDEO = "image", "video"
"""What a camera's `dtype` is."""
_PATTERN = re.compile(r"(?:[\w./-]|\{(?:\w+)(?::0?[0-9]d)?\})+")
"""Paths with places for numbers, such as {episode_index:06d}."""
_PLACES = ("chunk_index", "file_index")
LATE = 0.5
"""A video's frame may be this part of a frame's duration from the time that is asked for."""


@dataclass(frozen=True, slots=True)
class _Dataset:
    directory: Path
    info: Mapping[str, Any]

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    @property
    def cameras(self) -> dict[str, str]:
        """Each camera's key, and whether it recorded pictures or a video."""
        features = self.info["features"]
        return {
            key: one["dtype"]
            for key, one in features.items()
            if one.get("dtype") in (PICTURES, VIDEO)
        }

    def names(self, key: str) -> tuple[str, ...]:
        """Return what the numbers of a feature are called."""
        feature = self.info["features"].get(key)
        if feature is None:
            return ()
        names = feature.get("names")
        while isinstance(names, Mapping):  # {"motors": [...]}, or {"x": 0, "y": 1}
            numbered = all(isinstance(place, int) for place in names.values())
            names = (
                sorted(names, key=lambda name: names[name])
                if numbered
                else next(iter(names.values()), None)
            )
        n = int(feature["shape"][0])
        if isinstance(names, list) and len(names) == n:
            return tuple(str(name) for name in names)
        return tuple(f"{key.rsplit('.', 1)[-1]}[{i}]" for i in range(n))


def read_lerobot(directory: Path, episode: int = 0) -> Recording:
    """Read one episode of a dataset.

    Raises:
        UserError: a file is missing or damaged, there is no such episode, or no camera.
    """
    path = directory / INFO_FILE
    with refusing(path, "it is not what a LeRobot dataset says of itself"):
        try:
            dataset = _Dataset(directory, json.loads(path.read_text("utf-8")))
        except json.JSONDecodeError as error:
            raise refusal(path, f"line {error.lineno} is not valid JSON") from error
        n_episodes = int(dataset.info["total_episodes"])
        if not 0 <= episode < n_episodes:
            raise refusal(
                directory,
                f"it has {n_episodes} episodes, counted from 0, and {episode} was asked for",
            )
        if not 0 < dataset.fps < math.inf:
            raise refusal(path, f"its fps must be more than 0, not {dataset.fps:g}")
        if not dataset.cameras:
            raise refusal(directory, "no camera recorded pictures")
    from polars.exceptions import PolarsError

    with refusing(directory, f"its episode {episode} cannot be read", PolarsError):
        return _read_episode(dataset, episode)


def _read_episode(dataset: _Dataset, episode: int) -> Recording:
    described = _described(dataset, episode)
    rows = _rows(dataset, episode, described)
    if not 0 < len(rows) <= MOST_FRAMES:
        raise refusal(
            dataset.directory,
            f"its episode {episode} has {len(rows):,} frames, not 1 to {MOST_FRAMES:,}",
        )
    times = [float(time) for time in rows["timestamp"].to_list()]
    refuse_times(dataset.directory, times)
    columns = {key: rows[key].to_list() if key in rows.columns else None for key in (ACTION, STATE)}
    tasks = _tasks(dataset, rows, described)
    frames = tuple(
        Frame(
            time - times[0],
            _numbers(columns[STATE], i),
            _numbers(columns[ACTION], i),
            instruction=tasks[i],
        )
        for i, time in enumerate(times)
    )
    names = dataset.names(ACTION) if columns[ACTION] is not None else ()
    for i, frame in enumerate(frames):
        if frame.action is not None and len(frame.action) != len(names):
            raise refusal(
                dataset.directory,
                f"the action of frame {i} has {len(frame.action)} numbers, and {INFO_FILE} names "
                f"{len(names)}",
            )
    cameras = dataset.cameras
    missing = [key for key, kind in cameras.items() if kind == PICTURES and key not in rows.columns]
    if missing:
        raise refusal(dataset.directory, f"the pictures of the camera {missing[0]} are missing")
    videos = {
        key: _video(dataset, key, episode, described)
        for key, kind in cameras.items()
        if kind == VIDEO
    }
    stills = {key: rows[key] for key, kind in cameras.items() if kind == PICTURES}

    def pictures(index: int) -> tuple[Picture, ...]:
        name = f"frame {index}"
        with refusing(dataset.directory, f"the pictures of {name} cannot be read"):
            return tuple(
                videos[key].picture(times[index] - times[0], name)
                if key in videos
                else _still(dataset, stills[key][index], name)
                for key in cameras
            )

    return Recording(
        f"{dataset.directory.resolve().name} {episode}",
        tasks[0],
        frames,
        tuple(cameras),
        names,
        pictures,
    )


def _numbers(column: list[Any] | None, index: int) -> tuple[float, ...] | None:
    if column is None or column[index] is None:
        return None
    return tuple(float(number) for number in np.ravel(column[index]))


# --- where things lie ---------------------------------------------------------------------


def _described(dataset: _Dataset, episode: int) -> Mapping[str, Any]:
    """Return what version 3 says of an episode; nothing for version 2."""
    import polars

    for file in sorted((dataset.directory / "meta" / "episodes").glob("**/*.parquet")):
        table = polars.scan_parquet(file)
        wanted = [name for name in table.collect_schema().names() if not name.startswith("stats/")]
        found = table.filter(polars.col("episode_index") == episode).select(wanted).collect()
        if len(found):
            row: Mapping[str, Any] = found.row(0, named=True)
            return row
    if "file_index" in f"{dataset.info['data_path']}{dataset.info.get('video_path')}":
        raise refusal(
            dataset.directory, f"where its episode {episode} lies stands nowhere in meta/episodes"
        )
    return {}


def _rows(dataset: _Dataset, episode: int, described: Mapping[str, Any]) -> "polars.DataFrame":
    import polars

    file = _file(dataset, dataset.info["data_path"], episode, described, "data")
    rows = polars.scan_parquet(file).filter(polars.col("episode_index") == episode)
    return rows.sort("frame_index").collect()


def _file(
    dataset: _Dataset,
    pattern: str,
    episode: int,
    described: Mapping[str, Any],
    key: str,
    **named: Any,
) -> Path:
    """Return a file of an episode by the dataset's own pattern of paths."""
    if not _PATTERN.fullmatch(pattern):
        raise refusal(dataset.directory, f"its pattern of paths {pattern[:80]!r} cannot be read")
    places = {name: described[f"{key}/{name}"] for name in _PLACES if f"{{{name}" in pattern}
    name = pattern.format(
        episode_index=episode,
        episode_chunk=episode // int(dataset.info.get("chunks_size", 1000)),
        total_episodes=dataset.info["total_episodes"],
        **places,
        **named,
    )
    return _inside(dataset, name, f"the file {name}")


def _inside(dataset: _Dataset, name: str, what: str) -> Path:
    """Return a file of a dataset, which must be there, inside its directory."""
    file = dataset.directory / name
    if not file.resolve().is_relative_to(dataset.directory.resolve()):
        raise refusal(dataset.directory, f"{what} lies outside of it")
    if not file.is_file():
        raise refusal(dataset.directory, f"{what} is missing")
    return file


def _tasks(dataset: _Dataset, rows: "polars.DataFrame", described: Mapping[str, Any]) -> list[str]:
    """Return what the robot was told at each frame: of the task that the frame names, or of the
    episode."""
    of_episode = described.get("tasks") or ()
    if "task_index" not in rows.columns or (len(of_episode) == 1):
        return [of_episode[0] if of_episode else _task(dataset, 0)] * len(rows)
    known: dict[int, str] = {}
    for number in rows["task_index"].unique().to_list():
        known[number] = _task(dataset, int(number))
    return [known[number] for number in rows["task_index"].to_list()]


def _task(dataset: _Dataset, number: int) -> str:
    """Return what a task is."""
    listed = dataset.directory / "meta" / "tasks.jsonl"
    if listed.is_file():
        for line in listed.read_text("utf-8").splitlines():
            task = json.loads(line) if line.strip() else {}
            if task.get("task_index") == number:
                return str(task["task"])
    tabled = dataset.directory / "meta" / "tasks.parquet"
    if tabled.is_file():
        import polars

        tasks = polars.read_parquet(tabled).filter(polars.col("task_index") == number)
        named = next((name for name in tasks.columns if name != "task_index"), None)
        if len(tasks) and named is not None:
            return str(tasks[named][0])
    raise refusal(dataset.directory, f"what its task {number} is stands nowhere in meta/")


# --- pictures -----------------------------------------------------------------------------


def _still(dataset: _Dataset, stored: Any, name: str) -> Picture:
    """Return a picture that stands in a parquet file, or lies beside it."""
    if stored is None:
        raise refusal(dataset.directory, f"the picture of {name} is missing")
    content, path = (
        (stored, None)
        if isinstance(stored, bytes)
        else (None, stored)
        if isinstance(stored, str)
        else (stored.get("bytes"), stored.get("path"))
    )
    if content:
        return read_picture(content, name)
    if path is None:
        raise refusal(dataset.directory, f"the picture of {name} is missing")
    return read_picture(_inside(dataset, str(path), f"the picture of {name}"), name)


@dataclass(frozen=True, slots=True)
class _Video:
    file: Path
    start: float
    """Where in the file the episode begins, seconds."""
    patience: float
    """How far from the time that is asked for a frame may be, seconds."""

    def picture(self, time: float, name: str) -> Picture:
        """Return the frame at a time of the episode."""
        import av

        wanted = self.start + time
        try:
            with av.open(str(self.file)) as container:
                nearest = min(
                    self._around(container, wanted),
                    key=lambda found: abs(found[0] - wanted),
                    default=None,
                )
        except (av.FFmpegError, OSError, IndexError) as error:
            raise refusal(
                self.file, "the video is damaged or of a kind that is not read"
            ) from error
        if nearest is None or abs(nearest[0] - wanted) > self.patience:
            raise refusal(self.file, f"the video has no frame at {wanted:.3f} s")
        return Picture(nearest[1], name)

    def _around(self, container: Any, wanted: float) -> Iterator[tuple[float, np.ndarray]]:
        """Yield frames and their times, from the key frame before a time until just after it."""
        stream = container.streams.video[0]
        container.seek(max(0, int(wanted / stream.time_base)), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.time is None or frame.time < wanted - self.patience:
                continue
            if frame.time > wanted + self.patience:
                return
            yield frame.time, frame.to_ndarray(format="rgb24")


def _video(dataset: _Dataset, key: str, episode: int, described: Mapping[str, Any]) -> _Video:
    place = f"videos/{key}"
    file = _file(dataset, dataset.info["video_path"], episode, described, place, video_key=key)
    start = float(described[f"{place}/from_timestamp"]) if described else 0.0
    return _Video(file, start, LATE / dataset.fps)
