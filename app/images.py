"""The pictures that a view names: the table's, drawn when needed, and those that were given.

A view and its link hold names alone. A table's picture can be drawn again from its name; one that a
person gave is kept here, within a budget of memory, until this program ends.
"""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from app.runs import Memory
from models.errors import ErrorKind, UserError
from models.picture import Cell, Picture, read_picture
from models.tabletop.scenes import PREFIX as SCENE_PREFIX

TABLE, GIVEN = SCENE_PREFIX, "given:"
MOST_BYTES = 256 * 2**20
SHOWN_SIDE = 640
"""Pixels along the longer side of what the browser gets of a picture."""
SMALL_SIDE = 384
"""Smaller pictures are sent as they are, without loss."""


class Images:
    """The pictures that were given to this program."""

    def __init__(self) -> None:
        self._memory = Memory(MOST_BYTES)

    def keep(self, content: bytes, name: str) -> str:
        """Keep a picture; return what a view calls it.

        Raises:
            UserError: it is no picture that can be read.
        """
        return self.keep_picture(read_picture(content, name))

    def keep_picture(self, picture: Picture) -> str:
        """Keep a picture that was read already; see `keep`."""
        key = picture.digest[:24]
        self._memory.put(key, picture, picture.pixels.nbytes)
        return f"{GIVEN}{key}:{picture.name[:80]}"

    def keep_url(self, url: str, name: str) -> str:
        """Keep a picture that the browser sends as a data URL; see `keep`."""
        _, _, coded = url.partition(",")
        try:
            content = base64.b64decode(coded, validate=True)
        except (binascii.Error, ValueError):
            content = b""
        return self.keep(content, name)

    def get(self, reference: str) -> Picture:
        """Return the picture that a view names.

        Raises:
            UserError: it is not here.
        """
        if reference.startswith(TABLE):
            return table_picture(reference)
        key, _, name = reference.removeprefix(GIVEN).partition(":")
        picture: Picture | None = self._memory.get(key)
        if picture is None:
            raise UserError(
                ErrorKind.PICTURE,
                f"The picture {name or reference!r} is not here any more: links hold no pictures. "
                "Give it again.",
            )
        return picture


def table_picture(reference: str) -> Picture:
    """Return a picture of the simulated table, by its name: "tabletop:7".

    Raises:
        UserError: there is none of this name.
    """
    from models.tabletop.drawing import draw
    from models.tabletop.scenes import named_scene

    scene = named_scene(reference)
    return Picture(draw([scene])[0][0], reference)


def table_text(reference: str) -> str:
    """Return what the policy of the simulated table is told in a scene, beside its picture."""
    from models.tabletop.scenes import named_scene
    from models.tabletop.words import told

    return told(named_scene(reference))


def table_instruction(reference: str) -> str:
    """Return the instruction of a scene of the simulated table."""
    from models.tabletop.scenes import named_scene

    return named_scene(reference).instruction


def shown(picture: Picture) -> dict[str, Any]:
    """Return a picture as the browser draws it: its size, and a data URL of not too many pixels."""
    image = Image.fromarray(picture.pixels)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    small = max(image.size) <= SMALL_SIDE
    file = io.BytesIO()
    image.save(file, "PNG" if small else "JPEG", quality=88)
    kind = "png" if small else "jpeg"
    coded = base64.b64encode(file.getvalue()).decode("ascii")
    return {
        "name": picture.name,
        "width": picture.width,
        "height": picture.height,
        "src": f"data:image/{kind};base64,{coded}",
    }


def boxes(cells: Sequence[Cell | None]) -> list[list[float] | None]:
    """Return for each position its picture and left, top, right and bottom there, in pixels."""
    return [
        None
        if cell is None
        else [cell.picture, *(round(x, 2) for x in (cell.left, cell.top, cell.right, cell.bottom))]
        for cell in cells
    ]
