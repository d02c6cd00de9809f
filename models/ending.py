"""From the residual stream to the logits: what the model does behind its last layer.

The model itself does it (`blocks.Finished` skips the blocks), so that nothing here knows what
comes there: a final norm, an unembedding, a scale (Cohere, Granite), a soft cap (Gemma 2).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_tap import TapRequest
from models.blocks import BlockCall, Finished, watching
from models.errors import ErrorKind, UserError
from models.forward_pass import ForwardPass
from models.frozen_norms import Norms, Scales, freezing, replaying
from models.trials import same

LINEAR = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Largest departure from linearity that is rounding, relative to the largest logit."""


class Ending:
    """Runs what comes behind the last layer on chosen residual streams."""

    def __init__(
        self, model: Any, norms: Norms, forward: ForwardPass, calls: Sequence[BlockCall]
    ) -> None:
        """Args: calls: how the model called its blocks on any prompt."""
        self._architecture = type(model).__name__
        self._unembedding: nn.Module | None = model.get_output_embeddings()
        self._norms = norms
        self._forward = forward
        self._calls = calls

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [n, n_vocab] that the model makes of residual streams [n, d_model]."""
        return self._run(hidden)[1].detach()

    def differentiable_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [n, n_vocab] of streams [n, d_model], for autograd."""
        return self._run(hidden)[1]

    def readout(self, hidden: Tensor) -> "Readout":
        """Make one position's logits ready to be told apart by parts of its stream.

        Args:
            hidden: [d_model], what the last layer puts out there.

        Raises:
            UserError: with the final norm's scale frozen, the logits are not linear in it.
        """
        with self._forward.computing(1, 1, gradients=True), freezing(self._norms) as scales:
            raw, final = (logits[0].detach() for logits in self._run(hidden[None]))
        multiplier = float(final.float() @ raw.float() / (raw.float() @ raw.float()))
        tolerance = LINEAR.get(raw.dtype, 1e-4)
        capped = not same(multiplier * raw.float(), final.float(), tolerance)
        parts = torch.stack([torch.zeros_like(hidden), hidden / 2])
        at = Readout(self, hidden, scales, raw, 1.0 if capped else multiplier, capped)
        nothing, half = at.replayed(parts)
        if not same((half - nothing) * 2, at.logits - nothing, tolerance):
            raise UserError(
                ErrorKind.MODEL,
                f"Logits of {self._architecture} cannot be told apart by what adds to them: "
                "between its last layer and them is more than a norm and a linear map.",
            )
        return at

    def direction(self, hidden: Tensor, weights: Mapping[int, float]) -> Tensor:
        """Return the gradient [d_model] of a weighted sum of raw logits, norm scale frozen."""
        leaf = hidden.detach().clone().requires_grad_()
        with self._forward.computing(1, 1, gradients=True), freezing(self._norms):
            raw = self._run(leaf[None])[0][0]
            score = sum(weight * raw[token].float() for token, weight in weights.items())
            return torch.autograd.grad(score, leaf)[0].float()  # type: ignore[arg-type]

    def replayed(self, hidden: Tensor, scales: Scales) -> Tensor:
        """Return raw logits [n, n_vocab] of streams [n, d_model] under given norm scales."""
        with (
            self._forward.computing(len(hidden), 1, gradients=True),
            replaying(self._norms, scales),
        ):
            return self._run(hidden)[0].detach().float()

    def _run(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return (what the unembedding puts out, the model's logits), [n, n_vocab] each."""
        dtype = self._calls[-1].output.dtype
        ending = Finished(hidden[:, None].to(dtype), self._calls)
        n = len(hidden)
        with (
            self._forward.computing(n, 1, gradients=True),
            self._watched() as raw,
            watching(ending),
        ):
            final = self._forward.logits([[0]] * n, TapRequest(), 0, gradients=True)
        return raw[0].reshape(n, -1), final[:, 0]

    @contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """Give what the unembedding puts out; locked by whoever calls."""
        seen: list[Tensor] = []
        if self._unembedding is None:
            raise UserError(
                ErrorKind.MODEL,
                f"{self._architecture} names no unembedding, so that its logits cannot be told "
                "apart by what adds to them.",
            )
        handle = self._unembedding.register_forward_hook(lambda _m, _a, out: seen.append(out))
        try:
            yield seen
        finally:
            handle.remove()


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """One position's logits as a linear function of its stream, the final norm's scale frozen."""

    ending: Ending
    hidden: Tensor
    """[d_model], the stream behind the last layer."""
    scales: Scales
    raw: Tensor
    """[n_vocab], what the unembedding puts out."""
    multiplier: float
    """What the model multiplies that with (Cohere, Granite); 1 where it is capped."""
    capped: bool
    """Whether something else, a soft cap, comes behind: parts add up to what goes into it."""

    @property
    def logits(self) -> Tensor:
        """The logits that parts add up to, float32 [n_vocab]."""
        return self.raw.float() * self.multiplier

    def replayed(self, hidden: Tensor) -> Tensor:
        """Return the logits [n, n_vocab] that streams [n, d_model] would make."""
        return self.ending.replayed(hidden, self.scales) * self.multiplier

    def constant(self) -> Tensor:
        """Return the logits of an empty stream, from biases alone, float32 [n_vocab]."""
        return self.replayed(torch.zeros_like(self.hidden)[None])[0]

    def of_terms(self, terms: Tensor) -> Tensor:
        """Return what parts [n, d_model] of the stream add to every logit, [n, n_vocab]."""
        return self.replayed(terms) - self.constant()

    def direction(self, weights: Mapping[int, float]) -> Tensor:
        """Return the direction [d_model] whose product with a part is what it adds to a sum.

        Args:
            weights: token id -> its logit's weight in the sum: {target: 1, versus: -1}, say.
        """
        return self.ending.direction(self.hidden, weights) * self.multiplier
