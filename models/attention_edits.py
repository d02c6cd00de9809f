"""Carrying out what is planned for heads: on what they put out, and on who may attend to whom."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.attention_inputs import Inputs, allowed_keys
from models.edits import RowPlan
from models.errors import ErrorKind, UserError


@dataclass(frozen=True, slots=True, eq=False)
class EmptyQueries:
    """Queries that a knockout leaves no key, in one layer of one pass."""

    layer: int
    first: int
    """The prompt's position that the queries begin with."""
    empty: Tensor
    """bool [n, n_query], True where none is left."""


def edit_outputs(z: Tensor, layer: int, plan: RowPlan | None, first: int = 0) -> Tensor:
    """Return z with the planned heads of this layer changed; the same tensor if there are none.

    Args:
        z: [batch, position, n_heads, d_head].
        first: the prompt's position that z begins with.
    """
    if plan is None or not plan.touches(layer) or plan.editor.blocked is not None:
        return z
    rows, heads = plan.pairs(layer, z.device)
    before = z[rows, :, heads]  # [n, position, d_head]
    z = z.clone()
    z[rows, :, heads] = edited_heads(before, layer, heads, plan, first)
    return z


def edited_heads(
    before: Tensor, layer: int, heads: Tensor, plan: RowPlan, first: int = 0
) -> Tensor:
    """Return z of some heads as the plan's editor makes it, where the plan acts.

    Args:
        before: [n, position, d_head]; heads: int64 [n].
        first: the prompt's position that `before` begins with.
    """
    after = plan.editor.edit_z(before, layer, heads, first)
    if plan.acted_on is None:
        return after
    here = plan.acted_on[first : first + before.shape[1]].to(before.device)
    return torch.where(here[None, :, None], after, before)


def allowed_with_plan(
    allowed: Tensor,
    layer: int,
    plan: RowPlan | None,
    batch: int,
    n_heads: int,
    left_alone: list[EmptyQueries],
    first: int = 0,
    n_parts: int = 1,
) -> Tensor:
    """Return the mask with the planned queries kept from the planned keys.

    Args:
        allowed: bool [batch or 1, n_heads or 1, n_query, n_key], True where attention may go.
        left_alone: gets the queries that are left no key.
        first: the prompt's position that the queries begin with.
        n_parts: how many of the layer's rows make one of the plan's (`TapRequest.n_rows`).

    Returns:
        The same tensor when the plan does not touch this layer's pattern, else
        bool [batch, n_heads, n_query, n_key].
    """
    if plan is None or not plan.touches(layer) or plan.editor.blocked is None:
        return allowed
    rows, heads = plan.pairs(layer, allowed.device)
    n_query, n_key = allowed.shape[-2:]
    allowed = allowed.expand(batch, n_heads, n_query, n_key).clone()
    for part in range(n_parts):
        query, key = first + part * n_query, part * n_key
        blocked = plan.editor.blocked[query : query + n_query, key : key + n_key]
        own = rows * n_parts + part
        allowed[own, heads] &= ~blocked.to(allowed.device)
        left_alone.append(EmptyQueries(layer, query, ~allowed[own, heads].any(dim=-1)))
    return allowed


def refuse_empty_queries(left_alone: Sequence[EmptyQueries]) -> None:
    """Raise `UserError` if a knockout left a query no key."""
    for found in left_alone:
        if bool(found.empty.any()):
            position = found.first + int(found.empty.any(dim=0).nonzero()[0])
            raise UserError(
                ErrorKind.INTERVENTION,
                f"The knockout leaves position {position} nothing to attend to in layer "
                f"{found.layer}; leave it at least one key (its own position, for example).",
            )


def planned_inputs(
    inputs: Inputs,
    layer: int,
    plan: RowPlan | None,
    left_alone: list[EmptyQueries],
    first: int = 0,
    n_parts: int = 1,
) -> Inputs:
    """Return the inputs with the knocked-out (query, key) pairs taken out of the mask.

    Args:
        left_alone: gets the queries that are left no key (`allowed_with_plan`).
        first: the prompt's position that the queries begin with.
        n_parts: how many of the layer's rows make one of the plan's.
    """
    if plan is None or not plan.touches(layer) or plan.editor.blocked is None:
        return inputs
    query, mask = inputs.query, inputs.mask
    allowed = allowed_keys(inputs)
    if allowed is None:
        shape = (1, 1, query.shape[2], inputs.key.shape[2])
        allowed = torch.ones(shape, dtype=torch.bool, device=query.device)
    planned = allowed_with_plan(
        allowed, layer, plan, query.shape[0], query.shape[1], left_alone, first, n_parts
    )
    if mask is not None and mask.dtype != torch.bool:
        planned = mask.masked_fill(~planned, torch.finfo(mask.dtype).min)
    return replace(inputs, mask=planned, stretches=None)
