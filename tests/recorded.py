"""Recordings that several tests share: an episode of the table in every form that is read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars

from models.recordings import Recording
from models.tabletop.recording import recording_of
from models.tabletop.scenes import named_scene
from models.tabletop.table import Table, expert

CAMERA, FPS, STATES = "observation.images.top", 5.0, ("x", "y", "closed")


def expert_recording(name: str = "tabletop:7") -> Recording:
    """Return an episode of the table as its expert solves it."""
    scene = named_scene(name)
    table, scenes, actions, over = Table.at(scene), [scene], [], False
    while not over:
        actions.append(expert(scenes[-1]))
        now, over, _ = table.step(actions[-1])
        scenes.append(now)
    return recording_of(scenes, actions, name)


def write_dataset(
    directory: Path, episodes: Sequence[Recording], version: int, video: bool
) -> None:
    """Write episodes as a dataset in LeRobot's form, version 2 or 3, with stills or a video."""
    (directory / "meta").mkdir(parents=True)
    info: dict[str, Any] = {
        "codebase_version": f"v{version}.0",
        "fps": FPS,
        "total_episodes": len(episodes),
        "chunks_size": 1000,
        "features": {
            CAMERA: {"dtype": "video" if video else "image", "shape": [64, 64, 3]},
            "observation.state": {"dtype": "float32", "shape": [3], "names": list(STATES)},
            "action": {
                "dtype": "float32",
                "shape": [3],
                "names": {"motors": list(episodes[0].action_names)},
            },
        },
    }
    if version == 2:
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = (
            "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        )
    else:
        info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (directory / "meta" / "info.json").write_text(json.dumps(info))
    rows = [_rows(i, one, video) for i, one in enumerate(episodes)]
    tasks = [{"task_index": i, "task": one.instruction} for i, one in enumerate(episodes)]
    if version == 2:
        for i, each in enumerate(rows):
            path = directory / info["data_path"].format(episode_chunk=0, episode_index=i)
            path.parent.mkdir(parents=True, exist_ok=True)
            polars.DataFrame(each).write_parquet(path)
        lines = "\n".join(json.dumps(task) for task in tasks)
        (directory / "meta" / "tasks.jsonl").write_text(lines + "\n")
    else:
        path = directory / info["data_path"].format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        polars.DataFrame([row for each in rows for row in each]).write_parquet(path)
        polars.DataFrame(
            {"task_index": range(len(tasks)), "__index_level_0__": [t["task"] for t in tasks]}
        ).write_parquet(directory / "meta" / "tasks.parquet")
        _write_places(directory, episodes)
    if video:
        _write_videos(directory, info["video_path"], episodes, version)


def _rows(index: int, recording: Recording, video: bool) -> list[dict[str, Any]]:
    rows = []
    for i, frame in enumerate(recording.frames):
        assert isinstance(frame.state, str)
        x, y, grip = frame.state.split()
        row = {
            "timestamp": i / FPS,
            "frame_index": i,
            "episode_index": index,
            "task_index": index,
            "observation.state": [float(x[1:]), float(y[1:]), float(grip == "closed")],
            "action": list(frame.action or ()),
        }
        if not video:
            row[CAMERA] = {"bytes": recording.pictures(i)[0].png(), "path": None}
        rows.append(row)
    return rows


def _write_places(directory: Path, episodes: Sequence[Recording]) -> None:
    starts = np.cumsum([0, *(len(one) for one in episodes)]) / FPS
    path = directory / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    path.parent.mkdir(parents=True)
    polars.DataFrame(
        {
            "episode_index": range(len(episodes)),
            "tasks": [[one.instruction] for one in episodes],
            "data/chunk_index": [0] * len(episodes),
            "data/file_index": [0] * len(episodes),
            f"videos/{CAMERA}/chunk_index": [0] * len(episodes),
            f"videos/{CAMERA}/file_index": [0] * len(episodes),
            f"videos/{CAMERA}/from_timestamp": starts[:-1],
        }
    ).write_parquet(path)


def _write_videos(
    directory: Path, pattern: str, episodes: Sequence[Recording], version: int
) -> None:
    groups = [[one] for one in episodes] if version == 2 else [list(episodes)]
    for i, group in enumerate(groups):
        named = {"episode_chunk": 0, "chunk_index": 0, "file_index": 0, "episode_index": i}
        path = directory / pattern.format(video_key=CAMERA, **named)
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=int(FPS), options={"crf": "1", "g": "2"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv444p"
            for one in group:
                for k in range(len(one)):
                    pixels = one.pictures(k)[0].pixels
                    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                    container.mux(stream.encode(frame))
            container.mux(stream.encode())
