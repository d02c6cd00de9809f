"""Pictures as values: what a person gives, and where on it each position of a prompt looks.

No torch here: these travel between the rooms as the other values of `models.types` do.
"""

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from models.errors import ErrorKind, UserError

MOST_PIXELS = 40_000_000
"""Larger pictures are refused: no model sees so many, and they would fill the memory."""
MOST_BYTES = 30_000_000
MOST_PICTURES = 8
"""Of a prompt: more would be a mistake, and each takes hundreds of positions."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read; other formats may start other programs."""
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error)
"""What Pillow raises of files that are damaged, or none of these."""
LEAST_SIDE = 8
"""Pixels; smaller ones fit no patch of any model."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture as it was given. Two are equal if they show the same."""

    pixels: np.ndarray
    """uint8 [y, x, 3], red, green and blue."""
    name: str
    """What a person calls it: a file's name, say."""
    digest: str = field(init=False)
    """Tells pictures apart by what they show."""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 [y, x, 3], got {self.pixels.shape}")
        shape = str(self.pixels.shape).encode()
        digest = hashlib.sha256(shape + np.ascontiguousarray(self.pixels).tobytes()).hexdigest()
        object.__setattr__(self, "digest", digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def png(self) -> bytes:
        """Return it as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.pixels).save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class Cell:
    """The part of a picture that one position stands for."""

    picture: int
    """Which of the prompt's pictures, from 0."""
    row: int
    """Within its tile, from 0 at the top; likewise `column`, from the left."""
    column: int
    left: float
    """In pixels of the picture as it was given; likewise `top`, `right` and `bottom`."""
    top: float
    right: float
    bottom: float
    tile: int = 0
    """Which of the tiles that the picture was cut into; 0 where it was not."""


def read_picture(source: bytes | str | Path, name: str | None = None) -> Picture:
    """Read a picture from a file, or from a file's bytes.

    What is see-through stands on white; a camera's note of how it was held is followed.

    Raises:
        UserError: it is none, cannot be read, is animated, too large, or too small.
    """
    Image.init()  # or formats that are rarely met are not known
    shown = name or (Path(source).name if not isinstance(source, bytes) else "The picture")
    if not isinstance(source, bytes):
        source = _bytes_of(Path(source), shown)
    if len(source) > MOST_BYTES:
        raise _refusal(f"{shown} is a file of {len(source) / 1e6:.0f} MB", "choose a smaller one")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source), formats=FORMATS) as image:
                return Picture(_pixels(image, shown), shown)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise _refusal(
            f"{shown} has more than {MOST_PIXELS / 1e6:.0f} million pixels", "make it smaller"
        ) from None
    except _DAMAGED as error:
        raise _refusal(
            f"{shown} is not a picture that can be read", "give a PNG, JPEG or WebP file"
        ) from error


def _bytes_of(path: Path, shown: str) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            size = path.stat().st_size / 1e6
            raise _refusal(f"{shown} is a file of {size:.0f} MB", "choose a smaller one")
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise _refusal(
            f"The picture {str(path)!r} cannot be read ({reason})", "check its path"
        ) from error


def _pixels(image: Image.Image, shown: str) -> np.ndarray:
    # A photograph with a preview inside (MPO) is one picture all the same.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise _refusal(f"{shown} is animated", "give one of its frames as a picture")
    if image.width * image.height > MOST_PIXELS:
        millions = image.width * image.height / 1e6
        raise _refusal(
            f"{shown} has {millions:.0f} million pixels, and at most "
            f"{MOST_PIXELS / 1e6:.0f} million are taken",
            "make it smaller",
        )
    if min(image.size) < LEAST_SIDE:
        raise _refusal(
            f"{shown} has {image.width} x {image.height} pixels",
            f"give one of at least {LEAST_SIDE} x {LEAST_SIDE}",
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        raise _refusal(
            f"{shown} has pixels of more than 8 bits a channel", "save it as an 8-bit PNG or JPEG"
        )
    if "A" in upright.getbands() or "transparency" in upright.info:
        seen = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return np.array(upright.convert("RGB"))


def _refusal(what: str, remedy: str) -> UserError:
    return UserError(ErrorKind.PICTURE, f"{what}; {remedy}.")
