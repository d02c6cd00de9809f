"""Positions of a prompt by number, or by what stands there: "image", "text", "image[2-4,0-3]".

Words are looked up in the prompt that they are used on, so that one intervention ("text may not
look at the image") means the same on every prompt and in every stack of a model.
"""

import re
from collections.abc import Callable, Iterable

from models.errors import ErrorKind, UserError
from models.types import TokenizedPrompt

Place = int | str
"""A position, negative ones counted from the end; or a word that stands for several."""

Span = range | None
"""Rows or columns of a picture; None for all."""

KINDS = ("text", "image", "state", "action", "special", "unknown")
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
    if not of_kind and whole is not None and kind in _kinds(whole):
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
    shown = {i: cell for i in of_kind if (cell := prompt.cells[i]) is not None}
    last_row = max((cell.row for cell in shown.values()), default=0)
    last_column = max((cell.column for cell in shown.values()), default=0)
    rows = range(last_row + 1) if spans[0] is None else spans[0]
    columns = range(last_column + 1) if spans[1] is None else spans[1]
    found = [i for i, cell in shown.items() if cell.row in rows and cell.column in columns]
    if not found or max(rows) > last_row or max(columns) > last_column:
        raise UserError(
            ErrorKind.POSITION,
            f"Not all of {word} is on the picture; rows run from 0 to {last_row} and columns from "
            f"0 to {last_column}.",
        )
    return found


def _kinds(whole: TokenizedPrompt) -> set[str]:
    """Return the kinds of all positions that a prompt has, those of further stacks among them: an
    action expert's, and those of the texts that it is compared with."""
    beside = (whole.acting, whole.compared, *whole.sides.values())
    others = [positions for positions in beside if positions is not None]
    return {*whole.kinds, *(kind for positions in others for kind in positions.kinds)}


def resolved(
    places: Iterable[Place],
    prompt: TokenizedPrompt,
    number: Callable[[int], int],
    whole: TokenizedPrompt | None = None,
) -> tuple[int, ...]:
    """Return positions counted from 0, sorted and each once.

    Args:
        number: position as it was named -> counted from 0; raises what it has to say of others.
        whole: see `named_positions`.

    Raises:
        UserError: a word that the prompt has no position of.
    """
    found: set[int] = set()
    for place in places:
        if isinstance(place, str):
            found.update(named_positions(prompt, place, whole))
        else:
            found.add(number(place))
    return tuple(sorted(found))


def _read(word: str) -> tuple[str, tuple[Span, Span] | None]:
    """Return the kind that a word names, and the rows and columns, if it names some."""
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


def _range(span: re.Match[str]) -> Span:
    if span[1]:
        return None
    first = int(span[2])
    return range(first, int(span[3] or first) + 1)


def _written(span: Span) -> str:
    if span is None:
        return "*"
    return str(span[0]) if len(span) == 1 else f"{span.start}-{span.stop - 1}"
