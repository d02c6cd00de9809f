"""Models that see: which of their attention layers look at a picture, and at which positions.

The vision tower runs before the language model, in the same forward pass. Its layers are told from
the language model's by where they are: these lie inside what transformers calls the decoder. Where
every layer of the tower runs once over all patches of one picture, its heads are a stack of their
own; where it does not (tiles as a batch, windows one by one), only the language model's are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from models.attention_hooks import AttentionSite
from models.attention_tap import TapRequest, active_request
from models.errors import ErrorKind, UserError
from models.picture import Cell, Picture
from models.picture_prompts import PictureReader, cell_label
from models.tokens import prompt_of_ids
from models.types import TokenizedPrompt

UNCOUNTED = -1_000_000
"""Where the layers of a tower that is no stack are counted from, so that none has a number that
anything is asked of."""

PROBE_SIDE = 96
"""Width and height of the picture that a model proves itself on, pixels."""


@dataclass(frozen=True, slots=True)
class Sites:
    """A model's attention layers: the tower's where they make a stack, and the language model's."""

    seeing: list[AttentionSite]
    reading: list[AttentionSite]

    @property
    def all(self) -> list[AttentionSite]:
        return [*self.seeing, *self.reading]


def split_sites(
    model: Any, sites: Sequence[AttentionSite | None], prompt: TokenizedPrompt
) -> Sites:
    """Tell the tower's attention layers from the language model's.

    Args:
        sites: of every call of attention in a pass over one picture and some text, in order; None
            for a call whose output projection was not found.
        prompt: that picture and text.

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
    alike = len({site.extent for site in seeing}) == 1
    whole = all(site is not None for site in sites) and _is_one_tile(prompt)
    return Sites(seeing if seeing and once and alike and whole else [], reading)


def _is_one_tile(prompt: TokenizedPrompt) -> bool:
    """Whether the tower is given one picture as a whole, in one size for all pictures."""
    pixels = (prompt.given or {}).get("pixel_values")
    return pixels is not None and pixels.ndim == 4 and len(pixels) == 1


def count_layers(model: Any, n_seeing: int) -> None:
    """Let the layers of the language model be counted from `n_seeing` on, whether the tower runs
    or not; to be called once a model."""

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


def probe_picture() -> Picture:
    """Return the picture that a model proves itself on: coloured noise over two ramps."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 160, PROBE_SIDE)
    pixels = np.stack([ramp[None] + 0 * ramp[:, None], ramp[:, None] + 0 * ramp[None]], axis=-1)
    pixels = np.concatenate([pixels, np.full((PROBE_SIDE, PROBE_SIDE, 1), 80.0)], axis=-1)
    noise = rng.integers(0, 96, size=pixels.shape)
    return Picture((pixels + noise).astype(np.uint8), "probe")


def with_seen(
    prompt: TokenizedPrompt, reader: PictureReader, n_positions: int | None
) -> TokenizedPrompt:
    """Return a prompt with the positions of the vision tower, if it has them for this prompt.

    Args:
        n_positions: of the tower; None where its heads are no stack.
    """
    if n_positions is None or len(prompt.pictures) != 1 or not _is_one_tile(prompt):
        return prompt
    side = int(n_positions**0.5)
    first = n_positions - side * side  # a class token stands in front
    found = reader.cells(prompt.pictures, side * side)
    cells: list[Cell | None] = [None] * first
    cells += found or [None] * (side * side)
    labels = [f"class{i or ''}" for i in range(first)]
    labels += [
        f"▦{k}" if cell is None else cell_label(cell) for k, cell in enumerate(cells[first:])
    ]
    seen = prompt_of_ids(reader.reader, [0] * n_positions, "")
    return replace(
        prompt,
        seen=replace(
            seen,
            ids=tuple(range(n_positions)),
            labels=tuple(labels),
            texts=("",) * n_positions,
            kinds=("special",) * first + ("image",) * (side * side),
            pictures=prompt.pictures,
            cells=None if found is None else tuple(cells),
        ),
    )
