"""Attention of many heads, a part of them at a time, so that memory stays bounded."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from models.types import AttentionMaps, Head, TokenizedPrompt

if TYPE_CHECKING:
    from ablation.types import Ablation
    from models.language_model import LanguageModel

PART_BYTES = 128 * 2**20
"""Maps of so much memory are read in one forward pass."""


def parts_of(
    heads: Sequence[Head], extent: tuple[int, int], max_bytes: int = PART_BYTES
) -> Iterator[tuple[Head, ...]]:
    """Yield the heads in parts whose maps together take at most `max_bytes`; at least one each.

    Args:
        extent: how many queries and keys a map has.
    """
    n_queries, n_keys = extent
    size = max(1, max_bytes // (4 * n_queries * n_keys))
    remaining = iter(heads)
    while part := tuple(islice(remaining, size)):
        yield part


def read_in_parts(
    model: "LanguageModel",
    prompt: TokenizedPrompt,
    heads: Sequence[Head] | None = None,
    ablation: "Ablation | None" = None,
) -> Iterator[AttentionMaps]:
    """Yield the maps of heads of one stack (None for all of the main one), in their order, as many
    at a time as memory allows.

    Each part is one forward pass; a prompt of usual length needs one for all heads.
    """
    wanted = model.all_heads() if heads is None else heads
    axes = model.axes_of(prompt, wanted)
    for part in parts_of(wanted, (len(axes.queries), len(axes.keys))):
        yield model.attention(prompt, part, ablation)
