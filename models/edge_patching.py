"""Runs in which every head's query, key and value input and every MLP has a mixture of its own.

A circuit is a set of edges. In its run, each target reads the clean run's contributions over the
edges of the circuit, as they are computed in this very run, and a reference's contributions (those
of a corrupted prompt, say) over all others:

    input(target) = sum over sources of (output in this run, if the edge is kept, else reference)

With all edges kept that is the clean run, with none the reference. Exact: nothing is linearised.
The gradient of a score at every target's input, times what a source's output differs from the
reference, estimates what each edge does (edge attribution patching, Syed et al., arXiv 2310.10348);
here it is the derivative of this same run.

Up to the first position at which a prompt and its corrupted one differ both runs are the same:
where that is proven to hold, only positions from there on are computed.

All prompts of a batch have as many tokens; arrays of edges are those of `models.edge_graph`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from models.attention_inputs import Inputs
from models.blocks import BlockCall
from models.edge_graph import EdgeGraph
from models.ending import Ending
from models.errors import ErrorKind, UserError
from models.forward_pass import ForwardPass
from models.layerwise import KeysValues, Layerwise, Parts
from models.patched_run import LayerReference, PatchedRun, Prompts, Reference, gathered

PROOF = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest difference between the stream behind the last layer, run in parts, and the model's own,
relative to its largest value."""


