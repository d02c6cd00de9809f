"""Numbers, positions and texts of interventions, as people type them and as they are shown."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from models.errors import ErrorKind, UserError
from models.places import Place, check_word, in_order, resolved
from models.types import TokenizedPrompt

MAX_POSITION = 10**6
_SHOWN_LENGTH = 40
_POSITIONS = re.compile(r"(-?[0-9]{1,6})(?:-([0-9]{1,6}))?")
_PARTS = re.compile(r"[A-Za-z]+\[[^\]]*\]|[^,;\s]+")


def quoted(value: Any) -> str:
    """Quote what was typed, cut so that a message stays one readable sentence."""
    text = str(value)
    return repr(text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "…")


def finite(
    value: Any, name: str, minimum: float | None = None, maximum: float | None = None
) -> float:
    """Return a finite number within bounds; `name` says in a message what it is.

    Raises:
        UserError: it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    low = -math.inf if minimum is None else minimum
    high = math.inf if maximum is None else maximum
    if not (math.isfinite(number) and low <= number <= high):
        raise UserError(
            ErrorKind.INTERVENTION,
            f"The {name} must be a number{_range_text(minimum, maximum)}, not {quoted(value)}.",
        )
    return number


def integer(value: Any, name: str, minimum: int, maximum: int) -> int:
    """Return a whole number within bounds; `name` says in a message what it is.

    Raises:
        UserError: it is none.
    """
    number = finite(value, name, minimum, maximum)
    if number != int(number):
        raise UserError(
            ErrorKind.INTERVENTION, f"The {name} must be a whole number, not {quoted(value)}."
        )
    return int(number)


def number_text(number: float) -> str:
    """Write a float so that it reads back exactly, and 2 rather than 2.0."""
    return repr(number).removesuffix(".0")


def read_positions(text: str) -> tuple[Place, ...] | None:
    """Read positions as typed: "13", "1,4", "0-3", "-1" (the last), "image", "image[2-4,0-3]"; "*"
    gives None.

    Raises:
        UserError: a part that cannot be read.
    """
    if text.strip() == "*":
        return None
    chosen: list[Place] = []
    for part in _PARTS.findall(text):
        if part[0].isalpha():
            chosen.append(check_word(part))
            continue
        match = _POSITIONS.fullmatch(part)
        if match is None or (match[2] and not 0 <= int(match[1]) <= int(match[2])):
            raise UserError(
                ErrorKind.INTERVENTION,
                f"Cannot read {quoted(part)} as positions; write 13, or 1,4, or 0-3, or image, or "
                "* for all of them.",
            )
        first = int(match[1])
        chosen.extend(range(first, int(match[2] or first) + 1))
    return tuple(chosen)


def write_positions(positions: tuple[Place, ...] | None) -> str:
    """Write positions so that `read_positions` reads them back."""
    return "*" if positions is None else ",".join(map(str, positions))


def position_set(positions: Iterable[Any], name: str) -> tuple[Place, ...]:
    """Return positions sorted, each once, numbers first; negative ones count from the end.

    Raises:
        UserError: there is none, or one is no whole number.
    """
    chosen: set[Place] = {
        check_word(position)
        if isinstance(position, str)
        else integer(position, f"position in the {name}", -MAX_POSITION, MAX_POSITION)
        for position in positions
    }
    if not chosen:
        raise UserError(
            ErrorKind.INTERVENTION, f"The {name} are empty; name a position, or * for all."
        )
    return in_order(chosen)


def resolve_positions(
    positions: Sequence[Place] | None,
    prompt: TokenizedPrompt,
    name: str = "chosen positions",
    whole: TokenizedPrompt | None = None,
) -> list[int]:
    """Return positions of a prompt counted from its start, sorted; None is all.

    Args:
        whole: the prompt that `prompt` shows a stack's part of: what it has of a word, but the
            stack does not, is nothing to the stack (a vision tower has no text).

    Raises:
        UserError: a position outside the prompt.
    """
    if positions is None:
        return list(range(len(prompt)))
    n = len(prompt)

    def number(position: int) -> int:
        if not -n <= position < n:
            raise UserError(
                ErrorKind.POSITION,
                f"Position {position} of the {name} is outside the prompt, whose positions are "
                f"0 to {n - 1}.",
            )
        return position % n

    return list(resolved(positions, prompt, number, whole))


def join_texts(texts: Iterable[str]) -> str:
    """Write texts in a row, `||` between them, so that `split_texts` reads them back."""
    return "||".join(text.replace("\\", "\\\\").replace("|", "\\|") for text in texts)


def split_texts(argument: str) -> tuple[str, ...]:
    r"""Split at `||`; `\|` stands for a bar and `\\` for a backslash inside a text."""
    if not argument:
        return ()
    texts = [""]
    for piece in re.findall(r"\\[\\|]|\|\||.", argument, flags=re.DOTALL):
        if piece == "||":
            texts.append("")
        else:
            texts[-1] += piece[-1]
    return tuple(texts)


def _range_text(minimum: float | None, maximum: float | None) -> str:
    if minimum is None:
        return ""
    if maximum is None:
        return f" of at least {minimum:g}"
    return f" from {minimum:.10g} to {maximum:.10g}"
