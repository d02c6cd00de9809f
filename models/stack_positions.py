"""What the positions of a wrapped policy's stacks are: as it was described, or numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from models.errors import ErrorKind, UserError
from models.picture import Cell, Picture
from models.picture_prompts import IMAGE, cell_label
from models.policy_adapter import Actions, Patches, State, Words
from models.tokens import visible
from models.types import TokenizedPrompt

UNKNOWN = "unknown"
"""The kind of a position of which nobody said what it is."""


@dataclass(frozen=True, slots=True)
class _Described:
    """One position."""

    label: str
    kind: str
    text: str = ""
    cell: Cell | None = None


def numbered(n: int, side: str) -> TokenizedPrompt:
    """Return positions of which nothing is known but how many they are.

    Args:
        side: whose they are; no two sides of a prompt are equal.
    """
    return _positions([_Described(str(i), UNKNOWN) for i in range(n)], side, ())


def stack_positions(
    n: int,
    side: str,
    described: Sequence[Any] | None,
    pictures: Sequence[Picture],
    stack: str,
    name: str,
) -> TokenizedPrompt:
    """Return the positions of a stack on a prompt.

    Args:
        n: how many it runs with.
        described: `policy_adapter.Positions`, one behind the other; None if nobody said.
        stack, name: what stack and policy are called, for messages.

    Raises:
        UserError: they are not as many as were described, or what was described makes no sense.
    """
    if described is None:
        return numbered(n, side)
    try:
        found = [one for part in described for one in _of_part(part, pictures, stack, name)]
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: what positions says of the stack {stack!r} cannot be read ({error}); give a "
            "list of Patches, Words, State, Actions and names.",
        ) from error
    if len(found) != n:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: positions describes {len(found)} positions of the stack {stack!r}, and it "
            f"runs with {n}.",
        )
    return _positions(found, side, tuple(pictures))


def joined_positions(
    parts: Sequence[TokenizedPrompt], stack: str, n: int, name: str
) -> TokenizedPrompt:
    """Return the positions of several stacks, one behind the other, that a stack looks at.

    Raises:
        UserError: they are not as many as it looks at.
    """
    total = sum(len(part) for part in parts)
    if total != n:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: by looks_at the stack {stack!r} looks at {total} positions, and it runs with "
            f"{n}.",
        )
    known = any(part.cells is not None for part in parts)
    cells = tuple(cell for part in parts for cell in (part.cells or (None,) * len(part)))
    return TokenizedPrompt(
        text=f"looked at by {stack}",
        ids=tuple(i for part in parts for i in part.ids),
        labels=tuple(label for part in parts for label in part.labels),
        texts=tuple(text for part in parts for text in part.texts),
        kinds=tuple(kind for part in parts for kind in part.kinds),
        pictures=next((part.pictures for part in parts if part.pictures), ()),
        cells=cells if known else None,
    )


def _positions(
    found: Sequence[_Described], side: str, pictures: tuple[Picture, ...]
) -> TokenizedPrompt:
    # Ids are but numbers here; those of different sides differ, so that the sides do.
    first = 0 if not side else 1000 * (1 + crc32(side.encode()) % 1_000_000)
    shows = any(one.cell is not None for one in found)
    return TokenizedPrompt(
        text="",
        ids=tuple(range(first, first + len(found))),
        labels=tuple(one.label for one in found),
        texts=tuple(one.text for one in found),
        kinds=tuple(one.kind for one in found),
        pictures=pictures if shows else (),
        cells=tuple(one.cell for one in found) if shows else None,
    )


def _of_part(part: Any, pictures: Sequence[Picture], stack: str, name: str) -> list[_Described]:
    if isinstance(part, str):
        return [_Described(visible(part) or "∅", "special")]
    if isinstance(part, Words):
        return [_Described(visible(str(w)) or "∅", "text", str(w)) for w in part.labels]
    if isinstance(part, State):
        return [_Described(f"state {i}" if part.n > 1 else "state", "state") for i in range(part.n)]
    if isinstance(part, Actions):
        return [_Described(f"action {i}", "action") for i in range(part.n)]
    if isinstance(part, Patches):
        if not (0 <= part.camera < len(pictures) and part.rows > 0 and part.columns > 0):
            raise UserError(
                ErrorKind.MODEL,
                f"{name}: positions of the stack {stack!r} has {part}, and cameras are counted "
                f"from 0 to {len(pictures) - 1}, rows and columns from 1.",
            )
        return _patches(part, pictures)
    raise UserError(
        ErrorKind.MODEL,
        f"{name}: positions of the stack {stack!r} holds a {type(part).__name__}; give Patches, "
        "Words, State, Actions or a text.",
    )


def _patches(part: Patches, pictures: Sequence[Picture]) -> list[_Described]:
    """Return the positions of a camera's parts; those that lie beyond the picture show nothing."""
    picture = pictures[part.camera]
    left, top, right, bottom = part.area or (0.0, 0.0, picture.width, picture.height)
    width, height = (right - left) / part.columns, (bottom - top) / part.rows
    found = []
    for row in range(part.rows):
        for column in range(part.columns):
            x, y = left + column * width, top + row * height
            edges = (
                max(x, 0.0),
                max(y, 0.0),
                min(x + width, float(picture.width)),
                min(y + height, float(picture.height)),
            )
            cell = Cell(part.camera, row, column, *edges)
            inside = edges[0] < edges[2] and edges[1] < edges[3]
            label = cell_label(cell, len(pictures))
            found.append(_Described(label, IMAGE, cell=cell if inside else None))
    return found
