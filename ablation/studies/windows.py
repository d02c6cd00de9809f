"""How local attention is, and what it costs to confine it: the two halves of a reading by distance.

The first token is set aside throughout. Many heads leave there the attention that they do not need
(Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks"), which says nothing
about distance, and a model that cannot do so breaks whatever else it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ablation.interventions.editors import BlockedPattern
from ablation.types import LEAST_REST
from models.attention_reading import AttentionBlock
from models.types import FloatArray, Head, TokenizedPrompt

if TYPE_CHECKING:
    from torch import Tensor

    from models.edits import HeadEditor
    from models.language_model import LanguageModel

WIDTHS = (1, 2, 4, 8)
"""Tokens back within which weight is counted, the query itself included."""
FIRST_QUERY = WIDTHS[-1] + 2
"""The first position that counts: it and all behind see more than the first token beyond the widest
window, so that no share is 1 for want of a choice."""
DISTANCE, ENTROPY, FIRST = range(len(WIDTHS), len(WIDTHS) + 3)
"""Columns of measures behind the shares: mean distance (positions), entropy (nats), and weight on
the first token."""
N_MEASURES = len(WIDTHS) + 3


@dataclass(frozen=True, slots=True)
class Confined:
    """Let queries see the first token, themselves, and near keys only, or far ones only."""

    width: int
    """How many tokens back is near."""
    near: bool = True
    """Whether near keys are seen; otherwise all but those."""

    @property
    def spec(self) -> str:
        return f"{'near' if self.near else 'far'}:{self.width}"

    @property
    def label(self) -> str:
        side = "up to" if self.near else "more than"
        return f"keys {side} {self.width} back"

    def prepare(
        self,
        model: LanguageModel,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        positions: Sequence[int] | None,
    ) -> HeadEditor:
        return BlockedPattern(self.blocked(len(prompt)).to(model.device))

    def blocked(self, n: int) -> Tensor:
        """Return what is not seen, bool [query, key]."""
        import torch

        back = torch.arange(n)[:, None] - torch.arange(n)  # query, key
        blocked = back > self.width if self.near else (back >= 1) & (back <= self.width)
        blocked[:, 0] = False
        return blocked


class DistanceReader:
    """The reader that measures how far each head of a causal model looks on one prompt."""

    def __init__(self, n_layers: int, n_heads: int) -> None:
        shape = (n_layers, n_heads)
        self._sums = np.zeros((*shape, N_MEASURES))
        self._within = np.zeros((*shape, len(WIDTHS)))
        self._rest = np.zeros(shape)
        self._counted = np.zeros(shape)
        self._rows = np.zeros(shape)

    def take(self, block: AttentionBlock) -> None:
        queries = block.queries.cpu().numpy()
        chosen = queries >= FIRST_QUERY
        if not chosen.any():
            return
        weights = block.probabilities.cpu().numpy()[:, chosen].astype(np.float64)
        first = weights[..., 0].copy()
        weights[..., 0] = 0
        rest = weights.sum(axis=-1)  # [n_heads, n_rows]
        enough = rest >= LEAST_REST
        scaled = weights / np.where(enough, rest, np.inf)[..., None]
        back = queries[chosen][:, None] - np.arange(weights.shape[-1])  # [n_rows, n_keys]
        near = np.stack([back <= width for width in WIDTHS])  # [n_widths, n_rows, n_keys]
        at = (block.layer, block.heads)
        self._sums[at][..., : len(WIDTHS)] += np.einsum("hqk,wqk->hw", scaled, near)
        self._sums[at][..., DISTANCE] += np.einsum("hqk,qk->h", scaled, back)
        logs = np.log(np.where(scaled > 0, scaled, 1))
        self._sums[at][..., ENTROPY] -= (scaled * logs).sum(axis=(1, 2))
        self._sums[at][..., FIRST] += first.sum(axis=-1)
        self._within[at] += np.einsum("hqk,wqk->hw", weights, near)
        self._rest[at] += rest.sum(axis=-1)
        self._counted[at] += enough.sum(axis=-1)
        self._rows[at] += chosen.sum()

    def of_heads(self) -> FloatArray:
        """Return each head's means over queries, [n_layers, n_heads, N_MEASURES].

        Rows are scaled to sum to 1 without the first token. NaN where a head is absent, or leaves
        nothing to other tokens.
        """
        counted = np.repeat(self._counted[..., None], N_MEASURES, axis=-1)
        counted[..., FIRST] = self._rows
        return self._sums / np.where(counted > 0, counted, np.nan)

    def by_weight(self) -> FloatArray:
        """Return each layer's shares, [n_layers, n_widths], where a row counts by the weight that
        it leaves to other tokens than the first."""
        rest = self._rest.sum(axis=1)
        return self._within.sum(axis=1) / np.where(rest > 0, rest, np.nan)[:, None]


def even_shares(n_tokens: int) -> FloatArray:
    """Return the shares of attention that is even over all keys but the first, [n_widths]."""
    queries = np.arange(FIRST_QUERY, n_tokens)
    shares = [np.minimum(width + 1, queries) / queries for width in WIDTHS]
    means: FloatArray = np.mean(shares, axis=1)
    return means
