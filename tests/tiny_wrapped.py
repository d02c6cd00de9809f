"""Tiny random policies of other people's making, wrapped by files as a person would write them."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from tiny_pi0 import make_policy, parts_of
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel

from models.language_model import LanguageModel
from models.registry import load_model

FLOW = """
import torch
from tiny_pi0 import CHUNK, IMAGE_ID, N_NUMBERS, make_policy

from models.policy_adapter import Actions, Number, Patches, Policy, State, Words


def policy():
    model = make_policy()

    def act(rows, draw, seen):
        words = [2 + len(word) for word in seen.instruction.split()]
        ids = torch.tensor([[IMAGE_ID] * 32 + words])
        pixels = torch.stack([torch.from_numpy(one[:32, :32]) for one in seen.pictures])
        given = {
            "state": torch.tensor([[*seen.state, *[0.0] * (N_NUMBERS - 2)]]),
            "input_ids": ids,
            "pixel_values": pixels.permute(0, 3, 1, 2)[None] / 127.5 - 1,
            "attention_mask": torch.ones_like(ids),
            "pixel_attention_mask": torch.ones(1, 2, dtype=torch.bool),
        }
        noise = torch.randn(1, CHUNK, N_NUMBERS, generator=torch.Generator().manual_seed(draw))
        given = {name: value.expand(rows, *value.shape[1:]) for name, value in given.items()}
        return model.sample_actions(noise=noise.expand(rows, -1, -1), **given)

    cameras = [Patches(4, 4, camera) for camera in range(2)]
    return Policy(
        model,
        act,
        stacks={
            "language": model.model.vlm.language_model,
            "vision": model.model.vlm.vision_tower,
            "expert": model.model.dit,
        },
        cameras=2,
        state=2,
        numbers=[
            Number("dx", "m", limits=(-0.5, 0.5)),
            Number("dy", "m", limits=(-2, 2)),
            Number("gripper", limits=(0, 1), words={0: "open", 1: "closed"}),
        ],
        positions=lambda seen: {
            "vision": cameras,
            "language": [*cameras, Words(seen.instruction.split())],
            "expert": [State(), Actions(CHUNK)],
        },
        looks_at={"expert": ["language", "expert"]},
    )
"""
"""PI0, as if it were foreign."""

REACH = """
import torch
from tiny_wrapped import Reach

from models.policy_adapter import Policy


def policy():
    model = Reach()

    def act(rows, draw, seen):
        pixels = [torch.from_numpy(one[:32, :32]).permute(2, 0, 1) for one in seen.pictures]
        pixels = [(one[None] / 255).expand(rows, -1, -1, -1) for one in pixels]
        words = torch.tensor([[len(word) for word in seen.instruction.split()]])
        return model(pixels, words.expand(rows, -1))

    return Policy(
        model, act, stacks={"language": model.language, "vision": model.tower}, cameras=2
    )
"""
"""Two cameras, one after the other through a CLIP tower, then a Llama, then three numbers; nothing
is said of its positions, nor of its numbers."""


BLIND = """
import torch
from tiny_wrapped import Reach

from models.policy_adapter import Policy


def policy():
    model = Reach()
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def act(rows, draw, seen):
        return model([pixels.expand(rows, -1, -1, -1)], torch.tensor([[4, 2]]).expand(rows, -1))

    return Policy(model, act, {"language": model.language}, cameras=0, instructed=False)
"""
"""The same on a picture and with words of its own: it is told nothing."""


class Reach(nn.Module):
    """The policy of `REACH`: no transformers model itself, but with two inside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
        self.tower = CLIPVisionModel(
            CLIPVisionConfig(**sizes, num_hidden_layers=2, image_size=32, patch_size=16)
        )
        self.language = LlamaModel(
            LlamaConfig(**sizes, num_hidden_layers=3, num_key_value_heads=2, vocab_size=32)
        )
        self.numbers = nn.Linear(32, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.2)
        self.eval()

    def forward(self, pixels: list[Tensor], words: Tensor) -> Tensor:
        seen = [self.tower(pixel_values=one).last_hidden_state for one in pixels]
        told = self.language.get_input_embeddings()(words)
        hidden = self.language(inputs_embeds=torch.cat([*seen, told], dim=1)).last_hidden_state
        numbers: Tensor = self.numbers(hidden[:, -1])
        return numbers


def write(name: str, source: str) -> Path:
    path = Path(mkdtemp(prefix="tiny-wrapped-")) / f"{name}.py"
    path.write_text(source)
    return path


@cache
def flow_file() -> Path:
    return write("my_flow", FLOW)


@cache
def reach_file() -> Path:
    return write("my_reach", REACH)


@cache
def blind_file() -> Path:
    return write("my_blind", BLIND)


@cache
def flow() -> LanguageModel:
    return load_model(flow_file(), run_python=True)


@cache
def reach() -> LanguageModel:
    return load_model(reach_file(), run_python=True)


def plain_flow() -> tuple[Any, dict[str, nn.Module]]:
    """Return an untouched eager copy, and its stacks by the names of heads."""
    policy = make_policy()
    policy.set_attn_implementation("eager")
    return policy, parts_of(policy)


def plain_reach() -> tuple[Any, dict[str, nn.Module]]:
    policy = Reach()
    policy.tower.set_attn_implementation("eager")
    policy.language.set_attn_implementation("eager")
    return policy, {"": policy.language, "vision": policy.tower}
