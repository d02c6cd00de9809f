"""Opening a recording, whichever form it has."""

from pathlib import Path

from models.errors import ErrorKind, UserError
from models.recordings.folder import EPISODE_FILE, read_folder
from models.recordings.lerobot import INFO_FILE, read_lerobot
from models.recordings.types import Recording


def open_recording(path: str | Path, episode: int = 0) -> Recording:
    """Open a recorded episode.

    Args:
        path: a folder of frames with `episode.json`, or a LeRobot dataset's directory.
        episode: which of a dataset's episodes, from 0; a folder of frames holds one.

    Raises:
        UserError: there is no recording, or it cannot be used; the message says why.
    """
    text = str(path).strip()
    if not text or "\0" in text:
        raise UserError(
            ErrorKind.RECORDING,
            "No recording is named; give a folder of frames or a LeRobot dataset's directory.",
        )
    try:
        directory = Path(text).expanduser()
        directory = directory.parent if directory.name == EPISODE_FILE else directory
        is_folder = (directory / EPISODE_FILE).is_file()
        is_dataset = (directory / INFO_FILE).is_file()
    except (OSError, RuntimeError) as error:  # or a home directory that cannot be found
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            ErrorKind.RECORDING, f"The recording {text[:200]} cannot be read ({reason})."
        ) from error
    if is_folder:
        if episode:
            raise UserError(
                ErrorKind.RECORDING,
                f"{text} holds one episode, number 0; there is no episode {episode}.",
            )
        return read_folder(directory)
    if is_dataset:
        return read_lerobot(directory, episode)
    raise UserError(
        ErrorKind.RECORDING,
        f"There is no recording in {text}: a folder of frames has {EPISODE_FILE}, a LeRobot "
        f"dataset {INFO_FILE}.",
    )
