"""Where in a corpus a head looks most: its strongest contexts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import numpy as np

from models.types import FloatArray, TokenizedPrompt

ELLIPSIS = " … "


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

    def excerpt(self, around: int = 5) -> str:
        """Return the text around both tokens, the query in ‹guillemets›, the key in [brackets].

        Args:
            around: how many tokens are shown on either side of each.
        """
        marks = {self.query: "‹{}›"}
        marks[self.key] = "‹[{}]›" if self.key == self.query else "[{}]"
        shown = [
            i
            for i in range(len(self.prompt))
            if min(abs(i - self.query), abs(i - self.key)) <= around
        ]
        pieces = [] if not shown or shown[0] == 0 else [ELLIPSIS]
        for i, after in zip(shown, [*shown[1:], len(self.prompt)], strict=True):
            text = self.prompt.texts[i]
            pieces.append(_marked(text, marks[i]) if i in marks else text)
            if after > i + 1:
                pieces.append(ELLIPSIS)
        return " ".join("".join(pieces).split())

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


def _marked(text: str, mark: str) -> str:
    """Put a token in its marks, the white space around it outside."""
    bare = text.strip()
    if not bare:
        return mark.format(text.replace("\n", "⏎").replace(" ", "·"))
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{before}{mark.format(bare)}{after}"


def contexts_in(
    passage: str, prompt: TokenizedPrompt, weights: FloatArray, n: int
) -> Iterator[Context]:
    """Yield the n largest weights of one map, the largest first; the first token apart.

    What the first token gets is where a head rests; the first query under causal attention can
    look nowhere else. Ties go to the lowest (query, key).

    Args:
        weights: float32 [query, key].
    """
    rest = weights[1:, 1:].reshape(-1)  # every query but the first, every key but the first
    for index in np.argsort(-rest, kind="stable")[:n].tolist():
        query, key = divmod(index, weights.shape[1] - 1)
        yield Context(passage, prompt, query + 1, key + 1, float(rest[index]))


def strongest(contexts: Iterable[Context], n: int) -> tuple[Context, ...]:
    """Return the n contexts of most weight, the first of equal ones first."""
    return tuple(nlargest(n, contexts, key=lambda context: context.weight))
