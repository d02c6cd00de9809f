"""How much a policy's action hangs on each thing that it is told: picture, instruction, state.

The reference scale for what single heads do. All heads of the language model are kept from looking
at the positions of one modality, from all other positions and from the one that is read (knockout):
what these positions see of themselves stays, and nobody hears of it.
"""

from dataclasses import dataclass

from ablation.actions import AblationOf, ActionChange, compare_actions
from ablation.interventions import Knockout
from ablation.types import Ablation
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import TokenizedPrompt

MODALITIES = {"image": "image", "text": "instruction", "state": "state"}
"""Kind of a position -> what it is called."""


@dataclass(frozen=True, slots=True, eq=False)
class ModalityChange:
    """What a policy does without one of the things that it is told."""

    name: str
    n_positions: int
    change: ActionChange


def modality_positions(prompt: TokenizedPrompt) -> dict[str, tuple[int, ...]]:
    """Return the positions of each modality that a prompt has, by what it is called."""
    found = {
        name: tuple(i for i, one in enumerate(prompt.kinds) if one == kind)
        for kind, name in MODALITIES.items()
    }
    return {name: positions for name, positions in found.items() if positions}


def knock_out_modalities(
    model: LanguageModel, prompt: TokenizedPrompt
) -> tuple[ModalityChange, ...]:
    """Return what a policy does without each of the things that it is told.

    Raises:
        UserError: the model is no policy, or the prompt has but one modality.
    """
    groups = modality_positions(prompt)
    if len(groups) < 2:
        raise UserError(
            ErrorKind.PROMPT,
            "The prompt has but one modality, so there is nothing to hold it against; give the "
            "policy a picture and an instruction.",
        )
    read = len(prompt) - 1
    return tuple(
        ModalityChange(name, len(keys), compare_actions(model, prompt, _without(model, keys, read)))
        for name, keys in groups.items()
    )


def _without(model: LanguageModel, keys: tuple[int, ...], read: int) -> AblationOf:
    """Return what keeps all other positions, and the one that is read, from looking at some."""
    heads, hidden = model.all_heads(), set(keys) - {read}

    def ablation_of(prompt: TokenizedPrompt) -> Ablation:
        others = tuple(i for i in range(len(prompt)) if i not in hidden)
        return Ablation(heads, Knockout(others, keys))

    return ablation_of
