"""Puts fused kernels in the place of functions that a model spells out operation by operation.

GPT-2's activation is written as eight passes over the widest tensor of the model, Llama's norm as
six; torch has both as one. On a CPU, where each pass over a fresh tensor costs as much as a good
part of a matrix product, MLPs also write over what they have made and need no more, and norms do
with three passes. A kernel is put in only where it gives the same numbers on random input; that of
an MLP only where, besides, its code is that of Llama's or GPT-2's, instruction by instruction:
others clamp or scale what random input does not show. Float32 only: in narrower dtypes the
spelled-out versions round in between, and would differ.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP

from models.discovery import is_linear, projection_weight
from models.trials import outcome, random_input, same

SAME = 1e-6
"""Largest difference that counts as the same function, relative to the largest value: float32
rounding is about 1e-7, another activation or an offset in the gain differs by over 1e-3."""

Kernel = Callable[..., Tensor]

IN_PLACE: tuple[Kernel, ...] = (
    lambda x: functional.silu(x, inplace=True),
    lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    torch.ops.aten.gelu_,
    torch.relu_,
)
"""Activations that write over what they are given."""


def fuse(model: nn.Module) -> int:
    """Let modules of a float32 model compute by fused kernels where these do the same.

    Returns:
        How many modules now do.
    """
    n_fused = 0
    for module in model.modules():
        if hasattr(module, "_hf_hook"):  # accelerate moves values in its forward
            continue
        for kernel, width in _candidates(module):
            if _same_function(module, kernel, width):
                module.forward = kernel
                n_fused += 1
                break
    return n_fused


def _candidates(module: nn.Module) -> Iterator[tuple[Kernel, int]]:
    """Yield kernels that may do what a module does, with the number of features to try them on."""
    if type(module).__module__ == "transformers.activations":
        yield lambda x: functional.gelu(x, approximate="tanh"), 64
        return
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")  # read once: weights are never replaced
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if isinstance(eps, float) and weight is not None and _is_gain(weight, len(parameters)):
        yield _root_mean_square(weight, eps), weight.shape[0]
        return
    yield from _mlps(module)


def _is_gain(weight: Tensor, n_parameters: int) -> bool:
    return n_parameters == 1 and weight.ndim == 1 and weight.dtype == torch.float32


def _root_mean_square(weight: Tensor, eps: float) -> Kernel:
    """Return x / rms(x) * weight (Zhang and Sennrich 2019, RMSNorm)."""
    shape = tuple(weight.shape)

    def kernel(x: Tensor) -> Tensor:
        if _keeps(x):
            return functional.rms_norm(x, shape, weight, eps)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * norm.square_().div_(shape[0]).add_(eps).rsqrt_()).mul_(weight)

    return kernel


def _mlps(module: nn.Module) -> Iterator[tuple[Kernel, int]]:
    """Yield what an MLP of two linear maps, or of three with a gate, may do."""
    linears = [child for child in module.children() if is_linear(child)]
    others = [child for child in module.children() if not is_linear(child)]
    acts = [child for child in others if not isinstance(child, nn.Dropout)]
    if _code(module) not in map(_code, (LlamaMLP, GPT2MLP)) or len(acts) != 1:
        return
    width = projection_weight(linears[0]).shape[1]
    over = _in_place(acts[0])
    if over is not None:
        yield _mlp(module.forward, over, *linears), width


def _code(module: Any) -> tuple[Any, ...]:
    """Return what a module's forward does: its instructions, and the names that they use."""
    code = getattr(module.forward, "__code__", None)
    return () if code is None else (code.co_code, code.co_names, code.co_varnames)


def _mlp(own: Callable[..., Any], act: Kernel, *linears: nn.Module) -> Kernel:
    """Return an MLP: the first linear map, the activation, times the second where there are three,
    the last.

    Args:
        own: what the module did, which goes on doing it where gradients are kept.
    """
    *gates, last = linears

    def kernel(*given: Tensor, **named: Tensor) -> Tensor:
        [x] = (*given, *named.values())
        if _keeps(x):
            return own(x)
        inner = act(gates[0](x))
        if len(gates) > 1:
            inner.mul_(gates[1](x))
        return last(inner)

    return kernel


def _in_place(act: nn.Module) -> Kernel | None:
    """Return what does as an activation, writing over what it is given."""
    ordinary = 3 * random_input((5, 64), torch.empty(0))
    x = torch.cat([ordinary, 100 * ordinary])  # some are clipped far out
    with torch.inference_mode():
        own = outcome(act, x)
        if own is None:
            return None
        return next((kernel for kernel in IN_PLACE if same(kernel(x.clone()), own, SAME)), None)


def _keeps(x: Tensor) -> bool:
    """Whether what is made of x must be kept for gradients, or lies where passes cost nothing."""
    return torch.is_grad_enabled() or x.device.type != "cpu"


def _same_function(module: nn.Module, kernel: Kernel, width: int) -> bool:
    like = next(module.parameters(), torch.empty(0))
    x = 3 * random_input((5, 7, width), like)
    with torch.inference_mode():
        own, found = outcome(module, x), outcome(kernel, x)
        return own is not None and found is not None and same(found, own, SAME)
