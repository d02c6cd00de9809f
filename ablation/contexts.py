"""Where in a corpus a head looks most: its strongest contexts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.types import FloatArray, TokenizedPrompt

if TYPE_CHECKING:
    from models.attention_reading import AttentionBlock

ELLIPSIS = " … "
TOWARDS = "  →  "
"""Between two texts, from the one that looks to the one that is looked at."""

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
    """Positions in `prompt` (the key in `looked_at`, if there is one), counted from 0."""
    weight: float
    looked_at: TokenizedPrompt | None = None
    """Whose positions keys are, where not `prompt`'s: cross attention looks at the source."""

    def pieces(self, around: int = 5) -> list[Piece]:
        """Return the text around both tokens, piece by piece; of two texts one after the other.

        Args:
            around: how many tokens are shown on either side of each.
        """
        if self.looked_at is not None:
            of_query = _around(self.prompt, {self.query: "query"}, around)
            return [*of_query, Piece(TOWARDS), *_around(self.looked_at, {self.key: "key"}, around)]
        parts = {self.query: "query", self.key: "key"}
        return _around(
            self.prompt, {self.query: "both"} if self.query == self.key else parts, around
        )

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
            "key_token": (self.looked_at or self.prompt).labels[self.key],
            "weight": self.weight,
            "excerpt": self.excerpt(),
        }


def _around(prompt: TokenizedPrompt, parts: Mapping[int, str], around: int) -> list[Piece]:
    """Return the text around some positions.

    Args:
        parts: position -> the part that it plays.
    """
    n = len(prompt)
    near = [i for i in range(n) if min(abs(i - position) for position in parts) <= around]
    pieces = [Piece(ELLIPSIS)] if near[0] else []
    for i, after in zip(near, [*near[1:], n], strict=True):
        pieces.extend(_pieces_of(prompt.texts[i], parts.get(i, "")))
        if after > i + 1:
            pieces.append(Piece(ELLIPSIS))
    return pieces


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
    """The reader that finds the largest weight of each head on one passage, the first tokens apart.

    What the first token gets is where a head rests; the first query under causal attention can
    look nowhere else, and in a decoder stands for no text. Ties go to the lowest (query, key).
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
