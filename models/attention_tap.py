"""The one attention function through which everything is read and changed.

transformers looks attention functions up in a registry by name. This module registers `head_tap`:
it runs the attention that the model asks for and, where the running request wants it, reads
probabilities of chosen heads or changes what a head puts out. It knows no architecture.

Architectures that do not use the registry get hooks instead (`models.attention_hooks`); both carry
out the same `TapRequest`. A request lives in a ContextVar, so threads cannot see each other's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from models.attention_edits import EmptyQueries, edit_outputs, planned_inputs
from models.attention_inputs import (
    EAGER_KEYWORDS,
    Inputs,
    part_of_inputs,
    read_inputs,
    rows_apart,
    run_attention,
)
from models.attention_reading import (
    AttentionReader,
    MapWriter,
    OfPart,
    OutputReader,
    SeveralReaders,
)
from models.edits import Plan, RowPlan
from models.errors import ErrorKind, UserError
from models.packed import are_rows_packed, running_stretches
from models.pass_watch import reached

ATTENTION_NAME = "head_tap"
"""The name to give as `attn_implementation`."""

HARMLESS_KEYWORDS = frozenset(
    {
        # Already part of the mask, or of q and k, by the time attention runs.
        "sliding_window",
        "position_ids",
        "cache_position",
        # About what is returned or kept, not about the numbers.
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "num_items_in_batch",
        "deterministic",
        "logits_to_keep",
    }
)
"""Keywords that architectures pass along and that change nothing about one forward pass."""

HONOURED_KEYWORDS = frozenset({"scaling", "dropout", "is_causal", "position_bias"})
"""Keywords that fused attention honours."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one attention layer was given and gave."""

    inputs: Inputs | None
    """None for architectures that do not dispatch: theirs are not visible."""
    raw_z: Tensor
    """[batch, position, n_heads, d_head], before the plan's edits (knockouts apart); the parts of a
    row that the layer is given one by one (tiles) stand one behind the other."""
    z: Tensor
    """[batch, position, n_heads, d_head], what goes on to the output projection."""
    n_parts: int = 1
    """How many rows of `inputs` make one of `z` (`TapRequest.n_rows`)."""
    reading: bool = True
    """Whether this run of the layer is the one that is read (`TapRequest.reading`)."""


class AttentionRequest(Protocol):
    """What serves the attention of dispatching architectures while it is active."""

    def attend(self, inputs: Inputs) -> Tensor:
        """Return z, [batch, n_query, n_heads, d_head]."""
        ...


