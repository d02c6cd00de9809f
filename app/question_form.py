"""The question that the circuit tab asks, as a link holds it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ablation.circuit.methods import BASELINES, DIRECTIONS, METHODS, METRICS
from ablation.circuit.tasks import TASKS
from app.field_readers import flag, fraction, one_of, typed, whole

MOST_PAIRS = 1000
MOST_STEPS = 100
_LONGEST = 200_000


@dataclass(frozen=True, slots=True)
class QuestionForm:
    """What the form of the circuit tab holds, but for the pairs of a file, which no link carries.

    The defaults are what the form opens with.
    """

    pairs: str = "prompt"
    corrupt: str = ""
    """Empty: one is proposed."""
    answer: str = ""
    distractor: str = ""
    task: str = next(iter(TASKS))
    n_pairs: int = 20
    held_out: int = 5
    method: str = next(iter(METHODS))
    metric: str = next(iter(METRICS))
    baseline: str = next(iter(BASELINES))
    faithfulness: float = 0.85
    steps: int = 5
    by_position: bool = True


_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "pairs": one_of(("prompt", "task", "file")),
    "corrupt": typed(_LONGEST),
    "answer": typed(1000),
    "distractor": typed(1000),
    "task": one_of(tuple(TASKS)),
    "n_pairs": whole(1, MOST_PAIRS),
    "held_out": whole(0, MOST_PAIRS),
    "method": one_of((*METHODS, *DIRECTIONS)),
    "metric": one_of(tuple(METRICS)),
    "baseline": one_of(tuple(BASELINES)),
    "faithfulness": fraction,
    "steps": whole(1, MOST_STEPS),
    "by_position": flag,
}
"""How each field is read and checked."""


def read_question(name: str, value: object) -> QuestionForm:
    """Read a question from data that came from outside; missing fields take their default.

    Raises:
        ValueError: it is no mapping, or a field holds what cannot be in it.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping, not {type(value).__name__}")
    return QuestionForm(
        **{field: read(field, value[field]) for field, read in _READERS.items() if field in value}
    )
