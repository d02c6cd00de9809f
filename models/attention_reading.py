"""Attention probabilities, read block by block while a model runs.

All maps of a long prompt do not fit into memory: 270 heads of 4,096 tokens are 18 GB. So they are
never there at once. A block of rows of some heads is computed, handed to a reader, and its memory
used for the next one; the reader keeps what it wants. Writing maps into arrays is one reader.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.pass_watch import reached

NEVER = torch.finfo(torch.float32).min
"""The score of a key that a query may not see."""

BLOCK_SCORES = 2**19
"""How many scores (2 MB in float32) are worked on at a time when probabilities are read."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionBlock:
    """Attention probabilities of some heads of one layer at some positions."""

    layer: int
    """Counted in the order in which attention layers run."""
    heads: slice
    """Which of the heads that are read of this layer, in their order."""
    rows: slice
    """Which of the rows that are read, in their order."""
    queries: Tensor
    """int64 [n_rows], the positions that the rows are of."""
    probabilities: Tensor
    """float32 [n_heads, n_rows, n_seen], of the keys 0 to n_seen - 1; later keys get 0. Rows sum
    to 1, or to less with sinks. Not to be changed, and to be copied where it is to be kept."""
    n_key: int
    """How many keys there are."""
    scores: Tensor | None = None
    """float32 like `probabilities`, whose logarithms they are up to a number a row: the largest of
    a row is 0, and where a probability is 0 it is finite. None where they are not known."""


class AttentionReader(Protocol):
    """Takes in attention probabilities while a model runs."""

    def take(self, block: AttentionBlock) -> None:
        """Take in a block. The blocks of a layer come one after the other, each row of each head
        once; what is raised here ends the forward pass."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class MapWriter:
    """The reader that writes whole maps into arrays."""

    places: Mapping[int, Sequence[np.ndarray]]
    """layer -> for each head that is read, float32 [n_rows, n_key]."""

    def take(self, block: AttentionBlock) -> None:
        n_seen = block.probabilities.shape[-1]
        places = self.places[block.layer][block.heads]
        for place, rows in zip(places, block.probabilities, strict=True):
            torch.from_numpy(place[block.rows, :n_seen]).copy_(rows)
            place[block.rows, n_seen:] = 0


@dataclass(frozen=True, slots=True, eq=False)
class OfStack:
    """Hands on what is read of one stack, its layers counted within it."""

    reader: AttentionReader
    layers: Mapping[int, int]
    """Layer in the order in which all run -> layer of the stack."""

    def take(self, block: AttentionBlock) -> None:
        self.reader.take(replace(block, layer=self.layers[block.layer]))


@dataclass(frozen=True, slots=True)
class OfPart:
    """Hands on what is read of one part of a row, whose positions see no other part's, as rows of
    the whole: the keys of other parts get 0."""

    reader: AttentionReader
    part: int
    n_parts: int
    first_row: int
    """Of the rows that are read, the one that is this part's first."""

    def take(self, block: AttentionBlock) -> None:
        probabilities = block.probabilities
        n_key, n_seen = block.n_key, probabilities.shape[-1]
        whole = probabilities.new_zeros(*probabilities.shape[:2], self.n_parts * n_key)
        first = self.part * n_key
        whole[..., first : first + n_seen] = probabilities
        rows = slice(self.first_row + block.rows.start, self.first_row + block.rows.stop)
        n_query = n_key  # parts are a tower's, whose positions look at each other
        self.reader.take(
            AttentionBlock(
                block.layer,
                block.heads,
                rows,
                block.queries + self.part * n_query,
                whole,
                self.n_parts * n_key,
            )
        )


