"""How much every head's attention differs between two runs, from one forward pass of each.

Whole maps are never there. What the attention of the first run is made from, its queries and keys,
is kept: a small part of the room of the maps. While the second run goes on, both runs' weights are
computed from theirs a block at a time, compared, and forgotten.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ablation.evaluation import stop_if
from models.attention_inputs import Inputs, masks_the_future, part_of_inputs, read_inputs
from models.attention_reading import MapWriter
from models.attention_tap import Call, TapRequest
from models.forward_pass import float64_device
from models.types import FloatArray

if TYPE_CHECKING:
    from ablation.attention_change import AttentionRun, Pair

KEPT_BYTES = 2**30
"""How much is kept of the first run. What needs more is read in parts of the layers, of two passes
each; all of the built-in model's 30 layers at 4,096 tokens take 380 MB."""

BLOCK_WEIGHTS = 2**19
"""How many weights of each run are compared at a time: in float64 some arrays of 4 MB."""

SMALLEST = torch.finfo(torch.float64).tiny
"""Stands for 0 in logarithms: 0 log 0 is 0."""


def shows_inputs(*runs: "AttentionRun") -> bool:
    """Whether it can be seen what the attention of these runs is made from."""
    return all(run.model.dispatches for run in runs)


def changes_by_layer(
    pair: "Pair",
    found: Callable[[int, FloatArray], None],
    passing: Callable[[int], None],
    cancel: threading.Event | None,
) -> None:
    """Find how much each head's attention differs between two runs, layer by layer.

    Args:
        found: called with a layer, counted within the stack that is compared, and its heads'
            changes, float64 [n_heads], in nats.
        passing: called with each of these layers that the first run has done.
        cancel: looked at in every layer.

    Raises:
        Cancelled: `cancel` was set.
        UserError: the ablation does not fit, or numbers are not finite.
    """
    for layers in _parts(pair):
        _compare_layers(layers, pair, found, passing, cancel)


def _compare_layers(
    layers: Mapping[int, int],
    pair: "Pair",
    found: Callable[[int, FloatArray], None],
    passing: Callable[[int], None],
    cancel: threading.Event | None,
) -> None:
    """Compare some layers: counted in the order they run -> counted within the stack."""
    kept: dict[int, Inputs] = {}

    def keep(layer: int, call: Call) -> None:
        stop_if(cancel)
        if layer in layers and call.reading:
            assert call.inputs is not None  # it dispatches
            kept[layer] = _without_values(call.inputs)
            passing(layers[layer])

    def compare(layer: int, call: Call) -> None:
        stop_if(cancel)
        if layer in layers and call.reading:
            assert call.inputs is not None
            sides = (kept.pop(layer), call.inputs)
            found(layers[layer], head_changes(*sides, layer, cancel, call.n_parts))

    before, after = pair.before, pair.after
    watched = 1 + max(layers)
    first = TapRequest(on_call=keep, watched=watched)
    before.model.watch(before.prompt, first, before.ablation)
    second = TapRequest(on_call=compare, watched=watched)
    after.model.watch(after.prompt, second, after.ablation)


