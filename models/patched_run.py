"""One run in which every target reads a mixture of its own. See `models.edge_patching`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.attention_inputs import Inputs
from models.blocks import BlockCall
from models.layerwise import KeysValues, Layerwise, Parts


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Prompts of equal length, run clean."""

    rows: tuple[tuple[int, ...], ...]
    reads: tuple[int, ...]
    """Where the prediction of each is read."""
    calls: tuple[BlockCall, ...]
    """How the model calls its blocks on one prompt of this length."""
    hidden: Tensor
    """[row, position, d_model], what goes into the first layer."""
    parts: Parts

    @property
    def n_positions(self) -> int:
        return len(self.rows[0])


@dataclass(frozen=True, slots=True, eq=False)
class LayerReference:
    """One layer when its inputs are the reference's, from the first position that is patched."""

    stream: Tensor
    """[row, position, d_model] in front of it."""
    behind: Tensor
    """What the MLP reads."""
    inputs: Inputs
    before: KeysValues | None
    """Of the positions before, which are the clean run's too; None if there are none."""
    heads: Tensor
    """[n_heads, row, position, d_model], computed from this stream."""
    bias: Tensor
    """What attention computes beside the heads, and, in the reference, is."""
    given_bias: Tensor
    mlp: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What goes over edges that are not kept."""

    outputs: Tensor
    """float32 [n_sources, row, position, d_model]."""
    layers: tuple[LayerReference, ...]
    final: Tensor
    """The stream behind the last layer that is the sum of all of it, from `first` on."""
    is_run: bool
    """Whether the model itself puts these out, when all inputs are theirs."""
    first: int
    """The first position that is patched; before it clean run and reference are the same."""

    @property
    def patched_outputs(self) -> Tensor:
        """The outputs from the first position on that is patched."""
        return self.outputs[:, :, self.first :]

    @property
    def before(self) -> list[KeysValues | None]:
        return [layer.before for layer in self.layers]


class PatchedRun:
    """One run with edges patched."""

    def __init__(
        self,
        layerwise: Layerwise,
        prompts: Prompts,
        reference: Reference,
        kept: np.ndarray,
        gates: Tensor | None = None,
    ) -> None:
        """Take a model's parts and what is asked of them.

        Args:
            kept: bool [n_targets, n_sources].
            gates: float32 [n_targets, n_sources], what multiplies the kept edges; None for 1.
        """
        self._layerwise = layerwise
        self._graph = layerwise.graph
        self._calls = prompts.calls
        self._reference = reference
        self._kept = kept
        device = reference.final.device
        plain = torch.as_tensor(kept, dtype=torch.float32, device=device)
        self._gates = plain if gates is None else gates
        self._outputs = reference.patched_outputs
        self._all = torch.zeros_like(self._outputs) if gates is None else None
        """The same as `beside`, 0 for sources that are left out; without gradients only."""
        self.beside: dict[int, Tensor] = {}
        """Source -> what it puts out beside the reference, [row, position, d_model]; left out are
        sources that put out the reference."""
        self._drift: Tensor | None = None
        """What biases added beside the reference's, where norms behind attention scale them."""
        self._put(0, prompts.parts.outputs[0, :, reference.first :])

    def final(self) -> Tensor:
        """Return the stream behind the last layer, [row, position, d_model]."""
        for layer, shape in enumerate(self._graph.layers):
            if shape.parallel:
                self._read_mlp(layer)
                self._attend(layer)
            else:
                self._attend(layer)
                self._read_mlp(layer)
        last = len(self._graph.targets) - 1
        return self._mixtures(self._reference.final, [last])[0]

    def _mixtures(self, base: Tensor, targets: Sequence[int]) -> Tensor:
        """Return what targets fed by the same sources read, [n, row, position, d_model]."""
        n = self._graph.n_upstream[targets[0]]
        used = np.flatnonzero(self._kept[targets, :n].any(axis=0)).tolist()
        sources = [source for source in used if source in self.beside]
        found = base.expand(len(targets), *base.shape)
        if sources:
            found = found + self._product(targets, sources, n).unflatten(1, base.shape)
        return found if self._drift is None else found + self._drift

    def _product(self, targets: Sequence[int], sources: list[int], n: int) -> Tensor:
        """Return what gates let through, [n_targets, row * position * d_model]: one product, so
        that what sources put out is read once, and copied if they are few."""
        if self._all is not None:
            if 2 * len(sources) > n:
                return self._gates[targets][:, :n] @ self._all[:n].flatten(1)
            return _gated(self._gates[targets][:, sources], *(self.beside[s] for s in sources))
        # With gradients every copy would be kept until the end: they are made once more instead.
        return checkpoint(
            _gated,
            self._gates[targets][:, sources],
            *(self.beside[source] for source in sources),
            use_reentrant=False,
            preserve_rng_state=False,
        )

    def _attend(self, layer: int) -> None:
        shape, reference = self._graph.layers[layer], self._reference.layers[layer]
        inputs = self._inputs(layer)
        heads, bias = reference.heads, reference.bias
        if inputs is not reference.inputs:
            heads, bias = self._layerwise.heads_added(layer, inputs, reference.before)
        at = self._graph.first_source(layer)
        if inputs is not reference.inputs or not self._reference.is_run:
            for head in range(shape.n_heads):
                self._put(at + head, heads[head])
        moved = bias - reference.given_bias
        if bool(moved.any()):
            self._drift = moved if self._drift is None else self._drift + moved

    def _inputs(self, layer: int) -> Inputs:
        """Return what a layer's attention is given: each input from a stream of its own."""
        shape, reference = self._graph.layers[layer], self._reference.layers[layer]
        first = self._graph.first_target(layer)
        masks = self._kept[first : first + shape.n_inputs]
        if self._drift is None and not masks.any():
            return reference.inputs
        # Inputs with the same edges read the same stream, which is made once; but where gates are
        # given each edge has one of its own, so that only inputs without edges are the same.
        streams = masks if self._all is not None else np.diag(masks.any(axis=1))
        _, distinct, which = np.unique(streams, axis=0, return_index=True, return_inverse=True)
        mixed = self._mixtures(reference.stream, (first + distinct).tolist())
        made = self._layerwise.attention_inputs(
            layer, mixed.flatten(0, 1), self._calls, self._reference.first
        )
        query, key, value = gathered(
            made, shape.n_heads, shape.n_kv_heads, len(reference.stream), torch.as_tensor(which)
        )
        return replace(reference.inputs, query=query, key=key, value=value)

    def _read_mlp(self, layer: int) -> None:
        shape, reference = self._graph.layers[layer], self._reference.layers[layer]
        target = self._graph.first_target(layer) + shape.n_inputs
        at = self._graph.first_source(layer) + shape.n_heads
        if self._drift is not None or self._kept[target].any():
            stream = self._mixtures(reference.behind, [target])[0]
            mlp = self._layerwise.mlp_added(layer, stream, self._calls, self._reference.first)
            self._put(at, mlp)
        elif not self._reference.is_run:
            self._put(at, reference.mlp)

    def _put(self, source: int, output: Tensor) -> None:
        """Take down what a source puts out in this run."""
        beside = output - self._outputs[source]
        if self._all is not None:
            self._all[source] = beside
            beside = self._all[source]
        self.beside[source] = beside


def _gated(gates: Tensor, *put_out: Tensor) -> Tensor:
    return gates @ torch.stack(put_out).flatten(1)


def gathered(
    inputs: Inputs, n_heads: int, n_kv_heads: int, n_rows: int, which: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each head's query, key and value as made from the stream of its own.

    Args:
        inputs: made from [n_streams * n_rows, position, d_model].
        which: int64 [n_heads + 2 n_kv_heads], the stream of each query, key and value input; None
            where there is one for each, in order.

    Returns:
        Three tensors [n_rows, n_heads or n_kv_heads, position, d].
    """
    n_inputs = n_heads + 2 * n_kv_heads
    streams = torch.arange(n_inputs) if which is None else which
    found = []
    for tensor, first, count in (
        (inputs.query, 0, n_heads),
        (inputs.key, n_heads, n_kv_heads),
        (inputs.value, n_heads + n_kv_heads, n_kv_heads),
    ):
        by_stream = tensor.unflatten(0, (-1, n_rows))  # [stream, row, head, position, d]
        own = by_stream[streams[first : first + count], :, torch.arange(count)]
        found.append(own.transpose(0, 1))
    return found[0], found[1], found[2]
