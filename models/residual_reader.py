"""Reads the residual stream of a loaded model; see `models.residual_stream` for what that is.

Made when first asked for (`LanguageModel.residual`): a short pass finds the norms, proves how the
blocks add, and refuses models in which the parts could not be told apart.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_hooks import AttentionSite
from models.attention_inputs import Inputs
from models.attention_tap import TapRequest, first_attention_inputs
from models.blocks import Recorder, Window, watching
from models.ending import Ending
from models.errors import ErrorKind, UserError
from models.forward_pass import ForwardPass, beside
from models.frozen_norms import Scales, find_norms, freezing, replaying
from models.residual_stream import LayerTerms, ResidualStream
from models.types import TokenizedPrompt
from models.wiring import Wiring, find_wiring


class ResidualReader:
    """Tells apart what the parts of one model add to its residual stream."""

    def __init__(
        self,
        model: Any,
        sites: Sequence[AttentionSite],
        blocks: Sequence[nn.Module] | None,
        forward: ForwardPass,
        probe: Sequence[Sequence[int]],
    ) -> None:
        """Find and prove what is needed.

        Args:
            blocks: the model's watched blocks (`blocks.watched_blocks`).
            probe: one row of a few token ids.

        Raises:
            UserError: the model's blocks do something else than add to the stream.
        """
        if blocks is None:
            raise UserError(
                ErrorKind.MODEL,
                f"{type(model).__name__} has no list of blocks, so that what its parts add to the "
                "residual stream cannot be told apart; attention and ablations work as ever.",
            )
        self._forward = forward
        self._blocks = blocks
        with forward.computing(1, len(probe[0]), gradients=True):
            recorder = Recorder()

            def run() -> None:
                with watching(recorder):
                    forward.logits(probe, TapRequest(), gradients=True)

            self.norms = find_norms(model, run)
            self.wiring = find_wiring(model, sites, blocks, recorder.calls, self.norms)
        self.ending = Ending(model, self.norms, forward, recorder.calls)

    def read(self, prompt: TokenizedPrompt) -> ResidualStream:
        """Run a prompt once and return its stream in parts.

        Raises:
            UserError: memory ran out, or the model's numbers are not finite.
        """
        n = len(prompt)
        recorder = Recorder()
        request = TapRequest(keep_z=frozenset(range(len(self.wiring))))
        # Not in inference mode, so that blocks can be run again with gradients.
        with (
            self._forward.computing(1, n, gradients=True),
            _tails_watched(self.wiring) as tails,
            watching(recorder),
        ):
            logits = self._forward.logits(
                [prompt.ids], request, n - 1, gradients=True, beside=beside(prompt)
            )
        self._forward.refuse_not_finite(logits)
        layers = []
        for layer, (wiring, call) in enumerate(zip(self.wiring, recorder.calls, strict=True)):
            given, added = tails[layer]
            norm = None if wiring.post_norm is None else self.norms[wiring.post_norm]
            layers.append(
                LayerTerms(
                    layer=layer,
                    call=call,
                    z=request.z[layer][0],
                    attention=added[0].float() * wiring.multiplier,
                    wiring=wiring,
                    post_norm=norm,
                    post_scale=None if norm is None else norm.scale_of(given[0], added[0]),
                )
            )
        return ResidualStream(prompt, tuple(layers))

    def attention_inputs(self, stream: ResidualStream, layer: int) -> tuple[Inputs, Tensor, Scales]:
        """Run one block up to its attention, with norms frozen, ready for autograd.

        For models that dispatch their attention.

        Returns:
            What the attention is given; the block's input [1, position, d_model], a leaf to take
            gradients with respect to; the scales of the norms on the way.
        """
        call = stream.layers[layer].call
        leaf = call.hidden.detach().clone().requires_grad_()
        n = leaf.shape[1]
        with self._forward.computing(1, n, gradients=True), freezing(self.norms) as scales:
            inputs = first_attention_inputs(
                lambda: call.run(self._blocks[layer], leaf.clone(), Window(0, n))
            )
        return inputs, leaf, scales

    def constant_inputs(self, stream: ResidualStream, layer: int, scales: Scales) -> Inputs:
        """Return what a block's attention is given by biases alone, from an empty stream.

        Args:
            scales: of the norms on the way (`attention_inputs`).
        """
        call = stream.layers[layer].call
        empty = torch.zeros_like(call.hidden)
        n = empty.shape[1]
        with self._forward.computing(1, n, gradients=True), replaying(self.norms, scales):
            return first_attention_inputs(
                lambda: call.run(self._blocks[layer], empty, Window(0, n))
            )


@contextmanager
def _tails_watched(wirings: Sequence[Wiring]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Give layer -> (input, output) of what ends each attention; to be locked by the caller."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    handles = []
    for layer, wiring in enumerate(wirings):

        def remember(_m: nn.Module, args: Any, output: Tensor, layer: int = layer) -> None:
            seen[layer] = (args[0], output)

        handles.append(wiring.tail.register_forward_hook(remember))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
