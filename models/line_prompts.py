"""What prepares text and pictures for models that read a picture line by line: Pixtral, Mistral 3.

transformers' own processor of such a model cannot be made without torchvision, so its one step that
images and tokenizer do not take by themselves is taken here: where a picture stands in the text,
each of its lines is a position for every square of patches and then one that ends the line, of the
last line one that ends the picture. Pictures of one prompt may have different sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.checkpoints import processor_settings
from models.errors import ErrorKind, UserError
from models.picture_geometry import Patch

PROCESSOR = "PixtralProcessor"
"""What transformers calls the processor of such models."""

MARKS = {
    "image_token": "[IMG]",
    "image_break_token": "[IMG_BREAK]",
    "image_end_token": "[IMG_END]",
}
"""What a processor's file calls the tokens, and what they are where it does not say."""


def reads_lines(directory: Path, name: str, config: Any) -> bool:
    """Whether a model reads pictures line by line, by what its files say or transformers knows.

    Raises:
        UserError: a file is damaged.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    stated = processor_settings(directory, name).get("processor_class")
    usual = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    return PROCESSOR in (stated, None if stated else usual)


@dataclass(frozen=True, slots=True, eq=False)
class LineProcessor:
    """Prepares text and pictures for such a model."""

    image_processor: Any
    """Resizes pictures to whole squares of patches, and pads them to one size."""
    tokenizer: Any
    patch: Patch
    image_token: str
    """Stands for a picture in the text, and in a prompt for a square of patches."""
    break_token: str
    end_token: str

    def __call__(
        self, text: Sequence[str], images: Sequence[np.ndarray], return_tensors: str
    ) -> dict[str, np.ndarray]:
        """Return one prompt's ids and pictures.

        Args:
            text: one, with a mark for each picture.
            images: uint8 [y, x, 3] each.
        """
        [marked] = text
        given = self.image_processor(images=list(images), return_tensors=return_tensors)
        before, *behind = marked.split(self.image_token)
        lines = [self._lines(*size) for size in np.asarray(given["image_sizes"]).tolist()]
        parts = (shown + rest for shown, rest in zip(lines, behind, strict=True))
        ids = self.tokenizer("".join([before, *parts]), return_tensors=return_tensors)
        return {"input_ids": ids["input_ids"], **given}

    def _lines(self, height: int, width: int) -> str:
        """Return what stands for a picture of so many pixels."""
        side = self.patch.side * self.patch.merge
        line = self.image_token * (width // side)
        return self.break_token.join([line] * (height // side)) + self.end_token


def read_line_processor(directory: Path, name: str, config: Any, tokenizer: Any) -> LineProcessor:
    """Read what prepares prompts for such a model from its files.

    Args:
        config: the model's.

    Raises:
        UserError: a file is damaged, or the tokenizer lacks a token that it names.
    """
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    settings = processor_settings(directory, name)
    marks = [str(settings.get(key, usual)) for key, usual in MARKS.items()]
    known = tokenizer.get_vocab()
    missing = next((mark for mark in marks if mark not in known), None)
    if missing is not None:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: its tokenizer has no token {missing}, with which pictures are written.",
        )
    patch = Patch(config.vision_config.patch_size, 1, getattr(config, "spatial_merge_size", 1))
    side = patch.side * patch.merge
    images = PixtralImageProcessorPil.from_pretrained(directory, local_files_only=True)
    images.patch_size = {"height": side, "width": side}
    return LineProcessor(images, tokenizer, patch, *marks)
