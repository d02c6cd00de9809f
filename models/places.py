"""Positions of a prompt by number, or by what stands there: "image", "text", "image[2-4,0-3]".

Words are looked up in the prompt that they are used on, so that one intervention ("text may not
look at the image") means the same on every prompt and in every stack of a model.
"""

import re
from collections.abc import Iterable

from models.errors import ErrorKind, UserError
from models.types import TokenizedPrompt

Place = int | str
"""A position, negative ones counted from the end; or a word that stands for several."""

KINDS = ("text", "image", "state", "action", "special")
"""What a position can be (`TokenizedPrompt.kinds`), and so the words."""

_WORD = re.compile(r"([a-z]+)(?:\[([^\]]*)\])?")
_SPAN = re.compile(r"\s*(?:(\*)|([0-9]{1,4})(?:\s*-\s*([0-9]{1,4}))?)\s*")


def in_order(places: Iterable[Place]) -> tuple[Place, ...]:
    """Return positions sorted, each once, numbers before words."""
    return tuple(sorted(set(places), key=lambda place: (isinstance(place, str), place)))


def check_word(word: str) -> str:
    """Return a word for positions as it is written shortly.

    Raises:
        UserError: it is none.
    """
    kind, spans = _read(word)
    if spans is None:
        return kind
    return f"{kind}[{','.join(_written(span) for span in spans)}]"


def named_positions(
    prompt: TokenizedPrompt, word: str, whole: TokenizedPrompt | None = None
) -> list[int]:
    """Return the positions of a prompt that a word stands for.

    Rows and columns are counted from 0 at the top left of each picture, or of each of its tiles.

    Args:
        whole: the prompt of which `prompt` are a stack's positions: what it has of a word, but the
            stack does not, is none.

    Raises:
        UserError: it is no such word, or the prompt has none of them.
    """
    kind, spans = _read(word)
    of_kind = [i for i, one in enumerate(prompt.kinds) if one == kind]
    if not of_kind and whole is not None and kind in whole.kinds:
        return []
    if not of_kind:
        there = [one for one in KINDS if one in prompt.kinds]
        raise UserError(
            ErrorKind.POSITION,
            f"The prompt has no {kind} positions; those it has are {', '.join(there)}.",
        )
    if spans is None:
        return of_kind
    if prompt.cells is None:
        raise UserError(
            ErrorKind.POSITION,
            "Which part of the picture each position shows is not known for this model; name "
            "positions by their numbers.",
        )
    rows, columns = spans
    shown = [(i, prompt.cells[i]) for i in of_kind]
    found = [
        i for i, cell in shown if cell is not None and cell.row in rows and cell.column in columns
    ]
    beyond = any(
        len(span) < 10_000 and span.stop - 1 > max(edges, default=0)
        for span, edges in (
            (rows, [cell.row for _, cell in shown if cell is not None]),
            (columns, [cell.column for _, cell in shown if cell is not None]),
        )
    )
    if not found or beyond:
        lowest = max((cell.row for _, cell in shown if cell is not None), default=0)
        rightmost = max((cell.column for _, cell in shown if cell is not None), default=0)
        raise UserError(
            ErrorKind.POSITION,
            f"Not all of {word} is on the picture; rows run from 0 to {lowest} and columns from 0 "
            f"to {rightmost}.",
        )
    return found


def _read(word: str) -> tuple[str, tuple[range, range] | None]:
    match = _WORD.fullmatch(word.strip().lower())
    kind = match[1] if match else ""
    if match is None or kind not in KINDS or (match[2] is not None and kind != "image"):
        raise UserError(
            ErrorKind.INTERVENTION,
            f"Cannot read {word[:40]!r} as positions; write numbers (3, 5-7), or what stands "
            f"there: {', '.join(KINDS)}, or a part of the picture by rows and columns: "
            "image[2-4,0-3].",
        )
    if match[2] is None:
        return kind, None
    spans = [_SPAN.fullmatch(part) for part in match[2].split(",")]
    if len(spans) != 2 or any(span is None for span in spans):
        raise UserError(
            ErrorKind.INTERVENTION,
            f"Cannot read {word[:40]!r}; write rows and columns, as in image[2-4,0-3] or "
            "image[2,*].",
        )
    rows, columns = (_range(span) for span in spans if span is not None)
    return kind, (rows, columns)


def _range(span: re.Match[str]) -> range:
    if span[1]:
        return range(10_000)
    first = int(span[2])
    return range(first, int(span[3] or first) + 1)


def _written(span: range) -> str:
    if len(span) == 10_000:
        return "*"
    return str(span[0]) if len(span) == 1 else f"{span.start}-{span.stop - 1}"
