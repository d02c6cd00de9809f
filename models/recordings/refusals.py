"""Turning whatever goes wrong with a recording's files into one sentence."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from models.errors import ErrorKind, UserError

MOST_FRAMES = 20_000
"""Longer episodes are refused: a trace asks the policy at each frame."""


def refusal(path: Path, what: str) -> UserError:
    """Return the error that says what is wrong with a recording."""
    return UserError(ErrorKind.RECORDING, f"The recording {path} cannot be used: {what}.")


def refuse_times(path: Path, times: Sequence[float]) -> None:
    """Refuse times that are no numbers, or do not grow."""
    known = np.isfinite(times)
    if known.all() and (np.diff(times) >= 0).all():
        return
    at = int(np.argmin(known)) if not known.all() else int(np.argmax(np.diff(times) < 0)) + 1
    raise refusal(path, f"the time of frame {at} is no number, or before that of the last one")


@contextmanager
def refusing(path: Path, what: str, *more: type[Exception]) -> Iterator[None]:
    """Say of a file that it does not have the form that it must have.

    Args:
        more: what a library raises of such files, beside what Python does.
    """
    wrong_forms: tuple[type[Exception], ...] = (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        *more,
    )
    try:
        yield
    except UserError:
        raise
    except wrong_forms as error:
        said = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise refusal(
            path, f"{what} ({said.splitlines()[0][:160] if said else 'empty'})"
        ) from error
    except OSError as error:
        raise refusal(path, f"{what} ({error.strerror or 'it cannot be read'})") from error