class OutputReader:
    """The reader that computes a layer's z from the weights: what fused attention would give."""

    def __init__(self, value: Tensor, n_heads: int, n_query: int) -> None:
        """Args:
        value: [1, n_kv_heads, n_key, d_head]; all of the layer's heads are to be read, in order.
        """
        self.z = value.new_empty(1, n_query, n_heads, value.shape[-1])
        """[1, n_query, n_heads, d_head]."""
        self._values = value[0].repeat_interleave(n_heads // value.shape[1], dim=0)

    def take(self, block: AttentionBlock) -> None:
        of_keys = self._values[block.heads, : block.probabilities.shape[-1]]
        rows = torch.matmul(block.probabilities, of_keys)  # [n_heads, n_rows, d_head]
        self.z[0, block.rows, block.heads] = rows.transpose(0, 1)


@dataclass(frozen=True, slots=True)
class SeveralReaders:
    """The reader that hands each block to several others, in their order."""

    readers: Sequence[AttentionReader]

    def take(self, block: AttentionBlock) -> None:
        for reader in self.readers:
            reader.take(block)


def read_probabilities(
    query: Tensor,
    key: Tensor,
    layer: int,
    heads: Sequence[int],
    reader: AttentionReader,
    *,
    queries: Sequence[int] | None = None,
    causal: bool = False,
    allowed: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """Compute attention probabilities of some heads of row 0, in float32, for a reader.

    A block of rows at a time, of one head if the prompt is long and of several if it is short, so
    that the working space stays a small part of one map and a block stays in the caches.

    Args:
        query: [batch, n_heads, n_query, d].
        key: [batch, n_kv_heads, n_key, d]; head h uses key head h // (n_heads / n_kv_heads).
        queries: the positions that the rows are of; None for all.
        causal: whether query i sees the keys 0 to i only.
        allowed: bool, broadcastable to [batch, n_heads, n_query, n_key]; None allows all.
        scaling: multiplies q.k; 1/sqrt(d) if None.
        softcap: c in c * tanh(score / c) (Gemma 2).
        sinks: [n_heads], a logit a head that takes probability and gives nothing (gpt-oss).
        bias: added to the scores, broadcastable to [batch, n_heads, n_query, n_key] (T5).
    """
    n_query, n_key = query.shape[2], key.shape[2]
    group = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    positions = list(range(n_query)) if queries is None else list(queries)
    at = torch.tensor(positions, dtype=torch.int64, device=query.device)
    keys = torch.arange(n_key, device=query.device)
    space = _Space(query.device)
    for some in _head_groups(len(heads), len(positions) * n_key):
        chosen = torch.tensor(list(heads[some]), device=query.device)
        # Scaled before the product: there are fewer queries than scores.
        of_queries = query[0, chosen[:, None], at].detach().float() * scale  # [n, n_rows, d]
        of_keys = key[0, chosen // group].detach().float().transpose(1, 2)  # [n, d, n_key]
        for rows, n_seen in _row_blocks(positions, len(chosen), n_key, causal):
            block = at[rows]
            shape = (len(chosen), len(block), n_seen)
            scores = space.scores(shape)
            torch.matmul(of_queries[:, rows], of_keys[:, :, :n_seen], out=scores)
            if softcap is not None:
                scores.div_(softcap).tanh_().mul_(softcap)
            if bias is not None:
                scores += entries_of_heads(bias, chosen, block)[..., :n_seen].float()
            if allowed is not None:
                scores.masked_fill_(~entries_of_heads(allowed, chosen, block)[..., :n_seen], NEVER)
            if causal:
                first = min(positions[rows]) + 1  # no query of the block is kept from earlier keys
                scores[..., first:].masked_fill_(keys[first:n_seen] > block[:, None], NEVER)
            largest = scores.amax(dim=-1, keepdim=True)
            scores.sub_(largest)
            with_sinks = scores
            if sinks is not None:
                column = sinks.reshape(-1)[chosen].float()[:, None, None]
                with_sinks = torch.cat([scores, column - largest], dim=-1)
            probabilities = space.probabilities(tuple(with_sinks.shape))
            torch.softmax(with_sinks, dim=-1, out=probabilities)
            on_keys = probabilities[..., :n_seen]
            known = scores if bias is None else None  # a bias may hold infinities
            reader.take(AttentionBlock(layer, some, rows, block, on_keys, n_key, known))
            reached(layer)


def read_pattern(
    pattern: Tensor,
    layer: int,
    heads: Sequence[int],
    reader: AttentionReader,
    queries: Sequence[int] | None = None,
) -> None:
    """Hand the rows of some heads of a pattern that is there already to a reader.

    Args:
        pattern: [n_heads, n_query, n_key].
        queries: the positions whose rows are handed over; None for all.
    """
    n_query, n_key = pattern.shape[1:]
    positions = list(range(n_query)) if queries is None else list(queries)
    at = torch.tensor(positions, dtype=torch.int64, device=pattern.device)
    for some in _head_groups(len(heads), len(positions) * n_key):
        chosen = torch.tensor(list(heads[some]), device=pattern.device)
        for rows, _ in _row_blocks(positions, len(chosen), n_key, causal=False):
            block = pattern[chosen[:, None], at[rows]].detach().float()  # [n, n_rows, n_key]
            reader.take(AttentionBlock(layer, some, rows, at[rows], block, n_key))
            reached(layer)


class _Space:
    """Memory that all blocks of a layer share: fresh memory would cost a page fault a page."""

    def __init__(self, device: torch.device) -> None:
        self._scores = self._probabilities = torch.empty(0, device=device)

    def scores(self, shape: tuple[int, ...]) -> Tensor:
        self._scores, view = _fitted(self._scores, shape)
        return view

    def probabilities(self, shape: tuple[int, ...]) -> Tensor:
        self._probabilities, view = _fitted(self._probabilities, shape)
        return view


def _fitted(memory: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return memory that is large enough, and the part of it that has this shape."""
    size = math.prod(shape)
    if memory.numel() < size:
        memory = torch.empty(size, device=memory.device)
    return memory, memory[:size].view(shape)


def _head_groups(n_heads: int, n_scores: int) -> Iterator[slice]:
    """Yield groups of heads, of `n_scores` each, as large as one block holds; at least one head."""
    together = max(1, BLOCK_SCORES // max(1, n_scores))
    for first in range(0, n_heads, together):
        yield slice(first, min(first + together, n_heads))


def _row_blocks(
    positions: Sequence[int], n_heads: int, n_key: int, causal: bool
) -> Iterator[tuple[slice, int]]:
    """Yield (rows, how many keys any of them sees) of blocks as large as fit; at least one row."""
    start = 0
    while start < len(positions):
        end, n_seen = start, 0
        while end < len(positions):
            seen = max(n_seen, positions[end] + 1) if causal else n_key
            if end > start and n_heads * (end + 1 - start) * seen > BLOCK_SCORES:
                break
            end, n_seen = end + 1, seen
        yield slice(start, end), n_seen
        start = end


def entries_of_heads(tensor: Tensor, heads: Tensor, rows: Tensor) -> Tensor:
    """Return row 0's [n_heads or 1, n_rows or 1, n_key] of what is broadcast over scores.

    Args:
        tensor: [batch or 1, n_heads or 1, n_query or 1, n_key].
    """
    of_row = tensor[0]
    of_heads = of_row[heads] if of_row.shape[0] > 1 else of_row
    return of_heads[:, rows] if of_heads.shape[1] > 1 else of_heads
