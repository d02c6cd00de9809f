"""Models that see: which of their attention layers look at a picture, and at which positions.

The vision tower runs before the language model, in the same forward pass. Its layers are told from
the language model's by where they are: these lie inside what transformers calls the decoder. Where
every layer of the tower runs once, its heads are a stack of their own; where it does not, only the
language model's are. The tower may be given several rows for a prompt, one a
tile or a picture: its positions are then those of all of them, one behind the other, and those of
one row see no other row's. Or it is given the patches of all pictures in one row (`models.packed`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt, prod
from typing import Any

import numpy as np
from torch import nn

from models.attention_hooks import AttentionSite
from models.attention_inputs import Inputs, allowed_keys, is_causal
from models.attention_tap import Call, TapRequest, active_request
from models.discovery import Forward, dispatching_calls
from models.errors import ErrorKind, UserError
from models.packed import call_once, let_rows_be_packed
from models.patch_order import Order, order_of_patches
from models.picture import Cell, Picture
from models.picture_geometry import patch_cells
from models.picture_prompts import IMAGE, PictureReader, cell_label
from models.types import TokenizedPrompt

UNCOUNTED = -1_000_000
"""Where the layers of a tower that is no stack are counted from, so that none has a number that
anything is asked of."""

PROBE_SIDE = 96
"""Width and height of the picture that a model proves itself on, pixels."""
PROBE_WINDOWS = 2.5
"""So many windows fit along each side of it where the tower's layers see such: their order shows on
more than one, and at the edge."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a model sees with, and where in its pass."""

    reader: PictureReader
    n_layers: int = 0
    """How many attention layers of the tower run before the language model's; 0 where they are no
    stack."""
    n_behind: int = 0
    """How many attention layers run behind the language model's: none."""
    n_positions: int = 0
    """Of the tower on each of its rows, where its layers are a stack."""
    row_shape: tuple[int, ...] = ()
    """Of the pixels of each of its rows: [channel, y, x]."""
    order: Order | None = None
    """Of the patches that it is given in one row; None where it is not."""
    probe_side: int = PROBE_SIDE
    """Of the picture that the model proves itself on, pixels."""

    @staticmethod
    def of(model: Any, reader: PictureReader) -> "Sight":
        window = getattr(getattr(model.config, "vision_config", None), "window_size", None)
        windows = int(PROBE_WINDOWS * window) if isinstance(window, int) else 0
        return Sight(reader, probe_side=max(PROBE_SIDE, windows))

    @property
    def image_token(self) -> str:
        """What stands for a picture in the text."""
        return self.reader.image_token

    def prompt(
        self,
        text: str,
        pictures: Sequence[Picture],
        max_positions: int,
        bos: bool | None = None,
    ) -> TokenizedPrompt:
        """Turn text and pictures into a prompt, with the tower's positions where it has them.

        Raises:
            UserError: see `PictureReader.prompt`.
        """
        prompt = self.reader.prompt(text, pictures, max_positions, bos)
        if self.order is not None:
            return replace(prompt, seen=self._patches(prompt, self.order))
        n_rows, row_shape = _tower_rows(prompt)
        if not self.n_layers or not n_rows or row_shape != self.row_shape:
            return prompt
        seen = picture_positions(self.reader, pictures, self.n_positions, n_rows=n_rows)
        return replace(prompt, seen=seen)

    def _patches(self, prompt: TokenizedPrompt, order: Order) -> TokenizedPrompt:
        """Return the positions of a tower that is given patches in one row."""
        reader, pictures = self.reader, prompt.pictures
        places = order.places(prompt.given or {})
        cells = None
        if reader.patch is not None:
            cells = patch_cells(reader.images_alone, pictures, reader.patch, order.merge)
        if cells is not None and len(cells) == len(places):
            cells = [cells[i] for i in places]
        else:
            cells = None
        return positions_of_cells(pictures, len(places), cells)

    def probe(self, text: str, max_positions: int) -> TokenizedPrompt:
        """Return the prompt that a model proves itself on."""
        return self.reader.prompt(text, [probe_picture(self.probe_side)], max_positions)

    def finding(self, model: Any, forward: Forward, prompt: TokenizedPrompt) -> "FoundLayers":
        """Find a model's attention layers, and let those of the language model be counted on from
        the tower's whether the tower runs or not; to be called once a model.

        Args:
            forward: runs the model once on `prompt`.

        Raises:
            UserError: layers of the language model are missing, or run several times.
        """
        call_once(model, apart_from=model.get_decoder())
        order = order_of_patches(model, forward, prompt)
        calls = dispatching_calls(model, forward)
        seeing, reading = split_layers(model, calls, prompt, order)
        if order is not None:
            let_rows_be_packed(site.module for site in seeing)
        count_layers(model, len(seeing))
        n_positions = seeing[0].extent[0] if seeing else 0
        _, row_shape = _tower_rows(prompt)
        sight = replace(
            self,
            n_layers=len(seeing),
            n_positions=n_positions,
            row_shape=row_shape,
            order=order if seeing else None,
        )
        return FoundLayers(sight, [*seeing, *reading])

    def looks_ahead(self, run: Callable[[TapRequest], Any]) -> bool:
        """Return whether the language model lets a position see later ones, as some do within a
        picture.

        Args:
            run: runs the model on a prompt with a picture under a request.
        """
        ahead = False

        def watch(layer: int, call: Call) -> None:
            nonlocal ahead
            if layer >= self.n_layers and call.inputs is not None:
                ahead = ahead or _sees_later(call.inputs)

        run(TapRequest(on_call=watch))
        return ahead


