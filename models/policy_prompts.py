"""Pictures, instruction and state to the prompt of a policy that answers with numbers (PI0).

transformers' own processor of such a policy cannot be made without torchvision, so its steps, which
are few, are taken here, by what its files say: pictures are fitted into a square and normalised,
states are told as standard deviations from the mean of what the policy was trained on, and actions
come back so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    PILImageResampling,
)

from models import tokens
from models.checkpoints import processor_settings
from models.discovery import Forward, dispatching_calls
from models.errors import ErrorKind, UserError
from models.flow_policy import FlowPolicy
from models.picture import MOST_PICTURES, Cell, Picture
from models.picture_prompts import IMAGE, PictureReader, cell_label
from models.tokens import TokenReader
from models.types import FloatArray, PolicyInputs, RobotInput, TokenizedPrompt
from models.vision import FoundLayers, count_layers, picture_positions, probe_picture, split_layers

TINY = 1e-8
"""Added to a standard deviation before it divides, as the policy's own processor does."""
IMAGE_SETTINGS = ("size", "pad_size", "do_pad", "image_mean", "image_std", "resample")
STATISTICS = ("state_mean", "state_std", "actions_mean", "actions_std")


class PolicyImages(PilBackend):
    """Fits pictures into a square, at its upper left, and normalises them, as PI0's processor
    does."""

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    size = {"max_height": 224, "max_width": 224}  # noqa: RUF012 - as transformers reads them
    default_to_square = False
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_pad = True
    pad_size = {"height": 224, "width": 224}  # noqa: RUF012


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What one number of the robot was like in what the policy was trained on, for each number."""

    mean: FloatArray
    """float64 [n]"""
    std: FloatArray

    def normalised(self, values: FloatArray) -> FloatArray:
        return (values - self.mean) / (self.std + TINY)

    def in_units(self, values: FloatArray) -> FloatArray:
        """Undo `normalised`, of the first numbers or all."""
        n = values.shape[-1]
        own: FloatArray = values * (self.std[:n] + TINY) + self.mean[:n]
        return own


@dataclass(frozen=True, slots=True, eq=False)
class PolicyProcessor:
    """What prepares prompts for a policy: its images, tokenizer and statistics."""

    image_processor: Any
    tokenizer: Any
    state: Statistics | None
    actions: Statistics | None
    n_parts: int
    """Positions that a picture has."""


def read_policy_processor(
    directory: Path, name: str, tokenizer: Any, vision: Any
) -> PolicyProcessor:
    """Read what prepares prompts for a policy from its files.

    Args:
        vision: the configuration of its tower.

    Raises:
        UserError: a file is damaged, or its statistics do not make sense.
    """
    settings = processor_settings(directory, name)
    images = settings.get("image_processor", settings)
    if not isinstance(images, dict):
        images = {}
    side, n_parts = int(vision.image_size), (vision.image_size // vision.patch_size) ** 2
    square = {"height": side, "width": side}
    given = {"size": {"max_height": side, "max_width": side}, "pad_size": square}
    given |= {key: images[key] for key in IMAGE_SETTINGS if images.get(key) is not None}
    try:
        statistics = [
            None if settings.get(key) is None else np.array(settings[key], dtype=float)
            for key in STATISTICS
        ]
        state, actions = _paired(statistics[:2]), _paired(statistics[2:])
        return PolicyProcessor(PolicyImages(**given), tokenizer, state, actions, n_parts)
    except (TypeError, ValueError) as error:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: processor_config.json does not have the form of a policy's ({error}).",
        ) from error


def _paired(pair: Sequence[FloatArray | None]) -> Statistics | None:
    mean, std = pair
    if mean is None or std is None:
        return None
    if mean.ndim != 1 or mean.shape != std.shape or not np.isfinite([mean, std]).all():
        raise ValueError("its means and standard deviations are no lists of as many numbers")
    return Statistics(mean, std)


@dataclass(frozen=True, slots=True, eq=False)
class PolicySight:
    """What such a policy sees with: the counterpart of `models.vision.Sight`."""

    reader: PictureReader
    processor: PolicyProcessor
    n_state: int
    """Numbers that the policy takes as its state, those that are not told being 0."""
    chunk_size: int
    n_numbers: int
    n_steps: int
    n_layers: int = 0
    """Of the tower."""
    n_behind: int = 0
    """Of the action expert, whose layers run last."""
    n_positions: int = 0
    """Of the tower on one picture."""

    @staticmethod
    def of(
        model: FlowPolicy, processor: PolicyProcessor, reader: TokenReader, name: str
    ) -> "PolicySight":
        image_id = int(model.config.image_token_id)
        config = model.inner.config
        for what, statistics, most in (
            ("state", processor.state, config.max_state_dim),
            ("actions", processor.actions, config.max_action_dim),
        ):
            if statistics is not None and not 0 < len(statistics.mean) <= most:
                raise UserError(
                    ErrorKind.MODEL,
                    f"{name}: processor_config.json tells {what} of {len(statistics.mean)} "
                    f"numbers, and the policy has {most}; the two do not belong together.",
                )
        return PolicySight(
            PictureReader(processor, reader, image_id, None, name),
            processor,
            int(model.inner.config.max_state_dim),
            model.chunk_size,
            model.n_numbers,
            model.n_steps,
        )

    @property
    def takes(self) -> PolicyInputs:
        return PolicyInputs(None, self.n_state)

    @property
    def image_token(self) -> str:
        """Pictures stand in front of the instruction; nothing in the text marks them."""
        return ""

    def prompt(
        self,
        text: str,
        pictures: Sequence[Picture],
        max_positions: int,
        bos: bool | None = None,
        robot: RobotInput | None = None,
    ) -> TokenizedPrompt:
        """Turn an instruction, pictures (one a camera) and a state into a prompt.

        Raises:
            UserError: there is no instruction or no picture, or the state does not fit.
        """
        robot = robot or RobotInput()
        if not text.strip():
            raise UserError(ErrorKind.PROMPT, "The instruction is empty; type some text.")
        tokens.refuse_unusable_text(text, "instruction", max_positions)
        if not 0 < len(pictures) <= MOST_PICTURES:
            raise UserError(
                ErrorKind.PICTURE,
                f"{self.reader.name} sees by 1 to {MOST_PICTURES} cameras, and {len(pictures)} "
                "pictures were given; give one for each camera.",
            )
        if robot.step is not None and not 0 <= robot.step < self.n_steps:
            raise UserError(
                ErrorKind.OPTION,
                f"There is no step {robot.step} of denoising; they are 0 to {self.n_steps - 1}.",
            )
        pixels = self._pixels(pictures)
        n_shown = self.processor.n_parts * len(pictures)
        ids = [self.reader.image_id] * n_shown
        opening = tokens.bos_id(self.reader.reader.tokenizer)
        ids += [] if opening is None or bos is False else [opening]
        said = self.reader.reader.tokenizer(f"{text}\n", add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        if self.reader.image_id in said:
            raise UserError(
                ErrorKind.PROMPT,
                "The instruction holds the mark of a picture; leave it out, pictures stand in "
                "front by themselves.",
            )
        ids += said
        tokens.refuse_too_many(len(ids), "instruction with its pictures", max_positions)
        last = self.n_steps - 1 if robot.step is None else robot.step
        given = {
            "pixel_values": pixels[None],
            "pixel_attention_mask": np.ones((1, len(pictures)), dtype=bool),
            "attention_mask": np.ones((1, len(ids)), dtype=np.int64),
            "state": self._state(robot)[None],
            "noise": self._noise(robot)[None],
            "steps": np.array([[self.n_steps, last]]),
        }
        prompt = self._labelled(ids, n_shown, text, pictures, given, robot)
        if not self.n_layers:
            return prompt
        n_rows = len(pictures)
        seen = picture_positions(self.reader, pictures, self.n_positions, n_rows=n_rows)
        return replace(prompt, seen=seen)

    def with_draw(self, prompt: TokenizedPrompt, draw: int) -> TokenizedPrompt:
        """Return a prompt with another noise."""
        robot = replace(prompt.robot or RobotInput(), draw=draw)
        given = {**(prompt.given or {}), "noise": self._noise(robot)[None]}
        return replace(prompt, given=given, robot=robot, acting=self._acting(robot))

    def probe(self, text: str, max_positions: int) -> TokenizedPrompt:
        """Return the prompt that a model proves itself on; a single step of denoising."""
        prompt = self.prompt(text, [probe_picture()], max_positions)
        given = {**(prompt.given or {}), "steps": np.array([[1, 0]])}
        return replace(prompt, given=given)

    def finding(self, model: FlowPolicy, forward: Forward, prompt: TokenizedPrompt) -> FoundLayers:
        """Find a policy's attention layers, and let them be counted through all three parts.

        Raises:
            UserError: layers are missing, or cannot be read.
        """
        sites = dispatching_calls(model, forward)
        inside = set(model.expert.modules())
        acting = [site for site in sites if site is not None and site.module in inside]
        before = [site for site in sites if site is None or site.module not in inside]
        n_layers = model.inner.config.dit_config.num_hidden_layers
        if len(acting) != n_layers:
            raise UserError(
                ErrorKind.MODEL,
                f"{self.reader.name} is not supported: softmax attention can be read in "
                f"{len(acting)} of the {n_layers} layers of its action expert.",
            )
        seeing, reading = split_layers(model, before, prompt)
        count_layers(model, len(seeing))
        model.first_of_expert = len(seeing) + len(reading)
        sight = replace(
            self,
            n_layers=len(seeing),
            n_behind=len(acting),
            n_positions=seeing[0].extent[0] if seeing else 0,
        )
        return FoundLayers(sight, [*seeing, *reading, *acting])

    def looks_ahead(self, _run: Any) -> bool:
        """Pictures and instruction see each other."""
        return True

    def _pixels(self, pictures: Sequence[Picture]) -> FloatArray:
        """Return what the tower is given, float32 [picture, channel, y, x]."""
        try:
            made = self.reader.images_alone([picture.pixels for picture in pictures])
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            raise UserError(
                ErrorKind.PICTURE,
                f"{self.reader.name} does not take these pictures "
                f"({str(error).split(chr(10))[0][:160]}); try ones of ordinary size.",
            ) from error
        return made["pixel_values"]

    def _state(self, robot: RobotInput) -> FloatArray:
        """Return the state as the policy takes it, float32 [n_state]."""
        told, statistics = np.array(robot.state, dtype=float), self.processor.state
        most = self.n_state if statistics is None else len(statistics.mean)
        if len(told) > most or not np.isfinite(told).all():
            raise UserError(
                ErrorKind.STATE,
                f"{self.reader.name} is told a state of at most {most} finite numbers, and "
                f"{len(told)} were given.",
            )
        whole = np.zeros(self.n_state, dtype=np.float32)
        if statistics is None:
            whole[: len(told)] = told
        elif len(told):
            if len(told) != most:
                raise UserError(
                    ErrorKind.STATE,
                    f"{self.reader.name} is told a state of {most} numbers, and {len(told)} were "
                    "given; give all, or none for their means.",
                )
            whole[:most] = statistics.normalised(told)
        return whole

    def _noise(self, robot: RobotInput) -> FloatArray:
        """Return the noise that actions are found from, float32 [chunk_size, n_numbers]."""
        generator = torch.Generator().manual_seed(robot.draw)
        noise: FloatArray = torch.randn(
            self.chunk_size, self.n_numbers, generator=generator
        ).numpy()
        return noise

    def _labelled(
        self,
        ids: list[int],
        n_shown: int,
        text: str,
        pictures: Sequence[Picture],
        given: Mapping[str, FloatArray],
        robot: RobotInput,
    ) -> TokenizedPrompt:
        found = self.reader.cells(pictures, n_shown)
        cells: list[Cell | None] = [*([None] * n_shown if found is None else found)]
        labels = [
            f"▦{k}" if cell is None else cell_label(cell, len(pictures))
            for k, cell in enumerate(cells)
        ]
        said = tokens.prompt_of_ids(self.reader.reader, ids[n_shown:], text)
        return TokenizedPrompt(
            text=text,
            ids=tuple(ids),
            labels=(*labels, *said.labels),
            texts=(*[""] * n_shown, *said.texts),
            kinds=(*[IMAGE] * n_shown, *said.kinds),
            pictures=tuple(pictures),
            cells=None if found is None else (*cells, *[None] * len(said)),
            given=given,
            acting=self._acting(robot),
            robot=robot,
        )

    def _acting(self, robot: RobotInput) -> TokenizedPrompt:
        """Return the expert's own positions: the state, and the actions of the chunk."""
        n = 1 + self.chunk_size
        return TokenizedPrompt(
            text=robot.said(),
            robot=robot,
            ids=tuple(range(n)),
            labels=("state", *(f"action {i}" for i in range(self.chunk_size))),
            texts=("",) * n,
            kinds=("state", *["action"] * self.chunk_size),
        )
