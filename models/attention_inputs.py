"""What an attention layer is given: who may attend to whom, and running it.

The rules for masks are those of transformers' fused attention. Nothing here knows an architecture.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from models.attention_reading import AttentionReader, read_probabilities
from models.errors import ErrorKind, UserError
from models.packed import block_mask, stretches_of_row, unpacked, unpacked_mask

EAGER_KEYWORDS = frozenset({"softcap", "s_aux"})
"""Keywords that fused attention cannot honour: the model's own eager function runs instead."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a dispatching attention layer is given."""

    module: nn.Module
    query: Tensor
    """[batch, n_heads, n_query, d]"""
    key: Tensor
    """[batch, n_kv_heads, n_key, d]"""
    value: Tensor
    """[batch, n_kv_heads, n_key, d_head]"""
    mask: Tensor | None
    """bool or additive, [batch or 1, n_heads or 1, n_query, n_key]; None: causal if the module
    is, else full."""
    options: Mapping[str, Any]
    """The other keywords that the architecture passes."""
    stretches: tuple[int, ...] | None = None
    """Where there is no mask: the lengths of stretches of positions, one behind the other, each of
    which sees itself alone."""


def rows_apart(inputs: Inputs, n_rows: int) -> Inputs:
    """Return what a layer is given with the rows that are packed in it one by one."""
    mask, stretches = inputs.mask, inputs.stretches
    return replace(
        inputs,
        query=unpacked(inputs.query, n_rows),
        key=unpacked(inputs.key, n_rows),
        value=unpacked(inputs.value, n_rows),
        mask=None if mask is None else unpacked_mask(mask, n_rows),
        stretches=None if stretches is None else stretches_of_row(stretches, n_rows),
    )


def part_of_inputs(inputs: Inputs, part: int) -> Inputs:
    """Return what a layer is given of one part of the first row."""
    own = slice(part, part + 1)
    mask = inputs.mask
    return replace(
        inputs,
        query=inputs.query[own],
        key=inputs.key[own],
        value=inputs.value[own],
        mask=mask if mask is None or mask.shape[0] == 1 else mask[own],
    )


def read_inputs(
    inputs: Inputs,
    layer: int,
    heads: Sequence[int],
    reader: AttentionReader,
    queries: Sequence[int] | None = None,
) -> None:
    """Have the probabilities of some heads of one layer read; see `read_probabilities`."""
    # A missing mask is not made: it would take as much room as a map of bytes.
    causal = inputs.mask is None and masks_the_future(inputs)
    read_probabilities(
        inputs.query,
        inputs.key,
        layer,
        heads,
        reader,
        queries=queries,
        causal=causal,
        allowed=None if causal else allowed_keys(inputs),
        scaling=inputs.options.get("scaling"),
        softcap=inputs.options.get("softcap"),
        sinks=inputs.options.get("s_aux"),
        bias=score_bias(inputs),
    )


def run_attention(inputs: Inputs) -> Tensor:
    """Run fused attention, or the model's own eager function for what fused cannot honour.

    Returns:
        z, [batch, n_query, n_heads, d_head].
    """
    if inputs.stretches is not None and len(inputs.stretches) > 1:
        return torch.cat([run_attention(one) for one in _one_by_one(inputs)], dim=1)
    module, options, mask = inputs.module, inputs.options, inputs.mask
    tensors = (inputs.query, inputs.key, inputs.value)
    if not needs_eager(options):
        return sdpa_attention_forward(module, *tensors, mask, **options)[0]
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise UserError(
            ErrorKind.MODEL,
            f"{type(module).__name__} has no eager attention function to fall back to; "
            "this architecture is not supported.",
        )
    additive = _additive(mask, allowed_keys(inputs), inputs.query)
    z: Tensor = eager(module, *tensors, additive, **options)[0]
    return z


def _one_by_one(inputs: Inputs) -> Iterator[Inputs]:
    """Return what a layer is given of each stretch of positions."""
    assert inputs.stretches is not None
    given = (inputs.query, inputs.key, inputs.value)
    for query, key, value in zip(*(g.split(inputs.stretches, dim=2) for g in given), strict=True):
        yield replace(inputs, query=query, key=key, value=value, stretches=None)


def needs_eager(options: Mapping[str, Any]) -> bool:
    """Whether a layer asks for something that fused attention cannot honour."""
    return any(options.get(name) is not None for name in EAGER_KEYWORDS)


def is_causal(inputs: Inputs) -> bool:
    """Whether a missing mask means causal attention, as transformers' fused attention has it."""
    stated = inputs.options.get("is_causal")
    return bool(getattr(inputs.module, "is_causal", True) if stated is None else stated)


def allowed_keys(inputs: Inputs) -> Tensor | None:
    """Return where attention may go, bool [batch or 1, n_heads or 1, n_query, n_key].

    The rules for a missing mask are those of transformers' fused attention. None: everywhere.
    """
    mask = inputs.mask
    if mask is not None:
        if mask.dtype == torch.bool:
            return mask
        # Additive masks write "never" as -inf or as the smallest number of their dtype.
        return mask > torch.finfo(mask.dtype).min / 2
    if inputs.stretches is not None and len(inputs.stretches) > 1:
        return block_mask(inputs.stretches, inputs.query.device)
    if not masks_the_future(inputs):
        return None
    n_query, n_key = inputs.query.shape[2], inputs.key.shape[2]
    ones = torch.ones(n_query, n_key, dtype=torch.bool, device=inputs.query.device)
    return ones.tril()[None, None]


def masks_the_future(inputs: Inputs) -> bool:
    """Whether a missing mask keeps these queries from later keys; a lone query sees all keys."""
    return is_causal(inputs) and inputs.query.shape[2] > 1


def score_bias(inputs: Inputs) -> Tensor | None:
    """Return what is added to the scores beside "never": a position bias, a float mask."""
    bias, mask = inputs.options.get("position_bias"), inputs.mask
    if mask is None or mask.dtype == torch.bool:
        return bias
    return mask if bias is None else mask + bias


def _additive(mask: Tensor | None, allowed: Tensor | None, query: Tensor) -> Tensor | None:
    """Return the mask as eager functions add it to the scores."""
    if mask is not None and mask.dtype != torch.bool:
        return mask
    if allowed is None:
        return None
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(allowed, zero, torch.finfo(query.dtype).min)
