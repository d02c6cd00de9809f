"""Interventions made ready for one model and one prompt: what the model calls while it runs.

Each class carries out one kind of edit, as `models.edits.HeadEditor` asks. The interventions that
people choose are in `ablation.interventions.values`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ScaledZ:
    factor: float

    @property
    def blocked(self) -> None:
        return None

    @property
    def mixes_positions(self) -> bool:
        return False

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        # Not z * 0: an infinite entry must become 0 too.
        return z.new_zeros(z.shape) if self.factor == 0 else z * self.factor


@dataclass(frozen=True, slots=True, eq=False)
class OwnMeanZ:
    @property
    def blocked(self) -> None:
        return None

    @property
    def mixes_positions(self) -> bool:
        return True

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        return z.mean(dim=1, keepdim=True).expand_as(z)  # [n, position, d_head]


@dataclass(frozen=True, slots=True, eq=False)
class GivenZ:
    """Puts in outputs that were computed beforehand."""

    by_layer: dict[int, Tensor]
    """layer -> [position or 1, n_heads, d_head]; a single position serves all of them."""

    @property
    def blocked(self) -> None:
        return None

    @property
    def mixes_positions(self) -> bool:
        return False

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        given = self.by_layer[layer]
        if given.shape[0] > 1:
            given = given[first : first + z.shape[1]]
        chosen = given[:, heads.to(given.device)].transpose(0, 1)  # [n, position or 1, d_head]
        return chosen.to(device=z.device, dtype=z.dtype).expand_as(z)


@dataclass(frozen=True, slots=True, eq=False)
class ReorderedZ:
    source: Tensor
    """int64 [position]: the position whose z each position receives."""

    @property
    def blocked(self) -> None:
        return None

    @property
    def mixes_positions(self) -> bool:
        return True

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        return z[:, self.source.to(z.device)]


@dataclass(frozen=True, slots=True, eq=False)
class LargeZ:
    threshold: float

    @property
    def blocked(self) -> None:
        return None

    @property
    def mixes_positions(self) -> bool:
        return False

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        return z.masked_fill(z.abs() < self.threshold, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class LargestZ:
    fraction: float
    positions: Tensor
    """int64 [m]: the positions among whose entries the largest are kept."""

    @property
    def blocked(self) -> None:
        return None

    @property
    def mixes_positions(self) -> bool:
        return True

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        at = self.positions.to(z.device)
        entries = z[:, at].flatten(1)  # [n, m * d_head]
        kept = math.floor(self.fraction * entries.shape[1] + 0.5)
        # A stable sort, not topk: equal entries are kept in a fixed order.
        order = entries.abs().argsort(dim=1, descending=True, stable=True)
        sparse = entries.scatter(1, order[:, kept:], 0.0)
        edited = z.clone()
        edited[:, at] = sparse.view(len(z), len(at), z.shape[2])
        return edited


@dataclass(frozen=True, slots=True, eq=False)
class BlockedPattern:
    blocked: Tensor

    @property
    def mixes_positions(self) -> bool:
        return False

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        return z
