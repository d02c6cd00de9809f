"""Puts fused kernels in the place of functions that a model spells out operation by operation.

GPT-2's activation is written as eight passes over the widest tensor of the model, Llama's norm as
six; torch has both as one. A kernel is put in only where it gives the same numbers on random
input, so nothing here goes by the name of an architecture. Float32 only: in narrower dtypes the
spelled-out versions round in between, and would differ.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.trials import outcome, random_input, same

SAME = 1e-6
"""Largest difference that counts as the same function, relative to the largest value: float32
rounding is about 1e-7, another activation or an offset in the gain differs by over 1e-3."""

Kernel = Callable[[Tensor], Tensor]


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
    is_norm = len(parameters) == 1 and weight is not None and isinstance(eps, float)
    if is_norm and weight is not None and weight.ndim == 1 and weight.dtype == torch.float32:
        shape = tuple(weight.shape)
        yield lambda x: functional.rms_norm(x, shape, weight, eps), shape[0]


def _same_function(module: nn.Module, kernel: Kernel, width: int) -> bool:
    like = next(module.parameters(), torch.empty(0))
    x = 3 * random_input((5, 7, width), like)
    with torch.inference_mode():
        own = outcome(module, x)
        return own is not None and same(kernel(x), own, SAME)
