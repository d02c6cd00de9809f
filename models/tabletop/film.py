"""Episodes of the table as a film: several of them side by side, with what a head looks at."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from models.tabletop.drawing import draw
from models.tabletop.table import SIZE, Scene

ZOOM = 3
"""CSS pixels for a pixel of the table."""
CAPTION = 16
"""Height of the line under each picture."""
GAP = 8
FRAME_MS, LAST_MS = 320, 1600
INK, GROUND = (27, 32, 38), (255, 255, 255)
GLOW = np.array([213, 94, 0], dtype=np.float32)
"""The colour of attention."""
STRONGEST = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Reel:
    """One episode as it is shown."""

    title: str
    scenes: Sequence[Scene]
    """From the first to the last; those of an episode that is over stay."""
    weights: Sequence[np.ndarray] = ()
    """Attention on the patches at each scene, float [row, column], if it is shown."""
    outcome: str = ""
    """What stands under the last picture."""


def film(reels: Sequence[Reel]) -> bytes:
    """Return a GIF of episodes side by side."""
    n = max(len(reel.scenes) for reel in reels)
    frames = [_frame(reels, i, i == n - 1) for i in range(n)]
    file = io.BytesIO()
    times = [FRAME_MS] * (n - 1) + [LAST_MS]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return file.getvalue()


def _frame(reels: Sequence[Reel], index: int, last: bool) -> Image.Image:
    side = SIZE * ZOOM
    width = len(reels) * side + (len(reels) - 1) * GAP
    frame = Image.new("RGB", (width, side + 2 * CAPTION), GROUND)
    pen = ImageDraw.Draw(frame)
    for k, reel in enumerate(reels):
        at = min(index, len(reel.scenes) - 1)
        left = k * (side + GAP)
        pixels = draw([reel.scenes[at]])[0][0]
        picture = np.kron(pixels, np.ones((ZOOM, ZOOM, 1), dtype=np.uint8))
        if len(reel.weights):
            picture = _glowing(picture, reel.weights[min(at, len(reel.weights) - 1)])
        frame.paste(Image.fromarray(picture), (left, CAPTION))
        pen.text((left + 2, 2), reel.title, fill=INK)
        said = reel.outcome if last else f"step {at}"
        pen.text((left + 2, side + CAPTION + 2), said, fill=INK)
    return frame


def _glowing(picture: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return a picture with weights over it, the largest being the strongest."""
    share = STRONGEST * weights / max(float(weights.max()), 1e-9)
    cell = picture.shape[0] // weights.shape[0]
    alpha = np.kron(share, np.ones((cell, cell)))[..., None]
    return np.asarray(picture * (1 - alpha) + GLOW * alpha).astype(np.uint8)