@dataclass(slots=True, eq=False)
class TapRequest:
    """What one forward pass reads and changes. Layers are counted in the order they run."""

    read: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """layer -> heads whose probabilities are read, in that order, for row 0 of the batch."""
    reader: AttentionReader | None = None
    """What takes the probabilities in; None: they are kept in `attention`."""
    queries: Sequence[int] | None = None
    """The positions whose rows are read, counted from 0; None for all."""
    reading: bool = True
    """Whether what is wanted is read now: of layers that run several times, one run is read."""
    z_from_weights: bool = False
    """Whether z is computed from the weights that are read where all of a layer are: for long
    prompts that is much less work than fused attention beside it."""
    plan: Plan | None = None
    n_rows: int | None = None
    """How many rows the batch has. A vision tower may be given several for each of them, one a tile
    or camera: its positions are then those of all parts of a row, and none sees another part's. Or
    it is given one for all of them, packed (`models.packed`). None: a layer's rows are the
    batch's."""
    keep_z: frozenset[int] = frozenset()
    """Layers whose (edited) z is kept."""
    on_call: Callable[[int, Call], Tensor | None] | None = None
    """Called with (layer, call) after each attention layer; what it returns, if anything, takes
    the place of z."""
    watched: int | None = None
    """How many layers `on_call` is about, the first ones; None for all. A tower that runs behind
    them may be left out."""

    attention: dict[int, np.ndarray] = field(default_factory=dict)
    """layer -> float32 [n_read, n_query, n_key], filled while running if there is no reader."""
    z: dict[int, Tensor] = field(default_factory=dict)
    """layer -> [batch, position, n_heads, d_head], filled while running."""
    n_calls: int = 0
    """Attention layers run so far."""

    left_alone: list[EmptyQueries] = field(default_factory=list)
    """Looked at after the pass (`refuse_empty_queries`), so that nothing waits inside it."""

    def next_layer(self) -> int:
        reached(max(0, self.n_calls))
        self.n_calls += 1
        return self.n_calls - 1

    def plan_of(self, layer: int) -> RowPlan | None:
        """Return what is changed in a layer, if anything is."""
        return None if self.plan is None else self.plan.of(layer)

    def attend(self, inputs: Inputs) -> Tensor:
        layer = self.next_layer()
        plan = self.plan_of(layer)
        packed = layer >= 0 and self.n_rows is not None and are_rows_packed(inputs.module)
        if packed:
            inputs = rows_apart(inputs, self.n_rows or 1)
        n_parts = self._n_parts(layer, inputs)
        planned = planned_inputs(inputs, layer, plan, self.left_alone, n_parts=n_parts)
        if self._gives_z(layer, planned):
            raw_z = self._read_for_z(layer, planned)
        else:
            raw_z = joined(run_attention(planned), n_parts)
            if self.reading and layer in self.read:
                self._read(layer, planned, n_parts)
        z = edit_outputs(raw_z, layer, plan)
        call = Call(planned, raw_z, z, n_parts, self.reading)
        given = _parted(self.passed_on(layer, call), n_parts)
        return given.flatten(0, 1)[None] if packed else given

    def _n_parts(self, layer: int, inputs: Inputs) -> int:
        """Return how many of a layer's rows make one of the batch; 1 where nothing is asked."""
        if self.n_rows is None or layer < 0:
            return 1
        n_parts, left = divmod(inputs.query.shape[0], self.n_rows)
        return n_parts if n_parts and not left else 1

    def _gives_z(self, layer: int, inputs: Inputs) -> bool:
        """Whether what is read of a layer is all that its z is made from, in its own precision."""
        return (
            self.z_from_weights
            and self.reading
            and self.reader is not None
            and self.queries is None
            and list(self.read.get(layer, ())) == list(range(inputs.query.shape[1]))
            and inputs.query.shape[0] == 1
            and inputs.query.dtype == torch.float32
        )

    def _read_for_z(self, layer: int, inputs: Inputs) -> Tensor:
        assert self.reader is not None  # see `_gives_z`
        outputs = OutputReader(inputs.value, *inputs.query.shape[1:3])
        readers = SeveralReaders((outputs, self.reader))
        read_inputs(inputs, layer, self.read[layer], readers)
        return outputs.z

    def _read(self, layer: int, inputs: Inputs, n_parts: int) -> None:
        """Have the probabilities of the wanted heads of a layer read."""
        n_query, n_key = inputs.query.shape[2], inputs.key.shape[2]
        reader = self.reader_of(layer, n_parts * n_query, n_parts * n_key)
        if n_parts == 1:
            read_inputs(inputs, layer, self.read[layer], reader, self.queries)
            return
        for part in range(n_parts):
            own = part_of_inputs(inputs, part)
            if self.queries is None:
                to = OfPart(reader, part, n_parts, part * n_query)
                read_inputs(own, layer, self.read[layer], to)
                continue
            for row, query in enumerate(self.queries):
                if query // n_query == part:
                    to = OfPart(reader, part, n_parts, row)
                    read_inputs(own, layer, self.read[layer], to, [query % n_query])

    def reader_of(self, layer: int, n_query: int, n_key: int) -> AttentionReader:
        """Return what takes a layer's probabilities in."""
        if self.reader is not None:
            return self.reader
        n_rows = n_query if self.queries is None else len(self.queries)
        maps = np.empty((len(self.read[layer]), n_rows, n_key), dtype=np.float32)
        self.attention[layer] = maps
        return MapWriter({layer: list(maps)})

    def passed_on(self, layer: int, call: Call) -> Tensor:
        """Keep z and tell the callback, as wanted; return what goes on."""
        z = call.z
        if self.on_call is not None and layer >= 0:
            replaced = self.on_call(layer, call)
            z = z if replaced is None else replaced
        if layer in self.keep_z:
            self.z[layer] = z
        return z


