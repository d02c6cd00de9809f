"""How a block puts its attention output into the residual stream: found, and proven.

What is handled: blocks that add to the stream and leave it as it is,

    output = input + multiplier * [norm](attention output) + what the rest of the block adds,

with the MLP behind the attention or beside it (parallel blocks), a norm behind the attention
(Gemma 2, OLMo 2) and a multiplier (Granite). Proven with gradients: where every norm and the
attention output are cut off, the gradient of the block's output with respect to its input is the
identity, and the one with respect to the attention output is the multiplier. Blocks that norm the
stream itself (BERT) fail that, and are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_hooks import AttentionSite
from models.blocks import BlockCall, Window
from models.discovery import projection_weight
from models.errors import ErrorKind, UserError
from models.frozen_norms import Norms
from models.placement import weights_at_hand
from models.trials import random_input, same

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Largest error of a proof, relative to the largest value; a block of another form is off by 1."""

STREAM_CHANGED = "the residual stream itself is changed, by a norm behind the addition for example"


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """What lies between one layer's heads and the residual stream."""

    site: AttentionSite
    post_norm: nn.Module | None
    """The norm that the attention output goes through before it is added."""
    multiplier: float
    """What the attention output (behind that norm) is multiplied with when it is added."""

    @property
    def tail(self) -> nn.Module:
        """The module whose output, times the multiplier, is what attention adds."""
        return self.post_norm or self.site.projection

    def projection_bias(self) -> Tensor | None:
        """Return the output projection's bias, float32 [d_model]."""
        with weights_at_hand(self.site.projection):
            bias = getattr(self.site.projection, "bias", None)
            return None if bias is None else bias.detach().float().clone()

    def through_projection(self, z: Tensor, heads: Sequence[int]) -> Tensor:
        """Return what heads' outputs are behind the output projection, without its bias.

        Args:
            z: [n, n_all_heads, d_head].

        Returns:
            float32 [n_heads, n, d_model].
        """
        d_head = self.site.d_head
        with weights_at_hand(self.site.projection):
            weight = projection_weight(self.site.projection)  # [d_model, n_all_heads * d_head]
            parts = [
                z[:, head].float() @ weight[:, head * d_head : (head + 1) * d_head].float().T
                for head in heads
            ]
        return torch.stack(parts)


class _Cuts:
    """Cuts the gradient at every norm and at the attention output, in one block's run."""

    def __init__(self, projection: nn.Module, norms: Norms) -> None:
        self.attention: Tensor | None = None
        """The attention output, a leaf."""
        self.post_norm: nn.Module | None = None
        self._projection = projection
        self._norms = norms
        self._handles: list[Any] = []

    def __enter__(self) -> "_Cuts":
        cut = [(self._projection, self._at_projection), *((n, self._at_norm) for n in self._norms)]
        self._handles = [module.register_forward_hook(hook) for module, hook in cut]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _at_projection(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        self.attention = output.detach().requires_grad_()
        return self.attention.clone()  # a leaf must not be added to in place

    def _at_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        output = output.detach()
        if self.attention is None or self.post_norm is not None:
            return output
        if not torch.equal(args[0].reshape(-1), self.attention.reshape(-1)):
            return output
        self.post_norm, self.attention = module, output.requires_grad_()
        return self.attention.clone()


def find_wiring(
    model: nn.Module,
    sites: Sequence[AttentionSite],
    blocks: Sequence[nn.Module],
    calls: Sequence[BlockCall],
    norms: Norms,
) -> tuple[Wiring, ...]:
    """Find and prove how each block adds to the residual stream.

    Args:
        calls: how the model called its blocks on a short prompt, recorded without
            `torch.inference_mode`.

    Raises:
        UserError: a block does something else than add.
    """
    for layer, (call, following) in enumerate(pairwise(calls)):
        if call.hidden.ndim != 3:  # Gemma 3n has several streams
            raise _refusal(model, layer, "there is more than one residual stream")
        if call.output.shape != following.hidden.shape or not torch.equal(
            call.output, following.hidden
        ):
            raise _refusal(model, layer, "what it puts out is not what the next layer takes in")
    parts = zip(sites, blocks, calls, strict=True)
    return tuple(_wire(model, i, *of_one, norms) for i, of_one in enumerate(parts))


def _wire(
    model: nn.Module,
    layer: int,
    site: AttentionSite,
    block: nn.Module,
    call: BlockCall,
    norms: Norms,
) -> Wiring:
    hidden = call.hidden.detach().requires_grad_()
    with torch.enable_grad(), _Cuts(site.projection, norms) as cuts:
        try:
            output = call.run(block, hidden.clone(), Window(0, hidden.shape[1]))
        except (RuntimeError, TypeError, ValueError, LookupError) as error:
            raise _refusal(model, layer, "its block cannot be run by itself") from error
    assert cuts.attention is not None  # the projection is part of the block
    if not output.requires_grad:  # it comes out of a norm, all of it
        raise _refusal(model, layer, STREAM_CHANGED)
    towards = random_input(tuple(output.shape), output)
    stream, attention = torch.autograd.grad(
        output, (hidden, cuts.attention), towards, materialize_grads=True, allow_unused=True
    )
    tolerance = TOLERANCE.get(output.dtype, 1e-5)
    if not same(stream.float(), towards.float(), tolerance):
        raise _refusal(model, layer, STREAM_CHANGED)
    back, straight = attention.reshape(-1).float(), towards.reshape(-1).float()
    multiplier = float(back @ straight / (straight @ straight))
    if multiplier == 0 or not same(multiplier * straight, back, tolerance):
        raise _refusal(model, layer, "its attention output is not simply added")
    # Rounding apart, nearly every architecture adds it once.
    return Wiring(site, cuts.post_norm, 1.0 if abs(multiplier - 1) < tolerance else multiplier)


def _refusal(model: nn.Module, layer: int, why: str) -> UserError:
    return UserError(
        ErrorKind.MODEL,
        f"What each part of {type(model).__name__} adds to the residual stream cannot be told "
        f"apart: in layer {layer} {why}; attention and ablations work as ever.",
    )
