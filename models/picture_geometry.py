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
RAMP = 254
"""Shades that a ramp goes through."""
OFFSETS = (0.125, 0.375, 0.625, 0.875)
"""Parts of a shade by which ramps are brighter: shades are whole numbers, and rounding that is
another in each ramp comes out in their mean."""
CROOKED = 0.05
"""Places farther from a straight line than this part of a side are no line."""
EDGE = 2
"""Pixels at each edge of a tile that are not gone by."""


@dataclass(frozen=True, slots=True)
class Patch:
    """How patches go one by one, as many as the picture is large."""

    side: int
    """Pixels along each side."""
    frames: int
    """How often each stands there, for a film's frames."""
    merge: int
    """How many along each side make one position."""

    def positions(self, where: np.ndarray) -> int:
        """Return how many positions a picture [1, channel, y, x] has."""
        return int(where.shape[2] * where.shape[3]) // (self.side * self.merge) ** 2


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Where pixels of one grid were taken from, as parts of the picture's width and height."""

    x: np.ndarray
    """float [row, column, pixel], NaN for padding."""
    y: np.ndarray


def image_cells(
    process: Process,
    pictures: Sequence[Picture],
    n_positions: int,
    patch: Patch | None = None,
) -> list[Cell | None] | None:
    """Return what each image position of a prompt stands for, in their order.

    Args:
        n_positions: image positions that the prompt has for all pictures together.
        patch: for processors that hand out patches one by one.

    Returns:
        None for a position that shows padding alone; None for all if the numbers do not fit.
    """
    measured = [_measured(process, picture, patch) for picture in pictures]
    n_tiles = sum(0 if where is None else len(where) for where in measured)
    cells: list[Cell | None] = []
    for index, (picture, where) in enumerate(zip(pictures, measured, strict=True)):
        if where is None:
            return None
        # Patches are as many as the picture is large; tiles are all of as many positions.
        part = n_positions * len(where) // n_tiles if patch is None else patch.positions(where)
        grids = _of_tiles(where, part) or _of_lines(where, part, picture)
        if grids is None:
            return None
        for tile, grid in enumerate(grids):
            cells += _cells_of_grid(grid, picture, index, tile)
    return cells if len(cells) == n_positions else None


