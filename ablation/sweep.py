"""Every head ablated alone, once."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from ablation.evaluation import Cancelled, Question, pose
from ablation.interventions import Intervention, Zero
from ablation.metrics import Metric, metric_named
from ablation.types import HeadScores, Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray, TokenizedPrompt


def sweep_heads(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    metric: str = "kl",
    position: int | None = None,
    *,
    target: int | str | None = None,
    positions: Sequence[int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> HeadScores:
    """Score every head by what ablating it alone does to the prediction.

    Args:
        metric: a name of `ablation.metrics.METRICS`.
        position: where the prediction is read; negative numbers count from the end. None: the
            last position, or the first mask token.
        target: token id or text of one token, for the metrics that need one.
        positions: the positions acted on; None for all.
        progress: called after each batch with the scores found so far.
        cancel: looked at before each batch; once set, the scores found so far are returned.

    Returns:
        Scores of every head, NaN for one that was not evaluated (or that its layer lacks).

    Raises:
        UserError: an argument that does not fit this model or prompt, or numbers that are not
            finite.
    """
    chosen = metric_named(metric)
    target_id = _target_id(model, chosen, target)
    heads = model.all_heads()
    question = pose(model, prompt, intervention, heads, position, positions, cancel)
    values = np.full((model.n_layers, model.n_heads), np.nan, dtype=np.float32)
    stopped = "complete"
    try:
        for start, log_probs in question.evaluate([(head,) for head in heads]):
            clean = question.clean_log_probs(log_probs)
            scores = chosen.compute(clean, log_probs, target_id)
            done = start + len(scores)
            for head, score in zip(heads[start:done], scores.tolist(), strict=True):
                values[head.layer, head.head] = score
            if progress is not None:
                partial = _scores(question, chosen, target_id, values, "running")
                progress(Progress(done, len(heads), f"{done} of {len(heads)} heads", partial))
    except Cancelled:
        stopped = "cancelled"
    return _scores(question, chosen, target_id, values, stopped)


def _target_id(model: LanguageModel, metric: Metric, target: int | str | None) -> int | None:
    if target is not None:
        return model.resolve_token(target)
    if metric.info.needs_target:
        raise UserError(
            ErrorKind.TARGET,
            f"{metric.info.label} needs a target token; name one, such as ' John'.",
        )
    return None


def _scores(
    question: Question, metric: Metric, target_id: int | None, values: FloatArray, stopped: str
) -> HeadScores:
    return HeadScores(
        metric=metric.info,
        values=values.copy(),  # the next batch writes into the array
        baseline=question.baseline,
        target=None if target_id is None else question.clean_token(target_id),
        stopped=stopped,
    )
