"""Every head ablated alone, once."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from ablation.evaluation import Cancelled, Prompts, Question, pose_all, targets_of
from ablation.interventions import Intervention, Zero
from ablation.metrics import Metric, metric_named
from ablation.types import HeadScores, Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.places import Place
from models.types import FloatArray


def sweep_heads(
    model: LanguageModel,
    prompt: Prompts,
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    metric: str = "kl",
    position: int | None = None,
    *,
    target: int | str | Sequence[int | str] | None = None,
    positions: Sequence[Place] | None = None,
    stack: str = "",
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> HeadScores:
    """Score every head of a stack by what ablating it alone does to the prediction.

    Args:
        prompt: one prompt, or several of equal or different lengths; then the scores are the mean
            over them, and `by_prompt` of the result has each.
        metric: a name of `ablation.metrics.METRICS`.
        position: where the prediction is read; negative numbers count from the end. None: the
            last position, or the first mask token.
        target: token id or text of one token, for the metrics that need one; for several prompts
            one for all, or a sequence with one each.
        positions: the positions acted on, among the stack's queries; None for all.
        stack: whose heads are ablated, such as "cross"; by default the model's main stack, which
            for most models is the only one.
        progress: called after each batch with the scores found so far.
        cancel: looked at before each batch; once set, the scores found so far are returned.

    Returns:
        Scores of every head, NaN for one that was not evaluated (or that its layer lacks); for
        several prompts, NaN until it was evaluated on all of them.

    Raises:
        UserError: an argument that does not fit this model or prompt, or numbers that are not
            finite.
    """
    chosen = metric_named(metric)
    require_target(chosen, target)
    shape = model.stacks.named(stack)
    stack = shape.name
    heads = model.all_heads(stack)
    questions = pose_all(model, prompt, intervention, heads, position, positions, cancel)
    targets = targets_of(model, target, len(questions))
    values = np.full((len(questions), shape.n_layers, shape.n_heads), np.nan, dtype=np.float32)
    total, done, stopped = len(heads) * len(questions), 0, "complete"
    try:
        for question, target_id, of_prompt in zip(questions, targets, values, strict=True):
            for indices, log_probs in question.evaluate([(head,) for head in heads]):
                clean = question.clean_log_probs(log_probs)
                scores = chosen.compute(clean, log_probs, target_id)
                done += len(indices)
                for i, score in zip(indices, scores.tolist(), strict=True):
                    of_prompt[heads[i].layer, heads[i].head] = score
                if progress is not None:
                    partial = _scores(questions[0], chosen, targets[0], values, stack, "running")
                    progress(Progress(done, total, f"{done} of {total} heads", partial))
    except Cancelled:
        stopped = "complete" if done == total else "cancelled"
    return _scores(questions[0], chosen, targets[0], values, stack, stopped)


def require_target(metric: Metric, target: object) -> None:
    """Raise `UserError` if a metric needs a target token and there is none."""
    if target is None and metric.info.needs_target:
        raise UserError(
            ErrorKind.TARGET,
            f"{metric.info.label} needs a target token; name one, such as ' John'.",
        )


def _scores(
    first: Question,
    metric: Metric,
    target_id: int | None,
    values: FloatArray,
    stack: str,
    stopped: str,
) -> HeadScores:
    """Return the scores found so far, `values` being [n_prompts, n_layers, n_heads]."""
    return HeadScores(
        metric=metric.info,
        values=values.mean(axis=0),
        baseline=first.baseline,
        target=None if target_id is None else first.clean_token(target_id),
        stopped=stopped,
        # A copy: the next batch writes into the array.
        by_prompt=values.copy() if len(values) > 1 else None,
        stack=stack,
    )
