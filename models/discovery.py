"""Finds the attention layers of a loaded model by watching one short forward pass.

Nothing here goes by name. A dispatching architecture shows its attention layers by calling the
tap; the output projection is the linear map whose input is, to the bit, what the tap returned.
Other architectures show them by returning attention weights.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_hooks import AttentionSite, pattern_in
from models.attention_tap import Call, TapRequest, active
from models.errors import ErrorKind, UserError

Forward = Callable[[], Any]


def find_dispatching_sites(
    model: nn.Module, forward: Forward, one_stack: bool = True
) -> list[AttentionSite]:
    """Return the attention layers that call the tap, in the order they run.

    Args:
        forward: runs the model once on a short prompt.
        one_stack: whether there must be one for each of the model's layers.

    Raises:
        UserError: a layer's heads do not go through one linear output projection.
    """
    sites = dispatching_calls(model, forward)
    if one_stack:
        _refuse_other_layers(model, len(sites))
    missing = [layer for layer, site in enumerate(sites) if site is None]
    if missing:
        raise UserError(
            ErrorKind.MODEL,
            f"{type(model).__name__} is not supported: in layer {missing[0]} the heads' outputs do "
            "not go straight into one output projection, so a head's share cannot be told apart.",
        )
    return [site for site in sites if site is not None]


def dispatching_calls(model: nn.Module, forward: Forward) -> list[AttentionSite | None]:
    """Return every call of the tap in a pass, in order; None where the heads' outputs do not go
    through one linear output projection.

    Args:
        forward: runs the model once on a short prompt.
    """
    calls: list[Call] = []
    projections: dict[int, nn.Module] = {}

    def remember(_layer: int, call: Call) -> None:
        calls.append(call)

    def match(module: nn.Module, args: tuple[Any, ...]) -> None:
        layer = len(calls) - 1
        if layer < 0 or layer in projections or not args or not isinstance(args[0], Tensor):
            return
        z = calls[layer].z
        flat = z.reshape(*z.shape[:2], -1)
        given = args[0]
        if given.numel() == flat.numel() and torch.equal(given.reshape(flat.shape), flat):
            projections[layer] = module

    with _temporary_pre_hooks(model, match), active(TapRequest(on_call=remember)):
        forward()
    return [
        None
        if layer not in projections or call.inputs is None
        else AttentionSite(
            module=call.inputs.module,
            projection=projections[layer],
            n_heads=call.z.shape[2],
            n_kv_heads=call.inputs.key.shape[1],
            d_head=call.z.shape[3],
            extent=(call.inputs.query.shape[2], call.inputs.key.shape[2]),
            n_parts=call.z.shape[0],
        )
        for layer, call in enumerate(calls)
    ]


def find_returning_sites(
    model: nn.Module,
    forward: Forward,
    extents: Collection[tuple[int, int]],
    one_stack: bool = True,
) -> list[AttentionSite]:
    """Return the attention layers of a model that does not dispatch, in the order they run.

    They are the innermost modules that return weights [1, n_heads, n_query, n_key] whose rows sum
    to 1; the output projection is the last linear map that runs inside.

    Args:
        forward: runs the model once on a short prompt, with eager attention.
        extents: what (n_query, n_key) can be on that prompt.
        one_stack: whether there must be one for each of the model's layers.
    """
    found: list[tuple[nn.Module, Tensor]] = []
    last_linear: dict[nn.Module, nn.Module] = {}
    running: list[nn.Module] = []

    def enter(module: nn.Module, _args: tuple[Any, ...]) -> None:
        running.append(module)

    def leave(module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        running.pop()
        if is_linear(module):
            last_linear.update((ancestor, module) for ancestor in running)
        pattern = pattern_in(output)
        inner_already = any(site in set(module.modules()) for site, _ in found)
        if pattern is not None and not inner_already and _is_pattern(pattern, extents):
            found.append((module, pattern))

    handles = [m.register_forward_pre_hook(enter) for m in model.modules()]
    handles += [m.register_forward_hook(leave) for m in model.modules()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    if one_stack:
        _refuse_other_layers(model, len(found))
    return [_site(module, pattern, last_linear.get(module)) for module, pattern in found]


def _refuse_other_layers(model: Any, n_sites: int) -> None:
    """Refuse a model with layers whose attention cannot be read; it could not be shown."""
    n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", n_sites)
    if n_sites == n_layers and n_sites > 0:
        return
    if n_sites > n_layers:
        raise UserError(
            ErrorKind.MODEL,
            f"{type(model).__name__} is not supported: it runs attention {n_sites} times in "
            f"{n_layers} layers, so that a layer's heads would stand for several.",
        )
    raise UserError(
        ErrorKind.MODEL,
        f"{type(model).__name__} is not supported: softmax attention can be read in {n_sites} of "
        f"its {n_layers} layers, and heads of other kinds (state-space, linear, convolutional or "
        "disentangled attention) have no pattern that could be shown.",
    )


def _site(module: nn.Module, pattern: Tensor, projection: nn.Module | None) -> AttentionSite:
    n_heads = pattern.shape[1]
    width = 0 if projection is None else projection_weight(projection).shape[1]
    if projection is None or width % n_heads:
        raise UserError(
            ErrorKind.MODEL,
            f"{type(module).__name__} is not supported: no output projection of its "
            f"{n_heads} heads was found.",
        )
    # How many key-value heads there are is not visible from outside; it is not needed here.
    extent = (pattern.shape[2], pattern.shape[3])
    return AttentionSite(module, projection, n_heads, n_heads, width // n_heads, extent)


def _is_pattern(pattern: Tensor, extents: Collection[tuple[int, int]]) -> bool:
    if tuple(pattern.shape[-2:]) not in extents or not pattern.is_floating_point():
        return False
    sums = pattern.float().sum(-1)
    return bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-2))


def is_linear(module: nn.Module) -> bool:
    """Whether a module is one linear map: `nn.Linear`, or transformers' transposed `Conv1D`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def projection_weight(projection: nn.Module) -> Tensor:
    """Return an output projection's weight as [d_model, n_heads * d_head]."""
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight.T if type(projection).__name__ == "Conv1D" else weight


@contextmanager
def _temporary_pre_hooks(
    model: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...]], None]
) -> Iterator[None]:
    handles = [m.register_forward_pre_hook(hook) for m in model.modules() if is_linear(m)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