@dataclass(frozen=True, slots=True)
class FoundLayers:
    """A model's attention layers: its tower's, if they make a stack, then its language model's."""

    sight: Any
    """A `Sight`, or a classifier's `PictureAlone`."""
    sites: list[AttentionSite]


def _sees_later(inputs: Inputs) -> bool:
    if inputs.mask is None:
        return not is_causal(inputs)
    allowed = allowed_keys(inputs)
    return allowed is None or bool(allowed.triu(1).any())


def split_layers(
    model: Any,
    sites: Sequence[AttentionSite | None],
    prompt: TokenizedPrompt,
    order: Order | None = None,
) -> tuple[list[AttentionSite], list[AttentionSite]]:
    """Tell the tower's attention layers, where they make a stack, from the language model's.

    Args:
        sites: of every call of attention in a pass over one picture and some text, in order; None
            for a call whose output projection was not found.
        prompt: that picture and text.
        order: of the patches, if the tower is given them in one row.

    Raises:
        UserError: layers of the language model are missing, or run several times.
    """
    inside = set(model.get_decoder().modules())
    known = [site for site in sites if site is not None]
    reading = [site for site in known if site.module in inside]
    n_layers = model.config.get_text_config().num_hidden_layers
    if len(reading) != n_layers:
        raise UserError(
            ErrorKind.MODEL,
            f"{type(model).__name__} is not supported: softmax attention can be read in "
            f"{len(reading)} of the {n_layers} layers of its language model.",
        )
    seeing = [site for site in known if site.module not in inside]
    once = len({site.module for site in seeing}) == len(seeing)
    n_rows, _ = _tower_rows(prompt) if order is None else (1, ())
    alike = len({site.extent for site in seeing}) == 1
    alike = alike and all(site.n_parts == n_rows for site in seeing)
    if alike and order is not None:
        n_patches = len(order.places(prompt.given or {}))
        alike = seeing[0].extent == (n_patches, n_patches)
    whole = len(known) == len(sites)
    return (seeing if once and alike and whole else []), reading


def _tower_rows(prompt: TokenizedPrompt) -> tuple[int, tuple[int, ...]]:
    """Return how many rows the tower is given of a prompt, and the shape of each, [channel, y, x];
    0 where it is given patches one by one, or it is not known how many."""
    pixels = (prompt.given or {}).get("pixel_values")
    if pixels is None or pixels.ndim not in (4, 5):
        return 0, ()
    if pixels.ndim == 5 and len(pixels) > 1:
        return 0, ()  # a picture each, padded to as many tiles; the tower is not given the padding
    return prod(pixels.shape[:-3]), pixels.shape[-3:]


