"""The table's camera: scenes as pictures, and which thing each pixel shows."""

from collections.abc import Sequence
from functools import lru_cache

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
STRANGE_SHAPES = ("ring", "diamond", "bar")
"""Shapes that no word names; only training shows them."""
OPEN, CLOSED = 6.0, 2.5
"""Half the distance between the gripper's jaws."""
JAW = 4.0
"""Half a jaw's length."""
NOTHING = -1
MARGIN = 8
"""Nothing reaches farther than this from the pixel that its centre is in."""
GRIPS = ("open", "closed")


def draw(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of scenes, the gripper above the things.

    Returns:
        uint8 [scene, SIZE, SIZE, 3], and which thing each pixel shows under the gripper, int8
        [scene, SIZE, SIZE], `NOTHING` for the ground.
    """
    # Wider by a margin all around, so that nothing drawn has to be clipped.
    wide = SIZE + 2 * MARGIN
    pictures = np.empty((len(scenes), wide, wide, 3), dtype=np.uint8)
    pictures[:] = GROUND
    shows = np.full((len(scenes), wide, wide), NOTHING, dtype=np.int8)
    for picture, shown, scene in zip(pictures, shows, scenes, strict=True):
        for i, thing in enumerate(scene.things):
            window, covered = _at(thing.shape, thing.x, thing.y)
            picture[window][covered] = thing.paint or PAINT[thing.colour]
            shown[window][covered] = i
        window, covered = _at("closed" if scene.closed else "open", scene.x, scene.y)
        picture[window][covered] = GRIPPER
    inside = np.s_[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.ascontiguousarray(pictures[inside]), shows[inside]


def _at(what: str, x: float, y: float) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the part of the widened picture around a point, and which pixels of it are covered."""
    left, top = int(x), int(y)
    covered = _stamp(what, x - left, y - top)
    side = 2 * MARGIN + 1
    return (slice(top, top + side), slice(left, left + side)), covered


@lru_cache(maxsize=256)
def _stamp(what: str, x: float, y: float) -> np.ndarray:
    """Return which pixels a thing or the gripper covers around the pixel that it is in, at an
    offset from that pixel's centre, bool [y, x]."""
    pixels = np.arange(-MARGIN, MARGIN + 1, dtype=np.float32)
    u, v = (pixels - np.float32(x))[None, :], (pixels - np.float32(y))[:, None]
    return _gripper(u, v, what == "closed") if what in GRIPS else _covers(what, u, v)


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
    if shape == "diamond":
        return np.abs(u) + np.abs(v) <= r + 1
    if shape == "ring":
        return np.abs(np.hypot(u, v) - r + 1.5) <= 1.5
    if shape == "bar":
        return (np.abs(u) <= r) & (np.abs(v) <= r / 2)
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
