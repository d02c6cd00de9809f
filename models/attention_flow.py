"""Attention as it moves things: weighted by the norm of what is moved, and rolled out over layers.

Both come from one clean pass and are `AttentionMaps` of their own kind, so that they are drawn as
attention is.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.attention_inputs import read_inputs
from models.attention_reading import MapWriter
from models.attention_tap import Call, TapRequest
from models.discovery import projection_weight
from models.errors import ErrorKind, UserError
from models.pass_watch import reached
from models.placement import weights_at_hand
from models.types import AttentionMaps, Head, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

ROLLED_ROWS = 512
"""So many rows of a layer are rolled out at a time."""


def moved_attention(
    model: "LanguageModel", prompt: TokenizedPrompt, heads: Sequence[Head]
) -> AttentionMaps:
    """Return |a_ij W_O v_j|: how large what each query gets from each key is.

    Kobayashi et al. 2020, "Attention is Not Only a Weight". v_j is what the head's value
    projection makes of key j, biases included; W_O its slice of the output projection. A norm
    behind the attention (Gemma 2, OLMo 2) is not applied.

    Raises:
        UserError: a head that does not exist, or a model that shows no values or is an
            encoder-decoder.
    """
    model.check_one_stack("Attention weighted by what is moved")
    wanted = model.check_heads(heads)
    if not model.dispatches:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.info.architecture} computes attention where its values cannot be seen, so "
            "that what is moved cannot be weighed; its attention weights can be shown.",
        )
    n = len(prompt)
    values = np.empty((len(wanted), n, n), dtype=np.float32)

    def weigh(layer: int, call: Call) -> None:
        members = [i for i, head in enumerate(wanted) if head.layer == layer]
        if not members:
            return
        assert call.inputs is not None  # it dispatches
        chosen = [wanted[i].head for i in members]
        writer = MapWriter({layer: [values[i] for i in members]})
        read_inputs(call.inputs, layer, chosen, writer)
        norms = _moved_norms(model, layer, call, chosen)  # [n_chosen, key]
        for i, norm in zip(members, norms, strict=True):
            values[i] *= norm

    model.watch(prompt, TapRequest(on_call=weigh))
    return AttentionMaps(wanted, values, prompt, kind="moved")


def attention_rollout(
    model: "LanguageModel", prompt: TokenizedPrompt, up_to: Sequence[int] | None = None
) -> AttentionMaps:
    """Return attention rolled out: from where in the prompt each position has got what it holds.

    Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers": each layer's mean over
    heads, half of it with the identity as the other half (the residual stream), multiplied over
    layers. Rows sum to 1, those of layers with attention sinks too.

    Args:
        up_to: the last layers counted, a map each; None: the model's last.

    Returns:
        Maps of kind "rollout", in which a head stands for its whole layer.

    Raises:
        UserError: a layer that does not exist, or an encoder-decoder.
    """
    model.check_one_stack("Attention rollout")
    ends = [model.n_layers - 1] if up_to is None else list(up_to)
    for layer in ends:
        if not 0 <= layer < model.n_layers:
            raise UserError(
                ErrorKind.HEADS,
                f"There is no layer {layer} in {model.name}; layers run from 0 to "
                f"{model.n_layers - 1}.",
            )
    last = max(ends, default=-1)
    request = TapRequest(
        read={layer: range(model.sites[layer].n_heads) for layer in range(last + 1)}
    )
    identity = torch.eye(len(prompt))
    rolled, kept = identity, {}

    def absorb(*_: object) -> None:
        # One layer's maps at a time: all of them may not fit.
        nonlocal rolled
        for layer in sorted(request.attention):
            mixed = torch.from_numpy(request.attention.pop(layer).mean(axis=0)) + identity
            mixed /= mixed.sum(-1, keepdim=True)
            rolled = _rolled_on(mixed, rolled, layer, causal=model.kind == "causal")
            if layer in ends:
                kept[layer] = rolled.numpy()

    request.on_call = absorb
    model.watch(prompt, request)
    absorb()  # where hooks read, a layer's maps come after its call
    heads = tuple(Head(layer, 0) for layer in ends)
    return AttentionMaps(heads, np.stack([kept[e] for e in ends]), prompt, kind="rollout")


def _rolled_on(mixed: torch.Tensor, rolled: torch.Tensor, layer: int, causal: bool) -> torch.Tensor:
    """Return `mixed @ rolled`, both [position, position], telling between rows who watches.

    Args:
        causal: whether both are 0 above the diagonal, which is then left out.
    """
    product = torch.zeros_like(rolled)
    n = len(rolled)
    for first in range(0, n, ROLLED_ROWS):
        reached(layer)
        end = min(first + ROLLED_ROWS, n)
        seen = end if causal else n
        product[first:end, :seen] = mixed[first:end, :seen] @ rolled[:seen, :seen]
    return product


def _moved_norms(
    model: "LanguageModel", layer: int, call: Call, heads: Sequence[int]
) -> np.ndarray:
    """Return |W_O v_j|, float32 [n_heads, key], of one layer's heads."""
    assert call.inputs is not None
    site, value = model.sites[layer], call.inputs.value[0].float()  # [n_kv_heads, key, d_head]
    group = site.n_heads // value.shape[0]
    rows = []
    with weights_at_hand(site.projection):
        weight = projection_weight(site.projection).float()  # [d_model, n_heads * d_head]
        for head in heads:
            part = weight[:, head * site.d_head : (head + 1) * site.d_head]
            rows.append((value[head // group] @ part.T).norm(dim=-1))
    return torch.stack(rows).cpu().numpy()
