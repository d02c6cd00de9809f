"""Every head of a stack over the picture: layers x heads of small pictures, each with what the head
looks at, in one image."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from models.picture import Cell, Picture
from models.types import FloatArray, Head
from viz.glow import glowing, places_of, rgb
from viz.heads import head_map_figure
from viz.theme import LIGHT, palette

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
    which: int = 0,
    width: int = 720,
    dark: bool = False,
) -> go.Figure:
    """Draw an `ablation.on_picture.OnPicture`, the chosen heads outlined.

    As `head_map_figure`, each cell can be clicked and yields `x`, the head, and `y`, the layer.

    Args:
        picture: the one of the prompt that is drawn.
        which: its number there.
        width: of the figure at most, px.
    """
    n_layers, n_heads, _ = found.weights.shape
    side = int(np.clip((width - _ROOM) // n_heads, LEAST, MOST))
    image = mosaic(found.weights, found.cells, picture, side, which, dark)
    content = Picture(image, "all heads").png()
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
        source="data:image/png;base64," + base64.b64encode(content).decode("ascii"),
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
    which: int = 0,
    dark: bool = False,
) -> np.ndarray:
    """Return thumbnails of a picture with weights over it, uint8 [y, x, 3], the last layer on top.

    All heads have one scale: the strongest colour is the largest weight of all. A picture is as
    bright in the dark, so the colour is the same there.

    Args:
        weights: float [n_layers, n_heads, n_cells], NaN for heads that are not there.
        side: of a thumbnail's longer side, pixels.
        which: the picture's number in the prompt.
    """
    zoom = side / max(picture.width, picture.height)
    wide, tall = (max(1, round(n * zoom)) for n in (picture.width, picture.height))
    small = Image.fromarray(picture.pixels).resize((wide, tall), Image.Resampling.LANCZOS)
    pixels = np.asarray(small, dtype=np.float32)
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = grey + PALE * (pixels - grey)
    largest = float(np.nanmax(weights)) or 1.0
    n_layers, n_heads, _ = weights.shape
    sheet = np.zeros((n_layers * tall, n_heads * wide, 3), dtype=np.uint8)
    places = places_of(cells, zoom, (tall, wide), which)
    for layer in range(n_layers):
        for head in range(n_heads):
            top, left = (n_layers - 1 - layer) * tall, head * wide
            opacities = STRONGEST * weights[layer, head] / largest
            thumbnail = glowing(pixels, places, opacities, LIGHT.accent)
            sheet[top : top + tall, left : left + wide] = thumbnail
    sheet[::tall] = sheet[:, ::wide] = rgb(palette(dark).surface)
    return sheet