_ACTIVE: ContextVar[AttentionRequest | None] = ContextVar("active_tap_request", default=None)

AnyRequest = TypeVar("AnyRequest", bound=AttentionRequest)


class _Caught(Exception):  # noqa: N818 - not an error: what was wanted is there
    """Ends a run as soon as the inputs of its attention are known."""


class _InputsCatcher:
    """Takes what an attention layer is given, and ends the run there."""

    def __init__(self) -> None:
        self.found: Inputs | None = None

    def attend(self, inputs: Inputs) -> Tensor:
        self.found = inputs
        raise _Caught


def first_attention_inputs(run: Callable[[], Any]) -> Inputs:
    """Return what the first attention layer in a run of a dispatching model is given.

    What comes behind it is not computed.
    """
    caught = _InputsCatcher()
    with active(caught), suppress(_Caught):
        run()
    if caught.found is None:
        raise RuntimeError("no attention layer ran")
    return caught.found


@contextmanager
def active(request: AnyRequest) -> Iterator[AnyRequest]:
    """Let attention serve `request` in this thread while the block runs."""
    token = _ACTIVE.set(request)
    try:
        yield request
    finally:
        _ACTIVE.reset(token)


def active_request() -> AttentionRequest | None:
    return _ACTIVE.get()


def dispatches(model_class: type) -> bool:
    """Whether an architecture looks its attention function up in transformers' registry."""
    return bool(model_class._can_set_attn_implementation())  # type: ignore[attr-defined]


def joined(z: Tensor, n_parts: int) -> Tensor:
    """Put the parts of each row one behind the other: [row * part, position, ...] ->
    [row, part * position, ...]."""
    return z if n_parts == 1 else z.reshape(-1, n_parts * z.shape[1], *z.shape[2:])


def _parted(z: Tensor, n_parts: int) -> Tensor:
    """Undo `joined`."""
    return z if n_parts == 1 else z.reshape(-1, z.shape[1] // n_parts, *z.shape[2:])


def head_tap(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Run attention as the model asks, then read and change what the active request wants.

    Args:
        query: [batch, n_heads, n_query, d]; key and value: [batch, n_kv_heads, n_key, d].
        attention_mask: bool or additive float, or None (causal if the module is, else full).

    Returns:
        z [batch, n_query, n_heads, d_head], and None for the weights.
    """
    _refuse_unknown_keywords(module, kwargs)
    inputs = Inputs(module, query, key, value, attention_mask, kwargs, running_stretches())
    request = _ACTIVE.get()
    return (run_attention(inputs) if request is None else request.attend(inputs)), None


def _refuse_unknown_keywords(module: nn.Module, kwargs: Mapping[str, Any]) -> None:
    known = HARMLESS_KEYWORDS | EAGER_KEYWORDS | HONOURED_KEYWORDS
    unknown = sorted(k for k, v in kwargs.items() if v is not None and k not in known)
    if unknown:
        raise UserError(
            ErrorKind.MODEL,
            f"The attention of {type(module).__name__} uses {', '.join(unknown)}, which this "
            "program does not know how to honour; showing it would show wrong numbers.",
        )


AttentionInterface.register(ATTENTION_NAME, head_tap)
# Without a mask function of the same name, transformers hands over no mask at all.
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
