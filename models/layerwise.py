"""A model run layer by layer, its attention inputs, heads and MLPs each by itself.

Edges are patched and scored (`models.edge_patching`) by giving every head's query, key and value
input and every MLP a residual stream of its own. This module does the parts, on streams
[row, position, d_model], with the model's own blocks, and so for any architecture:

- what attention is given: the block is run on the stream until its attention is called;
- what heads add: z through the head's slice of the output projection, through the norm behind it
  with the scale it has in this run (`models.wiring`);
- what the MLP adds: the block is run with attention that puts out nothing, on a stream to which
  what attention added is added already.

That these parts add up to what the blocks do is measured on every run (`EdgePatching.run`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.attention_inputs import Inputs, is_causal, run_attention
from models.attention_tap import TapRequest, active, first_attention_inputs
from models.blocks import BlockCall, Recorder, Window, watching
from models.edge_graph import EdgeGraph, LayerShape
from models.errors import ErrorKind, UserError
from models.forward_pass import ForwardPass
from models.frozen_norms import Norms
from models.placement import weights_at_hand
from models.trials import random_input, same
from models.wiring import TOLERANCE, Wiring

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, [row, n_kv_heads, position, d] each."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What every part of a model added on some prompts of equal length, all inputs in common."""

    outputs: Tensor
    """float32 [n_sources, row, position, d_model], in the order of `EdgeGraph.sources`."""
    biases: Tensor
    """float32 [n_layers, row, position, d_model]: what attention added beside the heads."""
    final: Tensor
    """float32 [row, position, d_model], the stream behind the last layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One layer of a run. Tensors are float32 [row, position, d_model]."""

    stream: Tensor
    """In front of it."""
    inputs: Inputs
    """What its attention is given."""
    heads: Tensor
    """[n_heads, row, position, d_model], what the heads add."""
    bias: Tensor
    """What attention adds beside them."""
    reads: Tensor
    """What the MLP reads: a tensor of its own, whose gradient is what goes through the MLP."""
    mlp: Tensor
    """What the MLP adds."""
    output: Tensor
    """The stream behind it."""


