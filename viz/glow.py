"""Weights over the parts of a picture that they belong to, as pixels."""

from collections.abc import Sequence

import numpy as np

from models.picture import Cell
from models.types import FloatArray

Place = tuple[slice, slice]
"""Rows and columns of pixels."""


def places_of(
    cells: Sequence[Cell | None], zoom: float, shape: tuple[int, int], picture: int = 0
) -> list[Place]:
    """Return the pixels that each cell of one picture covers, one at least; none for what shows
    nothing of it.

    Args:
        zoom: pixels for a pixel of the picture.
        shape: height and width of what is drawn on.
    """
    height, width = shape
    places = []
    for cell in cells:
        if cell is None or cell.picture != picture:
            places.append((slice(0, 0), slice(0, 0)))
            continue
        top, left = min(int(cell.top * zoom), height - 1), min(int(cell.left * zoom), width - 1)
        bottom = max(round(cell.bottom * zoom), top + 1)
        right = max(round(cell.right * zoom), left + 1)
        places.append((slice(top, bottom), slice(left, right)))
    return places


def glowing(
    pixels: np.ndarray, places: Sequence[Place], opacities: FloatArray, colour: str
) -> np.ndarray:
    """Return a picture, uint8 [y, x, 3], with a colour laid over its parts.

    Args:
        places: of each part; where parts overlap the stronger one shows.
        opacities: of each part, in [0, 1]; NaN lays nothing over it.
        colour: "#d55e00".
    """
    alpha = np.zeros((*pixels.shape[:2], 1), dtype=np.float32)
    for place, opacity in zip(places, np.nan_to_num(opacities), strict=True):
        alpha[place] = np.maximum(alpha[place], opacity)
    mixed = pixels * (1 - alpha) + np.array(rgb(colour), dtype=np.float32) * alpha
    return np.asarray(mixed.astype(np.uint8))


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the parts of a colour like "#d55e00"."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
