"""Image classifiers: the prompt is a picture alone, its parts are the positions, and what is
predicted is a class.

So that everything else works on them as on language models, a classifier is made to look like one:
its ids are the numbers of its positions, its vocabulary are the names of its classes, and the
class is read at the first position (the class token, where there is one), where it is the same as
at any other.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutput

from models.attention_tap import Call, TapRequest, active
from models.discovery import Forward, find_dispatching_sites
from models.errors import ErrorKind, UserError
from models.model_facts import architecture_of
from models.picture import Picture
from models.picture_prompts import PictureReader
from models.picture_texts import PictureAmongTexts
from models.tokens import TokenReader
from models.types import CLASSIFIER, TokenizedPrompt
from models.vision import FoundLayers, picture_positions, probe_picture

NO_CLASS = "[no such class]"


class PictureClassifier(nn.Module):
    """A classifier as a model that predicts, at each position, a token: the name of a class."""

    kind = CLASSIFIER

    def __init__(self, model: Any, n_positions: int) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config
        parameter = next(model.parameters())
        config = getattr(model.config, "vision_config", model.config)
        # What ids are looked up in: here they are but numbers.
        rows = torch.zeros(
            n_positions, config.hidden_size, device=parameter.device, dtype=parameter.dtype
        )
        self.places = nn.Embedding.from_pretrained(rows)

    @property
    def name_or_path(self) -> str:
        return str(self.inner.name_or_path)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # others are refused before

    def get_input_embeddings(self) -> nn.Embedding:
        return self.places

    def get_output_embeddings(self) -> None:
        """There is no unembedding: classes are read from the whole picture."""

    def forward(self, input_ids: Tensor, pixel_values: Tensor, **_options: Any) -> CausalLMOutput:
        """Return the class logits of each picture, [batch, position, n_classes], the same at every
        position."""
        logits: Tensor = self.inner(pixel_values=pixel_values).logits
        return CausalLMOutput(logits=logits[:, None].expand(-1, input_ids.shape[1], -1))


@dataclass(frozen=True, slots=True)
class ClassProcessor:
    """What prepares pictures for a classifier, and the names of its classes as a tokenizer."""

    image_processor: Any
    tokenizer: Any


def class_processor(labels: Mapping[int, str], image_processor: Any) -> ClassProcessor:
    """Return what prepares pictures for a classifier and names its classes."""
    ids = {name: i for i, name in enumerate([*class_names(labels), NO_CLASS])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(ids, unk_token=NO_CLASS)), unk_token=NO_CLASS
    )
    return ClassProcessor(image_processor, tokenizer)


def class_names(labels: Mapping[int, str]) -> list[str]:
    """Return the classes' names in the order of their numbers; alike ones get their number."""
    names = [str(labels[i]) for i in sorted(labels)]
    counts = Counter(names)
    return [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names)]


def class_named(target: str, names: Sequence[str]) -> int:
    """Return which class a name stands for: the whole of it, or one of several between commas.

    Raises:
        UserError: there is no such class, or several.
    """
    wanted = target.strip().lower()
    for found in (
        [i for i, name in enumerate(names) if name.lower() == wanted],
        [i for i, name in enumerate(names) if wanted in name.lower().split(", ")],
    ):
        if len(found) == 1:
            return found[0]
    alike = [name for name in names if wanted and wanted in name.lower()]
    listed = "; ".join((alike or names)[:10])
    more = "; …" if len(alike or names) > 10 else ""
    raise UserError(
        ErrorKind.TARGET,
        f"There is no one class {target[:60]!r}; {'like it are' if alike else 'classes are'}: "
        f"{listed}{more}.",
    )


def as_language_model(model: Any, processor: ClassProcessor, name: str) -> PictureClassifier:
    """Return a classifier as everything else takes it.

    Raises:
        UserError: its attention cannot be read, or its layers do not all see the same positions.
    """
    pixels = _pixels(processor.image_processor, [probe_picture()], name)
    first = next(model.parameters())
    seen: list[int] = []

    def watch(_layer: int, call: Call) -> None:
        seen.append(call.z.shape[1] if call.z.shape[0] == 1 else 0)  # windows are a batch

    try:
        with torch.inference_mode(), active(TapRequest(on_call=watch)):
            model(pixel_values=torch.from_numpy(pixels).to(first.device, first.dtype))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            ErrorKind.MODEL,
            f"{name} ({architecture_of(model)}) is not supported: it needs more than the pixels of "
            f"one picture ({str(error).split(chr(10))[0][:160]}).",
        ) from error
    if len(set(seen)) != 1 or not seen[0]:
        raise UserError(
            ErrorKind.MODEL,
            f"{name} ({architecture_of(model)}) is not supported: its layers do not all see the "
            "same positions of one picture (windows, or several resolutions).",
        )
    return PictureClassifier(model, seen[0])


