"""An episode of the table as a recording, like any robot's."""

from collections.abc import Sequence

from models.picture import Picture
from models.recordings.types import Frame, Recording
from models.tabletop.drawing import draw
from models.tabletop.table import RADIUS, Action, Scene
from models.tabletop.words import state_words

FPS = 3.0
"""Frames a second at which episodes of the table are shown."""
CAMERA = "table"
ACTIONS = ("dx", "dy", "gripper")


def recording_of(scenes: Sequence[Scene], actions: Sequence[Action], name: str) -> Recording:
    """Return an episode as a recording, a frame for each action.

    Args:
        scenes: those in which the actions were taken; further ones are left out.
        name: what the recording is called.
    """

    def pictures(index: int) -> tuple[Picture, ...]:
        return (Picture(draw([scenes[index]])[0][0], f"{name}, step {index}"),)

    frames = tuple(
        Frame(
            i / FPS,
            " ".join(state_words(scene)),
            (action.dx, action.dy, float(action.close)),
            {
                thing.name: (thing.x - RADIUS, thing.y - RADIUS, thing.x + RADIUS, thing.y + RADIUS)
                for thing in scene.things
            },
        )
        for i, (scene, action) in enumerate(zip(scenes, actions, strict=False))
    )
    return Recording(name, scenes[0].instruction, frames, (CAMERA,), ACTIONS, pictures)
