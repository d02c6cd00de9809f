"""Which part of a picture each of a model's image positions stands for, measured, not assumed.

Processors resize, crop, pad and cut pictures into tiles, each in its own way. So pictures of the
same size that are known everywhere go through the processor too: a black and a white one, whose
difference tells the pixels that show the picture from padding, and one whose red grows from left to
right and whose green grows from top to bottom: what comes out of it says of every pixel that the
model is given where on the picture it was taken from.

From these pixels to positions the way is a grid: each tile's positions divide it into squares, row
by row. Where the numbers do not come out even, there is no answer (`None`), and the picture is not
drawn over.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from models.picture import Cell, Picture

Process = Callable[[Sequence[np.ndarray]], Mapping[str, np.ndarray]]
"""Pictures, uint8 [y, x, 3] -> what the processor makes of them, without any text."""

FAINT = 0.02
"""A pixel that changes by less than this between black and white, as a part of the largest change,
is padding."""


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Where pixels of one grid were taken from, as parts of the picture's width and height."""

    x: np.ndarray
    """float [row, column, pixel], NaN for padding."""
    y: np.ndarray


def image_cells(
    process: Process, pictures: Sequence[Picture], n_positions: int, merge: int = 1
) -> list[Cell | None] | None:
    """Return what each image position of a prompt stands for, in their order.

    Args:
        n_positions: image positions that the prompt has for all pictures together.
        merge: how many patches along each side make one position, for processors that hand out
            patches one by one.

    Returns:
        None for a position that shows padding alone; None for all if the numbers do not fit.
    """
    cells: list[Cell | None] = []
    for index, picture in enumerate(pictures):
        grids = _grids(process, picture, n_positions // len(pictures), merge)
        if grids is None:
            return None
        for tile, grid in enumerate(grids):
            cells += _cells_of_grid(grid, picture, index, tile)
    return cells if len(cells) == n_positions else None


def _grids(
    process: Process, picture: Picture, n_positions: int, merge: int
) -> list[Sources] | None:
    """Return the grids of positions that one picture is given as, in order."""
    shape = picture.pixels.shape
    black, white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    given = [process([one]) for one in (black, white, _ramps(*shape[:2]))]
    if not all("pixel_values" in one for one in given):
        return None
    pixels = [one["pixel_values"] for one in given]
    if any(values.shape != pixels[0].shape for values in pixels):
        return None
    dark, bright, ramps = (np.asarray(values, dtype=np.float64) for values in pixels)
    span = bright - dark
    shows = np.abs(span) > FAINT * np.abs(span).max()
    with np.errstate(divide="ignore", invalid="ignore"):
        where = np.where(shows, (ramps - dark) / span, np.nan)
    if "image_grid_thw" in given[0]:
        return _of_patches(where, given[0]["image_grid_thw"], merge)
    if where.ndim == 5 and len(where) == 1:  # a batch of one prompt's tiles
        where = where[0]
    if where.ndim != 4 or where.shape[1] != 3:
        return None
    return _of_tiles(where, n_positions) or _of_lines(where, n_positions)


def _ramps(height: int, width: int) -> np.ndarray:
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.rint(np.linspace(0, 255, width))
    ramps[..., 1] = np.rint(np.linspace(0, 255, height))[:, None]
    return ramps


def _of_tiles(where: np.ndarray, n_positions: int) -> list[Sources] | None:
    """Divide tiles [tile, channel, y, x] into squares, one a position."""
    n_tiles, _, height, width = where.shape
    each = n_positions // n_tiles
    if not each or each * n_tiles != n_positions or height * width % each:
        return None
    side = isqrt(height * width // each)
    if side * side * each != height * width or height % side or width % side:
        return None
    return _squares(where, side)


def _squares(where: np.ndarray, side: int) -> list[Sources]:
    """Cut tiles [tile, channel, y, x] into squares of `side` pixels."""
    n_tiles, _, height, width = where.shape
    squares = where.reshape(n_tiles, 3, height // side, side, width // side, side)
    squares = squares.transpose(0, 2, 4, 1, 3, 5)  # tile, row, column, channel, y, x
    flat = squares.reshape(*squares.shape[:4], side * side)
    return [Sources(tile[:, :, 0], tile[:, :, 1]) for tile in flat]


def _of_lines(where: np.ndarray, n_positions: int) -> list[Sources] | None:
    """Divide a picture that is given whole and then in tiles put together again: without the lines
    of padding, and with a position at the end of each line that shows nothing (LLaVA-NeXT)."""
    n_tiles, _, height, width = where.shape
    for side in _common_divisors(height, width):
        whole = (height // side) * (width // side)
        for rows in _divisors(n_tiles - 1):
            columns = (n_tiles - 1) // rows
            tiles = where[1:].reshape(rows, columns, 3, height, width)
            together = tiles.transpose(2, 0, 3, 1, 4).reshape(3, rows * height, columns * width)
            [grid] = _squares(together[None], side)
            shown = ~np.isnan(grid.x).all(-1)
            kept = np.ix_(shown.any(1), shown.any(0))
            n_lines, n_across = (int(shown.any(axis).sum()) for axis in (1, 0))
            if n_tiles > 1 and whole + n_lines * (n_across + 1) == n_positions:
                return [_squares(where[:1], side)[0], _with_ends(grid, kept)]
    return None


def _with_ends(grid: Sources, kept: tuple[np.ndarray, ...]) -> Sources:
    """Return the lines and columns of a grid that are kept, each line with a blank end."""
    x, y = (
        np.pad(a[kept], ((0, 0), (0, 1), (0, 0)), constant_values=np.nan) for a in (grid.x, grid.y)
    )
    return Sources(x, y)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _common_divisors(one: int, other: int) -> list[int]:
    return [d for d in _divisors(one) if other % d == 0 and 4 <= d < one]


def _of_patches(where: np.ndarray, grid: Any, merge: int) -> list[Sources] | None:
    """Put patches that were handed out one by one, [patch, channel * time * y * x], on their grid.

    Those of a position follow each other, and positions go row by row (Qwen2-VL and its kin).
    """
    if len(grid) != 1 or where.ndim != 2 or where.shape[1] % 3:
        return None
    frames, height, width = (int(n) for n in grid[0])
    rows, columns = height // merge, width // merge
    if frames != 1 or rows * columns * merge**2 != len(where):
        return None
    channels = where.reshape(rows, columns, merge**2, 3, -1)
    return [Sources(*(channels[:, :, :, i].reshape(rows, columns, -1) for i in (0, 1)))]


def _cells_of_grid(grid: Sources, picture: Picture, index: int, tile: int) -> list[Cell | None]:
    """Return the cells of a grid, row by row."""
    across = _borders(grid.x, picture.width)
    down = _borders(grid.y, picture.height)
    cells: list[Cell | None] = []
    for row in range(grid.x.shape[0]):
        for column in range(grid.x.shape[1]):
            left, right = (float(edge) for edge in across[row, column])
            top, bottom = (float(edge) for edge in down[row, column])
            shown = not (np.isnan(left) or np.isnan(top))
            cells.append(
                Cell(index, row, column, left, top, right, bottom, tile) if shown else None
            )
    return cells


def _borders(source: np.ndarray, size: int) -> np.ndarray:
    """Return where each square of a grid begins and ends, pixels [row, column, 2].

    The centres of a square's outermost pixels are known; its border lies half a pixel further out.
    """
    filled = ~np.isnan(source)
    least = np.where(filled, source, np.inf).min(-1)
    most = np.where(filled, source, -np.inf).max(-1)
    least, most = (np.where(filled.any(-1), edge, np.nan) for edge in (least, most))
    scale = size - 1  # a ramp is 0 at the first pixel's centre and 1 at the last one's
    n_along = isqrt(source.shape[-1]) or 1
    half = (most - least) * scale / max(1, n_along - 1) / 2
    begins = np.clip(least * scale + 0.5 - half, 0, size)
    ends = np.clip(most * scale + 0.5 + half, 0, size)
    return np.stack([begins, ends], axis=-1)
