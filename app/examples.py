"""Prompts to start from, and heads worth a first look."""

from dataclasses import dataclass

import numpy as np

from models.types import AttentionMaps, Head


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with the reason to look at it."""

    group: str
    label: str
    text: str


EXAMPLES = (
    Example(
        "Names and agreement",
        "Who receives the drink? (indirect object)",
        "When Mary and John went to the store, John gave a drink to",
    ),
    Example("Names and agreement", "One key or many? (agreement)", "The key to the cabinets"),
    Example(
        "Names and agreement",
        "Too big or too small? (Winograd)",
        "The trophy doesn't fit in the brown suitcase because it's too",
    ),
    Example(
        "Copying",
        "The same again (induction)",
        "The cat sat on the mat. The cat sat on the",
    ),
    Example(
        "Numbers and facts",
        "Which year can it be? (greater-than)",
        "The war lasted from the year 1732 to the year 17",
    ),
    Example("Numbers and facts", "Capital of France (recall)", "The capital of France is"),
)

BUILTIN_HEADS = tuple(
    Head(layer, head) for layer, head in ((16, 0), (8, 0), (17, 4), (24, 4), (20, 0), (23, 0))
)
"""Heads of the built-in model that show on the first example how it finds the name: 16.0 looks at
the previous token (weight 0.79 on average); from the second "John", 8.0 looks at the first one
(0.86) and 17.4 at what followed it (0.82); from the last token, 20.0 looks at the repeated name
(0.78), and 24.4 and 23.0 at the other one (0.81 and 0.69), which is the prediction."""

N_FIRST_HEADS = 6
N_STACK_HEADS = 2
"""How many heads of each stack are shown first where there are several."""


def interesting_heads(maps: AttentionMaps, count: int = N_FIRST_HEADS) -> tuple[Head, ...]:
    """Return heads of different layers that look hardest at something other than the start.

    Most heads rest on the first token of a prompt most of the time; what is left, less the
    weight on the query itself, says how much a head does on this prompt.

    Args:
        maps: attention of every head that may be returned.
        count: how many heads are wanted; fewer are returned if there are fewer layers.

    Returns:
        The heads, sorted.
    """
    weight = maps.values.astype(np.float64)  # [n_heads, n_query, n_key]
    n = weight.shape[1]
    own = np.einsum("hqq->hq", weight)
    elsewhere = (weight.sum(axis=2) - weight[:, :, 0] - own)[:, min(1, n - 1) :].mean(axis=1)
    best: dict[int, tuple[float, Head]] = {}
    for head, score in zip(maps.heads, elsewhere.tolist(), strict=True):
        if head.layer not in best or score > best[head.layer][0]:
            best[head.layer] = (score, head)
    order = sorted(best.values(), key=lambda item: (-item[0], item[1]))
    return tuple(sorted(head for _, head in order[:count]))


def sharpest_heads(maps: AttentionMaps, count: int = N_STACK_HEADS) -> tuple[Head, ...]:
    """Return heads of different layers whose queries look hardest at one key each.

    For a stack whose queries and keys may be different positions, where there is no start and no
    own position to rest on.

    Args:
        maps: attention of every head of the stack.
        count: how many heads are wanted; fewer are returned if there are fewer layers.

    Returns:
        The heads, sorted.
    """
    largest = maps.values.max(axis=2).mean(axis=1)  # [n_heads]
    best: dict[int, tuple[float, Head]] = {}
    for head, score in zip(maps.heads, largest.tolist(), strict=True):
        if head.layer not in best or score > best[head.layer][0]:
            best[head.layer] = (score, head)
    order = sorted(best.values(), key=lambda item: (-item[0], item[1]))
    return tuple(sorted(head for _, head in order[:count]))


def spread_heads(n_layers: int, n_heads: int, count: int = N_FIRST_HEADS) -> tuple[Head, ...]:
    """Return heads spread over the layers, for when measuring every head takes too much memory."""
    layers = np.linspace(0, n_layers - 1, num=min(count, n_layers)).round().astype(int)
    return tuple(Head(int(layer), i % n_heads) for i, layer in enumerate(layers))
