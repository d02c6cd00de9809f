"""The table of interventions, and reading one from a form or from its notation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ablation.interventions.notation import quoted, read_positions, split_texts
from ablation.interventions.values import (
    MAX_SEED,
    Intervention,
    Knockout,
    Mean,
    Permute,
    Resample,
    Scale,
    Sparsify,
    Zero,
)
from models.errors import ErrorKind, UserError


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an intervention, as a form shows it."""

    name: str
    label: str
    kind: str
    """"number", "integer", "text", "lines" (one text a line) or "positions" ("1,4", "0-3", "*",
    "image")."""
    default: Any = None
    """What the form holds at first; None is an empty field."""
    minimum: float | None = None
    maximum: float | None = None
    help: str = ""
    required: bool = False
    """Whether the field may not be left empty."""


@dataclass(frozen=True, slots=True)
class InterventionEntry:
    """One row of `INTERVENTIONS`."""

    name: str
    label: str
    description: str
    usage: str
    """The notation that `parse_intervention` reads."""
    create: Callable[..., Intervention]
    read_argument: Callable[[str], dict[str, Any]]
    """The text after the colon -> values for `build`."""
    parameters: tuple[Parameter, ...] = ()

    def build(self, **values: Any) -> Intervention:
        """Make the intervention from the values of a form.

        Args:
            values: parameter name -> a value of its kind, or the text a person typed for it. None
                or an empty text means that it was not given.

        Raises:
            UserError: a value that cannot be used or is missing, or an unknown parameter.
        """
        known = {parameter.name for parameter in self.parameters}
        if unknown := sorted(values.keys() - known):
            raise UserError(
                ErrorKind.INTERVENTION,
                f"The intervention {self.name} has no parameter {quoted(unknown[0])}; "
                f"write {self.usage}.",
            )
        given = {}
        for parameter in self.parameters:
            value = values.get(parameter.name)
            if not _is_empty(value, parameter):
                given[parameter.name] = _read_value(value, parameter)
            elif parameter.required:
                raise UserError(
                    ErrorKind.INTERVENTION,
                    f"The intervention {self.name} needs its {parameter.label.lower()}; "
                    f"write {self.usage}.",
                )
        return self.create(**given)


def parse_intervention(text: str) -> Intervention:
    """Read an intervention in the notation of `InterventionEntry.usage`: "scale:0.5".

    Raises:
        UserError: the name is unknown, or what follows it cannot be read.
    """
    name, _, argument = text.partition(":")
    entry = INTERVENTIONS.get(name.strip().lower())
    if entry is None:
        raise UserError(
            ErrorKind.INTERVENTION,
            f"There is no intervention {quoted(name.strip())}; choose one of "
            f"{', '.join(INTERVENTIONS)}.",
        )
    return entry.build(**entry.read_argument(argument))


def _is_empty(value: Any, parameter: Parameter) -> bool:
    if isinstance(value, str):
        # A source prompt may be blanks; anything else that is only blanks was not filled in.
        return not (value if parameter.kind == "text" else value.strip())
    return value is None or (isinstance(value, Sequence) and not value)


def _read_value(value: Any, parameter: Parameter) -> Any:
    if parameter.kind == "lines" and isinstance(value, str):
        return tuple(line for line in value.splitlines() if line.strip())
    if parameter.kind == "positions" and isinstance(value, str):
        return read_positions(value)
    return value


def _read_nothing(argument: str) -> dict[str, Any]:
    if argument.strip():
        raise UserError(
            ErrorKind.INTERVENTION,
            f"Zeroing takes no parameter, so {quoted(argument)} cannot be used; write zero.",
        )
    return {}


def _read_sparsify(argument: str) -> dict[str, Any]:
    name, equals, value = argument.partition("=")
    if not equals or name.strip() not in ("threshold", "fraction"):
        raise UserError(
            ErrorKind.INTERVENTION,
            f"Cannot read {quoted(argument)} for sparsify; write sparsify:threshold=0.1 or "
            "sparsify:fraction=0.2.",
        )
    return {name.strip(): value}


