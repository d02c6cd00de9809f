"""The README is true: its commands parse, its tables are complete, its Python runs."""

import re
import shlex
from pathlib import Path

import pytest
from tiny import FAMILIES

from ablation.interventions import INTERVENTIONS, parse_intervention
from app.cli.parser import build_parser

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
