"""Reading and editing heads of architectures that do not dispatch their attention.

GPT-J, GPT-Neo, Bloom and Falcon compute attention inside their own modules. For these, hooks stand
on each attention module and on its output projection. They are installed once, at load, and do
nothing unless a `TapRequest` is active in the running thread.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_edits import EmptyQueries, allowed_with_plan, edit_outputs
from models.attention_reading import read_pattern
from models.attention_tap import Call, TapRequest, active_request
from models.edits import RowPlan
from models.errors import ErrorKind, UserError


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """One attention layer: its module, its output projection and its shape."""

    module: nn.Module
    projection: nn.Module
    n_heads: int
    n_kv_heads: int
    d_head: int
    extent: tuple[int, int]
    """(queries, keys) that it had on the prompt with which it was found."""
    n_parts: int = 1
    """In how many rows it was given that prompt: one a tile, or camera."""


def install_hooks(site: AttentionSite, layer: int) -> None:
    """Let one attention layer serve requests: its mask, its z and its probabilities."""

    def edit_mask(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        request = _request()
        if request is None:
            return None
        request.next_layer()
        plan = request.plan_of(layer)
        if plan is None or plan.editor.blocked is None:
            return None
        mask = kwargs.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.dtype == torch.bool:
            raise UserError(
                ErrorKind.INTERVENTION,
                f"{type(module).__name__} takes no additive attention mask, so knockout is not "
                "possible with this architecture; choose an intervention on the head's output.",
            )
        smallest = torch.finfo(mask.dtype).min
        batch = _batch_size(args, kwargs, mask)
        allowed = mask > smallest / 2
        planned = allowed_with_plan(allowed, layer, plan, batch, site.n_heads, request.left_alone)
        return args, {**kwargs, "attention_mask": mask.masked_fill(~planned, smallest)}

    def edit_projection_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        request = _request()
        if request is None:
            return None
        flat = args[0]  # [batch, position, n_heads * d_head]
        z = flat.reshape(*flat.shape[:-1], site.n_heads, site.d_head)
        edited = request.passed_on(
            layer, Call(None, z, edit_outputs(z, layer, request.plan_of(layer)))
        )
        return (edited.reshape(flat.shape), *args[1:]) if edited is not z else None

    def read_probabilities(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        request = _request()
        if request is None:
            return
        plan = request.plan_of(layer)
        if plan is not None:
            _check_knockout(request, plan, layer, output)
        if layer in request.read:
            pattern = _pattern(layer, output)[0]  # [n_heads, n_query, n_key]
            reader = request.reader_of(layer, *pattern.shape[1:])
            read_pattern(pattern, layer, request.read[layer], reader, request.queries)

    site.module.register_forward_pre_hook(edit_mask, with_kwargs=True)
    site.projection.register_forward_pre_hook(edit_projection_input)
    site.module.register_forward_hook(read_probabilities)


def _request() -> TapRequest | None:
    """Return the active request; models that do not dispatch are only run under these."""
    request = active_request()
    return request if isinstance(request, TapRequest) else None


def pattern_in(output: Any) -> Tensor | None:
    """Return the attention weights [batch, n_heads, n_query, n_key] among a module's outputs."""
    if not isinstance(output, tuple):
        return None
    return next((o for o in output if isinstance(o, Tensor) and o.ndim == 4), None)


def _pattern(layer: int, output: Any) -> Tensor:
    pattern = pattern_in(output)
    if pattern is None:
        raise RuntimeError(f"attention layer {layer} returned no weights")
    return pattern


def _check_knockout(request: TapRequest, plan: RowPlan, layer: int, output: Any) -> None:
    """Find queries that a knockout left no key, as seen from the pattern that came out.

    A module may narrow its pattern by itself (GPT-Neo's local layers do), unseen in the mask: a
    query whose whole window is knocked out then spreads over keys that it must not see.
    """
    if plan.editor.blocked is None:
        return
    whole = _pattern(layer, output)
    rows, heads = plan.pairs(layer, whole.device)
    pattern = whole[rows, heads]  # [n, n_query, n_key]
    empty = ((pattern > 0) & plan.editor.blocked.to(whole.device)).any(dim=-1)
    request.left_alone.append(EmptyQueries(layer, 0, empty))


def _batch_size(args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor) -> int:
    """Return the batch size from the hidden states, the first three-dimensional argument."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
            return int(value.shape[0])
    return int(mask.shape[0])