def _read_knockout(argument: str) -> dict[str, Any]:
    queries, arrow, keys = argument.partition(">")
    if not (arrow and queries.strip() and keys.strip()):
        raise UserError(
            ErrorKind.INTERVENTION,
            f"Cannot read {quoted(argument)} for knockout; write QUERIES>KEYS, such as "
            "knockout:13>1,4 or knockout:*>0.",
        )
    return {"queries": queries, "keys": keys}


_ENTRIES = (
    InterventionEntry(
        name="zero",
        label="Zero",
        description="Set the head's output to zero.",
        usage="zero",
        create=Zero,
        read_argument=_read_nothing,
    ),
    InterventionEntry(
        name="scale",
        label="Scale",
        description="Multiply the head's output by a factor.",
        usage="scale:FACTOR",
        create=Scale,
        read_argument=lambda argument: {"factor": argument},
        parameters=(
            Parameter(
                "factor",
                "Factor",
                "number",
                default=0.5,
                help="0 silences the head, 1 changes nothing, -1 turns its output round.",
                required=True,
            ),
        ),
    ),
    InterventionEntry(
        name="mean",
        label="Mean",
        description="Replace the head's output by its mean over the positions of this prompt, or "
        "of a set of reference prompts.",
        usage="mean or mean:TEXT||TEXT",
        create=Mean,
        read_argument=lambda argument: {"references": split_texts(argument)},
        parameters=(
            Parameter(
                "references",
                "Reference prompts",
                "lines",
                help="One prompt a line; empty for the mean over this prompt's own positions.",
            ),
        ),
    ),
    InterventionEntry(
        name="resample",
        label="Resample",
        description="Replace the head's output by what it is, position by position, on another "
        "prompt of equal length.",
        usage="resample:TEXT",
        create=Resample,
        read_argument=lambda argument: {"source": argument},
        parameters=(
            Parameter(
                "source",
                "Source prompt",
                "text",
                help="A prompt with as many tokens as this one.",
                required=True,
            ),
        ),
    ),
    InterventionEntry(
        name="permute",
        label="Permute",
        description="Shuffle the head's output over positions, the same way for every head.",
        usage="permute:SEED",
        create=Permute,
        read_argument=lambda argument: {"seed": argument},
        parameters=(
            Parameter(
                "seed",
                "Seed",
                "integer",
                default=0,
                minimum=0,
                maximum=MAX_SEED,
                help="The same seed gives the same shuffle.",
            ),
        ),
    ),
    InterventionEntry(
        name="sparsify",
        label="Sparsify",
        description="Zero the small entries of the head's output.",
        usage="sparsify:threshold=T or sparsify:fraction=F",
        create=Sparsify,
        read_argument=_read_sparsify,
        parameters=(
            Parameter(
                "threshold",
                "Threshold",
                "number",
                minimum=0.0,
                help="Entries smaller than this in size become 0; empty to use the fraction.",
            ),
            Parameter(
                "fraction",
                "Fraction kept",
                "number",
                default=0.25,
                minimum=0.0,
                maximum=1.0,
                help="How many of the entries stay, the largest ones; empty to use the threshold.",
            ),
        ),
    ),
    InterventionEntry(
        name="knockout",
        label="Knockout",
        description="Stop queries from attending to keys; their other keys share the probability.",
        usage="knockout:QUERIES>KEYS",
        create=Knockout,
        read_argument=_read_knockout,
        parameters=(
            Parameter(
                "queries",
                "Queries",
                "positions",
                default="*",
                help="Positions that may not look: 13, or 1,4, or 0-3, or text, image, state; * "
                "for every one that keeps a key.",
            ),
            Parameter(
                "keys",
                "Keys",
                "positions",
                default="0",
                help="Positions that may not be looked at: 1,4 or 0-3, or image, text, "
                "image[2-4,0-3] (rows, columns); * for all but the query's own.",
            ),
        ),
    ),
)

INTERVENTIONS: dict[str, InterventionEntry] = {entry.name: entry for entry in _ENTRIES}
"""Name -> intervention, in the order in which they are offered."""
