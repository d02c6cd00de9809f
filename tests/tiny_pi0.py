"""A tiny random policy that answers with numbers (PI0), as a checkpoint directory."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.pre_tokenizers import Split
from torch import Tensor, nn
from transformers import PI0Config, PI0ForConditionalGeneration, PreTrainedTokenizerFast

from models.language_model import LanguageModel
from models.registry import load_model
from models.types import TokenizedPrompt

CHUNK, N_NUMBERS, N_ACTIONS, N_STATE, N_STEPS = 4, 6, 3, 2, 3
IMAGE_ID = 64
"""Behind the vocabulary, as the policy itself has it."""
WORDS = ("<pad>", "<bos>", "<unk>", "\n", "pick", "up", "the", "red", "blue", "cup", "push", "it")
STATISTICS = {
    "state_mean": [0.5, -1.0],
    "state_std": [2.0, 0.5],
    "actions_mean": [0.1, 0.0, 0.5],
    "actions_std": [0.2, 0.3, 0.5],
}
ACTIONS = [
    {"name": "dx", "unit": "m"},
    {"name": "dy", "unit": "m"},
    {"name": "gripper", "words": {"0": "open", "1": "closed"}},
]


def config() -> PI0Config:
    gemma = {
        "model_type": "gemma",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 64,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "vision_use_head": False,
    }
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma,
            "vision_config": vision,
            "projection_dim": 32,
            "image_token_id": IMAGE_ID,
        },
        dit_config=gemma,
        chunk_size=CHUNK,
        max_state_dim=N_NUMBERS,
        max_action_dim=N_NUMBERS,
        num_inference_steps=N_STEPS,
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate([*WORDS, *(f"w{i}" for i in range(64 - len(WORDS)))])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [Split(Regex(" "), "removed"), Split(Regex("\n"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>", pad_token="<pad>"
    )


def make_policy(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    policy = PI0ForConditionalGeneration(config()).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return policy


def write_policy(directory: Path, seed: int = 0) -> Path:
    make_policy(seed).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    (directory / "processor_config.json").write_text(json.dumps(STATISTICS))
    (directory / "actions.json").write_text(json.dumps({"actions": ACTIONS}))
    return directory


@cache
def tiny_pi0_directory() -> Path:
    return write_policy(Path(mkdtemp(prefix="tiny-pi0-")))


@cache
def tiny_pi0() -> LanguageModel:
    return load_model(tiny_pi0_directory(), device="cpu")


def plain_policy() -> Any:
    """Return an untouched copy, eager."""
    return PI0ForConditionalGeneration.from_pretrained(
        tiny_pi0_directory(), attn_implementation="eager"
    ).eval()


def parts_of(policy: Any) -> dict[str, nn.Module]:
    """Return stack -> the part of a plain policy whose attention layers it has."""
    vlm = policy.model.vlm
    return {"vision": vlm.vision_tower, "": vlm.language_model, "expert": policy.model.dit}


def projections(part: nn.Module) -> list[nn.Module]:
    """Return the output projections of a part's attention layers."""
    return [m for name, m in part.named_modules() if name.endswith(("o_proj", "out_proj"))]


def scale_head(projection: nn.Module, head: int, scale: float) -> Any:
    """Scale a head by a plain hook; return what takes that back."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].clone()
        z[..., 8 * head : 8 * (head + 1)] *= scale
        return (z,)

    return projection.register_forward_pre_hook(hook)


def chunk_of(policy: Any, prompt: TokenizedPrompt) -> np.ndarray:
    """Return a plain policy's chunk, [step, number]."""
    given = {k: torch.from_numpy(np.asarray(v)) for k, v in (prompt.given or {}).items()}
    del given["steps"]
    with torch.inference_mode():
        chunk = policy.sample_actions(input_ids=torch.tensor([prompt.ids]), **given)
    return np.asarray(chunk[0].numpy())
