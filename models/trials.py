"""Trying a module out on random input: what it computes is proven, not read off its name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def random_input(shape: tuple[int, ...], like: Tensor, seed: int = 0) -> Tensor:
    """Return standard normal values of a shape, seeded, with the device and dtype of `like`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(like.device, like.dtype)


def outcome(module: Callable[[Tensor], Any], x: Tensor) -> Tensor | None:
    """Return what a module, or another function, makes of one tensor; None if it is no tensor of
    the same shape."""
    try:
        own = module(x)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None  # it takes something else than one tensor of this shape
    return own if isinstance(own, Tensor) and own.shape == x.shape else None


def same(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether two tensors agree, relative to the largest value expected."""
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
