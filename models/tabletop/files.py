"""The policy as files that transformers opens: configuration, weights, tokenizer, processor."""

import json
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor, SiglipImageProcessorPil

from models.actions import ACTIONS_FILE
from models.tabletop.policy import PATCH
from models.tabletop.table import SIZE
from models.tabletop.words import IMAGE, description, make_tokenizer


def save_policy(policy: LlavaForConditionalGeneration, directory: Path) -> None:
    """Write a policy and all that belongs to it, the weights in half precision."""
    directory.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.to(torch.float16) for name, tensor in policy.state_dict().items()}
    policy.save_pretrained(directory, state_dict=halves)
    processor = LlavaProcessor(
        SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}),
        make_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
    )
    processor.save_pretrained(directory)
    (directory / ACTIONS_FILE).write_text(json.dumps(description(), indent=1) + "\n")
