"""The one error that a user sees, and its kinds.

It is raised where a value turns out to be wrong and shown once, at the edge: the page or the
command line. Its message is one sentence that says what was wrong with which value and what to do.
Any other exception is a defect of this program.
"""

from enum import StrEnum


class ErrorKind(StrEnum):
    """What a `UserError` is about; the page chooses the place where it is shown by it."""

    PROMPT = "prompt"
    """The prompt is empty, too long, or turns into no tokens."""
    STATE = "state"
    """What a robot tells of itself is no list of numbers, or not as many as the policy takes."""
    PICTURE = "picture"
    """A picture that is none, or that this model does not take."""
    MODEL = "model"
    """No such model, no network to fetch it, damaged weights, or a refused architecture."""
    HEADS = "heads"
    """A head that does not exist, or a notation that cannot be read."""
    INTERVENTION = "intervention"
    """An intervention whose parameters do not fit this model or prompt."""
    TARGET = "target"
    """A target that is not one token, or already the most likely one."""
    RECORDING = "recording"
    """A recorded episode that is not there, damaged, or does not fit the policy."""
    POSITION = "position"
    """A position outside the prompt."""
    NUMBERS = "numbers"
    """The model returned numbers that are not finite."""
    DEVICE = "device"
    """A device or dtype that this machine does not have, or memory that ran out."""
    CACHE = "cache"
    """A directory that cannot be read or written."""
    BUSY = "busy"
    """A study was asked for while one runs in the same page."""
    OPTION = "option"
    """Any other option with a value that cannot be used."""


class UserError(Exception):
    """Something the user asked for cannot be done; `str(error)` is the sentence to show."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch says so in errors that are of no kind of their own."""
    said = str(error)
    of_torch = isinstance(error, RuntimeError) and (
        "allocate memory" in said or "out of memory" in said
    )
    return of_torch or isinstance(error, MemoryError)
