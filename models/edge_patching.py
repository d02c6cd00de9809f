"""Runs in which every head's query, key and value input and every MLP has a mixture of its own.

A circuit is a set of edges. In its run, each target reads the clean run's contributions over the
edges of the circuit, as they are computed in this very run, and a reference's contributions (those
of a corrupted prompt, say) over all others:

    input(target) = sum over sources of (output in this run, if the edge is kept, else reference)

With all edges kept that is the clean run, with none the reference. Exact: nothing is linearised.
The gradient of a score at every target's input, times what a source's output differs from the
reference, estimates what each edge does (edge attribution patching, Syed et al., arXiv 2310.10348);
here it is the derivative of this same run.

All prompts of a batch have as many tokens; arrays of edges are those of `models.edge_graph`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.attention_tap import Inputs
from models.blocks import BlockCall
from models.edge_graph import EdgeGraph
from models.ending import Ending
from models.errors import ErrorKind, UserError
from models.forward_pass import ForwardPass
from models.layerwise import Layerwise, Parts

PROOF = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest difference between the stream behind the last layer, run in parts, and the model's own,
relative to its largest value."""


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
class _Layer:
    """One layer when its inputs are the reference's."""

    stream: Tensor
    """[row, position, d_model] in front of it."""
    behind: Tensor
    """What the MLP reads."""
    inputs: Inputs
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
    layers: tuple[_Layer, ...]
    final: Tensor
    """The stream behind the last layer that is the sum of all of it."""


