"""Pictures one after another as a film, GIF or MP4, with weights over them and text below."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.picture import Cell, Picture
from models.types import FloatArray
from viz.glow import glowing, places_of
from viz.theme import LIGHT

LEAST_SIDE = 256
"""Smaller pictures are enlarged by a whole number, pixels."""
LINE = 16
"""Height of a line of text, pixels."""
STRONGEST = 0.75
"""Opacity of the largest weight."""
LAST_MS = 1200
"""How long a GIF stays at its end."""
FORMATS = ("gif", "mp4")


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One frame of a film."""

    picture: Picture
    lines: tuple[str, ...]
    """What stands below it."""
    cells: tuple[Cell | None, ...] = ()
    weights: FloatArray | None = None
    """What a head pays to each cell, as a part of the largest of the film, float [n_cells]; None
    draws nothing over the picture."""


def film(n: int, shot: Callable[[int], Shot], fps: float, kind: str = "gif") -> bytes:
    """Return a film of n shots, which are asked for one after another.

    Args:
        shot: each is of the first one's size; what is larger is cut off.
        fps: frames a second.
        kind: "gif", or "mp4" (H.264).

    Raises:
        ValueError: no such kind, or no shot.
    """
    if kind not in FORMATS or n < 1:
        raise ValueError(f"a film is one of {FORMATS} and has shots, not {n} as {kind!r}")
    first = _drawn(shot(0), None)
    images = chain([first], (_drawn(shot(i), first.size) for i in range(1, n)))
    return _gif(images, n, fps) if kind == "gif" else _mp4(images, fps)


def _drawn(shot: Shot, size: tuple[int, int] | None) -> Image.Image:
    """Return a shot as an image; of another's size, if one is given: what is larger is cut off."""
    pixels = shot.picture.pixels
    zoom = max(1, -(-LEAST_SIDE // max(pixels.shape[:2])))
    large = np.kron(pixels, np.ones((zoom, zoom, 1), dtype=np.uint8)) if zoom > 1 else pixels
    if shot.weights is not None:
        places = places_of(shot.cells, zoom, large.shape[:2])
        large = glowing(large, places, STRONGEST * shot.weights, LIGHT.accent)
    height, width = large.shape[:2]
    # A video's sides are even numbers.
    full = (_even(width), _even(height + LINE * len(shot.lines) + 6))
    frame = Image.new("RGB", size or full)
    frame.paste(LIGHT.surface, (0, 0, *frame.size))
    frame.paste(Image.fromarray(large), (0, 0))
    pen = ImageDraw.Draw(frame)
    font = ImageFont.load_default(11)
    for i, line in enumerate(shot.lines):
        pen.text((4, height + 3 + i * LINE), line, fill=LIGHT.text, font=font)
    return frame


def _even(n: int) -> int:
    return n + n % 2


def _gif(images: Iterator[Image.Image], n: int, fps: float) -> bytes:
    file = io.BytesIO()
    times = [round(1000 / fps)] * (n - 1) + [LAST_MS]
    # One after another: all frames of a long episode would fill the memory.
    next(images).save(file, "GIF", save_all=True, append_images=images, duration=times, loop=0)
    return file.getvalue()


def _mp4(images: Iterator[Image.Image], fps: float) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = None
        for image in images:
            if stream is None:
                rate = Fraction(round(fps * 1000), 1000)
                stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
                stream.width, stream.height = image.size
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def frames_a_second(times: FloatArray) -> float:
    """Return at which rate frames follow each other, at most 60 and at least 0.5 a second."""
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    return float(np.clip(1 / usual, 0.5, 60)) if usual > 0 else 1.0


def action_lines(space: Any, actions: Sequence[tuple[str, FloatArray]]) -> tuple[str, ...]:
    """Return a line of text for each action: who does it, and what in words."""
    lines = []
    for name, values in actions:
        said = "  ".join(
            f"{dimension.name} {dimension.said(float(value))}"
            for dimension, value in zip(space.dimensions, values, strict=True)
            if np.isfinite(value)
        )
        lines.append(f"{name}: {said or 'not told'}")
    return tuple(lines)
