"""Where along the prompt the edges of a circuit carry what they carry.

The same first-order estimate by which edges are scored, not summed over positions: an edge leads
from its source at a position to its target's input at that position. Between positions only
attention moves anything, so the circuit's heads come with their weights.
"""

from collections.abc import Sequence

import numpy as np

from ablation.circuit.attribution import gradient_points, scorer
from ablation.circuit.question import CircuitQuestion
from ablation.circuit.types import EdgesByPosition, PromptPair
from ablation.evaluation import stop_if
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray, Head


def have_one_length(
    model: LanguageModel, pairs: Sequence[PromptPair], bos: bool | None = None
) -> bool:
    """Return whether all pairs have as many tokens, so that positions can be compared."""
    return len(_lengths(model, pairs, bos)) <= 1


def check_one_length(
    model: LanguageModel, pairs: Sequence[PromptPair], bos: bool | None = None
) -> None:
    """Raise `UserError` unless all pairs have as many tokens."""
    found = _lengths(model, pairs, bos)
    if len(found) > 1:
        said = ", ".join(map(str, found[:-1])) + f" and {found[-1]}"
        raise UserError(
            ErrorKind.OPTION,
            f"Scores by position need pairs of one length, and these have {said} tokens; leave the "
            "scores by position out, or give pairs of one length.",
        )


def _lengths(model: LanguageModel, pairs: Sequence[PromptPair], bos: bool | None) -> list[int]:
    return sorted({len(model.tokenize(pair.clean, bos)) for pair in pairs})


def edges_by_position(
    question: CircuitQuestion, method: str, steps: int, kept: np.ndarray, heads: Sequence[Head]
) -> EdgesByPosition:
    """Score the edges of a circuit at each position.

    Args:
        method: "eap", "eap-ig" or "eap-ig-cc": where gradients are taken.
        kept: the circuit, bool [n_targets, n_sources].
        heads: those of the circuit.

    Raises:
        Cancelled: the work was cancelled.
    """
    n_positions = len(question.batches[0].pairs[0].clean)
    total = np.zeros((int(kept.sum()), n_positions))
    for batch in question.not_cancelled():
        points = list(gradient_points(batch, method, steps))
        for hidden in points:
            total += question.patching.scores_by_position(
                batch.clean, batch.reference, hidden, scorer(question, batch), kept
            ) / len(points)
            stop_if(question.cancel)
    first = question.batches[0].pairs[0].clean
    return EdgesByPosition(
        tuple(first.labels),
        np.argwhere(kept),
        (total / question.n_pairs).astype(np.float32),
        _mean_weights(question, heads),
    )


def _mean_weights(question: CircuitQuestion, heads: Sequence[Head]) -> dict[Head, FloatArray]:
    weights = np.stack(
        [
            question.model.attention(pair.clean, heads).values
            for batch in question.not_cancelled()
            for pair in batch.pairs
        ]
    )
    mean: FloatArray = weights.mean(axis=0, dtype=np.float32)
    return dict(zip(heads, mean, strict=True))
