"""Many sets of ablated heads in one pass, each computed only where it differs from the others.

A head of layer l changes nothing before layer l, and in layer l it changes only what the output
projection is given. So one row, in which only the heads common to all sets are ablated, runs
through the whole model once and is remembered (`BaseRun`). Each set of heads then is a row that
*branches off* in the layer of its first own head: there it takes the base run's residual stream
and head outputs, with its own heads edited, and goes on alone. For the rows of a pass:

    for each block from the first branch on:
        rows that branched off before: the whole block
        rows that branch off here:     output projection, norms and MLP; the rest is the base run's
    last block: keys and values everywhere, all else only at the position that is read

An intervention at chosen positions changes nothing before the first of them, and with causal
attention nothing behind the position read matters: only the positions between are computed, with
the base run's keys and values for the earlier ones.

Against one forward pass a head this needs less than half the work of a sweep; a search step is
the same pass with the heads chosen so far common to all sets. No padding, no approximation.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models import shared_prefix
from models.attention_edits import EmptyQueries, edit_outputs, planned_inputs, refuse_empty_queries
from models.attention_hooks import AttentionSite
from models.attention_inputs import Inputs, is_causal, needs_eager, run_attention
from models.attention_tap import (
    Call,
    TapRequest,
    active,
    active_request,
    first_attention_inputs,
    joined,
)
from models.blocks import (
    BlockCall,
    Finished,
    Recorder,
    Window,
    watching,
)
from models.cores import computes_on_cores, n_cores, on_cores, prepared
from models.edits import HeadEditor, RowPlan, rows_by_layer
from models.placement import execution_device
from models.types import Head

LEAST_OF_A_CORE = 32
"""Rows times positions that are worth a core of their own."""


class LogitsOf(Protocol):
    """Runs the model on rows of token ids of equal length, serving a request."""

    def __call__(
        self,
        ids: Sequence[Sequence[int]],
        request: TapRequest,
        position: int | None = None,
        *,
        beside: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    ) -> Tensor:
        """Return logits [batch, 1, n_vocab] at a position; [batch, position, n_vocab] for None."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Editing:
    """What is done to heads, and where the outcome is read."""

    editor: HeadEditor
    acted_on: Tensor | None
    """bool [n_positions], True where the intervention acts; None for everywhere."""
    read: int
    """The position whose prediction is asked for."""

    def plan(self, by_layer: dict[int, tuple[Tensor, Tensor]]) -> RowPlan:
        return RowPlan(self.editor, by_layer, self.acted_on)

    def where_acted_on(self, z: Tensor, edited: Tensor, window: Window) -> Tensor:
        """Return z [window.count, n_heads, d_head], edited where the intervention acts."""
        # A knockout's pattern says by itself where it acts.
        if self.acted_on is None or self.editor.blocked is not None:
            return edited
        here = window.of(self.acted_on, 0).to(z.device)
        return torch.where(here[:, None, None], edited, z)


