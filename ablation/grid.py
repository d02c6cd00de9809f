"""Chosen heads ablated at one position at a time: where in the prompt a head matters."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from ablation.evaluation import Cancelled, pose, targets_of, until_cancelled
from ablation.interventions import Intervention, Zero
from ablation.metrics import metric_named
from ablation.sweep import require_target
from ablation.types import PositionScores, Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import Head, TokenizedPrompt


def sweep_positions(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    heads: Sequence[Head],
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    metric: str = "kl",
    position: int | None = None,
    *,
    target: int | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> PositionScores:
    """Score heads at each position by what ablating them there alone does to the prediction.

    The grid that patching tools draw. Under causal attention only the positions from the one acted
    on to the one read are computed, so a cell costs less the later it is.

    Args:
        heads: the rows of the grid, in this order, all of one stack; its queries are the columns.
        metric: a name of `ablation.metrics.METRICS`.
        position: where the prediction is read; negative numbers count from the end. None: the
            last position, or the first mask token.
        target: token id or text of one token, for the metrics that need one.
        progress: called after each batch with the scores found so far.
        cancel: looked at before each batch; once set, the scores found so far are returned.

    Raises:
        UserError: an argument that does not fit this model or prompt, or numbers that are not
            finite.
    """
    chosen = metric_named(metric)
    require_target(chosen, target)
    rows = model.check_heads(heads)
    if not rows:
        raise UserError(ErrorKind.HEADS, "No heads are chosen for the grid; name at least one.")
    model.stacks.stack_of(rows)
    question = pose(model, prompt, intervention, rows, position, None, cancel)
    [target_id] = targets_of(model, target, 1)
    tokenized = question.posed.prompt
    queries = model.axes_of(tokenized, rows).queries
    values = np.full((len(rows), len(queries)), np.nan, dtype=np.float32)

    def scores(stopped: str) -> PositionScores:
        return PositionScores(
            metric=chosen.info,
            heads=rows,
            values=values.copy(),  # the next batch writes into the array
            prompt=queries,
            baseline=question.baseline,
            target=None if target_id is None else question.clean_token(target_id),
            stopped=stopped,
            read_here=queries is tokenized,
        )

    passes = model.head_sets.evaluate_by_position(
        tokenized, [(head,) for head in rows], intervention, question.position
    )
    done = 0
    try:
        for at, (indices, log_probs) in until_cancelled(passes, cancel):
            clean = question.clean_log_probs(log_probs)
            values[indices, at] = chosen.compute(clean, log_probs, target_id).tolist()
            done += len(indices)
            if progress is not None:
                message = f"{done} of {values.size} cells"
                progress(Progress(done, values.size, message, scores("running")))
    except Cancelled:
        return scores("complete" if done == values.size else "cancelled")
    return scores("complete")
