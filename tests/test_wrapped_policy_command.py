"""The command line with policies that a person wrapped in a file of Python."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_vision import noise_picture
from tiny_wrapped import FLOW, flow, flow_file, reach_file

from ablation import Ablation, Zero
from ablation.chunk_actions import compare_chunks, hide_modalities, search_chunk, sweep_chunk
from app.cli.run import run
from models.types import EXPERT, Head, RobotInput, TokenizedPrompt

STATE = "1.5, -1"
PICTURES = [noise_picture((32, 32), seed) for seed in range(2)]


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory, images = tmp_path_factory.mktemp("cameras"), []
    for i, picture in enumerate(PICTURES):
        path = directory / f"camera{i}.png"
        path.write_bytes(picture.png())
        images += ["--image", str(path)]
    return images


@pytest.fixture(scope="module")
def prompt() -> TokenizedPrompt:
    robot = RobotInput((1.5, -1.0), draw=2)
    return flow().tokenize("push the cup", pictures=PICTURES, robot=robot)


def command(cameras: list[str], *options: str, name: str = "policy") -> list[str]:
    asked = ["--prompt", "push the cup", f"--state={STATE}", "--noise", "2"]
    return [name, "--model", str(flow_file()), *cameras, *asked, *options]


def written(tmp_path: Path, arguments: list[str]) -> Any:
    path = tmp_path / "out.json"
    assert run([*arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_the_action_is_printed_and_written(
    cameras: list[str],
    prompt: TokenizedPrompt,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = written(tmp_path, command(cameras, "--ablate", "expert:1.2, 0.3", "--draws", "3"))
    heads = (Head(0, 3), Head(1, 2, EXPERT))
    change = compare_chunks(flow(), prompt, Ablation(heads, Zero()), n_draws=3)
    assert data["moved"] == pytest.approx(change.moved, abs=1e-5)
    assert data["robot"] == {"state": [1.5, -1.0], "draw": 2, "step": None}
    printed = capsys.readouterr().out
    assert "push the cup (state 1.5, -1, noise 2)" in printed
    assert "parts of range (mean over 3 noises" in printed
    same = written(tmp_path, command(cameras, "--ablate", "expert:1.2, language:0.3"))
    assert same["ablated_heads"] == data["ablated_heads"]


def test_sweeps_searches_goals_and_modalities(
    cameras: list[str],
    prompt: TokenizedPrompt,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = flow()
    swept = written(tmp_path, command(cameras, "--sweep", "--stack", "expert"))
    expected = sweep_chunk(model, prompt, stack=EXPERT).values
    np.testing.assert_allclose(np.array(swept["scores"]), expected, atol=1e-5)
    assert "Change of the action (parts of range)" in capsys.readouterr().out
    assert run(command(cameras, "--sweep")) == 0
    assert "move nothing" not in capsys.readouterr().out  # nobody knows that of this policy
    searched = written(tmp_path, command(cameras, "--search", "--max-heads", "2"))
    found = search_chunk(model, prompt, max_heads=2)
    assert searched["heads"] == [head.to_json() for head in found.heads]
    aim = (found.clean.summary[0] + found.steps[0].action.summary[0]) / 2
    sign = "<" if found.steps[0].action.summary[0] < found.clean.summary[0] else ">"
    aimed = written(tmp_path, command(cameras, f"--goal=dx{sign}{aim}"))
    assert aimed["stopped"] == "target_reached"
    hidden = written(tmp_path, command(cameras, "--modalities"))
    for one in hide_modalities(model, prompt):
        assert hidden["modalities"][one.name]["moved"] == pytest.approx(one.change.moved, abs=1e-5)


def test_attention_is_read_at_a_step(cameras: list[str], tmp_path: Path) -> None:
    asked = command(cameras, "--heads", "expert:1.2, vision:0.1", name="attention")
    first = written(tmp_path, [*asked, "--step", "0"])
    last = written(tmp_path, asked)
    assert first["heads"] == ["vision:0.1", "expert:1.2"]
    assert [np.shape(one) for one in first["values"]] == [(32, 32), (5, 32 + 3 + 5)]
    assert np.abs(np.subtract(first["values"][1], last["values"][1])).max() > 1e-4
    assert [len(labels) for labels in first["sides"].values()] == [32, 5, 40]
    html = tmp_path / "page.html"
    assert run([*asked, "--html", str(html)]) == 0
    assert "expert:L1H2" in html.read_text("utf-8")


def test_a_single_action_has_a_value(
    cameras: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["policy", "--model", str(reach_file()), *cameras, "--prompt", "go"]
    assert run(asked) == 0
    printed = capsys.readouterr().out
    assert "value" in printed
    assert "an action, from one noise" in printed
    assert "(noise 0)" in printed  # it is told no state
    assert run([*asked, "--ablate", "vision:1.*"]) == 0
    assert "own units" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--goal", "dz<0"], "no action 'dz'; its actions are dx, dy, gripper"),
        (["--ablate", "arm:1.2"], "no stack 'arm'; its stacks are vision, language, expert"),
        (["--ablate", "expert:7.0"], "has no '7.0': its layers are 0 to 2"),
        (["--sweep", "--stack", "arm"], "no stack of attention layers 'arm'"),
        (["--step", "3"], "steps are 0 to 2"),
        (["--state", "1"], "a state of 2 finite numbers, and 1 was given"),
        (["--image", "tabletop:1"], "by 2 cameras, and 3 pictures were given"),
        (["--dtype", "float32"], "let the file choose"),
        (["--episodes", "3"], "--image does not go with --episodes"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    cameras: list[str], options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(cameras, *options)) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert re.search(said, printed[-1])
    assert "Traceback" not in " ".join(printed)


def test_files_that_are_wrong_are_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    asked = ["policy", "--model", str(path), "--prompt", "go"]
    assert run(asked) == 2
    assert "There is no file" in capsys.readouterr().err
    path.write_text("def policy():\n    return 1 / 0\n")
    assert run(asked) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: mine.py: its function policy() fails (line 2: ZeroDivision")


def test_what_a_file_prints_does_not_stand_among_results(
    cameras: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loud.py"
    source = FLOW.replace("seen):\n", "seen):\n        print('acting')\n", 1)
    path.write_text("print('read')\n" + source.replace("policy():\n", "policy():\n    print(1)\n"))
    asked = ["policy", "--model", str(path), *cameras, "--prompt", "go", "--json", "-"]
    assert run(asked) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["before"]["values"][0]) == 4
    assert {"read", "1", "acting"} <= set(printed.err.splitlines())


def test_what_is_about_tokens_is_refused(
    cameras: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("predict", "sweep", "search"):
        assert run(command(cameras, name=name)) == 2
        assert "answers with an action, not with a token" in capsys.readouterr().err
