"""From options to what is asked: a loaded model, a prompt, a position, an ablation."""

from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.cli.terminal import Terminal
from models.errors import ErrorKind, UserError
from models.types import Head, TokenizedPrompt

if TYPE_CHECKING:
    from ablation.interventions import Intervention
    from ablation.types import Ablation
    from models.language_model import LanguageModel

TARGET_ID = "id:"
"""In front of a number, makes a target of a token id."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What every command is about."""

    model: "LanguageModel"
    prompt: TokenizedPrompt
    position: int
    """Where the prediction is read, from 0."""
    intervention: "Intervention"
    positions: tuple[int, ...] | None
    """Those the intervention acts on; None for all."""

    def heads(self, text: str) -> tuple[Head, ...]:
        """Read heads as a person writes them; raise `UserError` if there are none."""
        from ablation import parse_heads
        from ablation.heads import HEAD_NOTATION

        heads = parse_heads(text, self.model.n_layers, self.model.n_heads)
        if not heads:
            raise UserError(ErrorKind.HEADS, f"No heads are named; write {HEAD_NOTATION}.")
        return self.model.check_heads(heads)

    def ablation(self, heads: str | None) -> "Ablation | None":
        """Return the ablation of the given heads; None if none are given."""
        from ablation import Ablation

        if heads is None:
            return None
        return Ablation(self.heads(heads), self.intervention, self.positions)

    def to_json(self, intervention: str | None) -> dict[str, Any]:
        """Return the keys that all results share."""
        return {
            "model": self.model.name,
            **self.prompt.to_json(),
            "position": self.position,
            "intervention": intervention,
            "positions": None if self.positions is None else list(self.positions),
        }

    def describe(self) -> str:
        """Say in a line what was asked of which model."""
        label = self.prompt.unique_labels[self.position]
        return f"{self.model.name}: the prediction at {label} (position {self.position})"


def pose(options: Namespace, terminal: Terminal) -> Question:
    """Load the model and read the options that all commands share.

    Raises:
        UserError: an option that cannot be used.
    """
    with terminal.sentences() as say:
        # Importing takes seconds too, so it is done where a person sees that something goes on.
        from ablation import parse_intervention
        from ablation.heads import check_notation
        from ablation.interventions.notation import read_positions, resolve_positions
        from models.registry import load_model

        # Before the model, as these need none and loading takes a while.
        for option in ("heads", "ablate"):
            check_notation(getattr(options, option, None) or "")
        intervention = parse_intervention(options.intervention)
        acted_on = None if options.positions is None else read_positions(options.positions)
        model = load_model(options.model, device=options.device, dtype=options.dtype, progress=say)
    prompt = model.tokenize(options.prompt, options.bos)
    return Question(
        model=model,
        prompt=prompt,
        position=model.resolve_position(prompt, options.position),
        intervention=intervention,
        positions=None if acted_on is None else tuple(resolve_positions(acted_on, len(prompt))),
    )


def read_target(text: str | None) -> int | str | None:
    """Return the token that `--target` names: its text, or its id written `id:1234`."""
    if text is not None and text.startswith(TARGET_ID) and text[len(TARGET_ID) :].isdecimal():
        return int(text[len(TARGET_ID) :])
    return text
