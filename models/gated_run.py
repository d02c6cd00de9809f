"""Several prompts run at once with a gate on every head, and the gradient in all gates.

A gate of 1 leaves a head's output z as it is, 0 puts the edited output in its place (as the
intervention would), and between them it is mixed: edited + gate (z - edited). Gates anywhere
between 0 and 1 may be given, one a head and prompt, unlike in `models.head_gradients`, whose gates
are all 1: this is what gates are learned with.

Prompts of different lengths share a batch where attention is causal: the shorter ones are filled up
behind the position that is read, which no earlier position can see.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.attention_tap import Call, TapRequest
from models.errors import ErrorKind, UserError
from models.forward_pass import ForwardPass, beside, log_softmax64

if TYPE_CHECKING:
    from models.head_sets import PosedPrompt

MOST_POSITIONS = 512
"""Positions in one pass, padding included: larger passes are no faster on a CPU, and every block's
inner tensors are kept for the gradient."""

Score = Callable[[Sequence[int], Tensor], Tensor]
"""(indices of prompts, their log-probs float64 [n, n_vocab]) -> a scalar; it is summed."""


@dataclass(frozen=True, slots=True, eq=False)
class _RowGates:
    """The gates of one pass, put in while the model runs."""

    posed: "Sequence[PosedPrompt]"
    gates: Tensor
    """[row, n_layers, n_heads]"""

    def apply(self, layer: int, call: Call) -> Tensor:
        raw = call.raw_z  # [row, position, n_heads, d_head]
        heads = torch.arange(raw.shape[2], device=raw.device)
        gates = self.gates[:, layer, : len(heads)].to(device=raw.device, dtype=raw.dtype)
        edited = torch.stack([
            self._edited(posed, raw[row], layer, heads) for row, posed in enumerate(self.posed)
        ])  # fmt: skip
        return edited + gates[:, None, :, None] * (raw - edited)

    def _edited(self, posed: "PosedPrompt", z: Tensor, layer: int, heads: Tensor) -> Tensor:
        """Return one row's z [position, n_heads, d_head] with every head ablated."""
        n = len(posed.prompt)
        own = posed.editing.editor.edit_z(z[:n].transpose(0, 1), layer, heads).transpose(0, 1)
        acted_on = posed.editing.acted_on
        if acted_on is not None:
            own = torch.where(acted_on.to(z.device)[:, None, None], own, z[:n])
        return torch.cat([own, z[n:]])


class GatedRun:
    """Runs prompts of one model with given gates."""

    def __init__(
        self, forward: ForwardPass, posed: "Sequence[PosedPrompt]", shape: tuple[int, int]
    ) -> None:
        """Wrap prompts and what is done to their heads where a gate is closed.

        Args:
            shape: of the gates of a prompt: layers and heads.

        Raises:
            UserError: an intervention acts on the pattern, and so cannot go part of the way.
        """
        if any(one.editing.editor.blocked is not None for one in posed):
            raise UserError(
                ErrorKind.INTERVENTION,
                "A knockout is there or not, so that it has no gate; choose another intervention.",
            )
        self._forward = forward
        self._posed = posed
        self.shape = shape

    def log_probs(self, gates: Tensor) -> Tensor:
        """Return log-probs float64 [n_prompts, n_vocab] with gates [n_prompts, *shape].

        Raises:
            UserError: memory ran out, or the numbers are not finite.
        """
        rows = torch.empty(0)
        order: list[int] = []
        for members in self._passes(range(len(self._posed))):
            found = self._run(members, gates[members], gradients=False)
            rows = found if not order else torch.cat([rows, found])
            order += members
        return rows[torch.tensor(order).argsort().to(rows.device)]

    def gradient(
        self, gates: Tensor, score: Score, chosen: Sequence[int] | None = None
    ) -> tuple[float, Tensor]:
        """Return the summed score of prompts, and its gradient in their gates.

        Args:
            gates: [n_chosen, *shape].
            chosen: indices of the prompts that are run; None for all.

        Returns:
            The score, and float32 [n_chosen, *shape]; 0 where a layer has no such head.

        Raises:
            UserError: as `log_probs`.
        """
        indices = list(range(len(self._posed)) if chosen is None else chosen)
        place = {index: row for row, index in enumerate(indices)}
        total, gradients = 0.0, torch.zeros(len(indices), *self.shape)
        for members in self._passes(indices):
            rows = [place[index] for index in members]
            with torch.enable_grad():
                own = gates[rows].detach().clone().requires_grad_()
                log_probs = self._run(members, own, gradients=True)
            with self._forward.computing(len(members), self._longest(members), gradients=True):
                value = score(members, log_probs)
                [slope] = torch.autograd.grad(value, [own])
            total += float(value.detach())
            gradients[rows] = slope.float().cpu()
        return total, gradients

    def _longest(self, members: Sequence[int]) -> int:
        return max(len(self._posed[index].prompt) for index in members)

    def _passes(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Part prompts into passes, prompts of like length together."""
        waiting: list[int] = []
        for index in sorted(indices, key=lambda i: len(self._posed[i].prompt)):
            if waiting and not self._fits(waiting, index):
                yield waiting
                waiting = []
            waiting.append(index)
        if waiting:
            yield waiting

    def _fits(self, members: Sequence[int], index: int) -> bool:
        prompt, first = self._posed[index].prompt, self._posed[members[0]].prompt
        causal = self._posed[index].stacks.stacks[0].causal
        same = len(prompt) == len(first) and prompt.segments == first.segments
        return (causal or same) and (len(members) + 1) * len(prompt) <= MOST_POSITIONS

    def _run(self, members: Sequence[int], gates: Tensor, gradients: bool) -> Tensor:
        """Run one pass; return log-probs float64 [n_members, n_vocab]."""
        posed = [self._posed[index] for index in members]
        longest = self._longest(members)
        # Any id does behind the position read.
        ids = [[*one.prompt.ids, *[one.prompt.ids[-1]] * (longest - len(one.prompt))]
               for one in posed]  # fmt: skip
        reads = sorted({one.read for one in posed})
        request = TapRequest(on_call=_RowGates(posed, gates).apply)
        logits = self._forward.logits(
            ids, request, reads, gradients=gradients, beside=beside(posed[0].prompt)
        )  # [n_members, n_reads, n_vocab]
        at = torch.tensor([reads.index(one.read) for one in posed], device=logits.device)
        own = logits[torch.arange(len(posed), device=logits.device), at]
        self._forward.refuse_not_finite(own)
        return log_softmax64(own)
