"""The small corpus that ships with the program: 240 short passages of 24 kinds.

The texts were written for this program and stand under its licence. They are there so that a head
is not judged on one prompt, and as reference prompts for whatever needs a few hundred of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = "written for this program, under its licence"

_HEADING = re.compile(r"^=== (?P<id>(?P<kind>[a-z]+)-[0-9]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Passage:
    """A short text: 40 to 80 words, without white space at its ends."""

    id: str
    """Its kind and a number: "recipe-03"."""
    kind: str
    """What sort of text it is: "narrative", "code", "poem"..."""
    text: str


def load_corpus() -> tuple[Passage, ...]:
    """Return all passages, in the same order every time.

    One of each kind in turn, so that the first few dozen are as mixed as all of them.
    """
    folder = Path(__file__).resolve().parent
    files = (path.read_text("utf-8") for path in folder.glob("*.txt"))
    passages = (passage for text in files for passage in _passages(text))
    return tuple(sorted(passages, key=lambda p: (p.id.removeprefix(p.kind), p.kind)))


def _passages(text: str) -> Iterator[Passage]:
    """Yield the passages of a file: each stands below a heading that says its id."""
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=True):
        yield Passage(heading["id"], heading["kind"], text[heading.end() : end].strip("\n"))