class EdgePatching:
    """Patches edges of one model, and scores them."""

    def __init__(self, layerwise: Layerwise, forward: ForwardPass, ending: Ending) -> None:
        self._layerwise = layerwise
        self._forward = forward
        self._ending = ending

    @property
    def graph(self) -> EdgeGraph:
        return self._layerwise.graph

    def run(self, rows: Sequence[Sequence[int]], reads: Sequence[int]) -> Prompts:
        """Run prompts of equal length in parts, and hold the sum against the model's own run.

        Raises:
            UserError: the parts do not add up to what the model does; memory ran out.
        """
        whole = self._layerwise.recorded(rows)
        calls = whole if len(rows) == 1 else self._layerwise.calls(rows[0])
        hidden = whole[0].hidden
        with self._computing(len(rows), len(rows[0])), torch.no_grad():
            parts = self._layerwise.run(hidden, calls)
            own = whole[-1].output.float()
            error = float((parts.final - own).abs().max() / own.abs().max())
        if not error <= PROOF.get(hidden.dtype, 1e-4):
            raise UserError(
                ErrorKind.MODEL,
                f"The parts of {self._forward.name} do not add up to what it does (off by "
                f"{error:.1e}), so that its edges cannot be patched rightly.",
            )
        return Prompts(tuple(tuple(row) for row in rows), tuple(reads), tuple(calls), hidden, parts)

    def reference(self, prompts: Prompts, parts: Parts, is_run: bool) -> Reference:
        """Make ready what goes over edges that are not kept.

        Args:
            prompts: those that will be patched.
            parts: a corrupted run's, or means or zeros in their place.
            is_run: whether the model itself puts these out, when all inputs are theirs.
        """
        outputs, biases = parts.outputs, parts.biases
        calls, layers = prompts.calls, []
        with self._computing(*outputs.shape[1:3]), torch.no_grad():
            stream = outputs[0]
            for layer, shape in enumerate(self.graph.layers):
                first = self.graph.first_source(layer)
                own = outputs[first : first + shape.n_heads]
                inputs = self._layerwise.attention_inputs(layer, stream, calls)
                behind = stream + own.sum(0) + biases[layer]
                reads = stream if shape.parallel else behind
                if is_run:
                    heads, bias, mlp = own, biases[layer], outputs[first + shape.n_heads]
                else:
                    heads, bias = self._layerwise.heads_added(layer, inputs)
                    mlp = self._layerwise.mlp_added(layer, reads, calls)
                layers.append(_Layer(stream, reads, inputs, heads, bias, biases[layer], mlp))
                stream = behind + outputs[first + shape.n_heads]
        return Reference(outputs, tuple(layers), stream)

    def logits(self, prompts: Prompts, reference: Reference, kept: np.ndarray) -> Tensor:
        """Return logits float32 [row, n_vocab] with only some edges carrying the clean run.

        Args:
            kept: bool [n_targets, n_sources].
        """
        with self._computing(*reference.outputs.shape[1:3]), torch.no_grad():
            stream = _PatchedRun(self, prompts, reference, kept).final()
        return self.read(stream, prompts.reads)

    def outputs(self, prompts: Prompts, reference: Reference, kept: np.ndarray) -> Tensor:
        """Return what every source puts out in that run, float32 [n_sources, row, position,
        d_model]."""
        with self._computing(*reference.outputs.shape[1:3]), torch.no_grad():
            run = _PatchedRun(self, prompts, reference, kept)
            run.final()
            return run.beside + reference.outputs

    def read(self, final: Tensor, reads: Sequence[int]) -> Tensor:
        """Return the logits [row, n_vocab] that streams [row, position, d_model] end in."""
        at = torch.arange(len(reads), device=final.device), torch.tensor(reads)
        return self._ending.logits(final[at]).float()

    def scores(
        self,
        prompts: Prompts,
        hidden: Tensor,
        differences: Tensor,
        score: Callable[[Tensor], Tensor],
    ) -> np.ndarray:
        """Return what each edge adds to a score, to first order, from one backward pass.

        Args:
            hidden: [row, position, d_model], what goes into the first layer: at which point the
                gradient is taken.
            differences: float32 [n_sources, row, position, d_model], what each source puts out
                beside the reference.
            score: logits [row, n_vocab] -> a scalar.

        Returns:
            float64 [n_targets, n_sources]; 0 where there is no edge.
        """
        found = np.zeros((len(self.graph.targets), len(self.graph.sources)))
        with self._computing(*hidden.shape[:2]):
            for first, at_inputs in self._gradients(prompts, hidden, score):
                n = self.graph.n_upstream[first]
                found[first : first + len(at_inputs), :n] = _products(at_inputs, differences[:n])
        return found

    def scores_by_position(
        self,
        prompts: Prompts,
        hidden: Tensor,
        differences: Tensor,
        score: Callable[[Tensor], Tensor],
        kept: np.ndarray,
    ) -> np.ndarray:
        """Return what some edges add at each position, to first order, from one backward pass.

        An edge leads from its source at a position to its target's input at the same position; the
        sum over positions is its score.

        Args:
            hidden, differences, score: as of `scores`.
            kept: bool [n_targets, n_sources], which edges.

        Returns:
            float64 [n_edges, position], in the order of `np.argwhere(kept)`.
        """
        found = []
        with self._computing(*hidden.shape[:2]):
            for first, at_inputs in self._gradients(prompts, hidden, score):
                for target, gradient in enumerate(at_inputs, start=first):
                    sources = torch.as_tensor(np.flatnonzero(kept[target]))
                    of_edges = differences[sources.to(differences.device)]
                    added = torch.einsum("rpd,srpd->sp", gradient.float(), of_edges)
                    found.append(added.double().cpu().numpy())
        return np.concatenate(found)

    def _gradients(
        self, prompts: Prompts, hidden: Tensor, score: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the gradient of a score at the input of every target, several at a time.

        Yields:
            (index of the first target, [n_targets, row, position, d_model]); all of one step are
            fed by the same sources.
        """
        start = hidden.detach().float().requires_grad_()
        steps = list(self._layerwise.steps(start, prompts.calls))
        final = steps[-1].output
        at = torch.arange(len(prompts.reads), device=final.device), torch.tensor(prompts.reads)
        total = score(self._ending.differentiable_logits(final[at]))
        given = [(step.inputs, step.reads) for step in steps]
        wanted = [t for inputs, reads in given for t in (*_qkv(inputs), reads)]
        gradients = torch.autograd.grad(total, [*wanted, final])
        for layer, step in enumerate(steps):
            ours, first = gradients[4 * layer : 4 * layer + 4], self.graph.first_target(layer)
            stream = step.stream.detach()
            yield first, self._at_attention_inputs(layer, stream, ours[:3], prompts.calls)
            yield first + self.graph.layers[layer].n_inputs, ours[3][None]
        yield len(self.graph.targets) - 1, gradients[-1][None]

    def _computing(self, n_rows: int, n_positions: int) -> AbstractContextManager[None]:
        return self._forward.computing(n_rows, n_positions, gradients=True)

    def _at_attention_inputs(
        self,
        layer: int,
        stream: Tensor,
        gradients: Sequence[Tensor],
        calls: Sequence[BlockCall],
    ) -> Tensor:
        """Return the gradients at streams of their own of a layer's query, key and value inputs,
        [n_inputs, row, position, d_model], from those at queries, keys and values."""
        shape = self.graph.layers[layer]
        rows = _own_streams(stream, shape.n_inputs)
        inputs = self._layerwise.attention_inputs(layer, rows.flatten(0, 1), calls)
        query, key, value = gathered(inputs, shape.n_heads, shape.n_kv_heads, len(stream))
        through = sum(
            (own * gradient).sum()
            for own, gradient in zip((query, key, value), gradients, strict=True)
        )
        found: Tensor = torch.autograd.grad(through, rows)[0]  # type: ignore[arg-type]
        return found


class _PatchedRun:
    """One run with edges patched."""

    def __init__(
        self, patching: EdgePatching, prompts: Prompts, reference: Reference, kept: np.ndarray
    ) -> None:
        self._layerwise = patching._layerwise
        self._graph = patching.graph
        self._calls = prompts.calls
        self._reference = reference
        self._kept = torch.as_tensor(kept, device=reference.final.device)
        # What each source puts out beside the reference.
        self.beside = torch.zeros_like(reference.outputs)
        self.beside[0] = prompts.parts.outputs[0] - reference.outputs[0]
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
            heads, bias = self._layerwise.heads_added(layer, inputs)
        at = self._graph.first_source(layer)
        self.beside[at : at + shape.n_heads] = (
            heads - self._reference.outputs[at : at + shape.n_heads]
        )
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
        made = self._layerwise.attention_inputs(layer, mixed.flatten(0, 1), self._calls)
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
            mlp = self._layerwise.mlp_added(layer, stream, self._calls)
        self.beside[at] = mlp - self._reference.outputs[at]


def _qkv(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    return inputs.query, inputs.key, inputs.value


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


def _own_streams(stream: Tensor, count: int) -> Tensor:
    """Return copies [count, row, position, d_model] to take gradients with respect to."""
    return stream[None].expand(count, *stream.shape).clone().requires_grad_()


def _products(gradients: Tensor, differences: Tensor) -> np.ndarray:
    """Return float64 [n, m] products of [n, ...] with [m, ...]."""
    product = gradients.float().flatten(1) @ differences.flatten(1).T
    return product.double().cpu().numpy()
