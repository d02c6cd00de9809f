"""A model's norms, and running it with their scale frozen, so that what goes through is linear.

A norm divides by how large its input is. Hold that one number a position at what it is in the
clean run, and the norm becomes a linear map plus a constant: what several parts of a sum put
through it adds up. Every attribution to parts of the residual stream rests on this.

Nothing goes by name: a module is a norm if, on random input, it does what a norm does,

    y = gain * (x [- mean]) * scale + bias,

with one scale a position that makes the input's size 1. LayerNorm, the RMS norms of Llama, of
Gemma (gain 1 + weight), of single heads (Qwen 3, Gemma 3), and norms without weights are all of
that form.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.trials import outcome, random_input, same

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Largest difference that counts as the same function, relative to the largest value: rounding is
about 1e-6 in float32; an activation, another mean or gain differs by over 1e-2."""

LARGE = 1e3
"""Size of the input on which a norm is tried: beside it, the epsilon under the root is nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """What a norm was found to compute; all in float32."""

    gain: Tensor
    """[d], or [n_heads, d] where each head has its own."""
    bias: Tensor
    """Like `gain`; zeros for a norm without one."""
    centred: bool
    """Whether the mean is taken off (LayerNorm) or not (RMS norm)."""

    def with_scale(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return gain * (x [- mean]) * scale [..., d]: linear in x, the bias left out.

        Args:
            scale: [..., 1].
        """
        return self._directed(x) * scale

    def scale_of(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the scale [..., 1] with which this norm made y of x, by least squares."""
        directed = self._directed(x)
        size = (directed * directed).sum(-1, keepdim=True)
        made = ((y.float() - self.bias) * directed).sum(-1, keepdim=True)
        return made / size.clamp_min(torch.finfo(torch.float32).tiny)

    def _directed(self, x: Tensor) -> Tensor:
        x = x.float()
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x)


Norms = Mapping[nn.Module, Norm]
"""The norms of a model that ran, by module."""


def find_norms(model: nn.Module, forward: Callable[[], Any]) -> dict[nn.Module, Norm]:
    """Return every norm that runs in a forward pass, proven on random input.

    Args:
        forward: runs the model once on a short prompt.
    """
    given: dict[nn.Module, Tensor] = {}

    def remember(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _may_be_norm(module, args, output):
            given.setdefault(module, args[0])

    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    handles = [leaf.register_forward_hook(remember) for leaf in leaves]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    found = {module: recognise(module, x) for module, x in given.items()}
    return {module: norm for module, norm in found.items() if norm is not None}


def recognise(module: nn.Module, like: Tensor) -> Norm | None:
    """Return what a module computes if it is a norm over the last axis; None if it is not.

    Args:
        like: an input as the module gets it; its shape, dtype and device are used.
    """
    shapes = [tuple(p.shape) for p in module.parameters()]
    shape = max(shapes, key=len, default=tuple(like.shape[-1:]))
    if any(tuple(like.shape[-len(of_one) :]) != of_one for of_one in shapes):
        return None  # its weights are no gain along the last axes
    # A mean that is not 0, and another size in each row, so that these tell norms apart.
    x = random_input((6, *like.shape), like) + 0.5
    x = x * LARGE * torch.arange(1, 7, device=x.device).reshape(6, *[1] * like.ndim)
    with torch.no_grad():
        y, bias = outcome(module, x), outcome(module, torch.zeros_like(x))
        if y is None or bias is None or not bool(y.isfinite().all()):
            return None
        for centred in (False, True):
            norm = _fitted(x, y.float(), _first(bias.float(), shape), centred)
            if _does_what(norm, module, x, y, TOLERANCE.get(like.dtype, 1e-5)):
                return norm
    return None


def _may_be_norm(module: nn.Module, args: tuple[Any, ...], output: Any) -> bool:
    """Whether a module maps one tensor to one of the same shape."""
    if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
        return False
    x = args[0]
    return x.is_floating_point() and output.shape == x.shape and x.ndim > 1


def _first(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the first entry over all axes in front of the last ones, [*shape]."""
    return tensor.reshape(-1, *shape)[0]


def _fitted(x: Tensor, y: Tensor, bias: Tensor, centred: bool) -> Norm:
    """Return the norm whose gain makes y of x most nearly."""
    plain = Norm(torch.ones_like(bias), torch.zeros_like(bias), centred)
    unit = _to_unit(plain.with_scale(x, torch.ones_like(x[..., :1], dtype=torch.float32)))
    rows = unit.reshape(-1, *bias.shape)
    made = (y - bias).reshape(-1, *bias.shape)
    return Norm((rows * made).sum(0) / (rows * rows).sum(0), bias, centred)


def _to_unit(x: Tensor) -> Tensor:
    return x * x.square().mean(-1, keepdim=True).rsqrt()


def _does_what(norm: Norm, module: nn.Module, x: Tensor, y: Tensor, tolerance: float) -> bool:
    """Whether a norm is what a module computes: on large input fully, on other up to a scale."""
    ones = torch.ones_like(x[..., :1], dtype=torch.float32)
    plain = Norm(torch.ones_like(norm.gain), norm.bias, norm.centred)
    expected = norm.gain * _to_unit(plain.with_scale(x, ones)) + norm.bias
    if not same(y.float(), expected, tolerance):
        return False
    ordinary = 3 * random_input(tuple(x.shape), x, seed=1) + 1
    own = outcome(module, ordinary)
    assert own is not None  # it took a tensor of this shape before
    scaled = norm.with_scale(ordinary, norm.scale_of(ordinary, own)) + norm.bias
    return same(scaled, own.float(), tolerance)


@dataclass(slots=True, eq=False)
class Scales:
    """The scales of one run, by norm, in the order in which it was called."""

    by_norm: dict[nn.Module, list[Tensor]] = field(default_factory=dict)
    """[..., 1] each."""


@contextmanager
def freezing(norms: Norms) -> Iterator[Scales]:
    """Let the norms compute as ever, but with a gradient as if their scale was a constant.

    To the bit the numbers stay the model's own. Hooks stand on the norms while the body runs; it
    has to hold the model's lock, so that no other thread runs the model.

    Yields:
        The scales, filled while the model runs.
    """
    scales = Scales()

    def freeze(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        norm, x = norms[module], args[0]
        scale = norm.scale_of(x.detach(), output.detach())
        scales.by_norm.setdefault(module, []).append(scale)
        linear = (norm.with_scale(x, scale) + norm.bias).to(output.dtype)
        return linear + (output - linear).detach()

    with _hooked(norms, freeze):
        yield scales


@contextmanager
def replaying(norms: Norms, scales: Scales) -> Iterator[None]:
    """Let the norms use the scales of an earlier run, whatever comes in; locked like `freezing`."""
    left = {module: iter(of_one) for module, of_one in scales.by_norm.items()}

    def replay(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        norm = norms[module]
        return (norm.with_scale(args[0], next(left[module])) + norm.bias).to(output.dtype)

    with _hooked(norms, replay):
        yield


@contextmanager
def _hooked(norms: Norms, hook: Callable[..., Tensor]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
