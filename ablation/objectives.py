"""What a search makes as large as it can: the KL divergence, or the probability of a token."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ablation.evaluation import Question
from ablation.metrics import kl_divergence
from models.errors import ErrorKind, UserError
from models.types import FloatArray, Prediction

LEAST_GAIN = 1e-6
"""A targeted step has to raise log p(target) by more nats than this. In float32 the logits of one
head set differ by about as much between batches of different sizes: less is no improvement."""


class Objective(Protocol):
    """What a search makes as large as it can on one prompt, and when it has enough."""

    @property
    def name(self) -> str: ...
    @property
    def target_id(self) -> int | None: ...
    @property
    def flat_at_clean(self) -> bool:
        """Whether the score's gradient vanishes at the clean run, so that it ranks nothing."""
        ...

    def clean_score(self, baseline: Prediction) -> float:
        """Return the score of ablating nothing."""
        ...

    def scores(self, clean: Tensor, log_probs: Tensor) -> Tensor:
        """Return float64 [n] from log-probs [n_vocab] of the clean run and [n, n_vocab]."""
        ...

    def is_gain(self, score: float, before: float) -> bool:
        """Whether a step from `before` to `score` is worth taking."""
        ...

    def is_reached(self, top_id: int) -> bool:
        """Whether the search has what it wants when `top_id` is the most likely token."""
        ...

    def target_logprob(self, log_probs: Tensor) -> float | None:
        """Return how likely [n_vocab] makes what is wanted; None where nothing is."""
        ...

    @property
    def among(self) -> tuple[int, ...] | None:
        """The tokens that count, the most likely of which is on top; None for all."""
        ...


@dataclass(frozen=True, slots=True)
class MostChange:
    """Generic: the largest KL divergence from the clean run; there is never enough of it."""

    name: str = "kl"
    target_id: None = None
    flat_at_clean: bool = True
    """KL is least at the clean run."""
    among: None = None

    def clean_score(self, baseline: Prediction) -> float:
        return 0.0

    def scores(self, clean: Tensor, log_probs: Tensor) -> Tensor:
        return kl_divergence(clean, log_probs)

    def is_gain(self, score: float, before: float) -> bool:
        return True

    def is_reached(self, top_id: int) -> bool:
        return False

    def target_logprob(self, log_probs: Tensor) -> float | None:
        return None


@dataclass(frozen=True, slots=True)
class TargetOnTop:
    """Targeted: the largest log-probability of one token, until it is the most likely one."""

    target_id: int
    name: str = "target"
    flat_at_clean: bool = False
    among: None = None

    def clean_score(self, baseline: Prediction) -> float:
        return float(baseline.log_probs[self.target_id])

    def scores(self, clean: Tensor, log_probs: Tensor) -> Tensor:
        return log_probs[:, self.target_id]

    def is_gain(self, score: float, before: float) -> bool:
        return score > before + LEAST_GAIN

    def is_reached(self, top_id: int) -> bool:
        return top_id == self.target_id

    def target_logprob(self, log_probs: Tensor) -> float | None:
        return log_probs[self.target_id].item()


@dataclass(frozen=True, slots=True)
class AnyOnTop:
    """Targeted: the largest probability of several tokens together, until one of them is the most
    likely token; where only some tokens count, as a part of these."""

    ids: frozenset[int]
    among: tuple[int, ...] | None = None
    name: str = "targets"
    target_id: None = None
    flat_at_clean: bool = False

    def clean_score(self, baseline: Prediction) -> float:
        found = np.logaddexp.reduce(baseline.log_probs[sorted(self.ids)])
        if self.among is None:
            return float(found)
        return float(found - np.logaddexp.reduce(baseline.log_probs[sorted(self.among)]))

    def scores(self, clean: Tensor, log_probs: Tensor) -> Tensor:
        found = log_probs[:, sorted(self.ids)].logsumexp(dim=1)
        if self.among is None:
            return found
        return found - log_probs[:, sorted(self.among)].logsumexp(dim=1)

    def is_gain(self, score: float, before: float) -> bool:
        return score > before + LEAST_GAIN

    def is_reached(self, top_id: int) -> bool:
        return top_id in self.ids

    def target_logprob(self, log_probs: Tensor) -> float | None:
        return self.scores(log_probs, log_probs[None])[0].item()


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """One prompt, made ready to be asked about heads, and what is sought there."""

    question: Question
    objective: Objective

    def scores(self, log_probs: Tensor) -> Tensor:
        """Return float64 [n] of rows of log-probs [n, n_vocab]."""
        return self.objective.scores(self.question.clean_log_probs(log_probs), log_probs)


def on_top(log_probs: Tensor | FloatArray, among: tuple[int, ...] | None = None) -> int:
    """Return the most likely token of [n_vocab], or of some; of equals the lowest id."""
    rows = log_probs.cpu().numpy() if isinstance(log_probs, Tensor) else log_probs
    if among is None:
        return int(rows.argmax())
    chosen = sorted(among)
    return chosen[int(rows[chosen].argmax())]


def aim_at(
    question: Question,
    target_id: int | None,
    any_of: frozenset[int] | None = None,
    among: tuple[int, ...] | None = None,
) -> Aim:
    """Return what is sought on a prompt: a token on top, one of several, or the most change.

    Raises:
        UserError: the target is the most likely token already.
    """
    if any_of:
        log_probs = question.baseline.log_probs
        best = on_top(log_probs, among)
        top = question.model.describe_token(best, float(log_probs[best]))
        if best in any_of:
            raise UserError(
                ErrorKind.TARGET,
                f"The most likely token, {top.text!r} ({top.prob:.1%}), is one of those sought "
                "already; choose others.",
            )
        return Aim(question, AnyOnTop(any_of, among))
    if target_id is None:
        return Aim(question, MostChange())
    top = question.baseline.top[0]
    if top.id == target_id:
        raise UserError(
            ErrorKind.TARGET,
            f"The target {top.text!r} is already the most likely token ({top.prob:.1%}); "
            "choose another one.",
        )
    return Aim(question, TargetOnTop(target_id))
