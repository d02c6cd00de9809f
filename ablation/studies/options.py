"""What may be chosen about a study, as a form and the command line show it."""

import math
from dataclasses import dataclass
from typing import Any

from models.errors import ErrorKind, UserError


@dataclass(frozen=True, slots=True)
class StudyOption:
    """One thing that may be chosen about a study."""

    name: str
    """Of the argument of the study's `run`."""
    label: str
    kind: str
    """"integer", "number" or "choice"."""
    default: Any
    help: str
    choices: tuple[tuple[str, str], ...] = ()
    """(value, label), of a choice."""
    minimum: float | None = None
    maximum: float | None = None

    def check(self, value: Any) -> None:
        """Raise `UserError` for a value that is none of this option's."""
        if self.kind == "choice":
            names = [name for name, _ in self.choices]
            if value not in names:
                raise self._refusal(value, f"choose one of {', '.join(names)}")
            return
        whole = self.kind == "integer"
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fits or not math.isfinite(value):
            raise self._refusal(value, f"give a {'whole ' if whole else ''}number")
        low, high = self.minimum, self.maximum
        if low is not None and value < low:
            raise self._refusal(value, f"give at least {low:g}")
        if high is not None and value > high:
            raise self._refusal(value, f"give at most {high:g}")

    def read(self, text: str) -> Any:
        """Return the value that a person typed.

        Raises:
            UserError: it is none of this option's.
        """
        value: Any = text
        if self.kind != "choice":
            try:
                value = int(text) if self.kind == "integer" else float(text)
            except ValueError:
                raise self._refusal(text, "give a number") from None
        self.check(value)
        return value

    def _refusal(self, value: Any, what: str) -> UserError:
        return UserError(ErrorKind.OPTION, f"{self.name} cannot be {str(value)[:40]!r}; {what}.")


INTERVENTION = StudyOption(
    "intervention",
    "Intervention",
    "choice",
    "zero",
    "what is done to the heads that are ablated",
    (
        ("zero", "Zero"),
        ("mean", "Mean over the set"),
        ("resample", "Resample from another prompt"),
        ("permute", "Permute positions"),
    ),
)
LEAST_EFFECT = StudyOption(
    "least",
    "Critical from (nats)",
    "number",
    0.05,
    "the KL divergence from which a head counts as critical, with 95 % confidence",
    minimum=0,
    maximum=100,
)
LEAST_OF_ORDER = StudyOption(
    "least",
    "Order matters from (nats)",
    "number",
    0.05,
    "the KL divergence from which order counts as mattering in a layer, with 95 % confidence",
    minimum=0,
    maximum=100,
)
SEED = StudyOption("seed", "Seed", "integer", 0, "of everything random", minimum=0, maximum=2**31)
STRATEGY = StudyOption(
    "strategy",
    "Strategy",
    "choice",
    "screened",
    "whether each step evaluates all heads that are left, or those that an estimate ranks first",
    (("screened", "Screened"), ("exact", "Exact")),
)
ZERO_OR_MEAN = StudyOption(
    "intervention",
    "Closed gate",
    "choice",
    "zero",
    "what takes the place of a head's output where its gate is closed",
    (("zero", "Zero"), ("mean", "Mean over the set")),
)
GATE_STEPS = StudyOption(
    "steps",
    "Steps a strength",
    "integer",
    30,
    "gradient steps that the gates are learned for at each strength of the penalty",
    minimum=1,
    maximum=1000,
)
CORE_SHARE = StudyOption(
    "share",
    "Core keeps (%)",
    "number",
    95.0,
    "the part of what the heads do that the essential core has to keep on held-out prompts",
    minimum=1,
    maximum=100,
)
WINDOW = StudyOption(
    "window",
    "Near (tokens back)",
    "integer",
    4,
    "how many tokens back are near, when layers are confined to near or far keys",
    minimum=1,
    maximum=256,
)
CLUSTERED_BY = StudyOption(
    "by",
    "Alike by",
    "choice",
    "all",
    "what makes two heads alike: all three measures together, or one of them",
    (
        ("all", "All three together"),
        ("effects", "Effects on predictions"),
        ("outputs", "What they write"),
        ("composition", "Composition"),
    ),
)