def _parts(pair: "Pair") -> Iterator[dict[int, int]]:
    """Yield layers whose queries and keys may be kept at once, as `_compare_layers` takes them."""
    model, (n_queries, n_keys) = pair.before.model, pair.extent
    layers = model.stacks.layers(pair.stack)
    site = model.sites[next(iter(layers))]
    n_rows = n_queries * site.n_heads + n_keys * site.n_kv_heads
    size = max(1, KEPT_BYTES // (n_rows * site.d_head * model.dtype.itemsize))
    running = list(layers)
    for first in range(0, len(running), size):
        yield {layer: layers[layer] for layer in running[first : first + size]}


def _without_values(inputs: Inputs) -> Inputs:
    """Return what attention weights are made from, in memory that holds nothing else."""
    return replace(
        inputs,
        query=inputs.query.clone(),
        key=inputs.key.clone(),
        value=inputs.value[..., :0].clone(),
    )


def head_changes(
    before: Inputs,
    after: Inputs,
    layer: int,
    cancel: threading.Event | None = None,
    n_parts: int = 1,
) -> FloatArray:
    """Return how much the attention of each head of a layer differs, float64 [n_heads], in nats.

    Args:
        n_parts: rows of the inputs that are parts of the same prompt, tiles say: the mean over all.
    """
    parts = [
        _changes_of_row(part_of_inputs(before, part), part_of_inputs(after, part), layer, cancel)
        for part in range(n_parts)
    ]
    changes: FloatArray = np.mean(parts, axis=0)
    return changes


def _changes_of_row(
    before: Inputs, after: Inputs, layer: int, cancel: threading.Event | None
) -> FloatArray:
    """Return the changes of one row of a layer's inputs."""
    n_heads, n = before.query.shape[1:3]
    n_keys = before.key.shape[2]
    causal = all(i.mask is None and masks_the_future(i) for i in (before, after))
    together = max(1, BLOCK_WEIGHTS // (n * n_keys))
    n_rows = max(1, BLOCK_WEIGHTS // (together * n_keys))
    sums = np.zeros(n_heads)
    for first in range(0, n_heads, together):
        stop_if(cancel)
        heads = range(first, min(first + together, n_heads))
        for start in range(0, n, n_rows):
            queries = range(start, min(start + n_rows, n))
            n_seen = queries.stop if causal else n_keys
            sides = (_weights(side, layer, heads, queries, n_seen) for side in (before, after))
            sums[first : heads.stop] += row_divergences(*sides).sum(dim=-1).cpu().numpy()
    return sums / n


def _weights(
    inputs: Inputs, layer: int, heads: Sequence[int], queries: Sequence[int], n_seen: int
) -> Tensor:
    """Return the weights of some queries on the first keys, [n_heads, n_query, n_seen]."""
    maps = np.empty((len(heads), len(queries), inputs.key.shape[2]), dtype=np.float32)
    read_inputs(inputs, layer, heads, MapWriter({layer: list(maps)}), queries)
    return torch.from_numpy(maps)[..., :n_seen]


def map_change(before: FloatArray, after: FloatArray) -> float:
    """Return how much one map differs from another, in nats: float32 [n_query, n_key] each."""
    size = max(1, BLOCK_WEIGHTS // before.shape[1])
    sides = (torch.from_numpy(rows).split(size) for rows in (before, after))
    blocks = [row_divergences(*block) for block in zip(*sides, strict=True)]
    return float(torch.cat(blocks).mean())


def row_divergences(before: Tensor, after: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of each query's weights, in nats.

    What a row lacks to 1, because attention sinks took it, counts as the weight on one more key.

    Args:
        before, after: float32 [..., n_query, n_key], rows that sum to at most 1.

    Returns:
        float64 [..., n_query], from 0 to ln 2.
    """
    # Rows that rounding leaves 1e-7 off 1 change the divergence by the square of that.
    p, q = (rows.to(float64_device(rows.device)).double() for rows in (before, after))
    sunk_p, sunk_q = ((1 - rows.sum(dim=-1, keepdim=True)).clamp_min(0) for rows in (p, q))
    on_keys, in_sinks = _divergences(p, q), _divergences(sunk_p, sunk_q)
    return (on_keys + in_sinks).clamp_min(0)


def _divergences(p: Tensor, q: Tensor) -> Tensor:
    """Return what the keys contribute: the entropy of the mean less the mean of the entropies."""
    middle = (p + q).div_(2)
    return (_information(p) + _information(q)) / 2 - _information(middle)


def _information(p: Tensor) -> Tensor:
    """Return the sum of p log p over the last axis."""
    return torch.linalg.vecdot(p, p.clamp_min(SMALLEST).log_())
