"""Text and pictures to a prompt: what a model's processor makes of both, and what stands where."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cachetools import LRUCache

from models import tokens
from models.errors import ErrorKind, UserError
from models.line_prompts import LineProcessor
from models.picture import MOST_PICTURES, Cell, Picture
from models.picture_geometry import Patch, image_cells
from models.types import TokenizedPrompt

IMAGE = "image"
"""The kind of a position that shows part of a picture."""

TEXT_INPUTS = ("input_ids", "attention_mask", "labels", "num_crops", "offset_mapping")
"""What the processor returns of the text, or for training; the rest goes to the model as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureReader:
    """Turns text with pictures into prompts for one model."""

    processor: Any
    reader: tokens.TokenReader
    image_id: int
    """The token that stands for a part of a picture."""
    patch: Patch | None
    """How patches are handed out one by one; None where pictures are handed out whole."""
    name: str
    """The model's, for messages."""
    around: tuple[str, str] = ("", "")
    """What stands before and behind a picture that is put in front of the text."""
    known: LRUCache[Hashable, list[Cell | None] | None] = field(
        default_factory=lambda: LRUCache(64)
    )
    """What `cells` has found."""

    def cells(self, pictures: Sequence[Picture], n_positions: int) -> list[Cell | None] | None:
        """Return `image_cells`, which depends on the pictures' sizes alone."""
        sizes = tuple((picture.width, picture.height) for picture in pictures)
        key = (sizes, n_positions)
        if key not in self.known:
            found = image_cells(self.images_alone, pictures, n_positions, self.patch)
            self.known[key] = found
        return self.known[key]

    @property
    def image_token(self) -> str:
        """What stands for a whole picture in the text."""
        token = getattr(self.processor, "image_token", None)
        return token if isinstance(token, str) else self.reader.text(self.image_id)

    def prompt(
        self,
        text: str,
        pictures: Sequence[Picture],
        max_positions: int,
        bos: bool | None = None,
    ) -> TokenizedPrompt:
        """Turn text and pictures into a prompt.

        Args:
            text: may say where pictures stand, by the model's image token; otherwise they stand
                in front.
            bos: whether a beginning-of-sequence token stands in front; None leaves it to the
                processor.

        Raises:
            UserError: there is no text, the text names another number of pictures, they are too
                many or not taken by the processor, or the prompt does not fit.
        """
        if not text.replace(self.image_token, "").strip():
            raise UserError(ErrorKind.PROMPT, "The prompt is empty; type some text.")
        tokens.refuse_unusable_text(text, "prompt", max_positions)
        if len(pictures) > MOST_PICTURES:
            raise UserError(
                ErrorKind.PICTURE,
                f"{len(pictures)} pictures were given; at most {MOST_PICTURES} are taken.",
            )
        n_named = text.count(self.image_token)
        if n_named not in (0, len(pictures)):
            raise UserError(
                ErrorKind.PICTURE,
                f"The prompt names {n_named} pictures ({self.image_token}), and "
                f"{len(pictures)} were given; make them as many, or leave the mark out.",
            )
        full = text if n_named else self._in_front(text, len(pictures))
        made = self._process(full, pictures)
        ids = [int(i) for i in np.asarray(made["input_ids"])[0]]
        opening = tokens.bos_id(self.reader.tokenizer)
        if bos is not None and not (bos and opening in ids):  # it may stand behind the pictures
            ids = tokens.with_bos(self.reader.tokenizer, ids, bos)
        tokens.refuse_too_many(len(ids), "prompt with its pictures", max_positions)
        arrays = {
            name: np.asarray(value) for name, value in made.items() if name not in TEXT_INPUTS
        }
        arrays = _fitting(arrays, len(ids), ids, self.image_id)
        return self._labelled(ids, text, pictures, arrays)

    def _in_front(self, text: str, n_pictures: int) -> str:
        before, behind = self.around
        mark = f"{before}{self.image_token}{behind}"
        return " ".join([*[mark] * n_pictures, text])

    def _process(self, text: str, pictures: Sequence[Picture]) -> Mapping[str, Any]:
        try:
            made: Mapping[str, Any] = self.processor(
                text=[text],
                images=[picture.pixels for picture in pictures],
                return_tensors="np",
            )
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            raise UserError(
                ErrorKind.PICTURE,
                f"{self.name} does not take these pictures "
                f"({str(error).split(chr(10))[0][:160]}); try one picture of ordinary size.",
            ) from error
        return made

    def _labelled(
        self,
        ids: list[int],
        text: str,
        pictures: Sequence[Picture],
        arrays: Mapping[str, np.ndarray],
    ) -> TokenizedPrompt:
        at = [i for i, token in enumerate(ids) if token == self.image_id]
        found = self.cells(pictures, len(at))
        cells: list[Cell | None] = [None] * len(ids)
        plain = tokens.prompt_of_ids(self.reader, ids, text)
        labels, kinds = list(plain.labels), list(plain.kinds)
        for k, position in enumerate(at):
            kinds[position] = IMAGE
            cell = None if found is None else found[k]
            cells[position] = cell
            labels[position] = f"▦{k}" if cell is None else cell_label(cell, len(pictures))
        return replace(
            plain,
            labels=tuple(labels),
            texts=tuple(
                "" if kind == IMAGE else shown
                for kind, shown in zip(kinds, plain.texts, strict=True)
            ),
            kinds=tuple(kinds),
            pictures=tuple(pictures),
            cells=None if found is None else tuple(cells),
            given=dict(arrays),
        )

    def images_alone(self, images: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return what the processor makes of pictures, uint8 [y, x, 3], without any text."""
        made = self.processor.image_processor(images=list(images), return_tensors="np")
        return {name: np.asarray(value) for name, value in made.items()}


def _fitting(
    arrays: Mapping[str, np.ndarray], n: int, ids: Sequence[int], image_id: int
) -> dict[str, np.ndarray]:
    """Return the processor's arrays, those with an entry a position fitted to the ids: an opening
    token may have been put in front, or taken away."""
    fitted = dict(arrays)
    if "mm_token_type_ids" in fitted:
        fitted["mm_token_type_ids"] = np.array([[int(i == image_id) for i in ids]])
    if "token_type_ids" in fitted and fitted["token_type_ids"].shape[-1] != n:
        of_ids = fitted["token_type_ids"][0]
        extra = n - len(of_ids)
        fitted["token_type_ids"] = np.array([[0] * extra + list(of_ids[max(0, -extra) :])])
    return fitted


def cell_label(cell: Cell, n_pictures: int = 1) -> str:
    """Return what a part of a picture is called: row and column, picture and tile where needed."""
    tile = f"/{cell.tile}" if cell.tile else ""
    picture = f"{cell.picture + 1}:" if n_pictures > 1 else ""
    return f"▦{picture}{cell.row},{cell.column}{tile}"


def _patch(model: Any, processor: Any) -> Patch | None:
    """Return how a processor hands out patches one by one, if it does."""
    vision = getattr(model.config, "vision_config", None)
    merge = getattr(vision, "spatial_merge_size", None)
    images = processor.image_processor
    frames = getattr(images, "temporal_patch_size", None)
    return Patch(images.patch_size, frames, merge) if merge and frames else None


def picture_reader(
    model: Any, processor: Any, reader: tokens.TokenReader, name: str
) -> PictureReader:
    """Return what makes prompts of pictures for a model.

    Raises:
        UserError: the model does not say which token stands for a part of a picture.
    """
    stated = (
        getattr(model.config, "image_token_id", None),
        getattr(model.config, "image_token_index", None),
    )
    image_id = next((i for i in stated if isinstance(i, int)), None)
    if image_id is None:
        raise UserError(
            ErrorKind.MODEL,
            f"{name} does not say which token stands for a picture, so it is not supported.",
        )
    patch = processor.patch if isinstance(processor, LineProcessor) else _patch(model, processor)
    ends = (f"vision_{end}_token_id" for end in ("start", "end"))
    stated_ends = [getattr(model.config, end, None) for end in ends]
    around = tuple("" if i is None else reader.text(i) for i in stated_ends)
    return PictureReader(
        processor,
        reader,
        image_id,
        patch,
        name,
        (around[0], around[1]),
    )
