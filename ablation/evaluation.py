"""Running a model with many sets of heads ablated: the ground that sweep and search stand on."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ablation.interventions import Intervention
from models.errors import ErrorKind, UserError
from models.head_sets import PosedPrompt
from models.language_model import LanguageModel
from models.places import Place
from models.types import POLICY, FloatArray, Head, Prediction, TokenizedPrompt, TokenProbability


class Cancelled(Exception):  # noqa: N818 - not an error: somebody pressed Cancel
    """The work was cancelled between two batches."""


def stop_if(cancel: threading.Event | None) -> None:
    """Raise `Cancelled` once the event is set."""
    if cancel is not None and cancel.is_set():
        raise Cancelled


Item = TypeVar("Item")


def until_cancelled(work: Iterator[Item], cancel: threading.Event | None) -> Iterator[Item]:
    """Yield what the work yields; raise `Cancelled` before its next piece once the event is set."""
    while True:
        stop_if(cancel)
        try:
            piece = next(work)
        except StopIteration:
            return
        yield piece


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One model, prompt, position and intervention, made ready to be asked about many heads."""

    model: LanguageModel
    posed: PosedPrompt
    baseline: Prediction
    """The clean run's."""
    cancel: threading.Event | None

    @property
    def position(self) -> int:
        """Where predictions are read, counted from 0."""
        return self.posed.read

    def evaluate(self, head_sets: Sequence[Sequence[Head]]) -> Iterator[tuple[list[int], Tensor]]:
        """Ablate each set of heads, many sets in one forward pass.

        Yields:
            (indices of the pass's sets, log-probs float64 [n_sets_in_pass, n_vocab]); every set
            once, in an order that suits the work.

        Raises:
            Cancelled: the event was set before a pass began.
            UserError: the model's numbers are not finite, or memory ran out.
        """
        passes = self.model.head_sets.evaluate(self.posed, head_sets)
        return until_cancelled(passes, self.cancel)

    def estimated_changes(
        self, heads: Sequence[Head], score: Callable[[Tensor], Tensor]
    ) -> FloatArray:
        """Estimate what ablating each head beside `heads` changes (`HeadSets`).

        Args:
            score: log-probs float64 [n_vocab] -> a scalar.

        Returns:
            float32 [n_layers, n_heads], with the layers of all stacks in the order they run.
        """
        stop_if(self.cancel)
        return self.model.head_sets.estimate(self.posed, heads, score)

    def clean_log_probs(self, like: Tensor) -> Tensor:
        """Return the clean run's log-probs float64 [n_vocab], on the device of `like`."""
        return torch.as_tensor(self.baseline.log_probs, device=like.device)

    def clean_token(self, token_id: int) -> TokenProbability:
        """Return a token as likely as the clean run finds it."""
        return self.model.describe_token(token_id, float(self.baseline.log_probs[token_id]))


Prompts = TokenizedPrompt | str | Sequence[TokenizedPrompt | str]
"""One prompt, or several of equal or different lengths."""


def pose_all(
    model: LanguageModel,
    prompts: Prompts,
    intervention: Intervention,
    heads: Sequence[Head],
    position: int | None,
    positions: Sequence[Place] | None,
    cancel: threading.Event | None,
) -> tuple[Question, ...]:
    """Make the question ready for each prompt (`pose`). Each runs by itself: no padding.

    Raises:
        UserError: there is no prompt, or as `pose`.
    """
    several = [prompts] if isinstance(prompts, TokenizedPrompt | str) else list(prompts)
    if not several:
        raise UserError(ErrorKind.PROMPT, "There is no prompt to ask about; give at least one.")
    return tuple(
        pose(model, prompt, intervention, heads, position, positions, cancel) for prompt in several
    )


def targets_of(
    model: LanguageModel, target: int | str | Sequence[int | str] | None, n_prompts: int
) -> list[int | None]:
    """Return the target token of each prompt: one for all of them, or one each.

    Raises:
        UserError: a target is not one token, or there are not as many as prompts.
    """
    if target is None:
        return [None] * n_prompts
    if isinstance(target, int | str):
        return [model.resolve_token(target)] * n_prompts
    if len(target) != n_prompts:
        raise UserError(
            ErrorKind.TARGET,
            f"There are {len(target)} targets for {n_prompts} prompts; give one for each prompt, "
            "or one for all.",
        )
    return [model.resolve_token(token) for token in target]


def pose(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    intervention: Intervention,
    heads: Sequence[Head],
    position: int | None,
    positions: Sequence[Place] | None,
    cancel: threading.Event | None,
) -> Question:
    """Make a question ready: resolve its parts, run the clean prompt, prepare the intervention.

    Args:
        heads: those that may be ablated.

    Raises:
        UserError: a part does not exist in this prompt or model, or does not fit it.
    """
    if model.kind == POLICY:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name} answers with an action, not with a token; ask what moves that: "
            "Action and Study on the page, main.py policy, or ablation.chunk_actions.",
        )
    tokenized = model.tokenize(prompt) if isinstance(prompt, str) else prompt
    posed = model.head_sets.pose(tokenized, intervention, heads, position, positions)
    return Question(model, posed, model.predict(tokenized, posed.read), cancel)
