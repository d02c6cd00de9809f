"""Weighted attention and rollout against plain eager attention and plain values."""

import numpy as np
import pytest
import torch
from reference import attentions, projection, reference
from tiny import FAMILIES, prompt_text, tiny_model

from models.attention_flow import attention_rollout, moved_attention
from models.errors import UserError
from models.types import Head

TOLERANCE = 1e-5
"""Float32 rounding of values of order 1; a wrong head or layer is off by over 1e-2."""


@pytest.mark.parametrize("family", FAMILIES)
def test_rollout_multiplies_half_attention_half_identity(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    found = attention_rollout(model, prompt, [2, 0])
    expected, rolled = {}, torch.eye(len(prompt))
    for layer, maps in enumerate(attentions(family, prompt.ids)):
        mixed = maps.mean(0) + torch.eye(len(prompt))
        rolled = (mixed / mixed.sum(-1, keepdim=True)) @ rolled
        expected[layer] = rolled.numpy()
    for values, layer in zip(found.values, (2, 0), strict=True):
        np.testing.assert_allclose(values, expected[layer], atol=TOLERANCE)
        np.testing.assert_allclose(values.sum(-1), 1, atol=TOLERANCE)
    assert found.title(0) == "rollout to L2"
    assert found.to_json()["kind"] == "rollout"
    assert np.array_equal(attention_rollout(model, prompt).values[0], found.values[0])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_oss", "bert"])
def test_moved_attention_is_weight_times_norm(family: str) -> None:
    """The values of each key come from a plain hook; heads are told apart by zeroing the rest."""
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    heads = [Head(1, 3), Head(0, 0), Head(1, 2)]
    found = moved_attention(model, prompt, heads)
    weights = attentions(family, prompt.ids)
    values = plain_values(family, prompt.ids)
    for head, moved in zip(heads, found.values, strict=True):
        module = projection(reference(family), family, head.layer)
        weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
        d_head = weight.shape[0] // 4
        rows = weight[head.head * d_head : (head.head + 1) * d_head].detach()
        of_layer = values[head.layer]  # [key, n_kv_heads * d_head]
        group = 4 * d_head // of_layer.shape[-1]
        first = head.head // group * d_head
        norms = (of_layer[:, first : first + d_head] @ rows).norm(dim=-1)
        expected = weights[head.layer, head.head] * norms
        np.testing.assert_allclose(moved, expected.numpy(), atol=TOLERANCE)
        assert moved.max() > 0.1
    assert found.title(0) == "L1H3 moved"


def plain_values(family: str, ids: tuple[int, ...]) -> list[torch.Tensor]:
    """Return each layer's values [key, n_kv_heads * d_head], from its value projection."""
    path = {
        "gpt2": "transformer.h.{}.attn.c_attn",
        "bert": "bert.encoder.layer.{}.attention.self.value",
    }.get(family, "model.layers.{}.self_attn.v_proj")
    model, seen = reference(family), []
    handles = [
        model.get_submodule(path.format(layer)).register_forward_hook(
            lambda _m, _a, output: seen.append(
                output[0, :, -32:] if family == "gpt2" else output[0]
            )
        )
        for layer in range(3)
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]))
    for handle in handles:
        handle.remove()
    return seen


def test_a_layer_that_does_not_exist_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(UserError, match="There is no layer 3"):
        attention_rollout(model, model.tokenize("The cat"), [3])


def test_values_that_cannot_be_seen_are_refused() -> None:
    model = tiny_model("gptj")
    with pytest.raises(UserError, match="values cannot be seen"):
        moved_attention(model, model.tokenize("The cat"), [Head(0, 0)])
