"""Models that say how alike a picture and a text are (CLIP, SigLIP), as classifiers: given some
texts, which of them is most like the picture (Radford et al. 2021, section 3.1).

The texts stand behind the model's name: `openai/clip-vit-base-patch32#a cat|a dog`. Their part is
done once, at load; heads are those of the tower that sees. Probabilities are of the texts among
each other, also for SigLIP, which was trained to judge each pair by itself.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import ErrorKind, UserError

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
    """A model that compares pictures and texts, as one that says which text a picture is like."""

    def __init__(self, model: Any, tokenizer: Any, texts: Sequence[str]) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config
        self.labels = dict(enumerate(texts))
        self.name_or_path = model.name_or_path
        self.register_buffer("text_embeds", _embedded(model, tokenizer, texts))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Return how like each picture is to each text, `logits` [batch, n_texts], as the model's
        own `logits_per_image`."""
        seen = self.inner.get_image_features(pixel_values=pixel_values).pooler_output
        seen = seen / seen.norm(dim=-1, keepdim=True)
        logits = seen @ self.text_embeds.T * self.inner.logit_scale.exp()
        bias = getattr(self.inner, "logit_bias", None)
        return SimpleNamespace(logits=logits if bias is None else logits + bias)


def _embedded(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Return the texts' unit vectors, float [text, d]."""
    text, vision = model.config.text_config, model.config.vision_config
    first = next(model.parameters())
    given = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=text.max_position_embeddings,
        return_tensors="pt",
    ).to(first.device)
    side = vision.image_size
    nothing = torch.zeros(1, 3, side, side, device=first.device, dtype=first.dtype)
    with torch.inference_mode():
        embeds = model(**given, pixel_values=nothing).text_embeds
    return embeds.clone()