@dataclass(frozen=True, slots=True, eq=False)
class BaseRun:
    """One row's forward pass, remembered: what the branches have in common."""

    editing: Editing
    common: frozenset[Head]
    window: Window
    """The positions in which branches can differ from this run and matter; none of them where
    the intervention acts only behind the position read."""
    calls: tuple[BlockCall, ...]
    """How each block was called; hidden states [1, position, d_model]."""
    z: tuple[Tensor, ...]
    """layer -> [position, n_heads, d_head], with the common heads edited."""
    edited_z: dict[int, Tensor]
    """layer -> [position, n_heads, d_head], with every head edited, at every position; only where
    sets branch off."""
    keys: tuple[Tensor, ...]
    """layer -> [1, n_kv_heads, position, d]; empty if they were not wanted."""
    values: tuple[Tensor, ...]
    logits: Tensor
    """[1, n_vocab] at the position read."""
    eager: bool
    """Whether a layer asks for something that fused attention cannot honour."""

    @property
    def writes_scores(self) -> bool:
        """Whether the branches' attention writes its scores, or a mask a head, out."""
        few_queries = self.window.count**2 <= self.window.first  # `shared_prefix` serves them
        return self.eager or few_queries or self.editing.editor.blocked is not None

    @property
    def n_positions(self) -> int:
        return int(self.calls[0].hidden.shape[1])

    def acting_at(self, position: int) -> "BaseRun":
        """Return this run for branches that act at one position only.

        For a run that kept its keys, of a causal model and an intervention that acts on each
        position by itself: such a run is the same wherever its branches act.
        """
        n = self.n_positions
        acted_on = torch.arange(n, device=self.logits.device) == position
        # Behind the position read nothing matters.
        behind = position > self.editing.read
        window = Window(n, 0) if behind else Window(position, n - position)
        return replace(self, editing=replace(self.editing, acted_on=acted_on), window=window)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Sets of heads that run together, one a row, in the order in which they branch off."""

    layers: tuple[int, ...]
    """The layer where each row branches off, ascending."""
    head_sets: tuple[tuple[Head, ...], ...]

    def every(self, n: int) -> list["Group"]:
        """Return n groups, each with every n-th set: about as much work."""
        return [Group(self.layers[i::n], self.head_sets[i::n]) for i in range(n)]

    def n_before(self, layer: int) -> int:
        """Return how many rows have branched off before a layer."""
        return bisect_left(self.layers, layer)

    def births(self, device: torch.device) -> dict[int, "Births"]:
        """Return layer -> the rows that branch off there."""
        own = [
            [h for h in heads if h.layer == layer]
            for layer, heads in zip(self.layers, self.head_sets, strict=True)
        ]
        births = {}
        for layer, (rows, heads) in rows_by_layer(own, device).items():
            first = self.n_before(layer)
            births[layer] = Births(self.n_before(layer + 1) - first, rows - first, heads)
        return births

    def later_edits(self, device: torch.device) -> dict[int, tuple[Tensor, Tensor]]:
        """Return layer -> (rows, heads) edited in the layers after a row has branched off."""
        later = [
            [h for h in heads if h.layer > layer]
            for layer, heads in zip(self.layers, self.head_sets, strict=True)
        ]
        return rows_by_layer(later, device)


@dataclass(frozen=True, slots=True, eq=False)
class Births:
    """Rows that branch off in one layer, and their own heads there."""

    n_rows: int
    rows: Tensor
    """int64 [n]: for each own head, its row among these."""
    heads: Tensor
    """int64 [n]"""


class BranchEngine:
    """Evaluates sets of ablated heads on one dispatching model."""

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[AttentionSite],
        blocks: Sequence[nn.Module],
        causal: bool,
        logits_of: LogitsOf,
        n_before: int = 0,
    ) -> None:
        """Wrap a model.

        Args:
            n_before: attention layers that run before its blocks: a vision tower's.
        """
        self._model = model
        self._sites = sites
        self._blocks = blocks
        self._causal = causal
        self._logits_of = logits_of
        self._n_before = n_before
        self._on_cores = computes_on_cores(model)
        if self._on_cores and n_cores() > 1:
            prepared(n_cores())

    @staticmethod
    def install(
        model: nn.Module,
        sites: Sequence[AttentionSite],
        blocks: Sequence[nn.Module],
        causal: bool,
        logits_of: LogitsOf,
        n_before: int = 0,
    ) -> "BranchEngine":
        """Make a model's watched blocks (`blocks.watched_blocks`) ready to be run one by one."""
        for site in sites:
            site.module.register_forward_pre_hook(_only_older_rows, with_kwargs=True)
            site.projection.register_forward_pre_hook(_with_newborn_rows)
        return BranchEngine(model, sites, blocks, causal, logits_of, n_before)

    def base_run(
        self,
        ids: Sequence[int],
        head_sets: Sequence[frozenset[Head]],
        editing: Editing,
        keep_keys: bool = False,
        beside: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    ) -> BaseRun:
        """Run the row that all sets share, and remember it.

        Args:
            beside: what goes into the model with the ids (`forward_pass.beside`).
            keep_keys: whether its keys and values are kept even if no branch of this editing
                needs them, for `BaseRun.acting_at`.

        Raises:
            UserError: a knockout leaves a query no key.
        """
        common = frozenset.intersection(*head_sets)
        window = self._window(editing, len(ids))
        pictured = any(isinstance(row, np.ndarray) for row in (beside or {}).values())
        if pictured:  # whose positions cannot be cut off from them
            n = len(ids)
            window = Window(window.first, n - window.first) if window.count else Window(n, 0)
        else:  # of what comes behind the window nothing matters
            ids = ids[: window.end]
        branching = {branch_layer(heads, common) for heads in head_sets if heads != common}
        device = execution_device(self._model.get_input_embeddings())  # type: ignore[operator]
        shifted = [Head(head.layer + self._n_before, head.head) for head in sorted(common)]
        plan = editing.plan(rows_by_layer([shifted], device))
        keep_keys = keep_keys or window.first > 0
        memory = _BaseMemory(editing, frozenset(branching), keep_keys, self._n_before)
        request = TapRequest(
            plan=plan,
            on_call=memory.remember,
            watched=self._n_before + len(self._blocks),
            left_alone=memory.left_alone,
        )
        recorder = Recorder()
        with watching(recorder):
            logits = self._logits_of([list(ids)], request, editing.read, beside=beside)
        refuse_empty_queries(memory.left_alone)
        return BaseRun(
            editing=editing,
            common=common,
            window=window,
            calls=tuple(recorder.calls),
            z=tuple(memory.z),
            edited_z=memory.edited_z,
            keys=tuple(memory.keys),
            values=tuple(memory.values),
            logits=logits[:, 0],
            eager=memory.eager,
        )

    def evaluate(
        self, base: BaseRun, head_sets: Sequence[frozenset[Head]], rows: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Evaluate sets of heads, up to `rows` of them in a pass.

        Yields:
            (indices of the pass's sets, logits [n_sets_in_pass, n_vocab]).

        Raises:
            UserError: a knockout leaves a query no key.
        """
        same: list[int] = []
        branches: list[int] = []
        for i, heads in enumerate(head_sets):
            changes_nothing = heads == base.common or base.window.count == 0
            (same if changes_nothing else branches).append(i)
        if same:
            yield same, base.logits.expand(len(same), -1)
        layer_of = {i: branch_layer(head_sets[i], base.common) for i in branches}
        branches.sort(key=layer_of.__getitem__)
        for start in range(0, len(branches), rows):
            members = branches[start : start + rows]
            group = Group(
                tuple(layer_of[i] for i in members),
                tuple(tuple(sorted(head_sets[i])) for i in members),
            )
            yield members, self._run(base, group)

    def _window(self, editing: Editing, n: int) -> Window:
        """Return the positions in which a row can differ from the base run and matter."""
        if not self._causal:
            return Window(0, n)
        end = n if editing.editor.mixes_positions else editing.read + 1
        acted_on = editing.acted_on
        if editing.editor.blocked is not None:
            acted_on = editing.editor.blocked.any(dim=1)
        if acted_on is None:
            return Window(0, end)
        chosen = acted_on.nonzero()
        first = int(chosen[0]) if len(chosen) else end
        # A change behind the position read changes nothing there.
        return Window(first, end - first) if first <= editing.read else Window(end, 0)

    def _run(self, base: BaseRun, group: Group) -> Tensor:
        """Run one pass; return logits [n_rows, n_vocab]."""
        n = n_cores()
        if not self._on_cores or not shared_out(len(group.layers), base.window.count, n):
            return self._finish(base, self._last_hidden(base, group))
        parts = on_cores(lambda part: self._last_hidden(base, part), group.every(n))
        hidden = parts[0].new_empty(len(group.layers), *parts[0].shape[1:])
        for i, part in enumerate(parts):
            hidden[i::n] = part
        return self._finish(base, hidden)

    def _last_hidden(self, base: BaseRun, group: Group) -> Tensor:
        """Run the blocks; return their output at the position read, [n_rows, 1, d_model]."""
        layers = range(group.layers[0], len(self._blocks))
        device = base.calls[0].hidden.device
        # All that goes to the device goes before the first block: inside the pass nothing waits.
        plan = base.editing.plan(group.later_edits(device))
        births = group.births(device)
        hidden: Tensor | None = None  # [n_rows_so_far, window.count, d_model]
        left_alone: list[EmptyQueries] = []
        window = base.window
        for layer in layers:
            block_pass = BlockPass(
                layer=layer,
                base=base,
                window=window,
                n_old=group.n_before(layer),
                births=births.get(layer),
                plan=plan,
                left_alone=left_alone,
            )
            if layer == layers[-1] and not base.editing.editor.mixes_positions:
                block_pass = self._narrowed(block_pass, hidden)
                if hidden is not None:
                    hidden = _at(block_pass.window, window, hidden)
            hidden = self._run_block(block_pass, hidden)
            window = block_pass.window
        refuse_empty_queries(left_alone)
        assert hidden is not None
        return hidden[:, base.editing.read - window.first].unsqueeze(1)

    def _run_block(self, block_pass: "BlockPass", hidden: Tensor | None) -> Tensor:
        """Run a block; return its output [n_rows, window.count, d_model]."""
        layer, window = block_pass.layer, block_pass.window
        call = block_pass.base.calls[layer]
        parts = [] if hidden is None else [hidden]
        if block_pass.births is not None:
            parts.append(window.of(call.hidden, 1).expand(block_pass.births.n_rows, -1, -1))
        stacked = parts[0] if len(parts) == 1 else torch.cat(parts)
        with active(block_pass):
            return call.run(self._blocks[layer], stacked, window)

    def _narrowed(self, block_pass: "BlockPass", hidden: Tensor | None) -> "BlockPass":
        """Return the last block's pass at the position read only, with keys and values of all."""
        base, layer = block_pass.base, block_pass.layer
        window = Window(base.editing.read, 1)
        if hidden is None or block_pass.window == window:
            return replace(block_pass, window=window)
        call, block = base.calls[layer], self._blocks[layer]
        inputs = first_attention_inputs(lambda: call.run(block, hidden, block_pass.window))
        return replace(block_pass, window=window, keys_and_values=(inputs.key, inputs.value))

    def _finish(self, base: BaseRun, hidden: Tensor) -> Tensor:
        """Let the model go on from the last block's output [n_rows, 1, d_model]."""
        ids = [[0]] * len(hidden)
        with watching(Finished(hidden, base.calls)):
            return self._logits_of(ids, TapRequest(), 0)[:, 0]


def shared_out(n_rows: int, n_positions: int, n_parts: int) -> bool:
    """Whether the rows of a pass are worth sharing out among so many cores."""
    return 1 < n_parts <= n_rows and n_rows * n_positions >= n_parts * LEAST_OF_A_CORE


def branch_layer(heads: frozenset[Head], common: frozenset[Head]) -> int:
    """Return the layer where a set of heads begins to differ from what all sets share."""
    return min(head.layer for head in heads - common)


def _at(inner: Window, outer: Window, hidden: Tensor) -> Tensor:
    """Return the inner window's part of hidden states that cover the outer one."""
    return hidden.narrow(1, inner.first - outer.first, inner.count)


@dataclass(slots=True, eq=False)
class _BaseMemory:
    """Collects what branches need of the base run while it runs."""

    editing: Editing
    branching: frozenset[int]
    """The layers where sets branch off."""
    keep_keys: bool
    n_before: int
    """Attention layers that run before the blocks."""
    z: list[Tensor] = field(default_factory=list)
    edited_z: dict[int, Tensor] = field(default_factory=dict)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    left_alone: list[EmptyQueries] = field(default_factory=list)
    eager: bool = False

    def remember(self, layer: int, call: Call) -> None:
        assert call.inputs is not None  # branches are for models that dispatch
        layer -= self.n_before
        if layer < 0:
            return
        self.z.append(call.z[0])
        self.eager = self.eager or needs_eager(call.inputs.options)
        if layer in self.branching:
            edited = every_head_edited(layer, call, self.editing, self.left_alone)
            self.edited_z[layer] = edited[0]
        if self.keep_keys:
            self.keys.append(call.inputs.key)
            self.values.append(call.inputs.value)


def every_head_edited(
    layer: int, call: Call, editing: Editing, left_alone: list[EmptyQueries]
) -> Tensor:
    """Return what each head of row 0 would put out if it was ablated everywhere.

    Returns:
        [1, position, n_heads, d_head].

    Args:
        left_alone: gets the queries that a knockout leaves no key.
    """
    n_heads, device = call.raw_z.shape[2], call.raw_z.device
    heads = torch.arange(n_heads, device=device)
    plan = editing.plan({layer: (torch.zeros_like(heads), heads)})
    if editing.editor.blocked is not None:
        assert call.inputs is not None
        planned = planned_inputs(call.inputs, layer, plan, left_alone, n_parts=call.n_parts)
        return joined(run_attention(planned), call.n_parts)
    z = call.raw_z[0].transpose(0, 1)  # [n_heads, position, d_head]
    return editing.editor.edit_z(z, layer, heads).transpose(0, 1)[None]


@dataclass(frozen=True, slots=True, eq=False)
class BlockPass:
    """One block run on the rows of a group: what its attention is to do."""

    layer: int
    base: BaseRun
    window: Window
    n_old: int
    """Rows that branched off before this block; they come first in the batch."""
    births: Births | None
    """The rows that branch off here."""
    plan: RowPlan
    """The edits of the older rows."""
    left_alone: list[EmptyQueries]
    keys_and_values: tuple[Tensor, Tensor] | None = None
    """Keys and values of the base run's whole window, where the block runs on a part of it."""

    def attend(self, inputs: Inputs) -> Tensor:
        query, value = inputs.query, inputs.value
        if self.n_old == 0:
            # Nobody looks at it: the newborn rows take their z from the base run.
            return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
        own = self._with_own_keys(inputs)
        planned = planned_inputs(own, self.layer, self.plan, self.left_alone, self.window.first)
        return self._edited(self._run_attention(planned))

    def newborn_z(self, births: Births) -> Tensor:
        """Return the head outputs of the rows that branch off here, [n, position, n_heads, d]."""
        base, window = self.base, self.window
        z = window.of(base.z[self.layer], 0)
        edited = base.editing.where_acted_on(z, window.of(base.edited_z[self.layer], 0), window)
        rows, heads = births.rows.to(z.device), births.heads.to(z.device)
        newborn = z.repeat(births.n_rows, 1, 1, 1)
        newborn[rows, :, heads] = edited[:, heads].transpose(0, 1)
        return newborn

    def _with_own_keys(self, inputs: Inputs) -> Inputs:
        """Give the window's queries the rows' own keys and values, and the mask over all keys."""
        key, value = self.keys_and_values or (inputs.key, inputs.value)
        mask = inputs.mask
        n, window = self.base.n_positions, self.window
        if mask is not None and mask.shape[-2] == n:
            mask = window.of(mask, -2)
        own = replace(inputs, key=key, value=value, mask=mask)
        whole = window.count == n
        # One query at the end sees all keys, unless a knockout takes some of them.
        sees_all = window.count == 1 and window.end == n and self.plan.editor.blocked is None
        if mask is None and is_causal(own) and not whole and not sees_all:
            ones = torch.ones(window.count, n, dtype=torch.bool, device=key.device)
            own = replace(own, mask=ones.tril(diagonal=window.first)[None, None])
        return own

    def _run_attention(self, inputs: Inputs) -> Tensor:
        """Let the queries attend to the base run's keys and to the rows' own behind them."""
        n_shared = self.base.window.first
        if n_shared == 0:
            return run_attention(inputs)
        keys = self.base.keys[self.layer][:, :, :n_shared]
        values = self.base.values[self.layer][:, :, :n_shared]
        if shared_prefix.can_share(inputs, n_shared):
            return shared_prefix.attend(inputs, keys, values)
        key, value = _behind(keys, inputs.key), _behind(values, inputs.value)
        return run_attention(replace(inputs, key=key, value=value))

    def _edited(self, z: Tensor) -> Tensor:
        """Carry out the older rows' edits on z [n_old, window.count, n_heads, d_head]."""
        first = self.window.first
        if first == 0 or not self.plan.editor.mixes_positions or not self.plan.touches(self.layer):
            return edit_outputs(z, self.layer, self.plan, first)
        before = self.base.z[self.layer][:first].expand(len(z), -1, -1, -1)
        return edit_outputs(torch.cat([before, z], dim=1), self.layer, self.plan)[:, first:]


def _behind(before: Tensor, own: Tensor) -> Tensor:
    """Return the rows' own keys or values behind the base run's: [n, n_kv_heads, n_key, d]."""
    return torch.cat([before.expand(len(own), -1, -1, -1), own], dim=2)


def _only_older_rows(
    _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Keep newborn rows out of the attention; if there are no others, one runs idle."""
    request = active_request()
    if not isinstance(request, BlockPass) or request.births is None:
        return None
    n = max(request.n_old, 1)
    if args:
        return (args[0][:n], *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": kwargs["hidden_states"][:n]}


def _with_newborn_rows(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Hand the newborn rows' head outputs to the output projection, behind those of the others."""
    request = active_request()
    if not isinstance(request, BlockPass) or request.births is None:
        return None
    given = args[0]  # [n_old, position, n_heads * d_head]
    newborn = request.newborn_z(request.births).reshape(-1, *given.shape[1:])
    if request.n_old == 0:
        return (newborn, *args[1:])
    return (torch.cat([given, newborn]), *args[1:])
