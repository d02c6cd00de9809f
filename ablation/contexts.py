"""Where in a corpus a head looks most: its strongest contexts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.types import FloatArray, TokenizedPrompt

if TYPE_CHECKING:
    from models.attention_reading import AttentionBlock

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


class LargestWeights:
    """The reader that finds the largest weight of each head on one passage, the first token apart.

    What the first token gets is where a head rests; the first query under causal attention can
    look nowhere else. Ties go to the lowest (query, key).
    """

    def __init__(self, n_layers: int, n_heads: int) -> None:
        grid = (n_layers, n_heads)
        self.weights: FloatArray = np.full(grid, np.nan, np.float32)
        """float32 [n_layers, n_heads]; NaN for absent heads."""
        self.queries = np.zeros(grid, np.int64)
        """int64 [n_layers, n_heads], positions."""
        self.keys = np.zeros(grid, np.int64)
        """int64 [n_layers, n_heads], positions."""

    def take(self, block: "AttentionBlock") -> None:
        queries = block.queries.cpu().numpy()
        weights = block.probabilities[:, queries > 0, 1:].cpu().numpy()  # [n, n_rows, n_keys]
        if weights[0].size == 0:
            return
        flat = weights.reshape(len(weights), -1)
        index = flat.argmax(axis=1)
        rows, keys = np.divmod(index, weights.shape[2])
        largest = flat[np.arange(len(flat)), index]
        larger = ~(self.weights[block.layer, block.heads] >= largest)  # than NaN too
        for known, found in (
            (self.weights, largest),
            (self.queries, queries[queries > 0][rows]),
            (self.keys, keys + 1),
        ):
            known[block.layer, block.heads][larger] = found[larger]
