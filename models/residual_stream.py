"""What each part of a model adds to the residual stream, at every position of one prompt.

    input of layer l  =  embedding + sum over layers below of (heads + attention bias + MLP)

The parts are the nodes of the model's computation: `Component`s. A head adds its z times its slice
of the output projection, through the norm behind it where there is one (with its scale frozen) and
times the layer's multiplier; what else a layer adds, beside the attention bias, is its MLP (or
experts). How blocks add is proven before anything is read (`models.wiring`), and how far the parts
are from adding up to the stream is measured (`ResidualStream.error_at`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.blocks import BlockCall
from models.frozen_norms import Norm
from models.pass_watch import reached
from models.types import Component, TokenizedPrompt
from models.wiring import Wiring


@dataclass(frozen=True, slots=True, eq=False)
class LayerTerms:
    """What one layer added on one prompt. Terms are float32 [..., position, d_model]."""

    layer: int
    call: BlockCall
    """How the model called the block; the stream before and after it."""
    z: Tensor
    """[position, n_heads, d_head], the heads' outputs before the output projection."""
    attention: Tensor
    """[position, d_model], what attention added: all heads and the bias."""
    wiring: Wiring
    post_norm: Norm | None
    post_scale: Tensor | None
    """[position, 1], the frozen scale of the norm behind the attention, if there is one."""

    @property
    def n_heads(self) -> int:
        return int(self.z.shape[1])

    def input(self) -> Tensor:
        """Return the stream before this layer."""
        return self.call.hidden[0].float()

    def output(self) -> Tensor:
        """Return the stream behind this layer."""
        return self.call.output[0].float()

    def heads(self, at: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> Tensor:
        """Return what heads added, [n_heads, position, d_model].

        Args:
            at: the positions wanted; None for all.
            heads: the heads wanted; None for all.
        """
        chosen = range(self.n_heads) if heads is None else heads
        rows = _rows(at, self.z)
        return self._added(self.wiring.through_projection(self.z[rows], chosen), rows)

    def bias(self, at: Sequence[int] | None = None) -> Tensor | None:
        """Return what the attention biases added, [position, d_model]; None if there are none."""
        rows = _rows(at, self.z)
        projected = self.wiring.projection_bias()
        total = None
        if projected is not None:
            total = self._added(projected.expand(len(rows), -1), rows)
        if self.post_norm is not None and bool(self.post_norm.bias.any()):
            behind = self.post_norm.bias.expand(len(rows), -1) * self.wiring.multiplier
            total = behind if total is None else total + behind
        return total

    def mlp(self, at: Sequence[int] | None = None) -> Tensor:
        """Return what the layer added beside attention, [position, d_model]."""
        rows = _rows(at, self.z)
        return self.output()[rows] - self.input()[rows] - self.attention[rows]

    def _added(self, attention: Tensor, rows: Tensor) -> Tensor:
        """Put parts of the attention output [..., position, d_model] through what follows it."""
        if self.post_norm is not None:
            assert self.post_scale is not None
            attention = self.post_norm.with_scale(attention, self.post_scale[rows])
        return attention * self.wiring.multiplier


@dataclass(frozen=True, slots=True, eq=False)
class ResidualStream:
    """One prompt's residual stream and the parts it is the sum of."""

    prompt: TokenizedPrompt
    layers: tuple[LayerTerms, ...]
    """Of every layer, in order."""

    @property
    def n_bytes(self) -> int:
        """About how much memory it takes: stream, attention and z of each layer."""
        kept = (t for terms in self.layers for t in (terms.call.output, terms.attention, terms.z))
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    @property
    def embedding(self) -> Tensor:
        """What goes into the first layer, float32 [position, d_model]."""
        return self.layers[0].input()

    def before(self, layer: int) -> Tensor:
        """Return the stream that enters a layer (behind the last one for `n_layers`)."""
        return self.layers[layer].input() if layer < len(self.layers) else self.layers[-1].output()

    def terms(
        self, up_to: int | None = None, at: Sequence[int] | None = None
    ) -> Iterator[tuple[list[Component], Tensor]]:
        """Yield all parts that the stream before layer `up_to` is the sum of, in order.

        Args:
            up_to: how many layers count; None for all.
            at: the positions wanted; None for all.

        Yields:
            (components, float32 [n_components, position, d_model]): the embedding, then for each
            layer its heads (and attention bias, if it has one) and its MLP.
        """
        rows = _rows(at, self.layers[0].z)
        yield [Component("embed")], self.embedding[rows][None]
        for terms in self.layers[:up_to]:
            reached(terms.layer)
            layer, bias = terms.layer, terms.bias(at)
            yield [Component("head", layer, head) for head in range(terms.n_heads)], terms.heads(at)
            if bias is not None:
                yield [Component("bias", layer)], bias[None]
            yield [Component("mlp", layer)], terms.mlp(at)[None]

    def error_at(self, at: Sequence[int] | None = None) -> list[float]:
        """Return how far the parts are from adding up, before each layer and behind the last.

        Returns:
            n_layers + 1 errors, each relative to the largest value of the stream there.
        """
        rows = _rows(at, self.layers[0].z)
        total = torch.zeros_like(self.embedding[rows])
        errors = []
        for components, terms in self.terms(at=at):
            total = total.to(terms.device) + terms.sum(0)
            if components[-1].kind in ("embed", "mlp"):
                stream = self.before(components[-1].layer + 1)[rows]
                errors.append(float((total - stream).abs().max() / stream.abs().max()))
        return errors

    def project(
        self, directions: Tensor, at: Sequence[int], up_to: int | None = None
    ) -> list[tuple[Component, float]]:
        """Return the scalar product of every part with one direction a position, summed up.

        Args:
            directions: [n_at, d_model], one for each position.
            at: the positions.
            up_to: how many layers count; None for all.
        """
        towards = directions.float()
        found: list[tuple[Component, float]] = []
        for components, terms in self.terms(up_to, at):
            values = (terms * towards.to(terms.device)).sum(dim=(1, 2)).tolist()
            found += zip(components, values, strict=True)
        return found


def _rows(at: Sequence[int] | None, like: Tensor) -> Tensor:
    n = like.shape[0]
    return torch.as_tensor(range(n) if at is None else list(at), device=like.device)
