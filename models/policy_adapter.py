"""What a person says of a policy of their own, so that its heads can be seen and ablated.

Any policy that runs transformers models and returns numbers will do, whatever it is given and
however it decodes. A file of Python names its parts in a function without arguments, `policy`:

    from models.policy_adapter import Actions, Number, Patches, Policy, State, Words

    def policy():
        model, prepare, tokenizer = ...  # loaded as always, in evaluation mode

        def act(rows, draw, seen):
            noise = torch.randn(1, 50, 7, generator=torch.Generator().manual_seed(draw))
            given = prepare(seen.pictures, seen.instruction, seen.state)  # for one row
            given = {name: value.expand(rows, *value.shape[1:]) for name, value in given.items()}
            return model.sample_actions(noise=noise.expand(rows, -1, -1), **given)

        return Policy(
            model,
            act,
            stacks={"language": model.language_model, "expert": model.expert},
            cameras=2,
            state=7,
            numbers=[Number("dx", "m", limits=(-0.1, 0.1)), ...],
        )

`models.policy_files` reads such a file, which only the command line may name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a prompt tells a policy."""

    pictures: tuple[np.ndarray, ...]
    """One a camera, uint8 [y, x, 3], red, green and blue, of whatever size they were given in."""
    instruction: str
    state: tuple[float, ...]
    """What the robot tells of itself; zeros where nobody said."""

    def copied(self) -> "Observation":
        """Return it with pictures of its own: a person's function may write into them."""
        return replace(self, pictures=tuple(one.copy() for one in self.pictures))


Act = Callable[[int, int, Observation], Tensor]
"""(rows, draw, observation) -> actions [rows, numbers] or [rows, steps, numbers]: every row is
given the same observation and the same noise. `draw` numbers that noise, for policies that start
from some."""


@dataclass(frozen=True, slots=True)
class Number:
    """One number of an action."""

    name: str
    unit: str = ""
    limits: tuple[float, float] | None = None
    """The smallest and the largest it can be. Changes are measured in parts of this range where all
    numbers have one, else in the numbers as they are."""
    words: Mapping[float, str] = field(default_factory=dict)
    """What values are called where they are choices: {0: "open", 1: "closed"}."""


@dataclass(frozen=True, slots=True)
class Patches:
    """Positions that show the parts of a camera's picture, row by row from its upper left."""

    rows: int
    columns: int
    camera: int = 0
    area: tuple[float, float, float, float] | None = None
    """Left, top, right and bottom of what all of them show, in pixels of the picture as it was
    given; it may reach beyond the picture, where that is padded. None: all of the picture."""


@dataclass(frozen=True, slots=True)
class Words:
    """Positions that hold the instruction."""

    labels: Sequence[str]


@dataclass(frozen=True, slots=True)
class State:
    """Positions that hold the robot's state."""

    n: int = 1


@dataclass(frozen=True, slots=True)
class Actions:
    """Positions of the actions of a chunk."""

    n: int


Positions = Patches | Words | State | Actions | str
"""Some positions of a stack, one behind the other; a text is a single one, that is none of these: a
class token, say."""


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A policy and its parts.

    When it is opened it is tried on a picture of noise for each camera, "pick up the cup" and a
    state of zeros.
    """

    model: nn.Module
    """In evaluation mode; a transformers model, or a module that has some inside."""
    act: Act
    stacks: Mapping[str, nn.Module | Sequence[nn.Module]]
    """Name -> the part, or parts, whose attention layers are that stack. The heads of the first may
    be written without its name: 5.3."""
    cameras: int = 1
    """How many pictures it is given."""
    state: int = 0
    """How many numbers of the robot's state it is told."""
    instructed: bool = True
    """Whether it is told an instruction."""
    numbers: Sequence[Number] = ()
    """What it answers with, in their order; further ones are padding. None: their numbers."""
    positions: Callable[[Observation], Mapping[str, Sequence[Positions]]] | None = None
    """Stack -> what its positions are, on an observation, those of several cameras that it is given
    side by side one behind the other; stacks that are left out have numbered ones."""
    looks_at: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Stack -> the stacks whose positions its heads look at, in the order of its keys, where they
    are not its own: {"expert": ["language", "expert"]}."""
