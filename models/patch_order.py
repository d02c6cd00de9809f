"""In which order a vision tower looks at the patches that it is given in one row.

A processor hands patches out one by one, or in pictures of different sizes (Pixtral). Towers whose
layers see windows bring those of a window together first. What is guessed of it is tried out: of
patches that are changed in what the model is given, the first attention layer must show a change
where the guess has them, and nowhere else.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from models.attention_tap import first_attention_inputs
from models.types import TokenizedPrompt

Given = Mapping[str, np.ndarray]
"""What a model is given of the pictures: keyword -> array."""

GRIDS, SIZES = "image_grid_thw", "image_sizes"
"""What says of each picture how many patches it has: [time, rows, columns]; [height, width] of its
pixels, the rest of the array being padding."""

TRIED = 5
"""How many patches an order is tried out with."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of the patches that a tower is given in one row."""

    side: int
    """Pixels along each side of a patch."""
    merge: int
    """How many patches along each side are given one behind the other, square by square: those that
    become one position of the language model. 1: row by row."""
    window: int | None
    """Pixels along each side of a window whose patches stand together; None where they stand as
    they are given."""

    def places(self, given: Given) -> np.ndarray:
        """Return, for each position of the tower, the number of the patch that stands there, as
        they are given: int64 [position]."""
        if GRIDS not in given:
            sizes = np.asarray(given[SIZES]) // self.side
            return np.arange(sizes.prod(axis=1).sum())
        grids = torch.from_numpy(np.asarray(given[GRIDS]))
        n = int(grids.prod(dim=1).sum())
        if self.window is None:
            return np.arange(n)
        squares, _ = get_vision_window_index(grids, self.merge, self.window, self.side)
        each = self.merge**2  # patches of a square stand together
        return (squares.numpy()[:, None] * each + np.arange(each)).ravel()


def order_of_patches(
    model: nn.Module, forward: Callable[[], Any], prompt: TokenizedPrompt
) -> Order | None:
    """Return the order in which a tower looks at patches; None where it is not given them in one
    row, it is none of the orders known, or the picture is too small to tell.

    Args:
        forward: runs the model once on the prompt, which has one picture.
    """
    given = prompt.given or {}
    config: Any = getattr(model.config, "vision_config", None)
    side = getattr(config, "patch_size", None)
    if not isinstance(side, int) or not (GRIDS in given or SIZES in given):
        return None
    merge = getattr(config, "spatial_merge_size", 1) if GRIDS in given else 1
    stated = getattr(config, "window_size", None)
    windows = [None, stated] if isinstance(stated, int) and stated >= side * merge else [None]
    orders = [Order(side, merge, window) for window in windows]
    places = [order.places(given).tolist() for order in orders]
    if len(places) > 1 and places[0] == places[1]:
        return None  # this picture does not tell them apart
    return next((order for order in orders if _is_followed(order, model, forward, given)), None)


def _is_followed(order: Order, model: nn.Module, forward: Callable[[], Any], given: Given) -> bool:
    places = order.places(given)
    n = len(places)
    clean = first_attention_inputs(forward).value
    if clean.shape[0] != 1 or clean.shape[2] != n:
        return False
    for patch in np.unique(np.linspace(0, n - 1, TRIED).astype(int)):
        with _patch_changed(model, order, given, int(patch)):
            changed = first_attention_inputs(forward).value
        at = (changed != clean).any(dim=3).any(dim=1)[0].nonzero().ravel().tolist()
        if at != [int(np.flatnonzero(places == patch)[0])]:
            return False
    return True


@contextmanager
def _patch_changed(model: nn.Module, order: Order, given: Given, patch: int) -> Iterator[None]:
    """Let the model be given other pixels in one patch of its one picture."""

    def change(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        pixels: Tensor = kwargs["pixel_values"].clone()
        if pixels.ndim == 2:  # [patch, channel * time * y * x]
            pixels[patch] += 1
        else:  # [picture, channel, y, x]
            row, column = divmod(patch, int(given[SIZES][0][1]) // order.side)
            y, x = row * order.side, column * order.side
            pixels[0, :, y : y + order.side, x : x + order.side] += 1
        return args, {**kwargs, "pixel_values": pixels}

    handle = model.register_forward_pre_hook(change, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
