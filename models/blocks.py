"""A model's transformer blocks, run one by one.

Branches (`models.branching`) leave the clean run at some block and go on alone from there. This
module finds the blocks, remembers what the model hands to each of them, calls a block again on
other rows or on fewer positions, and lets the model finish (final norm, unembedding) from the
last block's output. It knows no architecture: whether a model's blocks can be run so is proven at
need (`self_check.branches_rightly`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from models.attention_hooks import AttentionSite


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive positions: `count` of them from `first` on."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """One more than the last position."""
        return self.first + self.count

    def of(self, tensor: Tensor, axis: int) -> Tensor:
        """Return the window's part of a tensor that has all positions along `axis`."""
        return tensor.narrow(axis, self.first, self.count)


@dataclass(frozen=True, slots=True, eq=False)
class BlockCall:
    """How the model called one block, and what came of it."""

    hidden: Tensor
    """[batch, position, d_model], what went in."""
    args: tuple[Any, ...]
    """Positional arguments after the hidden states."""
    kwargs: dict[str, Any]
    """Keyword arguments other than the hidden states."""
    by_keyword: bool
    """Whether the hidden states were given as a keyword."""
    output: Tensor
    """[batch, position, d_model], what came out."""
    output_rest: tuple[Any, ...] | None
    """What the block returned beside the hidden states; None if it returned a plain tensor."""

    def run(self, block: nn.Module, hidden: Tensor, window: Window) -> Tensor:
        """Call the block on other hidden states [batch, window.count, d_model]."""
        n = self.hidden.shape[1]
        args = tuple(_windowed(value, n, window) for value in self.args)
        kwargs = {
            # Masks are cut where they are used, by the attention of the branches.
            name: value if "mask" in name else _windowed(value, n, window)
            for name, value in self.kwargs.items()
        }
        if self.by_keyword:
            return _hidden_of(block(*args, hidden_states=hidden, **kwargs))
        return _hidden_of(block(hidden, *args, **kwargs))


class BlockWatcher(Protocol):
    """What takes over the calls of blocks while it is active."""

    def call(
        self,
        layer: int,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return what the block shall return; `forward` is the block's own forward."""
        ...


_WATCHER: ContextVar[BlockWatcher | None] = ContextVar("active_block_watcher", default=None)


@contextmanager
def watching(watcher: BlockWatcher) -> Iterator[None]:
    """Let `watcher` take over the calls of blocks in this thread while the body runs."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


class Recorder:
    """Remembers how each block was called."""

    def __init__(self) -> None:
        self.calls: list[BlockCall] = []

    def call(
        self,
        layer: int,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        output = forward(*args, **kwargs)
        by_keyword = not args
        rest = dict(kwargs)
        hidden = rest.pop("hidden_states") if by_keyword else args[0]
        self.calls.append(
            BlockCall(
                hidden=hidden,
                args=args[1:],
                kwargs=rest,
                by_keyword=by_keyword,
                output=_hidden_of(output),
                output_rest=None if isinstance(output, Tensor) else tuple(output[1:]),
            )
        )
        return output


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """Skips every block: each returns the last block's output, known already."""

    hidden: Tensor
    """[batch, position, d_model]"""
    calls: Sequence[BlockCall]

    def call(
        self,
        layer: int,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        rest = self.calls[layer].output_rest
        return self.hidden if rest is None else (self.hidden, *rest)


def watched_blocks(model: nn.Module, sites: Sequence[AttentionSite]) -> list[nn.Module] | None:
    """Return a model's blocks, each made to ask the active watcher before it runs.

    To be called once a model. None if it has no list of blocks.
    """
    blocks = find_blocks(model, sites)
    if blocks is not None:
        install_watching(blocks)
    return blocks


def find_blocks(model: nn.Module, sites: Sequence[AttentionSite]) -> list[nn.Module] | None:
    """Return the block that holds each attention layer: the members of one module list.

    None when there is no such list (layers that share one module, for example).
    """
    for candidate in model.modules():
        if not isinstance(candidate, nn.ModuleList) or len(candidate) != len(sites):
            continue
        blocks = list(candidate)
        held = zip(blocks, sites, strict=True)
        if all(site.module in set(block.modules()) for block, site in held):
            return blocks
    return None


def install_watching(blocks: Sequence[nn.Module]) -> None:
    """Let every block ask the active watcher, if there is one, before it runs."""
    for layer, block in enumerate(blocks):
        own: Callable[..., Any] = block.forward

        def forward(
            *args: Any, own: Callable[..., Any] = own, layer: int = layer, **kwargs: Any
        ) -> Any:
            watcher = _WATCHER.get()
            if watcher is None:
                return own(*args, **kwargs)
            return watcher.call(layer, own, args, kwargs)

        block.forward = forward


def _hidden_of(output: Any) -> Tensor:
    hidden = output if isinstance(output, Tensor) else output[0]
    assert isinstance(hidden, Tensor)
    return hidden


def _windowed(value: Any, n: int, window: Window) -> Any:
    """Cut what has one entry a position (position ids, rotary embeddings) to a window.

    Tensors [position], [1, position] and [1, position, d] are cut; others, masks among them, are
    handed on whole.
    """
    if window.count == n:
        return value
    if isinstance(value, Tensor):
        axis = min(value.ndim - 1, 1)
        of_one_row = value.ndim == 1 or (value.ndim <= 3 and value.shape[0] == 1)
        fits = axis >= 0 and of_one_row and value.shape[axis] == n
        return window.of(value, axis) if fits else value
    if isinstance(value, tuple | list):
        return type(value)(_windowed(v, n, window) for v in value)
    if isinstance(value, dict):
        return {key: _windowed(v, n, window) for key, v in value.items()}
    return value
