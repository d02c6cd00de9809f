"""Running a model with many sets of heads ablated: the ground that sweep and search stand on."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ablation.interventions import Intervention
from ablation.interventions.notation import resolve_positions
from models.edits import HeadEditor
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import Head, Prediction, TokenizedPrompt, TokenProbability


class Cancelled(Exception):  # noqa: N818 - not an error: somebody pressed Cancel
    """The work was cancelled between two batches."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One model, prompt, position and intervention, made ready to be asked about many heads."""

    model: LanguageModel
    prompt: TokenizedPrompt
    position: int
    """Where predictions are read, counted from 0."""
    positions: tuple[int, ...] | None
    """The positions acted on; None for all."""
    intervention: Intervention
    editor: HeadEditor
    baseline: Prediction
    """The clean run's."""
    cancel: threading.Event | None

    def evaluate(self, head_sets: Sequence[Sequence[Head]]) -> Iterator[tuple[int, Tensor]]:
        """Ablate each set of heads, a batch of sets in one forward pass.

        Yields:
            (index of the batch's first set, log-probs float64 [n_sets_in_batch, n_vocab]).

        Raises:
            Cancelled: the event was set before a batch began.
            UserError: the model's numbers are not finite, or memory ran out.
        """
        rows = self.model.rows_per_batch(len(self.prompt))
        for start in range(0, len(head_sets), rows):
            if self.cancel is not None and self.cancel.is_set():
                raise Cancelled
            batch = head_sets[start : start + rows]
            yield (
                start,
                self.model.ablated_logprobs(
                    self.prompt,
                    batch,
                    self.intervention,
                    self.position,
                    self.positions,
                    editor=self.editor,
                ),
            )

    def clean_log_probs(self, like: Tensor) -> Tensor:
        """Return the clean run's log-probs float64 [n_vocab], on the device of `like`."""
        return torch.as_tensor(self.baseline.log_probs, device=like.device)

    def clean_token(self, token_id: int) -> TokenProbability:
        """Return a token as likely as the clean run finds it."""
        return self.model.describe_token(token_id, float(self.baseline.log_probs[token_id]))


def pose(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    intervention: Intervention,
    heads: Sequence[Head],
    position: int | None,
    positions: Sequence[int] | None,
    cancel: threading.Event | None,
) -> Question:
    """Make a question ready: resolve its parts, run the clean prompt, prepare the intervention.

    Args:
        heads: those that may be ablated.

    Raises:
        UserError: a part does not exist in this prompt or model, or does not fit it.
    """
    tokenized = model.tokenize(prompt) if isinstance(prompt, str) else prompt
    read_at = model.resolve_position(tokenized, position)
    acted_on = _acted_on(positions, len(tokenized))
    return Question(
        model=model,
        prompt=tokenized,
        position=read_at,
        positions=acted_on,
        intervention=intervention,
        editor=intervention.prepare(model, tokenized, heads, acted_on),
        baseline=model.predict(tokenized, read_at),
        cancel=cancel,
    )


def _acted_on(positions: Sequence[int] | None, n: int) -> tuple[int, ...] | None:
    if positions is None:
        return None
    if not positions:
        raise UserError(
            ErrorKind.POSITION,
            "No position is named for the intervention to act on; name some, or none for all.",
        )
    return tuple(resolve_positions(positions, n))
