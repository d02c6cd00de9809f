"""Models that say how alike a picture and a text are (CLIP, SigLIP), as classifiers: given some
texts, which of them is most like the picture (Radford et al. 2021, section 3.1).

The texts stand behind the model's name: `openai/clip-vit-base-patch32#a cat|a dog`. The main stack
of heads is the tower that sees; the tower that reads the texts is another, where each of its layers
runs once on all of them. Probabilities are of the texts among each other, also for SigLIP, which
was trained to judge each pair by itself.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_hooks import AttentionSite
from models.attention_tap import TapRequest, active_request
from models.discovery import Forward
from models.errors import ErrorKind, UserError
from models.self_check import same_numbers
from models.text_tower import concerns, embedded, find_tower, given_of

MARK, BETWEEN = "#", "|"
FIRST_TEXTS = (
    "a photo of a person",
    "a photo of a cat",
    "a photo of a dog",
    "a photo of a car",
    "a photo of food",
    "a photo of a landscape",
    "a drawing of coloured shapes",
    "a red square",
    "a blue triangle",
    "a yellow circle",
    "a purple cross",
    "a page of text",
)
"""What a picture is compared with where no texts are named."""
MOST_TEXTS = 200


def parted_name(name: str | Path) -> tuple[str | Path, tuple[str, ...]]:
    """Part a model's name from the texts behind it.

    Raises:
        UserError: they are too few, too many, or alike.
    """
    text = str(name)
    if isinstance(name, Path) or MARK not in text or os.path.exists(os.path.expanduser(text)):
        return name, ()
    place, _, listed = text.partition(MARK)
    # A directory's name may have the mark in it too.
    for at in (i for i, character in enumerate(text) if character == MARK):
        if os.path.isdir(os.path.expanduser(text[:at])):
            place, listed = text[:at], text[at + 1 :]
    texts = tuple(part.strip() for part in listed.split(BETWEEN) if part.strip())
    if not 2 <= len(texts) <= MOST_TEXTS or len(set(texts)) < len(texts):
        raise UserError(
            ErrorKind.MODEL,
            f"Behind {MARK} stand 2 to {MOST_TEXTS} different texts that a picture is compared "
            f"with, {BETWEEN} between them, as in {place}#a photo of a cat|a photo of a dog.",
        )
    return place, texts


class PictureAmongTexts(nn.Module):
    """A model that compares pictures and texts, as one that says which text a picture is like.

    The tower that reads the texts runs only where its heads are read or changed; else what it makes
    of the texts is known.
    """

    def __init__(self, model: Any, tokenizer: Any, texts: Sequence[str]) -> None:
        """Args: texts: different ones; raises `UserError` if one is too long."""
        super().__init__()
        self.inner = model
        self.config = model.config
        self.labels = dict(enumerate(texts))
        self.name_or_path = model.name_or_path
        given, self.compared = given_of(model, tokenizer, texts)
        self._given = tuple(given)
        for name, ids in given.items():
            self.register_buffer(f"texts_{name}", ids)
        self.text_embeds: Tensor
        self.register_buffer("text_embeds", embedded(model, given))
        self.first_reading: int | None = None
        """The number of the first attention layer of the tower that reads, in the order they run;
        None where it is no stack."""
        self._n_reading = int(model.config.text_config.num_hidden_layers)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Return how like each picture is to each text, `logits` [batch, n_texts], as the model's
        own `logits_per_image`."""
        seen = self._seen(pixel_values)
        if self._reads_now():
            # Each picture has texts of its own: heads may be changed for some and not for others.
            logits = torch.einsum("bd,btd->bt", seen, self.read_texts(len(pixel_values)))
        else:
            logits = seen @ self.text_embeds.T
        logits = logits * self.inner.logit_scale.exp()
        bias = getattr(self.inner, "logit_bias", None)
        return SimpleNamespace(logits=logits if bias is None else logits + bias)

    def _seen(self, pixel_values: Tensor) -> Tensor:
        """Run the tower that sees; return the pictures' unit vectors, float [batch, d].

        A picture that is there several times, so that the texts' heads may be changed otherwise in
        each row, is seen once.
        """
        n_rows, n_seeing = len(pixel_values), self.first_reading
        once = n_rows > 1 and n_seeing is not None and self._reads_now()
        once = once and not concerns(active_request(), 0, n_seeing or 0)
        if once and torch.equal(pixel_values, pixel_values[:1].expand_as(pixel_values)):
            pixel_values = pixel_values[:1]
        seen = self.inner.get_image_features(pixel_values=pixel_values).pooler_output
        seen = seen / seen.norm(dim=-1, keepdim=True)
        every: Tensor = seen.expand(n_rows, -1)
        return every

    def read_texts(self, n_rows: int) -> Tensor:
        """Run the tower that reads; return the texts' unit vectors for each picture, float
        [n_rows, text, d]."""
        request = active_request()
        if isinstance(request, TapRequest) and self.first_reading is not None:
            request.n_calls = self.first_reading
        given = {name: getattr(self, f"texts_{name}").repeat(n_rows, 1) for name in self._given}
        read = self.inner.get_text_features(**given).pooler_output
        read = read / read.norm(dim=-1, keepdim=True)
        return read.reshape(n_rows, len(self.labels), -1)

    def find_reading(self, forward: Forward, n_seeing: int) -> tuple[list[AttentionSite], bool]:
        """Find the attention layers of the tower that reads, and let them be counted on from those
        of the tower that sees; to be called once.

        Args:
            forward: runs this model once.
            n_seeing: how many layers the tower that sees has.

        Returns:
            The layers, none where they are no stack, and whether they are causal.
        """
        try:
            with torch.inference_mode():
                [read] = self.read_texts(1)
            if read.shape != self.text_embeds.shape or not same_numbers(read, self.text_embeds):
                return [], False  # its part is more than its own features
            self.first_reading = n_seeing
            sites, causal = find_tower(self, forward, n_seeing, self._n_reading, len(self.labels))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            sites, causal = [], False
        if not sites:
            self.first_reading = None
        return sites, causal

    def _reads_now(self) -> bool:
        first = self.first_reading
        return first is not None and concerns(active_request(), first, self._n_reading)
