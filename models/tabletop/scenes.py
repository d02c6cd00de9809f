"""Scenes of the table by name.

"tabletop:7" is what seed 7 gives, "tabletop:held-out:7" with a target of a pair of colour and shape
that was held out from training.
"""

from dataclasses import replace

from models.errors import ErrorKind, UserError
from models.tabletop import NAME
from models.tabletop.table import Scene, Table, expert

PREFIX = f"{NAME}:"
HELD_OUT = "held-out:"
TOWARDS = "towards"
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


def goal_in_numbers(goal: str, scene_name: str) -> str:
    """Return a goal as `ablation.action_goals` reads it: "towards purple circle", in a scene of the
    table, is the move that brings the gripper there instead of to what the instruction names, along
    the axis where the two moves differ most; others stay as they are.

    Raises:
        UserError: there is no such thing in the scene, it is what the instruction names, or the
            moves do not differ.
    """
    word, _, name = goal.strip().partition(" ")
    if word != TOWARDS:
        return goal
    if not scene_name.startswith(PREFIX):
        raise UserError(
            ErrorKind.TARGET,
            f"{goal!r} needs a scene of the table as the picture; write a goal in numbers: dx<0.",
        )
    scene, wanted = named_scene(scene_name), name.strip()
    others = [i for i in range(len(scene.things)) if i != scene.target]
    found = next((i for i in others if scene.things[i].name == wanted), None)
    if found is None:
        listed = ", ".join(scene.things[i].name for i in others)
        raise UserError(
            ErrorKind.TARGET,
            f"Beside what the instruction names there is no {wanted!r} in {scene_name}; there are "
            f"{listed}.",
        )
    here, there = expert(scene), expert(replace(scene, target=found))
    moves = {"dx": (here.dx, there.dx), "dy": (here.dy, there.dy)}
    axis = max(moves, key=lambda one: abs(moves[one][1] - moves[one][0]))
    own, other = moves[axis]
    if own == other:
        raise UserError(
            ErrorKind.TARGET, f"The moves towards both are the same in {scene_name}; take another."
        )
    return f"{axis}{'<=' if other < own else '>='}{other:g}"
