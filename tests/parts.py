"""What parts of the tiny models add to the residual stream, by plain hooks and by hand.

Modules are named by hand, and come from a separately loaded eager copy (`reference.reference`);
nothing here uses the recognition of norms or of wiring of `models`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from reference import projection, reference
from torch import Tensor

BLOCKS = {
    "gpt2": "transformer.h.{}",
    "opt": "model.decoder.layers.{}",
    "gpt_neox": "gpt_neox.layers.{}",
    "gpt_bigcode": "transformer.h.{}",
    "gptj": "transformer.h.{}",
    "gpt_neo": "transformer.h.{}",
    "bloom": "transformer.h.{}",
    "falcon": "transformer.h.{}",
    "falcon_alibi": "transformer.h.{}",
}
"""Blocks by family; all others are named as Llama's."""

MLPS = {
    "gemma2": "post_feedforward_layernorm",
    "gemma3": "post_feedforward_layernorm",
    "olmo2": "post_feedforward_layernorm",
    "opt": "fc2",
    # Its MLP module adds the residual stream itself.
    "bloom": "mlp.dense_4h_to_h",
}
"""Within a block, the module whose output is what the MLP adds; all others are called mlp."""

POST_NORMS = {"gemma2": 1.0, "gemma3": 1.0, "olmo2": 0.0}
"""Families with an RMS norm behind the attention, and what is added to its weight."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """One prompt's parts of a reference model's stream, all [position, ...]."""

    hidden: tuple[Tensor, ...]
    """What enters each block, and what leaves the last one, [position, d_model] each."""
    z: tuple[Tensor, ...]
    """Each layer's heads' outputs, [position, n_heads * d_head]."""
    attention: tuple[Tensor, ...]
    """What each output projection puts out, [position, d_model]."""
    mlps: tuple[Tensor, ...]
    """What each layer's MLP adds, [position, d_model]."""
    logits: Tensor
    """[position, n_vocab]"""


def block(family: str, layer: int) -> Any:
    path = BLOCKS.get(family, "model.layers.{}").format(layer)
    return reference(family).get_submodule(path)


def parts(family: str, ids: Sequence[int]) -> Parts:
    """Run the reference model once with plain hooks."""
    model = reference(family)
    seen: dict[tuple[str, int], Tensor] = {}
    handles = []

    def keep(kind: str, layer: int, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        # A copy: Falcon adds to its MLP's output in place.
        seen[kind, layer] = first.clone().reshape(len(ids), -1)

    for layer in range(3):
        path = MLPS.get(family, "mlp")
        watched = {
            "mlp": block(family, layer).get_submodule(path),
            "attention": projection(model, family, layer),
            "block": block(family, layer),
        }
        for kind, module in watched.items():

            def after(
                _m: Any, args: Any, output: Any, kind: str = kind, layer: int = layer
            ) -> None:
                keep(kind, layer, output)
                if kind == "attention":
                    keep("z", layer, args[0])

            handles.append(module.register_forward_hook(after))
    try:
        with torch.no_grad():
            output = model(
                input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False
            )
    finally:
        for handle in handles:
            handle.remove()

    def of(kind: str) -> tuple[Tensor, ...]:
        return tuple(seen[kind, layer] for layer in range(3))

    hidden = (output.hidden_states[0][0], *of("block"))
    return Parts(hidden, of("z"), of("attention"), of("mlp"), output.logits[0])


def head_term(family: str, found: Parts, layer: int, head: int, n_heads: int = 4) -> Tensor:
    """Return what a head adds, [position, d_model]: z times its rows, and a norm behind by hand."""
    model = reference(family)
    module = projection(model, family, layer)
    weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
    d_head = weight.shape[0] // n_heads
    rows = slice(head * d_head, (head + 1) * d_head)
    term = found.z[layer][:, rows] @ weight[rows].detach()
    if family not in POST_NORMS:
        return term
    norm = block(family, layer).post_attention_layernorm
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    size = (found.attention[layer].square().mean(-1, keepdim=True) + eps).sqrt()
    return term / size * (norm.weight.detach() + POST_NORMS[family])
