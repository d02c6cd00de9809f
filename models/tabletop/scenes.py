"""Scenes of the table by name.

"tabletop:7" is what seed 7 gives, "tabletop:held-out:7" with a target of a pair of colour and shape
that was held out from training.
"""

from models.errors import ErrorKind, UserError
from models.tabletop import NAME
from models.tabletop.table import Scene, Table

PREFIX = f"{NAME}:"
HELD_OUT = "held-out:"
EXAMPLES = (
    "tabletop:7",
    "tabletop:11",
    "tabletop:20",
    "tabletop:held-out:3",
    "tabletop:held-out:5",
)
"""Worth a first look."""


def scene_label(name: str) -> str:
    """Return what a list calls a scene."""
    note = " (pair never seen)" if HELD_OUT in name else ""
    return named_scene(name).instruction + note


def named_scene(name: str) -> Scene:
    """Return the scene that a name stands for.

    Raises:
        UserError: it is no such name.
    """
    rest = name.removeprefix(PREFIX)
    seed = rest.removeprefix(HELD_OUT)
    if not name.startswith(PREFIX) or not (seed.isascii() and seed.isdigit()) or len(seed) > 9:
        raise UserError(
            ErrorKind.PICTURE,
            f"There is no scene of the table {name!r}; write tabletop:7 or tabletop:held-out:7.",
        )
    return Table("held-out" if rest != seed else "seen").reset(int(seed))
