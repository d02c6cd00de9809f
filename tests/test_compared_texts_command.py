"""The command line on a model that compares pictures with texts: heads of its text tower."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_vision import TEXTS, comparing_directory, noise_picture, tiny_comparing

from ablation import Ablation, Zero, search_heads, sweep_heads, sweep_positions
from app.cli.run import run
from models.picture import read_picture
from models.types import Head, TokenizedPrompt

ROUNDING = 1e-6
"""The same forward pass, alone and within a batch, in float32."""
HEAD = Head(1, 2, "text")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    path.write_bytes(noise_picture().png())
    return path


@pytest.fixture
def prompt(image: Path) -> TokenizedPrompt:
    return tiny_comparing("CLIP").tokenize("", pictures=[read_picture(str(image))])


def asked(image: Path, command: str, *more: str) -> list[str]:
    model = f"{comparing_directory('CLIP')}#{'|'.join(TEXTS)}"
    common = ["--model", model, "--device", "cpu", "--prompt", "", "--image", str(image)]
    return [command, *common, *more]


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run a command line that succeeds; return its JSON."""
    capsys.readouterr()
    status = run([*arguments, "--json", "-"])
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    return json.loads(captured.out)


def test_attention_of_both_towers(
    capsys: pytest.CaptureFixture[str], image: Path, prompt: TokenizedPrompt, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    command = asked(image, "attention", "--heads", "text:1.2, 0.1", "--html", str(page))
    found = result(capsys, *command)
    assert prompt.compared is not None
    assert found["compared"] == list(prompt.compared.labels)
    values = dict(zip(map(str, found["heads"]), found["values"], strict=True))
    for head in (HEAD, Head(0, 1)):
        expected = tiny_comparing("CLIP").attention(prompt, [head]).values[0]
        np.testing.assert_allclose(values[str(head.to_json())], expected, atol=ROUNDING)
    assert "text:L1H2" in page.read_text("utf-8")
    assert run(asked(image, "attention", "--heads", "text:1.2")) == 0
    assert "square/0" in capsys.readouterr().out


def test_predictions_sweeps_and_searches(
    capsys: pytest.CaptureFixture[str], image: Path, prompt: TokenizedPrompt
) -> None:
    model = tiny_comparing("CLIP")
    found = result(capsys, *asked(image, "predict", "--ablate", "text:1.2"))
    expected = model.predict(prompt, ablation=Ablation((HEAD,), Zero()))
    assert found["ablated"]["top"][0]["prob"] == pytest.approx(expected.top[0].prob, abs=ROUNDING)
    assert found["ablated_heads"] == ["text:1.2"]
    found = result(capsys, *asked(image, "sweep", "--stack", "text"))
    scores = sweep_heads(model, prompt, stack="text").values
    np.testing.assert_allclose(found["scores"], scores, atol=ROUNDING)
    found = result(capsys, *asked(image, "sweep", "--by-position", "--heads", "text:1.2"))
    grid = sweep_positions(model, prompt, [HEAD]).values
    np.testing.assert_allclose(found["scores"], grid, atol=ROUNDING)
    target = model.predict(prompt).top[1].text
    found = result(capsys, *asked(image, "search", "--target", target, "--max-heads", "4"))
    reached = search_heads(model, prompt, target, max_heads=4)
    assert found["heads"] == [head.to_json() for head in reached.heads]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--ablate", "text:2.0"),
            "This model has no '2.0': its layers are 0 to 1, with heads 0 to 3 each",
        ),
        (("--ablate", "cross:0.0"), "This model has no stack 'cross'; its stacks are vision, text"),
        (
            ("--ablate", "text:0.0", "--intervention", "resample:a red circle"),
            "is given pictures, not text",
        ),
        (("--ablate", "text:0.0", "--positions", "40"), "Position 40 is outside"),
    ],
)
def test_what_there_is_not_is_said_in_a_line(
    capsys: pytest.CaptureFixture[str], image: Path, more: tuple[str, ...], said: str
) -> None:
    capsys.readouterr()
    assert run(asked(image, "predict", *more)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
