"""The README is true: its commands parse, its tables are complete, its Python runs."""

import re
import shlex
from pathlib import Path

import pytest
from tiny import FAMILIES
from tiny_vision import noise_picture

from ablation.interventions import INTERVENTIONS, parse_intervention
from app.cli.parser import build_parser
from models.registry import load_model

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^    (?:.*&& )?\.venv/bin/python main\.py ?(.*)$", README, re.MULTILINE)
NAMES = {
    "gpt2": "GPT-2",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "phi3": "Phi-3",
    "gpt_neox": "GPT-NeoX",
    "gpt_bigcode": "GPT-BigCode",
    "opt": "OPT",
    "olmo2": "OLMo 2",
    "stablelm": "StableLM",
    "gpt_oss": "gpt-oss",
    "gptj": "GPT-J",
    "gpt_neo": "GPT-Neo",
    "falcon_alibi": "Falcon",
    "bert": "BERT",
    "roberta": "RoBERTa",
}


def test_every_command_parses() -> None:
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        build_parser().parse_args(shlex.split(command))


def test_every_intervention_is_listed_with_notation_that_reads_back() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| (`.*`) \|", README, re.MULTILINE))
    assert {name.lower() for name in rows} == set(INTERVENTIONS)
    for name, cell in rows.items():
        for notation in re.findall(r"`([^`]+)`", cell.replace(r"\|", "|")):
            assert parse_intervention(notation).spec.startswith(name.lower())


def test_every_proven_family_is_named() -> None:
    for family in FAMILIES:
        assert NAMES.get(family, family.capitalize()) in README


def test_links_and_pictures_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            picture = root / target
            assert picture.exists(), target
            assert picture.stat().st_size < 3_000_000


@pytest.mark.builtin
@pytest.mark.timeout(600)
def test_the_python_examples_run() -> None:
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(example, "README.md", "exec"), names)
    assert names["prompt"].labels[0] == "The"  # type: ignore[attr-defined]


def test_the_file_that_wraps_a_policy_opens(tmp_path: Path) -> None:
    """The adapter as it stands there, with what is said further down, on a policy of its shape."""
    [lines] = re.findall(r"^(    import torch\n.*?)^    \.venv", README, re.DOTALL | re.MULTILINE)
    source = "\n".join(line[4:] for line in lines.splitlines())
    lasting = re.DOTALL | re.MULTILINE
    [more] = re.findall(r"^        numbers=.*?^        looks_at=.*?$", README, lasting)
    assert 10 <= len([line for line in source.splitlines() if line]) <= 20
    (tmp_path / "my_robot.py").write_text(MY_ROBOT)
    prompts = []
    for name, text in (
        ("plain", source),
        ("told", source.replace("state=7)", f"state=7,\n{more.replace(' ..., ', ' ')})")),
    ):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        model = load_model(path, run_python=True)
        pictures = [noise_picture((128, 128), seed) for seed in range(2)]
        prompts.append(model.tokenize("pick up the cup", pictures=pictures))
        assert [stack.label for stack in model.stacks.stacks] == ["vision", "language", "expert"]
    assert [prompt.labels[-1] for prompt in prompts] == ["515", "cup"]
    assert prompts[1].sides["of-expert"].labels[:2] == ("state", "action 0")


MY_ROBOT = """
import torch
from tiny_pi0 import IMAGE_ID, config
from transformers import PI0Config, PI0ForConditionalGeneration


def words(instruction):
    return instruction.split()


def prepare(pictures, instruction, state):
    ids = torch.tensor([[IMAGE_ID] * 512 + [len(word) for word in words(instruction)]])
    pixels = torch.stack([torch.from_numpy(one).permute(2, 0, 1) / 255 for one in pictures])
    pixels = torch.nn.functional.interpolate(pixels, (128, 128))
    return {
        "state": torch.tensor([state]),
        "input_ids": ids,
        "pixel_values": pixels[None],
        "attention_mask": torch.ones_like(ids),
        "pixel_attention_mask": torch.ones(1, 2, dtype=torch.bool),
    }


def load_policy(_directory):
    shape = config().to_dict()
    shape["vlm_config"]["vision_config"]["image_size"] = 128
    shape |= {"chunk_size": 50, "max_state_dim": 7, "max_action_dim": 7}
    torch.manual_seed(0)
    policy = PI0ForConditionalGeneration(PI0Config(**shape))
    policy.language_model = policy.model.vlm.language_model
    policy.vision_tower = policy.model.vlm.vision_tower
    policy.expert = policy.model.dit
    return policy
"""
"""What the example imports: its own loading and preparing."""
