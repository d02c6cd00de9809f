"""Episodes as a folder of frames with a JSON: the form that anybody can write in a few lines.

`episode.json` beside the pictures:

    {"instruction": "touch the red square", "fps": 10, "actions": ["dx", "dy", "gripper"],
     "frames": [
       {"image": "000.png", "state": "x12 y30 open", "action": [8, -4, 0],
        "objects": {"red square": [40, 8, 51, 19]}},
       ...]}

`image` is a file's name, or a list of them, one for each camera (`cameras` names them). `state`
are words as the policy is told them, or numbers; `action` and `objects` (left, top, right, bottom
on the first picture, pixels) may be left out, and so may `time`, in seconds: it follows from `fps`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.picture import Picture, read_picture
from models.recordings.refusals import MOST_FRAMES, refusal, refuse_times, refusing
from models.recordings.types import Box, Frame, Recording

EPISODE_FILE = "episode.json"
FPS = 10.0
"""Frames a second where nothing is said."""


def read_folder(directory: Path) -> Recording:
    """Read an episode from a folder of frames.

    Raises:
        UserError: the JSON is damaged or does not have the form, or a frame's picture is missing.
    """
    path = directory / EPISODE_FILE
    with refusing(path, "it does not have the form that is described in models/recordings"):
        try:
            data = json.loads(path.read_text("utf-8"))
        except json.JSONDecodeError as error:
            raise refusal(path, f"line {error.lineno} is not valid JSON") from error
        described = data["frames"]
        if not isinstance(described, list) or not 0 < len(described) <= MOST_FRAMES:
            raise refusal(path, f"it must have 1 to {MOST_FRAMES:,} frames")
        names = tuple(str(name) for name in data.get("actions", ()))
        fps = float(data.get("fps", FPS))
        if not 0 < fps < math.inf:
            raise refusal(path, f"its fps must be more than 0, not {fps:g}")
        frames = tuple(_frame(path, i, one, names, fps) for i, one in enumerate(described))
        files = [_files(path, i, one) for i, one in enumerate(described)]
        if len({len(each) for each in files}) > 1:
            odd = next(i for i, each in enumerate(files) if len(each) != len(files[0]))
            raise refusal(
                path, f"frame {odd} has {len(files[odd])} pictures and frame 0 {len(files[0])}"
            )
        cameras = tuple(str(name) for name in data.get("cameras", ()))
        if cameras and len(cameras) != len(files[0]):
            raise refusal(
                path,
                f"it names {len(cameras)} cameras and its frames have {len(files[0])} pictures",
            )
        instruction = data["instruction"]
        if not isinstance(instruction, str) or not instruction.strip():
            raise refusal(path, "its instruction is no text")
        refuse_times(path, [frame.time for frame in frames])

    def pictures(index: int) -> tuple[Picture, ...]:
        with refusing(path, f"the pictures of frame {index} cannot be read"):
            return tuple(read_picture(file) for file in files[index])

    return Recording(
        directory.resolve().name,
        instruction.strip(),
        frames,
        cameras or tuple(f"camera {i}" for i in range(len(files[0]))),
        names,
        pictures,
    )


def refuse_filled(directory: Path) -> None:
    """Raise `UserError` if there are files in a folder that an episode is to be written to."""
    with refusing(directory, "it cannot be written there"):
        filled = any(directory.iterdir())
    if filled:
        raise refusal(directory, "there are files in it already; name an empty folder")


def write_folder(recording: Recording, directory: Path, fps: float = FPS) -> None:
    """Write an episode as a folder of frames.

    Raises:
        UserError: the folder is not empty, or cannot be written.
    """
    with refusing(directory, "it cannot be written there"):
        directory.mkdir(parents=True, exist_ok=True)
        refuse_filled(directory)
        described = []
        for i, frame in enumerate(recording.frames):
            names = []
            for k, picture in enumerate(recording.pictures(i)):
                names.append(f"{i:05d}{f'-{k}' if k else ''}.png")
                (directory / names[-1]).write_bytes(picture.png())
            described.append(_described(frame, names))
        data = {
            "instruction": recording.instruction,
            "fps": fps,
            "actions": list(recording.action_names),
            "cameras": list(recording.cameras),
            "frames": described,
        }
        (directory / EPISODE_FILE).write_text(json.dumps(data, indent=1), "utf-8")


def _described(frame: Frame, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "image": names[0] if len(names) == 1 else list(names),
        "time": frame.time,
        "objects": {name: list(box) for name, box in frame.objects.items()},
    }
    if frame.state is not None:
        found["state"] = frame.state if isinstance(frame.state, str) else list(frame.state)
    if frame.action is not None:
        found["action"] = list(frame.action)
    return found


def _frame(
    path: Path, index: int, data: Mapping[str, Any], names: tuple[str, ...], fps: float
) -> Frame:
    state = data.get("state")
    if isinstance(state, list | tuple):
        state = tuple(float(number) for number in state)
    elif state is not None and not isinstance(state, str):
        raise refusal(path, f"the state of frame {index} is neither words nor a list of numbers")
    action = data.get("action")
    if isinstance(action, Mapping):
        action = [action[name] for name in names]
    if action is not None:
        action = tuple(float(number) for number in action)
        if len(action) != len(names):
            raise refusal(
                path,
                f'the action of frame {index} has {len(action)} numbers, and "actions" names '
                f"{len(names)}",
            )
    objects = {str(name): _box(path, index, box) for name, box in data.get("objects", {}).items()}
    return Frame(float(data.get("time", index / fps)), state, action, objects)


def _box(path: Path, index: int, box: Any) -> Box:
    left, top, right, bottom = (float(edge) for edge in box)
    if left >= right or top >= bottom:
        raise refusal(path, f"an object of frame {index} has no area (left, top, right, bottom)")
    return left, top, right, bottom


def _files(path: Path, index: int, data: Mapping[str, Any]) -> list[Path]:
    """Return the files of a frame's pictures, which must be there, inside the folder."""
    named = data["image"] if "image" in data else data["images"]
    names = [named] if isinstance(named, str) else [str(name) for name in named]
    if not names:
        raise refusal(path, f"frame {index} has no picture")
    files = [path.parent / name for name in names]
    for file, name in zip(files, names, strict=True):
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise refusal(path, f"the picture {name!r} of frame {index} lies outside of the folder")
        if not file.is_file():
            raise refusal(path, f"the picture {name!r} of frame {index} is missing")
    return files
