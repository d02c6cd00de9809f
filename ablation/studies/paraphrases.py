"""Sentences with a paraphrase in other words, and with another meaning in nearly the same words.

Written for this program. What compares words finds the wrong one of the two closer; what compares
meanings finds the right one.
"""

import re
from dataclasses import dataclass
from pathlib import Path

SOURCE = "40 sentences with a paraphrase and a look-alike each, written for this program"


@dataclass(frozen=True, slots=True)
class Triple:
    """A sentence, one that says the same, and one that looks the same."""

    sentence: str
    paraphrase: str
    lookalike: str

    @property
    def sentences(self) -> tuple[str, str, str]:
        return self.sentence, self.paraphrase, self.lookalike


def word_overlap(first: str, second: str) -> float:
    """Return the share of words that two sentences have in common (Jaccard)."""
    a, b = (set(re.findall(r"[a-z']+", text.lower())) for text in (first, second))
    return len(a & b) / len(a | b)


def load_triples() -> tuple[Triple, ...]:
    """Return all triples: one a line, its three sentences set apart by "|"."""
    rows = Path(__file__).with_name("paraphrases.txt").read_text("utf-8").splitlines()
    return tuple(Triple(*row.split("|")) for row in rows)
