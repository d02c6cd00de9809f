"""Attention of many rows whose earlier keys and values are the same.

Rows that differ from each other only from some position on share the keys and values before it.
Copying these for each row costs more than the attention itself when few positions differ. Here the
rows' queries are stacked, so that the shared part is one matrix product a key-value head.
"""

import torch
from torch import Tensor

from models.attention_inputs import Inputs, needs_eager


def can_share(inputs: Inputs, n_shared: int) -> bool:
    """Whether `attend` may serve: softmax attention as fused attention has it, few own positions.

    Scores are written out, which fused attention does not do; few queries keep them smaller than
    the copies of keys and values that they save.
    """
    own = inputs.key.shape[2]
    plain = not needs_eager(inputs.options) and inputs.options.get("position_bias") is None
    mask = inputs.mask
    few = inputs.query.shape[2] * own <= n_shared
    return plain and few and (mask is None or mask.dtype == torch.bool)


def attend(inputs: Inputs, keys: Tensor, values: Tensor) -> Tensor:
    """Return z [row, n_query, n_heads, d_head] of queries that see shared and own keys.

    Args:
        inputs: query [row, n_heads, n_query, d]; key and value of each row's own positions
            [row, n_kv_heads, n_own, d]; mask, bool [1 or row, 1 or n_heads, n_query,
            n_shared + n_own], True where attention may go; None for everywhere.
        keys, values: [1, n_kv_heads, n_shared, d], of the positions before.
    """
    query, own_keys, own_values = inputs.query, inputs.key, inputs.value
    n_rows, n_heads, n_query, d = query.shape
    n_kv_heads, n_shared = keys.shape[1], keys.shape[2]
    group = n_heads // n_kv_heads
    scaling = inputs.options.get("scaling")
    # In float32, as fused attention accumulates.
    query = query.float() * (d**-0.5 if scaling is None else scaling)
    keys, own_keys = keys.float(), own_keys.float()

    by_kv_head = query.reshape(n_rows, n_kv_heads, group * n_query, d)
    stacked = by_kv_head.transpose(0, 1).reshape(n_kv_heads, -1, d)  # [kv, row * group * query, d]
    shape = (n_kv_heads, n_rows, group * n_query, n_shared)
    shared = (stacked @ keys[0].transpose(1, 2)).view(shape).transpose(0, 1)
    own = by_kv_head @ own_keys.transpose(2, 3)  # [row, kv, group * query, n_own]
    scores = torch.cat([shared, own], dim=-1).view(n_rows, n_heads, n_query, -1)
    if inputs.mask is not None:
        scores = scores.masked_fill(~inputs.mask, -torch.inf)
    weights = scores.softmax(dim=-1).to(values.dtype)
    weights = weights.view(n_rows, n_kv_heads, group * n_query, -1)

    on_shared = weights[..., :n_shared].transpose(0, 1).reshape(n_kv_heads, -1, n_shared)
    z = (on_shared @ values[0]).view(n_kv_heads, n_rows, group * n_query, -1).transpose(0, 1)
    z = z + weights[..., n_shared:] @ own_values
    return z.reshape(n_rows, n_heads, n_query, -1).transpose(1, 2)