class Layerwise:
    """Runs the parts of one model's layers."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        wiring: Sequence[Wiring],
        norms: Norms,
        forward: ForwardPass,
        ids: Sequence[int],
    ) -> None:
        """Find out how each layer's MLP stands to its attention.

        Args:
            ids: of a short prompt to find out on.
        """
        self._blocks = blocks
        self._wiring = wiring
        self._norms = norms
        self._forward = forward
        calls = self.calls(ids)
        with forward.computing(1, len(ids), gradients=True), torch.no_grad():
            # What attention adds when no head puts anything out, [1, 1, d_model] a layer.
            self._at_rest = [self._rest(layer, calls) for layer in range(len(blocks))]
            shapes = tuple(
                LayerShape(w.site.n_heads, w.site.n_kv_heads, self._is_parallel(layer, calls))
                for layer, w in enumerate(wiring)
            )
        self.graph = EdgeGraph(shapes)

    def calls(self, ids: Sequence[int]) -> list[BlockCall]:
        """Return how the model calls its blocks on a prompt of this length."""
        return self.recorded([ids])

    def recorded(self, rows: Sequence[Sequence[int]]) -> list[BlockCall]:
        """Return how the model calls its blocks on prompts of equal length, as one batch."""
        recorder = Recorder()
        with watching(recorder), torch.no_grad():
            self._forward.logits(rows, TapRequest(), len(rows[0]) - 1, gradients=True)
        return recorder.calls

    def attention_inputs(
        self, layer: int, streams: Tensor, calls: Sequence[BlockCall], first: int = 0
    ) -> Inputs:
        """Return what a layer's attention is given when the block gets these streams.

        Args:
            first: the prompt's position that the streams begin with.
        """
        window = Window(first, streams.shape[1])
        given = streams.to(calls[layer].hidden.dtype)
        return first_attention_inputs(lambda: calls[layer].run(self._blocks[layer], given, window))

    def heads_added(
        self, layer: int, inputs: Inputs, before: KeysValues | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what attention adds, float32 [n_heads, row, position, d_model] by head and
        [row, position, d_model] beside them.

        Args:
            before: keys and values of the positions before those of `inputs`.
        """
        return self._added(layer, run_attention(_behind(before, inputs)))

    def _added(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same from heads' outputs z, [row, position, n_heads, d_head]."""
        wiring = self._wiring[layer]
        n_rows, n_positions, n_heads, _ = z.shape
        heads = wiring.through_projection(z.flatten(0, 1), range(n_heads))
        heads = heads.unflatten(1, (n_rows, n_positions))
        norm, rest = wiring.post_norm, self._at_rest[layer]
        if norm is None:
            return heads * wiring.multiplier, rest.expand_as(heads[0])
        bias = wiring.projection_bias()
        total = heads.sum(0) + (0 if bias is None else bias)
        with weights_at_hand(norm):
            normed = norm(total.to(z.dtype)).float()
        known = self._norms[norm]
        added = known.with_scale(heads, known.scale_of(total, normed)) * wiring.multiplier
        return added, normed * wiring.multiplier - added.sum(0)

    def mlp_added(
        self, layer: int, streams: Tensor, calls: Sequence[BlockCall], first: int = 0
    ) -> Tensor:
        """Return what a layer's MLP adds when it reads these streams, float32, of their shape.

        Args:
            first: the prompt's position that the streams begin with.
        """
        rest = self._at_rest[layer]
        given = streams if self.graph.layers[layer].parallel else streams - rest
        return self._silent(layer, given, calls, first) - given - rest

    def run(self, hidden: Tensor, calls: Sequence[BlockCall]) -> Parts:
        """Run all layers on what goes into the first, [row, position, d_model]."""
        outputs, biases, final = [hidden.float()[None]], list[Tensor](), hidden.float()
        for step in self.steps(hidden.float(), calls):
            outputs += [step.heads, step.mlp[None]]
            biases.append(step.bias.expand_as(step.output))
            final = step.output
        return Parts(torch.cat(outputs), torch.stack(biases), final)

    def steps(
        self,
        stream: Tensor,
        calls: Sequence[BlockCall],
        before: Sequence[KeysValues | None] | None = None,
    ) -> Iterator[Step]:
        """Run layer after layer on what goes into the first, float32 [row, position, d_model].

        Args:
            before: of each layer, keys and values of the positions before those of the stream.
        """
        for layer, shape in enumerate(self.graph.layers):
            given = None if before is None else before[layer]
            first = 0 if given is None else given[0].shape[2]
            inputs = self.attention_inputs(layer, stream, calls, first)
            heads, bias = self.heads_added(layer, inputs, given)
            behind = stream + heads.sum(0) + bias
            reads = (stream if shape.parallel else behind).clone()
            mlp = self.mlp_added(layer, reads, calls, first)
            output = behind + mlp
            yield Step(stream, inputs, heads, bias, reads, mlp, output)
            stream = output

    def _silent(
        self, layer: int, streams: Tensor, calls: Sequence[BlockCall], first: int = 0
    ) -> Tensor:
        """Return what a block puts out when its heads put out nothing, float32."""
        call, window = calls[layer], Window(first, streams.shape[1])
        with active(_Silence()):
            return call.run(self._blocks[layer], streams.to(call.hidden.dtype), window).float()

    def _rest(self, layer: int, calls: Sequence[BlockCall]) -> Tensor:
        """Return what attention adds when all heads put out 0, float32 [1, 1, d_model]."""
        wiring, hidden = self._wiring[layer], calls[layer].hidden
        bias = wiring.projection_bias()
        added = torch.zeros_like(hidden[:1, :1]) if bias is None else bias.to(hidden)[None, None]
        if wiring.post_norm is not None:
            with weights_at_hand(wiring.post_norm):
                added = wiring.post_norm(added)
        return added.float() * wiring.multiplier

    def _is_parallel(self, layer: int, calls: Sequence[BlockCall]) -> bool:
        """Whether the MLP reads the stream in front of the attention: whether what the block adds
        beside its attention stays the same when attention puts out something else."""
        call, site = calls[layer], self._wiring[layer].site
        hidden = call.hidden
        z = random_input((*hidden.shape[:2], site.n_heads, site.d_head), hidden)
        with active(TapRequest(on_call=lambda _layer, _call: z)):
            out = call.run(self._blocks[layer], hidden, Window(0, hidden.shape[1])).float()
        heads, bias = self._added(layer, z)
        beside = out - hidden.float() - heads.sum(0) - bias
        without = self._silent(layer, hidden.float(), calls) - hidden.float() - self._at_rest[layer]
        return same(beside, without, 10 * TOLERANCE.get(hidden.dtype, 1e-5))


class _Silence:
    """Attention whose heads put out nothing."""

    def attend(self, inputs: Inputs) -> Tensor:
        batch, n_heads, n_query, _ = inputs.query.shape
        return inputs.value.new_zeros(batch, n_query, n_heads, inputs.value.shape[-1])


def _behind(before: KeysValues | None, inputs: Inputs) -> Inputs:
    """Let the queries of some last positions see the keys and values of those before too."""
    if before is None or not before[0].shape[2]:
        return inputs
    n_before, n_query = before[0].shape[2], inputs.query.shape[2]
    key, value = (
        torch.cat([earlier, own], dim=2)
        for earlier, own in zip(before, (inputs.key, inputs.value), strict=True)
    )
    mask = inputs.mask
    if mask is not None and mask.shape[-2] == n_before + n_query:
        mask = mask[..., n_before:, :]
    elif mask is None and is_causal(inputs):
        ones = torch.ones(n_query, n_before + n_query, dtype=torch.bool, device=key.device)
        mask = ones.tril(diagonal=n_before)[None, None]
    return replace(inputs, key=key, value=value, mask=mask)


def refuse_hooked(architecture: str) -> UserError:
    """Return why models whose attention does not dispatch have no edges."""
    return UserError(
        ErrorKind.MODEL,
        f"{architecture} does not let its attention's inputs be set one by one, so that edges "
        "cannot be patched; ablations, sweeps and searches work as ever.",
    )
