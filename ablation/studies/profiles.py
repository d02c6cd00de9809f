"""What heads do on some prompts, and how alike that makes them: what they are clustered by."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablation.studies.likeness import (
    ALL,
    COMPOSITION,
    EFFECTS,
    MEASURES,
    OUTPUTS,
    Outputs,
    effects_likeness,
    outputs_likeness,
    ranked,
    together,
)
from ablation.studies.partition import LikenessOf
from models.types import FloatArray

LEAST_CHANGE = 1e-3
"""Mean absolute change of logits below which a head does nothing measurable."""


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """All heads of a model on some prompts; heads and prompts go by their numbers."""

    changed: tuple[FloatArray, ...]
    """Of each prompt, [n_heads, 1 + tokens] (`likeness.changes`)."""
    outputs: tuple[Outputs, ...]
    """Of each prompt; none where the model does not tell."""
    fed: FloatArray | None
    """[n_heads, n_heads], likeness by composition; None where the model does not tell."""

    def live(self) -> FloatArray:
        """Return the heads that do something, int [n_live]."""
        size = np.mean([np.abs(of_one).mean(axis=1) for of_one in self.changed], axis=0)
        found: FloatArray = np.flatnonzero(size >= LEAST_CHANGE)
        return found

    def measures(self, heads: FloatArray) -> list[str]:
        """Return the measures that are known and tell some of these heads apart."""
        known = {
            EFFECTS: True,
            OUTPUTS: bool(self.outputs),
            COMPOSITION: self.fed is not None
            and bool(np.isfinite(self.fed[np.ix_(heads, heads)]).any()),
        }
        return [measure for measure in MEASURES if known[measure]]

    def measured(self, measure: str, heads: FloatArray, prompts: Sequence[int]) -> FloatArray:
        """Return how alike these heads are by one measure on these prompts, [n_heads, n_heads]."""
        if measure == EFFECTS:
            return effects_likeness([self.changed[i][heads] for i in prompts])
        if measure == OUTPUTS:
            return outputs_likeness([self.outputs[i] for i in prompts], heads)
        assert self.fed is not None  # `measures` has it
        square: FloatArray = self.fed[np.ix_(heads, heads)]
        return square

    def likeness_of(self, way: str, among: FloatArray, known: Sequence[str]) -> LikenessOf:
        """Return how alike heads are by a measure or by all that are known, as ranks in [0, 1].

        Args:
            way: `ALL`, or one of `known`.
            among: heads that what is returned counts through.
            known: measures (`measures`).
        """

        def likeness_of(prompts: Sequence[int], heads: FloatArray) -> FloatArray:
            if way == ALL:
                return together([self.measured(m, among[heads], prompts) for m in known])
            # Within a layer there is no composition, and so nothing that makes heads alike.
            return np.nan_to_num(ranked(self.measured(way, among[heads], prompts)))

        return likeness_of
