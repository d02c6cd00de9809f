"""What a robot tells of itself, as people type it."""

import re
from collections.abc import Sequence

from models.errors import ErrorKind, UserError


def read_state(text: str) -> tuple[float, ...]:
    """Read the numbers of a robot's state: "0.1, -2, 3e-2"; none for an empty text.

    Raises:
        UserError: something in it is no number.
    """
    parts = [part for part in re.split(r"[\s,;]+", text.strip().strip("[]()")) if part]
    try:
        return tuple(float(part) for part in parts)
    except ValueError as error:
        raise UserError(
            ErrorKind.STATE,
            f"The state is not read: {text[:60]!r} is no list of numbers; write 0.1, -0.2, 0.",
        ) from error


def written_state(numbers: Sequence[float]) -> str:
    """Return numbers as `read_state` reads them, to nine digits."""
    return ", ".join(f"{number:.9g}" for number in numbers)
