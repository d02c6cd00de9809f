"""Maps without the first token, on which many heads leave the attention that they do not need.

Such an attention sink (Xiao et al. 2023, arXiv:2309.17453) can hold most of a map's weight and hide
what else the head does: 41 % of all attention of the built-in model on ordinary text. Where
several texts stand one behind the other, each has a first token.
"""

from collections.abc import Sequence

import numpy as np

from ablation.types import LEAST_REST
from models.types import FloatArray

SINKS = {"show": "show", "hide": "hide", "renormalise": "renormalise"}
"""What can be done about the first token, and what the choice is called; the first by default.
"hide" leaves its column blank; "renormalise" also divides the other weights of each row by their
sum."""
SINK_NOTES = {"hide": "first token hidden", "renormalise": "renormalised without first token"}
"""What a map says of its first token."""


FIRST = (0,)
"""The first tokens of a prompt of one text."""


def without_first(weights: FloatArray, sink: str, firsts: Sequence[int] = FIRST) -> FloatArray:
    """Return a map as it is shown, the first token dealt with as `sink` says.

    Args:
        weights: float32 [..., key].
        sink: a key of `SINKS`.
        firsts: the first tokens (`TokenizedPrompt.starts`).

    Returns:
        `weights` itself for "show"; else a copy, NaN where it is blank.
    """
    if sink == "show":
        return weights
    shown = np.array(weights, dtype=np.float32)
    if sink == "renormalise":
        shown /= _divisor(weights, firsts)[..., None]
    shown[..., list(firsts)] = np.nan
    return shown


def column_without_first(
    weights: FloatArray, position: int, sink: str, firsts: Sequence[int] = FIRST
) -> FloatArray:
    """Return one column of `without_first`, float32 [query], at less cost than all of it."""
    if position in firsts and sink != "show":
        return np.full(len(weights), np.nan, dtype=np.float32)
    column = weights[:, position]
    return column / _divisor(weights, firsts) if sink == "renormalise" else column


def _others(weights: FloatArray, firsts: Sequence[int]) -> FloatArray:
    """Return weights [..., key] of all keys but the first tokens."""
    if len(firsts) == 1:  # a view, where maps are long
        return weights[..., 1:]
    return np.delete(weights, list(firsts), axis=-1)


def _divisor(weights: FloatArray, firsts: Sequence[int]) -> FloatArray:
    """Return what each row is divided by, float32 [..., query]: NaN for one that stays blank."""
    rest = _others(weights, firsts).sum(axis=-1, dtype=np.float64)
    return np.where(rest < LEAST_REST, np.nan, rest).astype(np.float32)


def trivial_rows(causal: bool, sink: str) -> int:
    """Return of how many rows, from the first of each text, causal attention leaves the only weight
    a 1."""
    return {"show": 1, "hide": 1, "renormalise": 2}[sink] if causal else 0


def apart(causal: bool, n_rows: int, sink: str = "show", firsts: Sequence[int] = FIRST) -> str:
    """Return what `largest_weight` leaves out of what is shown, in words; "" for nothing.

    Args:
        n_rows: how many there are.
    """
    trivial = trivial_rows(causal, sink)
    if n_rows <= trivial or sink == "hide":  # which leaves nothing of the first row
        return ""
    if len(firsts) > 1 and trivial:
        return "first rows"
    return f"row {trivial - 1}" if trivial else ""


def _counted(weights: FloatArray, trivial: int, firsts: Sequence[int]) -> FloatArray:
    """Return the rows that are no trivial ones; all where there are no others."""
    if len(firsts) == 1:
        return weights[trivial:] if len(weights) > trivial else weights
    left = np.delete(weights, [first + i for first in firsts for i in range(trivial)], axis=0)
    return left if len(left) else weights


def largest_of_rows(weights: FloatArray, trivial: int, firsts: Sequence[int] = FIRST) -> float:
    """Return the largest weight of a map [query, key], NaN where blank; 0 if there is none.

    Args:
        trivial: so many rows from the first of each text do not count where there are others.
        firsts: the first tokens.
    """
    counted = _counted(weights, trivial, firsts)
    return float(np.fmax.reduce(counted, axis=None, initial=0.0))


def largest_weight(
    weights: FloatArray, causal: bool, sink: str = "show", firsts: Sequence[int] = FIRST
) -> float:
    """Return the largest weight that is shown of a map [query, key]; 0 if there is none.

    Rows that causal attention leaves a single key, whose weight is a trivial 1, do not count where
    there are others.
    """
    counted = _counted(weights, trivial_rows(causal, sink), firsts)
    if sink == "show":
        return float(counted.max(initial=0.0))
    largest = _others(counted, firsts).max(axis=1, initial=0.0)
    if sink == "renormalise":
        largest = largest / _divisor(counted, firsts)
    return float(np.fmax.reduce(largest, initial=0.0))
