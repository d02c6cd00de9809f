"""One run in which every target reads a mixture of its own. See `models.edge_patching`."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.attention_tap import Inputs
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
        self, layerwise: Layerwise, prompts: Prompts, reference: Reference, kept: np.ndarray
    ) -> None:
        self._layerwise = layerwise
        self._graph = layerwise.graph
        self._calls = prompts.calls
        self._reference = reference
        self._kept = torch.as_tensor(kept, device=reference.final.device)
        # What each source puts out beside the reference.
        self._outputs = reference.patched_outputs
        self.beside = torch.zeros_like(self._outputs)
        self.beside[0] = prompts.parts.outputs[0, :, reference.first :] - self._outputs[0]
        self._drift: Tensor | None = None
        """What biases added beside the reference's, where norms behind attention scale them."""

    def final(self) -> Tensor:
        """Return the stream behind the last layer, [row, position, d_model]."""
        for layer, shape in enumerate(self._graph.layers):
            if shape.parallel:
                self._read_mlp(layer)
                self._attend(layer)
            else:
                self._attend(layer)
                self._read_mlp(layer)
        return self._mixtures(self._reference.final, self._kept[-1:])[0]

    def _mixtures(self, base: Tensor, kept: Tensor) -> Tensor:
        """Return what targets read, [n, row, position, d_model].

        Args:
            kept: bool [n, n_upstream].
        """
        # One product for all: what sources put out is read once.
        mixed = kept.to(self.beside.dtype) @ self.beside[: kept.shape[1]].flatten(1)
        found = base + mixed.unflatten(1, base.shape)
        return found if self._drift is None else found + self._drift

    def _attend(self, layer: int) -> None:
        shape, reference = self._graph.layers[layer], self._reference.layers[layer]
        first = self._graph.first_target(layer)
        inputs = self._inputs(layer, first)
        heads, bias = reference.heads, reference.bias
        if inputs is not reference.inputs:
            heads, bias = self._layerwise.heads_added(layer, inputs, reference.before)
        at = self._graph.first_source(layer)
        self.beside[at : at + shape.n_heads] = heads - self._outputs[at : at + shape.n_heads]
        moved = bias - reference.given_bias
        if bool(moved.any()):
            self._drift = moved if self._drift is None else self._drift + moved

    def _inputs(self, layer: int, first: int) -> Inputs:
        """Return what a layer's attention is given: each input from a stream of its own."""
        shape, reference = self._graph.layers[layer], self._reference.layers[layer]
        n = self._graph.n_upstream[first]
        masks = self._kept[first : first + shape.n_inputs, :n]
        if self._drift is None and not bool(masks.any()):
            return reference.inputs
        # Inputs with the same edges read the same stream, which is made once.
        distinct, which = torch.unique(masks, dim=0, return_inverse=True)
        mixed = self._mixtures(reference.stream, distinct)
        made = self._layerwise.attention_inputs(
            layer, mixed.flatten(0, 1), self._calls, self._reference.first
        )
        n_rows = reference.stream.shape[0]
        query, key, value = gathered(made, shape.n_heads, shape.n_kv_heads, n_rows, which)
        return replace(reference.inputs, query=query, key=key, value=value)

    def _read_mlp(self, layer: int) -> None:
        shape, reference = self._graph.layers[layer], self._reference.layers[layer]
        target = self._graph.first_target(layer) + shape.n_inputs
        at = self._graph.first_source(layer) + shape.n_heads
        mlp = reference.mlp
        if self._drift is not None or bool(self._kept[target].any()):
            kept = self._kept[target : target + 1, : self._graph.n_upstream[target]]
            stream = self._mixtures(reference.behind, kept)[0]
            mlp = self._layerwise.mlp_added(layer, stream, self._calls, self._reference.first)
        self.beside[at] = mlp - self._outputs[at]


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
