"""Vision towers that are given the parts of all pictures in one row, and see windows of it.

Qwen2-VL and its kin put every patch of every picture of a batch one behind the other and tell each
attention layer, in `cu_seqlens`, where a stretch ends whose positions see each other: a picture,
or a window of one. By themselves such layers call their attention function a stretch at a time.
Here they call it once, with all positions, and the stretches are known where it runs; so a layer's
heads can be asked about as any other's. Pixtral packs its pictures too, and says in a mask who sees
whom.
"""

import inspect
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import ErrorKind, UserError

STRETCHES = "cu_seqlens"
"""The argument in which an attention layer is told where each stretch ends."""


@dataclass(slots=True)
class _Running:
    """What a running layer was told."""

    lengths: tuple[int, ...]
    asked_for: bool = False


_RUNNING: ContextVar[_Running | None] = ContextVar("running_stretches", default=None)


def running_stretches() -> tuple[int, ...] | None:
    """Return the lengths of the stretches that the running attention layer's positions are in, one
    behind the other; None where all of a row's positions see each other by what the layer says."""
    running = _RUNNING.get()
    if running is None:
        return None
    running.asked_for = True
    return running.lengths


def call_once(model: nn.Module, apart_from: nn.Module | None = None) -> None:
    """Let the attention layers of vision towers call their function once for all stretches.

    Args:
        model: in it the layers are the innermost modules that take `cu_seqlens`.
        apart_from: a language model in it.
    """
    inside = set() if apart_from is None else set(apart_from.modules())
    takers = {one for one in model.modules() if one not in inside and _takes_stretches(one)}
    for module in takers:
        innermost = not any(inner in takers for inner in module.modules() if inner is not module)
        if innermost and not are_rows_packed(module):  # once: they are told of all positions then
            let_rows_be_packed([module])
            module.register_forward_pre_hook(_begin, with_kwargs=True)
            module.register_forward_hook(_end, always_call=True)


def let_rows_be_packed(layers: Iterable[nn.Module]) -> None:
    """Note that attention layers are given all rows of a batch in one."""
    for layer in layers:
        layer.packs_rows = True  # type: ignore[assignment]


def are_rows_packed(layer: nn.Module) -> bool:
    return bool(getattr(layer, "packs_rows", False))


def _takes_stretches(module: nn.Module) -> bool:
    return STRETCHES in inspect.signature(module.forward).parameters


def _begin(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    given = inspect.signature(module.forward).bind(*args, **kwargs)
    ends = given.arguments.get(STRETCHES)
    if ends is None:  # layers of other kinds can be told of stretches too, and mostly are not
        return args, kwargs
    _RUNNING.set(_Running(tuple(torch.diff(ends).tolist())))
    given.arguments[STRETCHES] = ends[[0, -1]]
    return given.args, given.kwargs


def _end(module: nn.Module, _args: Any, output: Any) -> None:
    running = _RUNNING.get()
    _RUNNING.set(None)
    if running is None or running.asked_for or len(running.lengths) == 1 or output is None:
        return  # without an output an error is on its way
    raise UserError(
        ErrorKind.MODEL,
        f"{type(module).__name__} is not supported: it is told of several stretches of positions, "
        "and does not look its attention function up in transformers' registry.",
    )


def stretches_of_row(stretches: Sequence[int], n_rows: int) -> tuple[int, ...]:
    """Return the stretches of each of so many rows that are packed one behind the other.

    Raises:
        UserError: the rows are not cut alike.
    """
    each, left = divmod(len(stretches), n_rows)
    own = tuple(stretches[:each])
    if left or own * n_rows != tuple(stretches):
        raise UserError(
            ErrorKind.PICTURE,
            "The pictures of these prompts are cut into windows differently, so they cannot be "
            "run side by side; give pictures of one size.",
        )
    return own


def unpacked(packed: Tensor, n_rows: int) -> Tensor:
    """Return [1, n_heads, row * position, d] as [row, n_heads, position, d]."""
    _, n_heads, n, d = packed.shape
    return packed.view(n_heads, n_rows, n // n_rows, d).transpose(0, 1)


def unpacked_mask(mask: Tensor, n_rows: int) -> Tensor:
    """Return of a mask [1, n_heads or 1, n, n] what each row says of itself, [row, n_heads or 1,
    position, position]."""
    n = mask.shape[-1] // n_rows
    blocks = mask[0].unflatten(2, (n_rows, n)).unflatten(1, (n_rows, n))  # head, row, q, row, k
    return blocks.diagonal(dim1=1, dim2=3).permute(3, 0, 1, 2)


def block_mask(stretches: Sequence[int], device: torch.device) -> Tensor:
    """Return who sees whom in stretches, bool [1, 1, position, position]."""
    lengths = torch.tensor(stretches, device=device)
    names = torch.arange(len(stretches), device=device).repeat_interleave(lengths)
    return (names[:, None] == names)[None, None]