class EdgePatching:
    """Patches edges of one model, and scores them."""

    def __init__(
        self, layerwise: Layerwise, forward: ForwardPass, ending: Ending, has_windows: bool
    ) -> None:
        """Take the parts of a model.

        Args:
            has_windows: whether its blocks may be run on the last positions alone.
        """
        self._layerwise = layerwise
        self._forward = forward
        self._ending = ending
        self._has_windows = has_windows

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

    def reference(self, prompts: Prompts, parts: Parts, is_run: bool, first: int = 0) -> Reference:
        """Make ready what goes over edges that are not kept.

        Args:
            prompts: those that will be patched.
            parts: a corrupted run's, or means or zeros in their place.
            is_run: whether the model itself puts these out, when all inputs are theirs.
            first: the first position at which the prompts differ from the corrupted ones.
        """
        first = min(first, *prompts.reads) if self._has_windows and is_run else 0
        with self._computing(*parts.outputs.shape[1:3]), torch.no_grad():
            reference = self._reference(prompts, parts, is_run, first)
            if first and not self._continues(prompts, reference):
                reference = self._reference(prompts, parts, is_run, 0)
        return reference

    def _reference(self, prompts: Prompts, parts: Parts, is_run: bool, first: int) -> Reference:
        outputs, calls, layers = parts.outputs, prompts.calls, []
        biases = parts.biases[:, :, first:]
        stream, later = outputs[0], outputs[:, :, first:]
        for layer, shape in enumerate(self.graph.layers):
            start = self.graph.first_source(layer)
            inputs = self._layerwise.attention_inputs(layer, stream, calls)
            inputs, before = _parted(inputs, first)
            heads_out = outputs[start : start + shape.n_heads]
            behind = stream + heads_out.sum(0) + parts.biases[layer]
            reads = (stream if shape.parallel else behind)[:, first:]
            if is_run:
                own = later[start : start + shape.n_heads]
                heads, bias, mlp = own, biases[layer], later[start + shape.n_heads]
            else:
                heads, bias = self._layerwise.heads_added(layer, inputs, before)
                mlp = self._layerwise.mlp_added(layer, reads, calls, first)
            layers.append(
                LayerReference(
                    stream[:, first:], reads, inputs, before, heads, bias, biases[layer], mlp
                )
            )
            stream = behind + outputs[start + shape.n_heads]
        return Reference(outputs, tuple(layers), stream[:, first:], is_run, first)

    def _continues(self, prompts: Prompts, reference: Reference) -> bool:
        """Return whether the clean run goes on from the reference's keys and values."""
        first, whole = reference.first, prompts.parts.final
        hidden = prompts.hidden[:, first:].float()
        *_, last = self._layerwise.steps(hidden, prompts.calls, reference.before)
        error = (last.output - whole[:, first:]).abs().max() / whole.abs().max()
        return float(error) <= PROOF.get(prompts.hidden.dtype, 1e-4)

    def logits(self, prompts: Prompts, reference: Reference, kept: np.ndarray) -> Tensor:
        """Return logits float32 [row, n_vocab] with only some edges carrying the clean run.

        Args:
            kept: bool [n_targets, n_sources].
        """
        with self._computing(*reference.outputs.shape[1:3]), torch.no_grad():
            stream = PatchedRun(self._layerwise, prompts, reference, kept).final()
        return self.read(stream, prompts, reference.first)

    def outputs(self, prompts: Prompts, reference: Reference, kept: np.ndarray) -> Tensor:
        """Return what every source puts out in that run, float32 [n_sources, row, position,
        d_model]."""
        with self._computing(*reference.outputs.shape[1:3]), torch.no_grad():
            run = PatchedRun(self._layerwise, prompts, reference, kept)
            run.final()
            found = reference.outputs.clone()
            for source, beside in run.beside.items():
                found[source, :, reference.first :] += beside
        return found

    def gate_gradients(
        self,
        prompts: Prompts,
        reference: Reference,
        kept: np.ndarray,
        score: Callable[[Tensor], Tensor],
    ) -> np.ndarray:
        """Return how a score changes with what the kept edges carry, each by itself.

        A gate multiplies what an edge carries beside the reference: 1 keeps it, 0 takes it away.
        So the derivative is, to first order, what the score loses without the edge, in the run of
        this very circuit; with all edges kept it is the edge's score.

        Args:
            kept: bool [n_targets, n_sources].
            score: logits [row, n_vocab] -> a scalar.

        Returns:
            float64 [n_targets, n_sources]; 0 where there is no kept edge.
        """
        with self._computing(*reference.outputs.shape[1:3]):
            device = reference.final.device
            gates = torch.as_tensor(kept, dtype=torch.float32, device=device).requires_grad_()
            final = PatchedRun(self._layerwise, prompts, reference, kept, gates).final()
            read = _at_reads(final, prompts, reference.first)
            total = score(self._ending.differentiable_logits(read))
            if not total.requires_grad:  # nothing kept leads to the logits
                return np.zeros(kept.shape)
            found = torch.autograd.grad(total, gates)[0]
        return np.where(kept, found.double().cpu().numpy(), 0.0)

    def read(self, stream: Tensor, prompts: Prompts, first: int = 0) -> Tensor:
        """Return the logits float32 [row, n_vocab] where predictions are read.

        Args:
            stream: [row, position, d_model] behind the last layer, from the `first` position on.
        """
        return self._ending.logits(_at_reads(stream, prompts, first)).float()

    def scores(
        self,
        prompts: Prompts,
        reference: Reference,
        hidden: Tensor,
        score: Callable[[Tensor], Tensor],
    ) -> np.ndarray:
        """Return what each edge adds to a score, to first order, from one backward pass.

        Args:
            hidden: [row, position, d_model], what goes into the first layer: at which point the
                gradient is taken.
            score: logits [row, n_vocab] -> a scalar.

        Returns:
            float64 [n_targets, n_sources]; 0 where there is no edge.
        """
        found = np.zeros((len(self.graph.targets), len(self.graph.sources)))
        with self._computing(*hidden.shape[:2]):
            beside = _beside(prompts, reference)
            for target, at_inputs in self._gradients(prompts, reference, hidden, score):
                n = self.graph.n_upstream[target]
                found[target : target + len(at_inputs), :n] = _products(at_inputs, beside[:n])
        return found

    def scores_by_position(
        self,
        prompts: Prompts,
        reference: Reference,
        hidden: Tensor,
        score: Callable[[Tensor], Tensor],
        kept: np.ndarray,
    ) -> np.ndarray:
        """Return what some edges add at each position, to first order, from one backward pass.

        An edge leads from its source at a position to its target's input at the same position; the
        sum over positions is its score.

        Args:
            reference, hidden, score: as of `scores`.
            kept: bool [n_targets, n_sources], which edges.

        Returns:
            float64 [n_edges, position], in the order of `np.argwhere(kept)`.
        """
        found = []
        with self._computing(*hidden.shape[:2]):
            beside = _beside(prompts, reference)
            for first, at_inputs in self._gradients(prompts, reference, hidden, score):
                for target, gradient in enumerate(at_inputs, start=first):
                    sources = torch.as_tensor(np.flatnonzero(kept[target]), device=beside.device)
                    added = torch.einsum("rpd,srpd->sp", gradient.float(), beside[sources])
                    found.append(added.double().cpu().numpy())
        return np.pad(np.concatenate(found), ((0, 0), (reference.first, 0)))

    def _gradients(
        self,
        prompts: Prompts,
        reference: Reference,
        hidden: Tensor,
        score: Callable[[Tensor], Tensor],
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the gradient of a score at the input of every target, several at a time, from the
        first position on that is patched.

        Yields:
            (index of the first target, [n_targets, row, position, d_model]); all of one step are
            fed by the same sources.
        """
        first_position = reference.first
        start = hidden[:, first_position:].detach().float().requires_grad_()
        steps = list(self._layerwise.steps(start, prompts.calls, reference.before))
        final = steps[-1].output
        read = _at_reads(final, prompts, first_position)
        total = score(self._ending.differentiable_logits(read))
        wanted = [t for step in steps for t in (*_qkv(step.inputs), step.reads)]
        gradients = torch.autograd.grad(total, [*wanted, final])
        for layer, step in enumerate(steps):
            ours, first = gradients[4 * layer : 4 * layer + 4], self.graph.first_target(layer)
            stream = step.stream.detach()
            yield (
                first,
                self._at_attention_inputs(layer, stream, ours[:3], prompts.calls, first_position),
            )
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
        first_position: int,
    ) -> Tensor:
        """Return the gradients at streams of their own of a layer's query, key and value inputs,
        [n_inputs, row, position, d_model], from those at queries, keys and values."""
        shape = self.graph.layers[layer]
        rows = _own_streams(stream, shape.n_inputs)
        inputs = self._layerwise.attention_inputs(layer, rows.flatten(0, 1), calls, first_position)
        query, key, value = gathered(inputs, shape.n_heads, shape.n_kv_heads, len(stream))
        through = sum(
            (own * gradient).sum()
            for own, gradient in zip((query, key, value), gradients, strict=True)
        )
        found: Tensor = torch.autograd.grad(through, rows)[0]  # type: ignore[arg-type]
        return found


def _at_reads(stream: Tensor, prompts: Prompts, first: int) -> Tensor:
    """Return where predictions are read, [row, d_model], of a stream from the `first` position
    on."""
    reads = torch.tensor(prompts.reads, device=stream.device) - first
    return stream[torch.arange(len(reads), device=stream.device), reads]


def _qkv(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    return inputs.query, inputs.key, inputs.value


def _parted(inputs: Inputs, first: int) -> tuple[Inputs, KeysValues | None]:
    """Return attention's inputs from a position on, and keys and values of those before."""
    if not first:
        return inputs, None
    query, key, value = (tensor[:, :, first:] for tensor in _qkv(inputs))
    before = inputs.key[:, :, :first], inputs.value[:, :, :first]
    return replace(inputs, query=query, key=key, value=value), before


def _beside(prompts: Prompts, reference: Reference) -> Tensor:
    """Return what each source puts out beside the reference, where that is patched."""
    return prompts.parts.outputs[:, :, reference.first :] - reference.patched_outputs


def _own_streams(stream: Tensor, count: int) -> Tensor:
    """Return copies [count, row, position, d_model] to take gradients with respect to."""
    return stream[None].expand(count, *stream.shape).clone().requires_grad_()


def _products(gradients: Tensor, differences: Tensor) -> np.ndarray:
    """Return float64 [n, m] products of [n, ...] with [m, ...]."""
    product = gradients.float().flatten(1) @ differences.flatten(1).T
    return product.double().cpu().numpy()
