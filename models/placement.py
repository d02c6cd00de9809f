"""Where a model's parts compute: one device, or several that accelerate moves values between."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import align_module_device
from torch import nn


def execution_device(module: nn.Module) -> torch.device:
    """Return the device that a module computes on, also when its weights are offloaded."""
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is not None:
        return torch.device(device)
    return next(module.parameters()).device


@contextmanager
def weights_at_hand(module: nn.Module) -> Iterator[None]:
    """Have a module's own weights in memory while the body runs, if they are offloaded."""
    with align_module_device(module):
        yield
