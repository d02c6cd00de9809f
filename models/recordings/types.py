"""Recordings as values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from models.errors import ErrorKind, UserError
from models.picture import Cell, Picture

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a thing on a frame's first picture, pixels."""
ENOUGH = 0.25
"""Part of the smaller of a cell and a thing that the other must cover for it to show the thing."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment of an episode."""

    time: float
    """Seconds from the episode's beginning."""
    state: str | tuple[float, ...] | None = None
    """What the robot told of itself: words as the policy reads them, or numbers."""
    action: tuple[float, ...] | None = None
    """What was done, in the order of `Recording.action_names`."""
    objects: Mapping[str, Box] = field(default_factory=dict)
    """Where things are, by their names."""
    instruction: str | None = None
    """What the robot was told, where that changes within the episode."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One recorded episode. Its pictures are read when they are asked for."""

    name: str
    instruction: str
    frames: tuple[Frame, ...]
    cameras: tuple[str, ...]
    action_names: tuple[str, ...]
    """Of the recorded actions' numbers; empty where none were recorded."""
    pictures: Callable[[int], tuple[Picture, ...]]
    """The pictures of a frame, one for each camera."""

    def __len__(self) -> int:
        return len(self.frames)

    def told(self, index: int) -> str:
        """Return what the robot was told at a frame."""
        return self.frames[index].instruction or self.instruction

    def seen_by(self, cameras: Sequence[str]) -> "Recording":
        """Return the recording with the pictures of some of its cameras, in their own order.

        Raises:
            UserError: there is no such camera, or none is named.
        """
        missing = [name for name in cameras if name not in self.cameras]
        if missing or not cameras:
            named = f"has no camera {missing[0]!r}" if missing else "needs one camera at least"
            raise UserError(
                ErrorKind.RECORDING,
                f"The recording {self.name} {named}; its cameras are {', '.join(self.cameras)}.",
            )
        kept = [i for i, name in enumerate(self.cameras) if name in cameras]

        def pictures(index: int) -> tuple[Picture, ...]:
            found = self.pictures(index)
            return tuple(found[i] for i in kept)

        return replace(self, cameras=tuple(self.cameras[i] for i in kept), pictures=pictures)

    @property
    def object_names(self) -> tuple[str, ...]:
        """Every thing that is told of in some frame, in the order in which they appear."""
        return tuple(dict.fromkeys(name for frame in self.frames for name in frame.objects))


def cells_showing(cells: tuple[Cell | None, ...], box: Box) -> np.ndarray:
    """Return which positions show a thing, bool [n_positions].

    A cell shows it if `ENOUGH` of the cell lies inside the box on the first picture, or as much of
    the box inside the cell: cells may be larger than the thing.
    """
    shown = np.zeros(len(cells), dtype=bool)
    of_box = (box[2] - box[0]) * (box[3] - box[1])
    for i, cell in enumerate(cells):
        if cell is None or cell.picture:
            continue
        across = min(cell.right, box[2]) - max(cell.left, box[0])
        down = min(cell.bottom, box[3]) - max(cell.top, box[1])
        of_cell = (cell.right - cell.left) * (cell.bottom - cell.top)
        shown[i] = across > 0 and down > 0 and across * down >= ENOUGH * min(of_cell, of_box)
    return shown
