"""Models that see and act on a GPU, in absolute time and memory, with random weights in bfloat16.

    .venv/bin/python -m benchmarks.gpu_seeing [--rounds 3] [--questions paligemma pi0]

- paligemma: PaliGemma 3B's shape (SigLIP so400m tower of 27 x 16 heads, Gemma 2B of 18 x 8) on a
  picture of 224 x 224 pixels and a question: the attention of one head on the picture, and the
  sweep of all heads of the language model.
- pi0: PI0's shape (the same, and an action expert of 18 x 8 heads, width 1024, ten steps of
  denoising, chunks of 50 actions) with two cameras: the action, and the sweep of the expert's
  heads in action units.

Without the device it says so and exits with 2. To try the script itself where there is no GPU:
`--device cpu --tiny`.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: nothing is fetched

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PI0Config,
    PI0ForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from ablation import sweep_heads
from ablation.chunk_actions import sweep_chunk
from benchmarks.machine import seconds
from benchmarks.report import GIGA, table
from models import LanguageModel
from models.attention_tap import ATTENTION_NAME
from models.picture import Picture
from models.policy_adapter import Observation, Policy
from models.policy_files import wrapped
from models.types import Head

QUESTIONS = ("paligemma", "pi0")
IMAGE = "<image>"
WORDS = ("<pad>", "<bos>", "<unk>", IMAGE, "\n", "what", "is", "in", "this", "picture")
N_CAMERAS, INSTRUCTION = 2, 16

VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "vision_use_head": False,
}
LANGUAGE = {
    "model_type": "gemma",
    "vocab_size": 257_216,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
}
EXPERT = {**LANGUAGE, "hidden_size": 1024, "intermediate_size": 4096}
_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
TINY_VISION = {**VISION, **_SMALL, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
TINY_LANGUAGE = {**LANGUAGE, **_SMALL, "vocab_size": 2048, "num_attention_heads": 4, "head_dim": 8}


def paligemma(device: str, tiny: bool) -> tuple[LanguageModel, int]:
    """Make the vision-language model; return it and the side of what it sees, pixels."""
    vision, language = (TINY_VISION, TINY_LANGUAGE) if tiny else (VISION, LANGUAGE)
    ids = {word: i for i, word in enumerate(WORDS)}
    backend = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": IMAGE},
    )
    side = int(vision["image_size"])
    images = SiglipImageProcessorPil(size={"height": side, "width": side})
    images.image_seq_length = (side // int(vision["patch_size"])) ** 2
    config = PaliGemmaConfig(
        vision_config={**vision, "projection_dim": language["hidden_size"]},
        text_config={**language, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None},
        projection_dim=language["hidden_size"],
        hidden_size=language["hidden_size"],
        image_token_index=ids[IMAGE],
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            config, attn_implementation=ATTENTION_NAME, dtype=torch.bfloat16
        )
    processor = PaliGemmaProcessor(images, tokenizer)
    return LanguageModel(model, processor, "PaliGemma 3B's shape"), side


def paligemma_table(device: str, rounds: int, tiny: bool) -> Table:
    model, side = paligemma(device, tiny)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    prompt = model.tokenize("what is in this picture", pictures=[Picture(pixels, "noise")])
    head = Head(model.n_layers // 2, 0)
    made = table(f"{model.name}, bfloat16, {len(prompt)} positions", ("", "seconds", "GB at most"))
    overlay = measured(lambda: model.attention(prompt, [head], queries=[-1]), device, rounds)
    made.add_row(f"attention of {head} on the picture", *overlay)
    n_heads = model.n_layers * model.n_heads
    swept = measured(lambda: sweep_heads(model, prompt), device, rounds)
    made.add_row(f"sweep of {n_heads} heads of the language model", *swept)
    made.add_row("branches behind the vision part", "yes" if model.branches else "no", "")
    return made


def pi0(device: str, tiny: bool) -> LanguageModel:
    """Make the flow-matching policy, wrapped."""
    vision, language = (TINY_VISION, TINY_LANGUAGE) if tiny else (VISION, LANGUAGE)
    expert = TINY_LANGUAGE if tiny else EXPERT
    image_id, chunk, width = int(language["vocab_size"]) - 1, 4 if tiny else 50, 32
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": language,
            "vision_config": vision,
            "projection_dim": language["hidden_size"],
            "image_token_id": image_id,
        },
        dit_config=expert,
        chunk_size=chunk,
        max_state_dim=width,
        max_action_dim=width,
        num_inference_steps=3 if tiny else 10,
    )
    torch.manual_seed(0)
    with torch.device(device):
        policy = PI0ForConditionalGeneration(config).to(torch.bfloat16).eval()
    side = int(vision["image_size"])
    n_patches = (side // int(vision["patch_size"])) ** 2
    told = torch.arange(2, 2 + INSTRUCTION)
    ids = torch.cat([torch.full((n_patches * N_CAMERAS,), image_id), told])[None].to(device)
    given = {
        "state": torch.zeros(1, width, device=device, dtype=torch.bfloat16),
        "input_ids": ids,
        "pixel_values": torch.rand(1, N_CAMERAS, 3, side, side).to(device, torch.bfloat16),
        "attention_mask": torch.ones_like(ids),
        "pixel_attention_mask": torch.ones(1, N_CAMERAS, dtype=torch.bool, device=device),
    }

    def act(rows: int, draw: int, _seen: Observation) -> Tensor:
        generator = torch.Generator().manual_seed(draw)
        noise = torch.randn(1, chunk, width, generator=generator).to(device, torch.bfloat16)
        expanded = {name: value.expand(rows, *value.shape[1:]) for name, value in given.items()}
        return policy.sample_actions(noise=noise.expand(rows, -1, -1), **expanded)

    vlm: Any = policy.model.vlm
    stacks = {
        "language": vlm.language_model,
        "vision": vlm.vision_tower,
        "expert": policy.model.dit,
    }
    adapter = Policy(policy, act, stacks, cameras=0, instructed=False)
    return LanguageModel(*wrapped(adapter, "PI0's shape"), name="PI0's shape")


def pi0_table(device: str, rounds: int, tiny: bool) -> Table:
    policy = pi0(device, tiny)
    heads, prompt = policy.all_heads("expert"), policy.tokenize("")
    made = table(f"{policy.name}, bfloat16, {N_CAMERAS} cameras", ("", "seconds", "GB at most"))
    made.add_row("one action", *measured(lambda: policy.predict(prompt), device, rounds))
    swept = measured(lambda: sweep_chunk(policy, prompt, stack="expert"), device, rounds)
    made.add_row(f"sweep of the expert's {len(heads)} heads", *swept)
    return made


def measured(work: Callable[[], Any], device: str, rounds: int) -> tuple[str, str]:
    """Return the median of seconds, after a run to warm up, and the most memory that was taken."""
    work()
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    took = statistics.median(seconds(work, device) for _ in range(rounds))
    most = f"{torch.cuda.max_memory_allocated(device) / GIGA:.1f}" if on_gpu else ""
    return f"{took:.3f}", most


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny models in place of large ones")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("This machine has no CUDA device that torch can use.", file=sys.stderr)
        return 2
    console = Console(width=120)
    if options.device.startswith("cuda"):
        console.print(torch.cuda.get_device_name(options.device))
    made = {"paligemma": paligemma_table, "pi0": pi0_table}
    for question in options.questions:
        console.print(made[question](options.device, options.rounds, options.tiny))
    return 0


if __name__ == "__main__":
    sys.exit(main())
