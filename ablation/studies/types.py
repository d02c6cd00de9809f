"""What a study gives: plain data, no torch."""

from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, slots=True, eq=False)
class StudyResult:
    """The answer of a study, and what it rests on."""

    name: str
    answer: tuple[str, ...]
    """Sentences for a person."""
    table: pd.DataFrame
    """One row for each thing measured; the study says what its columns are."""
    caveats: tuple[str, ...]
    """What the answer must not be taken for."""
    n_prompts: int
    seconds: float
    details: Any = None
    """What only this study has; it can be written out by its `to_json`."""
    stopped: str = "complete"
    """"complete"; "cancelled" when not everything was measured."""

    def to_json(self) -> dict[str, Any]:
        details = {} if self.details is None else self.details.to_json()
        return {
            "name": self.name,
            "answer": list(self.answer),
            "table": self.table.to_dict("records"),
            "caveats": list(self.caveats),
            "n_prompts": self.n_prompts,
            "seconds": self.seconds,
            "stopped": self.stopped,
            **details,
        }
