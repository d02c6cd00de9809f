"""Two lists of tokens side by side, so that a person sees where they differ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest

GAP = "–"
"""Stands where one prompt has no token beside the other's."""

CONTEXT = 2
"""How many equal tokens are shown on each side of a difference, in a sentence."""


@dataclass(frozen=True, slots=True)
class Column:
    """One token of the clean prompt beside one of the corrupted one; labels."""

    clean: str | None
    """None where the corrupted prompt has a token more."""
    corrupt: str | None

    @property
    def same(self) -> bool:
        return self.clean == self.corrupt


def align(clean: Sequence[str], corrupt: Sequence[str]) -> tuple[Column, ...]:
    """Return two lists of labels side by side, with as many equal ones beside each other as found.

    Runs that differ stand beside each other from their first token on.
    """
    # What both begin and end with is set apart first: matching takes time squared in the rest.
    n_front = _n_common(clean, corrupt)
    rest = clean[n_front:], corrupt[n_front:]
    n_back = _n_common(rest[0][::-1], rest[1][::-1])
    middles = tuple(side[: len(side) - n_back] for side in rest)
    back = clean[len(clean) - n_back :]
    return (
        *(Column(label, label) for label in clean[:n_front]),
        *_matched(*middles),
        *(Column(label, label) for label in back),
    )


def _n_common(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(first, second, strict=False)
    return next(
        (i for i, (a, b) in enumerate(pairs) if a != b),
        min(len(first), len(second)),
    )


def _matched(clean: Sequence[str], corrupt: Sequence[str]) -> Iterator[Column]:
    matcher = SequenceMatcher(None, clean, corrupt)
    for _, start, stop, other_start, other_stop in matcher.get_opcodes():
        sides = zip_longest(clean[start:stop], corrupt[other_start:other_stop])
        yield from (Column(*labels) for labels in sides)


def in_words(columns: Sequence[Column]) -> tuple[str, str]:
    """Return both lists as text, as long as each other: [differing] tokens between equal ones.

    Far from a difference equal tokens are left out, and "…" stands for them.
    """
    near = _near_differences(columns)
    shown: list[tuple[str, str]] = []
    for index, column in enumerate(columns):
        if index not in near:
            if not shown or shown[-1] != ("…", "…"):
                shown.append(("…", "…"))
            continue
        sides = tuple(GAP if label is None else label for label in (column.clean, column.corrupt))
        marked = [side if column.same else f"[{side}]" for side in sides]
        width = max(map(len, marked))
        shown.append((marked[0].ljust(width), marked[1].ljust(width)))
    clean, corrupt = (" ".join(side[i] for side in shown) for i in (0, 1))
    return clean, corrupt


def _near_differences(columns: Sequence[Column]) -> set[int]:
    differing = [index for index, column in enumerate(columns) if not column.same]
    return {near for index in differing for near in range(index - CONTEXT, index + CONTEXT + 1)}
