"""Many sets of ablated heads in one forward pass, sharing what they have in common.

A head of layer l changes nothing before layer l. So the batch starts with one row, in which only
the heads common to all sets are ablated, and grows on its way up: before block l, one copy of that
row is appended for each set whose first own head lies in layer l. Against one row a set from the
bottom up this halves the work of a sweep, and a search step gains the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_hooks import AttentionSite
from models.attention_tap import active_request
from models.edits import HeadEditor, RowPlan
from models.types import Head


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """How a batch grows, and where each set of heads ends up in it."""

    appended: dict[int, int]
    """layer -> how many copies of row 0 are appended before its block."""
    row_of_set: tuple[int, ...]
    """The row of the full batch that holds each set."""
    head_sets: tuple[tuple[Head, ...], ...]
    """The heads edited in each row of the full batch, from the layer where the row begins."""

    @staticmethod
    def of(head_sets: Sequence[Sequence[Head]]) -> "Growth":
        """Plan the growth for these sets; row 0 has what all of them share."""
        sets = [frozenset(heads) for heads in head_sets]
        common = frozenset.intersection(*sets)
        own = [(min(h.layer for h in s - common), i) for i, s in enumerate(sets) if s != common]
        row_of_set = [0] * len(sets)
        rows = [tuple(sorted(common))]
        appended: dict[int, int] = {}
        for layer, i in sorted(own):
            row_of_set[i] = len(rows)
            # Below this layer the set's edits are those of row 0, which the copy inherits.
            rows.append(tuple(sorted(h for h in sets[i] if h.layer >= layer)))
            appended[layer] = appended.get(layer, 0) + 1
        return Growth(appended, tuple(row_of_set), tuple(rows))

    def plan(
        self, editor: HeadEditor, positions: Sequence[int] | None, device: torch.device
    ) -> RowPlan:
        return RowPlan.for_rows(editor, self.head_sets, positions, device)


def find_blocks(model: nn.Module, sites: Sequence[AttentionSite]) -> list[nn.Module] | None:
    """Return the block that holds each attention layer: the members of one module list.

    None when there is no such list (layers that share one module, for example).
    """
    for candidate in model.modules():
        if not isinstance(candidate, nn.ModuleList) or len(candidate) != len(sites):
            continue
        blocks = list(candidate)
        held = zip(blocks, sites, strict=True)
        if all(site.module in set(block.modules()) for block, site in held):
            return blocks
    return None


def install_growth(blocks: Sequence[nn.Module]) -> None:
    """Let blocks grow the batch that enters them, where the active request wants it."""
    for layer, block in enumerate(blocks):

        def grow(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], layer: int = layer
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            request = active_request()
            n = 0 if request is None else request.grow.get(layer, 0)
            if n == 0:
                return None
            if args:
                return (_with_copies(args[0], n), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": _with_copies(kwargs["hidden_states"], n)}

        block.register_forward_pre_hook(grow, with_kwargs=True)


def _with_copies(hidden: Tensor, n: int) -> Tensor:
    """Append n copies of row 0 to [batch, position, d_model]."""
    return torch.cat([hidden, hidden[:1].expand(n, *hidden.shape[1:])])