def count_layers(model: Any, n_seeing: int) -> None:
    """Let the layers of the language model be counted from `n_seeing` on, whether the tower runs
    or not."""

    def begin(_module: nn.Module, _args: Any) -> None:
        request = active_request()
        if isinstance(request, TapRequest) and not n_seeing:
            request.n_calls = UNCOUNTED

    def begin_reading(_module: nn.Module, _args: Any) -> None:
        request = active_request()
        if isinstance(request, TapRequest):
            request.n_calls = n_seeing

    model.register_forward_pre_hook(begin)
    model.get_decoder().register_forward_pre_hook(begin_reading)


def probe_picture(side: int = PROBE_SIDE) -> Picture:
    """Return the picture that a model proves itself on: coloured noise over two ramps."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 160, side)
    pixels = np.stack([ramp[None] + 0 * ramp[:, None], ramp[:, None] + 0 * ramp[None]], axis=-1)
    pixels = np.concatenate([pixels, np.full((side, side, 1), 80.0)], axis=-1)
    noise = rng.integers(0, 96, size=pixels.shape)
    return Picture((pixels + noise).astype(np.uint8), "probe")


def picture_positions(
    reader: PictureReader,
    pictures: Sequence[Picture],
    n_positions: int,
    given: Mapping[str, np.ndarray] | None = None,
    n_parts: int | None = None,
    n_rows: int = 1,
) -> TokenizedPrompt:
    """Return the positions of a vision tower, or of a classifier, on pictures: their parts, and in
    front of them what stands for the whole: a class token, registers.

    Args:
        n_positions: of each row that the tower is given.
        given: what the model is given of the picture.
        n_parts: how many positions of a row show a part; None if they make a square.
        n_rows: how many rows it is given: one a tile, or picture.
    """
    parts = isqrt(n_positions) ** 2 if n_parts is None else n_parts
    first = n_positions - parts
    found = reader.cells(pictures, n_rows * parts)
    cells: list[Cell | None] = []
    labels: list[str] = []
    for row in range(n_rows):
        own = slice(row * parts, (row + 1) * parts)
        shown = [None] * parts if found is None else found[own]
        cells += [*[None] * first, *shown]
        mark = f"/{row}" if n_rows > 1 else ""
        labels += [f"{name}{mark}" for name in _whole_names(first)]
        labels += [
            f"▦{own.start + k}" if cell is None else cell_label(cell, len(pictures))
            for k, cell in enumerate(shown)
        ]
    n = n_rows * n_positions
    return TokenizedPrompt(
        text="",
        ids=tuple(range(n)),
        labels=tuple(labels),
        texts=("",) * n,
        kinds=(("special",) * first + (IMAGE,) * parts) * n_rows,
        pictures=tuple(pictures),
        cells=None if found is None else tuple(cells),
        given=given,
    )


def positions_of_cells(
    pictures: Sequence[Picture], n: int, cells: Sequence[Cell | None] | None
) -> TokenizedPrompt:
    """Return the positions of a vision tower that are parts of pictures, all of them.

    Args:
        cells: what each shows; None where that is not known.
    """
    shown = cells or [None] * n
    return TokenizedPrompt(
        text="",
        ids=tuple(range(n)),
        labels=tuple(
            f"▦{k}" if cell is None else cell_label(cell, len(pictures))
            for k, cell in enumerate(shown)
        ),
        texts=("",) * n,
        kinds=(IMAGE,) * n,
        pictures=tuple(pictures),
        cells=None if cells is None else tuple(cells),
    )


def _whole_names(n: int) -> list[str]:
    """Return what the positions are called that stand for a whole picture."""
    return ["class", *(f"register {i}" for i in range(1, n))][:n]
