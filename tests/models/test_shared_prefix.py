"""Attention over a shared prefix against fused attention over copies of it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from models.attention_inputs import Inputs, run_attention
from models.shared_prefix import attend, can_share

TOLERANCE = 1e-6
"""Two float32 computations of the same softmax average of values of order 1."""


def inputs_for(n_own: int, n_kv_heads: int, n_shared: int, masked: bool) -> tuple[Inputs, ...]:
    """Return (own inputs, shared keys and values as a second pair, inputs with copies)."""
    generator = torch.Generator().manual_seed(n_own)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    query = random(3, 6, n_own, 8)
    key, value = random(3, n_kv_heads, n_own, 8), random(3, n_kv_heads, n_own, 8)
    keys, values = random(1, n_kv_heads, n_shared, 8), random(1, n_kv_heads, n_shared, 8)
    mask = None
    if masked:
        mask = torch.rand(1, 6, n_own, n_shared + n_own, generator=generator) < 0.5
        mask[..., 0] = True
    module = nn.Module()
    module.num_key_value_groups = 6 // n_kv_heads
    options = {"scaling": 0.3, "is_causal": False}
    own = Inputs(module, query, key, value, mask, options)
    shared = Inputs(module, query, keys, values, None, options)
    copies = Inputs(
        module,
        query,
        torch.cat([keys.expand(3, -1, -1, -1), key], dim=2),
        torch.cat([values.expand(3, -1, -1, -1), value], dim=2),
        mask,
        options,
    )
    return own, shared, copies


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 6])
@pytest.mark.parametrize("n_own", [1, 4])
def test_it_equals_fused_attention_over_copies(n_own: int, n_kv_heads: int, masked: bool) -> None:
    own, shared, copies = inputs_for(n_own, n_kv_heads, 17, masked)
    assert can_share(own, 17)
    ours = attend(own, shared.key, shared.value)
    torch.testing.assert_close(ours, run_attention(copies), atol=TOLERANCE, rtol=0)


def test_what_it_cannot_honour_is_left_to_copies() -> None:
    own, *_ = inputs_for(4, 2, 17, False)
    assert not can_share(own, 15)  # more scores than shared keys: copies are cheaper
    assert not can_share(replace(own, options={"softcap": 2}), 17)
    assert not can_share(replace(own, mask=torch.zeros(1, 1, 4, 21)), 17)


def test_in_bfloat16_scores_are_not_rounded() -> None:
    own, shared, _ = inputs_for(1, 2, 17, False)

    def with_dtype(inputs: Inputs, dtype: torch.dtype) -> Inputs:
        names = ("query", "key", "value")
        rounded = {name: getattr(inputs, name).bfloat16().to(dtype) for name in names}
        return replace(inputs, **rounded)

    found = []
    for dtype in (torch.bfloat16, torch.float32):
        mine = with_dtype(replace(own, query=20 * own.query), dtype)
        others = with_dtype(shared, dtype)
        found.append(attend(mine, others.key, others.value).float())
    # Weights and values are rounded to 8 bits; scores of up to 100 would be off by 0.2.
    torch.testing.assert_close(found[0], found[1], atol=0.03, rtol=0)
