"""Independent computations that the program is held against: plain transformers and plain hooks.

Nothing here uses the attention tap, the hooks or the discovery of `models`: output projections are
named by hand, attention comes from `output_attentions` of a separately loaded eager copy.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from tiny import FAMILIES, reference_model
from torch import Tensor

from models.types import Head

PROJECTIONS = {
    "gpt2": "transformer.h.{}.attn.c_proj",
    "opt": "model.decoder.layers.{}.self_attn.out_proj",
    "gpt_neox": "gpt_neox.layers.{}.attention.dense",
    "gpt_bigcode": "transformer.h.{}.attn.c_proj",
    "gptj": "transformer.h.{}.attn.out_proj",
    "gpt_neo": "transformer.h.{}.attn.attention.out_proj",
    "bloom": "transformer.h.{}.self_attention.dense",
    "falcon": "transformer.h.{}.self_attention.dense",
    "falcon_alibi": "transformer.h.{}.self_attention.dense",
    "bert": "bert.encoder.layer.{}.attention.output.dense",
    "roberta": "roberta.encoder.layer.{}.attention.output.dense",
}
"""Output projections by family; all others are named as Llama's."""

EditZ = Callable[[Tensor], Tensor]
"""Changes one head's output, [position, d_head], given the clean (running) one."""


@cache
def reference(family: str) -> Any:
    """Return the family's untouched eager copy; shared and read-only."""
    return reference_model(family)


def projection(model: Any, family: str, layer: int) -> Any:
    """Return the output projection of one layer, found by its name."""
    path = PROJECTIONS.get(family, "model.layers.{}.self_attn.o_proj")
    return model.get_submodule(path.format(layer))


@contextmanager
def edited_heads(
    family: str, edits: Sequence[tuple[int, int, EditZ]], n_heads: int = 4
) -> Iterator[Any]:
    """Give the reference model with plain hooks that edit (layer, head) pairs."""
    model = reference(family)
    handles = []
    for layer, head, edit in edits:

        def hook(
            _module: Any, args: tuple[Tensor, ...], head: int = head, edit: EditZ = edit
        ) -> tuple[Tensor, ...]:
            z = args[0].clone()  # [1, position, n_heads * d_head]
            d_head = z.shape[-1] // n_heads
            part = slice(head * d_head, (head + 1) * d_head)
            z[0, :, part] = edit(z[0, :, part].clone())
            return (z, *args[1:])

        handles.append(projection(model, family, layer).register_forward_pre_hook(hook))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def log_probs(
    family: str, ids: Sequence[int], position: int, edits: Sequence[tuple[int, int, EditZ]] = ()
) -> Tensor:
    """Return float64 log-probabilities [n_vocab] at a position, one plain forward pass."""
    with edited_heads(family, edits) as model, torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, position]
    return logits.double().log_softmax(-1)


def attentions(family: str, ids: Sequence[int]) -> Tensor:
    """Return the eager model's attention, float32 [n_layers, n_heads, query, key]."""
    with torch.no_grad():
        output = reference(family)(
            input_ids=torch.tensor([list(ids)]), output_attentions=True, use_cache=False
        )
    assert len(output.attentions) == 3, f"{family}: {len(FAMILIES)} families have 3 layers each"
    return torch.stack(output.attentions)[:, 0]


def zero(z: Tensor) -> Tensor:
    return torch.zeros_like(z)


def kl(clean: Tensor, ablated: Tensor) -> float:
    """Return KL(clean || ablated) in nats, from float64 log-probabilities."""
    return float((clean.exp() * (clean - ablated)).sum())


_BART_PROJECTIONS = {
    "encoder": "model.encoder.layers.{}.self_attn.out_proj",
    "": "model.decoder.layers.{}.self_attn.out_proj",
    "cross": "model.decoder.layers.{}.encoder_attn.out_proj",
}
_T5_PROJECTIONS = {
    "encoder": "encoder.block.{}.layer.0.SelfAttention.o",
    "": "decoder.block.{}.layer.0.SelfAttention.o",
    "cross": "decoder.block.{}.layer.1.EncDecAttention.o",
}
STACK_PROJECTIONS = {
    **dict.fromkeys(("t5", "mt5", "umt5", "switch_transformers"), _T5_PROJECTIONS),
    "t5gemma": {
        "encoder": "model.encoder.layers.{}.self_attn.o_proj",
        "": "model.decoder.layers.{}.self_attn.o_proj",
        "cross": "model.decoder.layers.{}.cross_attn.o_proj",
    },
}
"""Output projections of the stacks of encoder-decoders; all others are named as BART's."""


def n_stack_heads(config: Any, stack: str) -> int:
    """Return how many heads each layer of a stack has, as the configuration says."""
    side = "encoder" if stack == "encoder" else "decoder"
    stated = getattr(config, f"{side}_attention_heads", None)
    own = getattr(config, side, None)  # T5Gemma's sides have configurations of their own
    return stated or (config.num_heads if own is None else own.num_attention_heads)


@contextmanager
def edited_stack_heads(family: str, edits: Sequence[tuple[Head, EditZ]]) -> Iterator[None]:
    """Give an encoder-decoder's reference model plain hooks that edit heads of its stacks."""
    model = reference(family)
    paths = STACK_PROJECTIONS.get(family, _BART_PROJECTIONS)
    handles = []
    for head, edit in edits:

        def hook(
            _module: Any,
            args: tuple[Tensor, ...],
            head: Head = head,
            edit: EditZ = edit,
            n_heads: int = n_stack_heads(model.config, head.stack),
        ) -> tuple[Tensor, ...]:
            z = args[0].clone()  # [1, position, n_heads * d_head]
            d_head = z.shape[-1] // n_heads
            part = slice(head.head * d_head, (head.head + 1) * d_head)
            z[0, :, part] = edit(z[0, :, part].clone())
            return (z, *args[1:])

        module = model.get_submodule(paths[head.stack].format(head.layer))
        handles.append(module.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
