"""A set of prompts, posed to a model: what removing heads does to each of its predictions."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ablation.evaluation import Question, pose
from ablation.interventions import Intervention, Mean, Permute, Resample, Zero
from ablation.metrics import kl_divergence
from ablation.studies.columns import KL, RANK, RIGHT, SAME
from ablation.studies.prompts import PromptSet, StudyPrompt
from ablation.timing import pass_seconds
from ablation.types import Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray, Head

ROW_COST = 0.33
"""Of a pass: a set of heads, run as a row. It branches off the clean run, half way up on average,
and many rows share a pass (measured on two cores)."""
MEAN_OVER = 8
"""So many prompts of the set give the mean: each is run anew for every prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class AskedPrompt:
    """One prompt of a set, made ready."""

    prompt: StudyPrompt
    question: Question
    answer: int
    """The right next token; where none is known, the one that the clean run finds likeliest."""

    def effects(self, head_sets: Sequence[Sequence[Head]]) -> FloatArray:
        """Ablate each set of heads; return float64 [n_sets, 4], the columns of
        `ablation.studies.columns`.

        Raises:
            Cancelled: the work was cancelled.
        """
        found = np.full((len(head_sets), 4), np.nan)
        for indices, log_probs in self.question.evaluate(head_sets):
            clean = self.question.clean_log_probs(log_probs)
            own = log_probs[:, self.answer]
            found[indices, KL] = kl_divergence(clean, log_probs).cpu()
            found[indices, RIGHT] = (own - clean[self.answer]).cpu()
            found[indices, RANK] = 1 + (log_probs > own[:, None]).sum(dim=1).cpu()
            found[indices, SAME] = (log_probs.argmax(dim=1) == clean.argmax()).cpu()
        return found


def ask(
    model: LanguageModel,
    prompts: PromptSet,
    index: int,
    intervention: str | Intervention,
    seed: int = 0,
    cancel: threading.Event | None = None,
) -> AskedPrompt:
    """Make one prompt of a set ready.

    Args:
        intervention: a name of `options.INTERVENTION`, or a value of one.

    Raises:
        UserError: the prompt, its answer or the intervention does not fit the model; the prompt is
            named.
    """
    prompt = prompts.prompts[index]
    try:
        chosen = (
            intervention_of(intervention, model, prompts, index, seed)
            if isinstance(intervention, str)
            else intervention
        )
        question = pose(model, prompt.text, chosen, model.all_heads(), None, None, cancel)
        answer = (
            model.resolve_token(prompt.answer)
            if prompt.answer
            else int(np.argmax(question.baseline.log_probs))
        )
    except UserError as error:
        where = f"Prompt {index + 1} of {len(prompts)}: " if len(prompts) > 1 else ""
        raise UserError(error.kind, f"{where}{error}") from None
    return AskedPrompt(prompt, question, answer)


def intervention_of(
    name: str, model: LanguageModel, prompts: PromptSet, index: int, seed: int = 0
) -> Intervention:
    """Return what is done to heads on one prompt of a set.

    The mean is that over the first `MEAN_OVER` other prompts; resampling takes the next prompt of
    as many tokens.

    Raises:
        UserError: there is no other prompt, or none of as many tokens.
    """
    if name == "zero":
        return Zero()
    if name == "permute":
        return Permute(seed)
    others = [*prompts.texts[index + 1 :], *prompts.texts[:index]]
    if not others:
        raise UserError(
            ErrorKind.INTERVENTION,
            f"The intervention {name} takes other prompts of the set, and there is one only; give "
            "more prompts, or choose zero or permute.",
        )
    if name == "mean":
        return Mean(tuple(others[:MEAN_OVER]))
    length = len(model.tokenize(prompts.texts[index]))
    fitting = (text for text in others if len(model.tokenize(text)) == length)
    source = next(fitting, None)
    if source is None:
        raise UserError(
            ErrorKind.INTERVENTION,
            f"No other prompt of the set has {length} tokens, as resampling needs; choose mean, "
            "zero or permute, or a set of more alike prompts.",
        )
    return Resample(source)


def seconds_of_pass(model: LanguageModel, prompts: PromptSet) -> float:
    """Return how long one forward pass of a prompt of the set takes, measured just now."""
    lengths = [len(model.tokenize(text)) for text in prompts.texts]
    middle = int(np.argsort(lengths)[len(lengths) // 2])
    return pass_seconds(model, model.tokenize(prompts.texts[middle]))


@dataclass(slots=True, eq=False)
class Report:
    """Tells how far a study is, in pieces of work of about the same length."""

    total: int
    progress: Callable[[Progress], None] | None
    done: int = 0

    def __call__(self, message: str, count: int = 1) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(Progress(self.done, max(self.total, self.done), message))