def patch_cells(
    process: Process, pictures: Sequence[Picture], patch: Patch, ordered: int
) -> list[Cell | None] | None:
    """Return what each patch stands for that a vision tower is given of pictures one by one.

    Args:
        ordered: how many patches along each side come before the next ones: the tower is given
            them square by square. 1: row by row.

    Returns:
        None for all if the numbers do not fit.
    """
    cells: list[Cell | None] = []
    for index, picture in enumerate(pictures):
        where = _measured(process, picture, patch)
        if where is None or len(where) != 1:
            return None
        rows, columns = (n // patch.side for n in where.shape[2:])
        grids = _of_tiles(where, rows * columns)
        if grids is None or rows % ordered or columns % ordered:
            return None
        found = _cells_of_grid(grids[0], picture, index, 0)
        squares = (rows // ordered, ordered, columns // ordered, ordered)
        order = np.arange(rows * columns).reshape(squares).transpose(0, 2, 1, 3)
        cells += [found[i] for i in order.ravel()]
    return cells


def _measured(process: Process, picture: Picture, patch: Patch | None) -> np.ndarray | None:
    """Return where each pixel that a model is given was taken from, as parts of the picture's width
    (channel 0) and height (channel 1), NaN for padding: float [tile, 3, y, x]."""
    height, width, _ = shape = picture.pixels.shape
    black, white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    ramps = [_ramps(height, width, offset) for offset in OFFSETS]
    given = [process([one]) for one in (black, white, *ramps)]
    if not all("pixel_values" in one for one in given):
        return None
    pixels = [np.asarray(one["pixel_values"], dtype=np.float64) for one in given]
    if any(values.shape != pixels[0].shape for values in pixels):
        return None
    dark, bright, *ramped = pixels
    span = bright - dark
    shows = np.abs(span) > FAINT * np.abs(span).max()
    with np.errstate(divide="ignore", invalid="ignore"):
        shades = 255 * (np.mean(ramped, axis=0) - dark) / span
    where = np.where(shows, (shades - np.mean(OFFSETS)) / RAMP, np.nan)
    if "image_grid_thw" in given[0]:
        return _put_together(where, given[0]["image_grid_thw"], patch)
    if where.ndim == 5 and len(where) == 1:  # a batch of one prompt's tiles
        where = where[0]
    return where if where.ndim == 4 and where.shape[1] == 3 else None


def _ramps(height: int, width: int, offset: float) -> np.ndarray:
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.rint(np.linspace(0, RAMP, width) + offset)
    ramps[..., 1] = np.rint(np.linspace(0, RAMP, height) + offset)[:, None]
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
    return _squares(_straightened(where), side)


def _straightened(where: np.ndarray) -> np.ndarray:
    """Return where pixels of tiles were taken from, on straight lines through what was measured.

    A picture has 256 shades, so that one pixel's says its place to a part in 255 only; all of a
    tile's together say it far better, as resizing and cropping take columns and rows evenly.
    """
    straight = np.full_like(where, np.nan)
    for tile, line in zip(where, straight, strict=True):
        for channel, axis in ((0, 1), (1, 0)):
            measured = tile[channel] if axis == 1 else tile[channel].T  # [other, along]
            shown = ~np.isnan(measured)
            places = np.flatnonzero(shown.any(axis=0))
            # At a picture's edges resizing has less to go by, and shades are cut off.
            inner = places[EDGE:-EDGE] if len(places) >= 4 * EDGE else places
            if len(inner) < 2:
                line[channel] = tile[channel]
                continue
            means = np.nanmean(measured[:, inner], axis=0)
            slope, start = np.polyfit(inner, means, 1)
            fitted = np.where(shown, start + slope * np.arange(measured.shape[1]), np.nan)
            line[channel] = fitted if axis == 1 else fitted.T
    return straight


def _squares(where: np.ndarray, side: int) -> list[Sources]:
    """Cut tiles [tile, channel, y, x] into squares of `side` pixels."""
    n_tiles, _, height, width = where.shape
    squares = where.reshape(n_tiles, 3, height // side, side, width // side, side)
    squares = squares.transpose(0, 2, 4, 1, 3, 5)  # tile, row, column, channel, y, x
    flat = squares.reshape(*squares.shape[:4], side * side)
    return [Sources(tile[:, :, 0], tile[:, :, 1]) for tile in flat]


def _of_lines(where: np.ndarray, n_positions: int, picture: Picture) -> list[Sources] | None:
    """Divide a picture that is given whole and then in tiles put together again: without the lines
    of padding, and with a position at the end of each line that shows nothing (LLaVA-NeXT)."""
    n_tiles, _, height, width = where.shape
    for side in _common_divisors(height, width):
        whole = (height // side) * (width // side)
        for rows in _divisors(n_tiles - 1):
            columns = (n_tiles - 1) // rows
            tiles = where[1:].reshape(rows, columns, 3, height, width)
            together = tiles.transpose(2, 0, 3, 1, 4).reshape(3, rows * height, columns * width)
            kept = _unpadded(rows * height // side, columns * width // side, picture)
            lines, across = (part.stop - part.start for part in kept)
            if n_tiles > 1 and whole + lines * (across + 1) == n_positions:
                first, grid = _straightened(where[:1]), _straightened(together[None])
                # Tiles put together in a wrong order do not go on in each other.
                if np.nanmax(np.abs(grid[:, :2] - together[None, :2])) < CROOKED:
                    return [_squares(first, side)[0], _with_ends(_squares(grid, side)[0], kept)]
    return None


def _unpadded(rows: int, columns: int, picture: Picture) -> tuple[slice, slice]:
    """Return the lines and columns of a grid that the model keeps of a picture that was fitted into
    it and padded: all but whole lines of padding, by its own rounding."""
    if picture.width / picture.height > columns / rows:
        shown = int(round(picture.height * (columns / picture.width), 7))
        cut = (rows - shown) // 2
        return slice(cut, rows - cut), slice(0, columns)
    shown = int(round(picture.width * (rows / picture.height), 7))
    cut = (columns - shown) // 2
    return slice(0, rows), slice(cut, columns - cut)


def _with_ends(grid: Sources, kept: tuple[slice, slice]) -> Sources:
    """Return the lines and columns of a grid that are kept, each line with a blank end."""
    x, y = (
        np.pad(a[kept], ((0, 0), (0, 1), (0, 0)), constant_values=np.nan) for a in (grid.x, grid.y)
    )
    return Sources(x, y)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _common_divisors(one: int, other: int) -> list[int]:
    return [d for d in _divisors(one) if other % d == 0 and 4 <= d < one]


def _put_together(where: np.ndarray, grid: Any, patch: Patch | None) -> np.ndarray | None:
    """Put patches that were handed out one by one, [patch, channel * time * y * x], together to a
    picture, [1, channel, y, x].

    Those of a position follow each other, and positions go row by row (Qwen2-VL and its kin).
    """
    if patch is None or len(grid) != 1 or where.ndim != 2:
        return None
    frames, height, width = (int(n) for n in grid[0])
    side, merge = patch.side, patch.merge
    size = 3 * patch.frames * side**2
    if frames != 1 or where.shape != (height * width, size) or height % merge or width % merge:
        return None
    shape = (height // merge, width // merge, merge, merge, 3, patch.frames, side, side)
    parts = where.reshape(shape)[:, :, :, :, :, 0]  # row, column, y, x of patches; channel, y, x
    picture = parts.transpose(4, 0, 2, 5, 1, 3, 6)
    return picture.reshape(1, 3, height * side, width * side)


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