def _patch_side(config: Any, name: str) -> int:
    """Return how many pixels each side of a part has; raise `UserError` if nothing says so."""
    side = getattr(getattr(config, "vision_config", config), "patch_size", None)
    side = side[0] if isinstance(side, list | tuple) and len(set(side)) == 1 else side
    if not isinstance(side, int) or side < 1:
        raise UserError(
            ErrorKind.MODEL,
            f"{name} does not say into which parts it cuts a picture (patch_size), so it is not "
            "supported.",
        )
    return side


def _pixels(image_processor: Any, pictures: Sequence[Picture], name: str) -> Any:
    try:
        made = image_processor(images=[one.pixels for one in pictures], return_tensors="np")
        return made["pixel_values"]
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        raise UserError(
            ErrorKind.PICTURE,
            f"{name} does not take this picture ({str(error).split(chr(10))[0][:160]}); try one of "
            "ordinary size.",
        ) from error


@dataclass(frozen=True, slots=True)
class PictureAlone:
    """What a classifier sees with: the counterpart of `models.vision.Sight`."""

    reader: PictureReader
    n_classified: int
    """Positions."""
    patch_side: int
    """Pixels along each side of a part."""
    distilled: bool
    """Whether a token that learned from a teacher stands behind the class token (DeiT)."""
    n_layers: int = 0
    """Of a vision tower before the language model: there is none."""
    n_behind: int = 0
    """Of the tower that reads the texts which pictures are compared with; it runs behind."""
    compared: TokenizedPrompt | None = None
    """The positions of that tower, where there is one."""
    reads_ahead: bool = False
    """Whether a position of a text sees later ones."""

    @staticmethod
    def of(model: PictureClassifier, processor: ClassProcessor, name: str) -> "PictureAlone":
        reader = TokenReader.of(processor.tokenizer)
        distilled = any(name.endswith("distillation_token") for name, _ in model.named_parameters())
        return PictureAlone(
            PictureReader(processor, reader, -1, None, name),
            model.places.num_embeddings,
            _patch_side(model.config, name),
            distilled,
        )

    def prompt(
        self,
        text: str,
        pictures: Sequence[Picture],
        max_positions: int,
        bos: bool | None = None,
    ) -> TokenizedPrompt:
        """Turn a picture into a prompt. The text is not read.

        Raises:
            UserError: there is not exactly one picture, or it is not taken.
        """
        if len(pictures) != 1:
            raise UserError(
                ErrorKind.PICTURE,
                f"{self.reader.name} says of one picture what it shows, and {len(pictures)} were "
                "given; give one.",
            )
        pixels = _pixels(self.reader.processor.image_processor, pictures, self.reader.name)
        given = {"pixel_values": pixels}
        n_parts = self.n_parts(pixels)
        prompt = picture_positions(self.reader, pictures, self.n_classified, given, n_parts)
        prompt = replace(prompt, compared=self.compared)
        if not self.distilled:
            return prompt
        return replace(prompt, labels=("class", "distillation", *prompt.labels[2:]))

    def probe(self, text: str, max_positions: int) -> TokenizedPrompt:
        """Return the prompt that a model proves itself on."""
        return self.prompt(text, [probe_picture()], max_positions)

    def finding(self, model: Any, forward: Forward, _prompt: TokenizedPrompt) -> FoundLayers:
        """Find a classifier's attention layers: behind them, of a model that compares pictures with
        texts, those of the tower that reads.

        Raises:
            UserError: some cannot be read, or there are fewer than it says.
        """
        sites = find_dispatching_sites(model, forward, one_stack=False)
        config = getattr(model.config, "vision_config", model.config)
        n_layers = getattr(config, "num_hidden_layers", len(sites))
        if len(sites) != n_layers:
            raise UserError(
                ErrorKind.MODEL,
                f"{architecture_of(model)} is not supported: softmax attention can be read in "
                f"{len(sites)} of its {n_layers} layers.",
            )
        compares = model.inner
        if not isinstance(compares, PictureAmongTexts):
            return FoundLayers(self, sites)
        reading, causal = compares.find_reading(forward, len(sites))
        if not reading:
            return FoundLayers(self, sites)
        own = replace(
            self, n_behind=len(reading), compared=compares.compared, reads_ahead=not causal
        )
        return FoundLayers(own, [*sites, *reading])

    def n_parts(self, pixels: Any) -> int:
        """Return how many positions show a part of a picture [1, channel, y, x]."""
        height, width = pixels.shape[-2:]
        return int((height // self.patch_side) * (width // self.patch_side))

    @property
    def image_token(self) -> str:
        """There is no text for a picture to stand in."""
        return ""

    def looks_ahead(self, _run: Any) -> bool:
        """Parts of a picture see each other."""
        return True
