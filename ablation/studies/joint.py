"""Heads removed together, beside each of them alone."""

from dataclasses import dataclass
from typing import Any

from ablation.studies.columns import HeadSet
from ablation.studies.statistics import Interval, mean_interval
from models.types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """What removing some heads does, in the unit of the study: together, and each alone."""

    heads: HeadSet
    together: FloatArray
    """float64 [n_prompts], without all of them."""
    alone: FloatArray
    """float64 [n_prompts, n_heads], without each."""

    @property
    def beyond(self) -> FloatArray:
        """float64 [n_prompts]: together less the sum alone; 0 where effects add up."""
        difference: FloatArray = self.together - self.alone.sum(axis=1)
        return difference

    @property
    def interval(self) -> Interval:
        """Of `beyond`."""
        return mean_interval(self.beyond)

    @property
    def names(self) -> str:
        return " and ".join(str(head) for head in self.heads)

    def to_json(self) -> dict[str, Any]:
        return {
            "heads": [head.to_json() for head in self.heads],
            "together": self.together.mean(),
            "alone": self.alone.mean(axis=0),
            "beyond": self.beyond.mean(),
        }
