"""Where in a corpus a head looks most: its strongest contexts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.types import FloatArray, TokenizedPrompt

ELLIPSIS = " … "

MARKS = {"": "{}", "query": "‹{}›", "key": "[{}]", "both": "‹[{}]›"}
"""Part that a token plays in a context -> how plain text marks it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of a context."""

    text: str
    part: str = ""
    """A key of `MARKS`: whether it is the token that looks, the one looked at, both, or neither."""


@dataclass(frozen=True, slots=True)
class Context:
    """One large weight of a head: from which token of which passage to which."""

    passage: str
    """The passage's id."""
    prompt: TokenizedPrompt
    query: int
    key: int
    """Positions in `prompt`, counted from 0."""
    weight: float

    def pieces(self, around: int = 5) -> list[Piece]:
        """Return the text around both tokens, piece by piece.

        Args:
            around: how many tokens are shown on either side of each.
        """
        n = len(self.prompt)
        near = [i for i in range(n) if min(abs(i - self.query), abs(i - self.key)) <= around]
        pieces = [Piece(ELLIPSIS)] if near[0] else []
        for i, after in zip(near, [*near[1:], n], strict=True):
            pieces.extend(_pieces_of(self.prompt.texts[i], self._part(i)))
            if after > i + 1:
                pieces.append(Piece(ELLIPSIS))
        return pieces

    def excerpt(self, around: int = 5) -> str:
        """Return the same as text, the query in ‹guillemets›, the key in [brackets]."""
        marked = (MARKS[piece.part].format(piece.text) for piece in self.pieces(around))
        return " ".join("".join(marked).split())

    def to_json(self) -> dict[str, Any]:
        return {
            "passage": self.passage,
            "query": self.query,
            "query_token": self.prompt.labels[self.query],
            "key": self.key,
            "key_token": self.prompt.labels[self.key],
            "weight": self.weight,
            "excerpt": self.excerpt(),
        }

    def _part(self, position: int) -> str:
        if self.query == self.key == position:
            return "both"
        return {self.query: "query", self.key: "key"}.get(position, "")


def _pieces_of(text: str, part: str) -> list[Piece]:
    """Return a token as pieces: the white space around a marked one is not marked."""
    bare = text.strip()
    if not part:
        return [Piece(text)]
    if not bare:
        return [Piece(text.replace("\n", "⏎").replace(" ", "·"), part)]
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    parts = (Piece(before), Piece(bare, part), Piece(after))
    return [piece for piece in parts if piece.text]


@dataclass(frozen=True, slots=True, eq=False)
class LargestWeights:
    """The largest weight of each head on one passage, the first token apart.

    What the first token gets is where a head rests; the first query under causal attention can
    look nowhere else. Ties go to the lowest (query, key).
    """

    queries: np.ndarray
    """int64 [n_heads], positions."""
    keys: np.ndarray
    """int64 [n_heads], positions."""
    weights: FloatArray
    """float32 [n_heads]."""

    @staticmethod
    def of(maps: FloatArray) -> "LargestWeights":
        """Find them in float32 [n_heads, n_query, n_key], of at least two tokens."""
        rest = maps[:, 1:, 1:].reshape(len(maps), -1)
        index = rest.argmax(axis=1)
        queries, keys = np.divmod(index, maps.shape[2] - 1)
        return LargestWeights(queries + 1, keys + 1, rest[np.arange(len(rest)), index])
