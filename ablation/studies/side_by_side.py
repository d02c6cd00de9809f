"""The same heads, ablated in other ways: how far an answer rests on the choice of intervention."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from ablation.studies.asked import AskedPrompt, Report, ask
from ablation.studies.options import INTERVENTION
from ablation.studies.prompts import PromptSet
from models.language_model import LanguageModel
from models.types import FloatArray


def others_than(intervention: str, n_prompts: int) -> tuple[str, ...]:
    """Return the other interventions that any set of so many prompts allows: resampling takes
    prompts of equal length, the mean more than one."""
    left_out = {intervention, "resample"} | ({"mean"} if n_prompts < 2 else set())
    return tuple(name for name, _ in INTERVENTION.choices if name not in left_out)


def in_other_ways(
    model: LanguageModel,
    prompts: PromptSet,
    indices: Sequence[int],
    intervention: str,
    measure: Callable[[AskedPrompt], FloatArray],
    *,
    seed: int,
    report: Report,
    cancel: threading.Event | None,
) -> dict[str, FloatArray]:
    """Measure the same on the same prompts by every other intervention.

    Args:
        indices: of the prompts.
        intervention: the one that need not be done again.
        measure: returns an array [...] of one prompt made ready.

    Returns:
        Intervention -> float64 [n_prompts, ...].

    Raises:
        Cancelled: the work was cancelled.
    """
    found = {}
    for name in others_than(intervention, len(prompts)):
        values = []
        for number, index in enumerate(indices, start=1):
            values.append(measure(ask(model, prompts, index, name, seed, cancel)))
            report(f"The same heads by {name}: prompt {number} of {len(indices)}")
        found[name] = np.stack(values)
    return found
