"""Every head of a stack over the picture: layers x heads of small pictures, each with what the head
looks at, in one image."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from models.picture import Cell, Picture
from models.types import FloatArray, Head
from viz.heads import head_map_figure
from viz.theme import palette

LEAST, MOST = 18, 96
"""Pixels along a thumbnail's longer side."""
STRONGEST = 0.9
"""Opacity of the largest weight of all heads."""
PALE = 0.55
"""Part of the picture's own colours that is left, so that weights stand out."""
_ROOM, _RISE, _TOP = 46, 40, 6  # px beside the thumbnails, above and below them, and above alone


def over_picture_figure(
    found: Any,
    picture: Picture,
    chosen: Sequence[Head] = (),
    *,
    width: int = 720,
    dark: bool = False,
) -> go.Figure:
    """Draw an `ablation.on_picture.OnPicture`, the chosen heads outlined.

    As `head_map_figure`, each cell can be clicked and yields `x`, the head, and `y`, the layer.

    Args:
        picture: the first of the prompt, the one that is drawn.
        width: of the figure at most, px.
    """
    n_layers, n_heads, _ = found.weights.shape
    side = int(np.clip((width - _ROOM) // n_heads, LEAST, MOST))
    image = mosaic(found.weights, found.cells, picture, side, dark)
    tall, wide = image.shape[0] // n_layers, image.shape[1] // n_heads
    figure = head_map_figure(
        n_layers,
        n_heads,
        found.share,
        chosen,
        stack=found.stack,
        dark=dark,
        width=n_heads * wide + _ROOM,
        height=n_layers * tall + _RISE,
    )
    # Pointing tells how much of a head's attention is on the picture; colours are the weights.
    figure.update_traces(showscale=False)
    figure.update_layout(title=None, margin={"t": _TOP})
    figure.add_layout_image(
        source=_png(image),
        x=-0.5,
        y=n_layers - 0.5,
        xref="x",
        yref="y",
        sizex=n_heads,
        sizey=n_layers,
        sizing="stretch",
        layer="above",
    )
    return figure


def mosaic(
    weights: FloatArray,
    cells: Sequence[Cell | None],
    picture: Picture,
    side: int,
    dark: bool = False,
) -> np.ndarray:
    """Return thumbnails of a picture with weights over it, uint8 [y, x, 3], the last layer on top.

    All heads have one scale: the strongest colour is the largest weight of all.

    Args:
        weights: float [n_layers, n_heads, n_cells], NaN for heads that are not there.
        side: of a thumbnail's longer side, pixels.
    """
    zoom = side / max(picture.width, picture.height)
    wide, tall = (max(1, round(n * zoom)) for n in (picture.width, picture.height))
    small = Image.fromarray(picture.pixels).resize((wide, tall), Image.Resampling.LANCZOS)
    pixels = np.asarray(small, dtype=np.float32)
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = grey + PALE * (pixels - grey)
    glow = np.array(_rgb(palette(dark).accent), dtype=np.float32)
    largest = float(np.nanmax(weights)) or 1.0
    n_layers, n_heads, _ = weights.shape
    sheet = np.zeros((n_layers * tall, n_heads * wide, 3), dtype=np.uint8)
    places = [_place(cell, zoom, wide, tall) for cell in cells]
    for layer in range(n_layers):
        for head in range(n_heads):
            alpha = np.zeros((tall, wide, 1), dtype=np.float32)
            for place, weight in zip(places, weights[layer, head], strict=True):
                if place is not None and np.isfinite(weight):
                    alpha[place] = np.maximum(alpha[place], STRONGEST * weight / largest)
            top, left = (n_layers - 1 - layer) * tall, head * wide
            mixed = pixels * (1 - alpha) + glow * alpha
            sheet[top : top + tall, left : left + wide] = mixed.astype(np.uint8)
    sheet[::tall], sheet[:, ::wide] = (_rgb(palette(dark).surface) for _ in range(2))
    return sheet


def _place(cell: Cell | None, zoom: float, wide: int, tall: int) -> tuple[slice, slice] | None:
    """Return the pixels of a thumbnail that a cell covers, one at least; None if it shows nothing
    of the first picture."""
    if cell is None or cell.picture:
        return None
    top, left = int(cell.top * zoom), int(cell.left * zoom)
    bottom, right = round(cell.bottom * zoom), round(cell.right * zoom)
    return slice(min(top, tall - 1), max(bottom, top + 1)), slice(
        min(left, wide - 1), max(right, left + 1)
    )


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def _png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
