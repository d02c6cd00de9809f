"""Which heads a screened search evaluates: the most promising ones, by two signs.

One backward pass at the set of heads chosen so far estimates, for every remaining head at once,
what ablating it too would do to the score (`models.head_gradients`). That is a slope: it misses
heads whose effect sets in only when they are switched off altogether. So half of the places go to
the steepest slopes, and half to the heads that gained most when they were last evaluated, in an
earlier step (as lazy greedy search does: Minoux 1978). Both only rank; what the search chooses
among is evaluated exactly.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ablation.objectives import Aim
from ablation.types import STRATEGIES
from models.errors import ErrorKind, UserError
from models.types import FloatArray, Head

SCREENED = 32
"""How many heads a screened step evaluates exactly."""


def check_strategy(strategy: str, screen: int) -> None:
    """Raise `UserError` if there is no such strategy, or nothing to evaluate."""
    if strategy not in STRATEGIES:
        raise UserError(
            ErrorKind.OPTION,
            f"There is no strategy named {strategy[:40]!r}; choose one of {', '.join(STRATEGIES)}.",
        )
    if screen < 1:
        raise UserError(
            ErrorKind.OPTION,
            f"A screened step has to evaluate at least 1 head, not {screen}; raise the number.",
        )


def screens(strategy: str, aims: Sequence[Aim], n_kept: int) -> bool:
    """Whether a step is screened, with so many heads chosen; at a flat start it has to be exact."""
    flat = n_kept == 0 and any(aim.objective.flat_at_clean for aim in aims)
    return strategy == "screened" and not flat


def most_promising(
    aims: Sequence[Aim],
    kept: Sequence[Head],
    remaining: Sequence[Head],
    last_gains: Mapping[Head, float],
    count: int,
) -> list[Head]:
    """Return the `count` remaining heads to evaluate, in (layer, head) order.

    Args:
        last_gains: what a head added to the score when it was last evaluated, by head.

    Raises:
        Cancelled: the work was cancelled.
        UserError: the model cannot be differentiated with this intervention.
    """
    if len(remaining) <= count:
        return list(remaining)
    mean = np.mean([_estimates(aim, kept) for aim in aims], axis=0)
    run_layer = aims[0].question.model.stacks.run_layer
    by_slope = sorted(remaining, key=lambda head: -mean[run_layer(head), head.head])
    known = [head for head in remaining if head in last_gains]
    by_gain = sorted(known, key=lambda head: -last_gains[head])
    chosen = dict.fromkeys(by_slope[: count - min(count // 2, len(by_gain))])
    # Then the other sign's leaders, and the slope's again if these run out.
    for head in (*by_gain, *by_slope):
        if len(chosen) == count:
            break
        chosen[head] = None
    return sorted(chosen)


def _estimates(aim: Aim, kept: Sequence[Head]) -> FloatArray:
    """Return the estimated change of an aim's score by each head, float32 [n_layers, n_heads].

    The layers of all stacks are counted in the order they run.
    """

    def score(log_probs: Tensor) -> Tensor:
        return aim.scores(log_probs[None])[0]

    return aim.question.estimated_changes(kept, score)
