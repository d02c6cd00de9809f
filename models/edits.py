"""How a running request says what to change inside attention.

An intervention (a value, in `ablation.interventions`) is made ready for one model and prompt: that
gives a `HeadEditor`. A `RowPlan` then says on which rows of the batch and on which heads it acts.
The attention tap carries the plan out; nothing here knows an architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from models.places import Place
from models.types import Head, TokenizedPrompt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.language_model import LanguageModel


class HeadEditor(Protocol):
    """An intervention made ready for one model and one prompt."""

    @property
    def blocked(self) -> Tensor | None:
        """bool [n_query, n_key], True where a query may not attend to a key; the probability
        that was there is shared among its other keys. None for an intervention on z."""
        ...

    @property
    def mixes_positions(self) -> bool:
        """Whether z at one position is changed according to z at others (a mean, a shuffle).
        Such an editor is always handed all positions of the prompt."""
        ...

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        """Return the new outputs of some heads of one layer.

        Args:
            z: [n, position, d_head], the output of each selected head before the output
                projection. Not to be changed in place.
            layer: the layer they belong to.
            heads: int64 [n], which head each entry of `z` is.
            first: the prompt's position that `z` begins with.

        Returns:
            [n, position, d_head], same dtype and device.
        """
        ...


class Intervention(Protocol):
    """What `LanguageModel` needs of an intervention."""

    def prepare(
        self,
        model: LanguageModel,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        positions: Sequence[int] | None,
    ) -> HeadEditor:
        """Make the intervention ready to act on `heads` (those it may be asked for).

        Args:
            heads: of one stack; `model.axes_of(prompt, heads)` are its positions.
            positions: those of the stack's queries that are acted on; None for all.

        Raises:
            UserError: a parameter does not fit this model or prompt.
        """
        ...


class AblationLike(Protocol):
    """What `LanguageModel` needs of an `ablation.types.Ablation`."""

    @property
    def heads(self) -> tuple[Head, ...]: ...
    @property
    def intervention(self) -> Intervention: ...
    @property
    def positions(self) -> tuple[Place, ...] | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class RowPlan:
    """Which heads are edited in which rows of a batch, and how."""

    editor: HeadEditor
    by_layer: dict[int, tuple[Tensor, Tensor]]
    """layer -> (row int64 [n], head int64 [n]): the (row, head) pairs edited there."""
    acted_on: Tensor | None
    """bool [n_positions], True where the intervention acts; None for everywhere."""

    @staticmethod
    def for_rows(
        editor: HeadEditor,
        head_sets: Sequence[Sequence[Head]],
        acted_on: Tensor | None,
        device: torch.device,
    ) -> RowPlan:
        """Plan a batch whose row r has the heads of `head_sets[r]` edited."""
        return RowPlan(editor, rows_by_layer(head_sets, device), acted_on)

    def touches(self, layer: int) -> bool:
        return layer in self.by_layer

    def of(self, layer: int) -> RowPlan | None:
        """Return the plan of one layer; None if nothing is edited there."""
        return self if self.touches(layer) else None

    def pairs(self, layer: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the (rows, heads) edited in a layer, on the device where the layer runs."""
        rows, heads = self.by_layer[layer]
        return rows.to(device), heads.to(device)


@dataclass(frozen=True, slots=True, eq=False)
class JointPlan:
    """Plans for layers of different stacks, whose positions differ; no layer is in two of them."""

    parts: tuple[RowPlan, ...]

    def of(self, layer: int) -> RowPlan | None:
        """Return the plan of one layer; None if nothing is edited there."""
        return next((part for part in self.parts if part.touches(layer)), None)


Plan = RowPlan | JointPlan


def rows_by_layer(
    head_sets: Sequence[Sequence[Head]], device: torch.device
) -> dict[int, tuple[Tensor, Tensor]]:
    """Return layer -> (row int64 [n], head int64 [n]) of sets of heads, one set a row."""
    import torch

    pairs: dict[int, list[tuple[int, int]]] = {}
    for row, heads in enumerate(head_sets):
        for head in heads:
            pairs.setdefault(head.layer, []).append((row, head.head))
    by_layer = {}
    for layer, members in pairs.items():
        index = torch.tensor(members, dtype=torch.int64, device=device)  # [n, 2]
        by_layer[layer] = (index[:, 0], index[:, 1])
    return by_layer


def acted_on_mask(
    positions: Sequence[int] | None, n_positions: int, device: torch.device
) -> Tensor | None:
    """Return chosen positions as bool [n_positions]; None for all of them."""
    if positions is None:
        return None
    import torch

    mask = torch.zeros(n_positions, dtype=torch.bool)
    mask[list(positions)] = True
    return mask.to(device)
