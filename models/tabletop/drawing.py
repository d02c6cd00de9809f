"""The table's camera: scenes as pictures, and which thing each pixel shows."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from models.tabletop.table import COLOURS, RADIUS, SHAPES, SIZE, Scene

GROUND = (236, 233, 226)
PAINT = {
    "red": (214, 52, 44),
    "green": (46, 160, 67),
    "blue": (38, 98, 217),
    "yellow": (240, 196, 25),
    "purple": (142, 68, 173),
}
GRIPPER = (40, 40, 44)
OPEN, CLOSED = 6.0, 2.5
"""Half the distance between the gripper's jaws."""
JAW = 4.0
"""Half a jaw's length."""
NOTHING = -1


def draw(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of scenes, the gripper above the things.

    Returns:
        uint8 [scene, SIZE, SIZE, 3], and which thing each pixel shows under the gripper, int
        [scene, SIZE, SIZE], `NOTHING` for the ground.
    """
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    pictures = np.empty((len(scenes), SIZE, SIZE, 3), dtype=np.uint8)
    pictures[:] = GROUND
    shows = np.full((len(scenes), SIZE, SIZE), NOTHING)
    for picture, shown, scene in zip(pictures, shows, scenes, strict=True):
        for i, thing in enumerate(scene.things):
            covered = _covers(thing.shape, x - thing.x, y - thing.y)
            picture[covered] = PAINT[thing.colour]
            shown[covered] = i
        picture[_gripper(x - scene.x, y - scene.y, scene.closed)] = GRIPPER
    return pictures, shows


def picture_of(scene: Scene) -> Image.Image:
    """Return what the camera sees, RGB."""
    return Image.fromarray(draw([scene])[0][0])


def _covers(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return which pixels a shape around the origin covers, bool [y, x]."""
    r = RADIUS
    if shape == "square":
        return (np.abs(u) <= r - 0.5) & (np.abs(v) <= r - 0.5)
    if shape == "circle":
        return np.hypot(u, v) <= r
    if shape == "triangle":  # tip upwards
        return (v <= r) & (np.abs(u) <= (v + r) * 0.58)
    arm = r / 3
    within = (np.abs(u) <= r) & (np.abs(v) <= r)
    return within & ((np.abs(u) <= arm) | (np.abs(v) <= arm))


def _gripper(u: np.ndarray, v: np.ndarray, closed: bool) -> np.ndarray:
    """Return which pixels the two jaws and the bar above them cover, bool [y, x]."""
    gap = CLOSED if closed else OPEN
    jaws = (np.abs(np.abs(u) - gap) <= 0.8) & (np.abs(v) <= JAW)
    return jaws | ((np.abs(v + JAW) <= 0.8) & (np.abs(u) <= OPEN))


assert set(PAINT) == set(COLOURS)
assert len(SHAPES) == 4
