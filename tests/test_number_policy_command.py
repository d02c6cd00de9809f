"""`main.py policy` with a policy that answers with numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_pi0 import tiny_pi0, tiny_pi0_directory
from tiny_vision import noise_picture

from ablation import Ablation, Zero
from ablation.chunk_actions import compare_chunks, hide_modalities, search_chunk, sweep_chunk
from app.cli.run import run
from models.errors import UserError
from models.robot import read_state
from models.types import Head, RobotInput, TokenizedPrompt

STATE = "1.5, -1"


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory, paths = tmp_path_factory.mktemp("cameras"), []
    for seed in range(2):
        path = directory / f"camera{seed}.png"
        path.write_bytes(noise_picture((32, 32), seed).png())
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def prompt() -> TokenizedPrompt:
    pictures = [noise_picture((32, 32), seed) for seed in range(2)]
    robot = RobotInput((1.5, -1.0), draw=2)
    return tiny_pi0().tokenize("push the cup", pictures=pictures, robot=robot)


def command(cameras: list[Path], *options: str, name: str = "policy") -> list[str]:
    images = [part for path in cameras for part in ("--image", str(path))]
    asked = ["--prompt", "push the cup", f"--state={STATE}", "--noise", "2"]
    return [name, "--model", str(tiny_pi0_directory()), *images, *asked, *options]


def written(tmp_path: Path, arguments: list[str]) -> dict[str, object]:
    path = tmp_path / "out.json"
    assert run([*arguments, "--json", str(path)]) == 0
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_the_action_is_printed_and_written(
    cameras: list[Path],
    prompt: TokenizedPrompt,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = written(tmp_path, command(cameras, "--ablate", "expert:1.2, 0.3", "--draws", "3"))
    heads = (Head(0, 3), Head(1, 2, "expert"))
    change = compare_chunks(tiny_pi0(), prompt, Ablation(heads, Zero()), n_draws=3)
    assert data["moved"] == pytest.approx(change.moved, abs=1e-5)
    assert data["standard_error"] == pytest.approx(change.error, abs=1e-5)
    assert data["robot"] == {"state": [1.5, -1.0], "draw": 2, "step": None}
    printed = capsys.readouterr().out
    assert "push the cup (state 1.5, -1, noise 2)" in printed
    assert "mean over 3 noises" in printed
    plain = written(tmp_path, command(cameras))
    np.testing.assert_allclose(plain["before"]["values"], change.before.values[:1], atol=1e-5)  # type: ignore[index]
    assert "a chunk of 4 actions" in capsys.readouterr().out


def test_sweeps_searches_and_modalities(
    cameras: list[Path],
    prompt: TokenizedPrompt,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tiny_pi0()
    swept = written(tmp_path, command(cameras, "--sweep", "--stack", "expert"))
    expected = sweep_chunk(model, prompt, stack="expert").values
    np.testing.assert_allclose(np.array(swept["scores"]), expected, atol=1e-5)
    assert run(command(cameras, "--sweep")) == 0
    assert "Heads of layer 2 move nothing" in capsys.readouterr().out
    searched = written(tmp_path, command(cameras, "--search", "--max-heads", "2"))
    found = search_chunk(model, prompt, max_heads=2)
    assert searched["heads"] == [head.to_json() for head in found.heads]
    assert searched["moved"] == pytest.approx(found.moved, abs=1e-5)
    aimed = written(tmp_path, command(cameras, "--goal", "dy>99", "--max-heads", "1"))
    assert (aimed["stopped"], aimed["intervention"], aimed["draws"]) == ("max_heads", "zero", 1)
    hidden = written(tmp_path, command(cameras, "--modalities"))
    for one in hide_modalities(model, prompt):
        assert hidden["modalities"][one.name]["moved"] == pytest.approx(  # type: ignore[index]
            one.change.moved, abs=1e-5
        )
    assert "instruction (4 positions)" in capsys.readouterr().out


def test_attention_is_read_at_a_step(cameras: list[Path], tmp_path: Path) -> None:
    asked = command(cameras, "--heads", "expert:1.2", "--step", "0", name="attention")
    first = written(tmp_path, asked)
    last = written(tmp_path, command(cameras, "--heads", "expert:1.2", name="attention"))
    assert np.shape(first["values"]) == (1, 5, 32 + 5 + 5)
    assert np.abs(np.subtract(first["values"], last["values"])).max() > 1e-4


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("policy", ["--episodes", "3"], "--image does not go with --episodes"),
        ("policy", ["--goal", "dx=0"], "a quantity, which equals no number exactly"),
        ("policy", ["--draws", "0"], "draws"),
        ("predict", [], "answers with an action, not with a token"),
        ("sweep", [], "answers with an action, not with a token"),
        ("search", [], "answers with an action, not with a token"),
        ("attention", ["--heads", "expert:1.2", "--step", "9"], "no step 9 of denoising"),
        ("attention", ["--heads", "expert:7.0"], "has no '7.0': its layers are 0 to 2"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    cameras: list[Path],
    name: str,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    try:
        status: object = run(command(cameras, *options, name=name))
    except SystemExit as stopped:  # argparse
        status = stopped.code
    assert status == 2
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))


def test_episodes_are_for_policies_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--episodes", "3"], ["--record", "somewhere"]):
        assert run(["policy", "--model", str(tiny_pi0_directory()), *option]) == 2
        assert "is for policies whose actions are tokens" in capsys.readouterr().err


def test_a_scene_of_the_table_says_the_instruction_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["policy", "--model", str(tiny_pi0_directory()), "--image", "tabletop:7"]
    assert run(asked) == 0
    assert "touch the yellow triangle (state mean" in capsys.readouterr().out


def test_other_models_take_no_state(capsys: pytest.CaptureFixture[str]) -> None:
    from tiny import tiny_directory

    asked = ["predict", "--model", str(tiny_directory("llama")), "--prompt", "a", "--state", "1"]
    assert run(asked) == 2
    assert "is told no state beside its prompt" in capsys.readouterr().err


def test_states_are_read_as_people_type_them() -> None:
    assert read_state(" [0.1, -2; 3e-2] ") == (0.1, -2.0, 0.03)
    assert read_state("1 2\n3") == (1.0, 2.0, 3.0)
    assert read_state("") == ()
    with pytest.raises(UserError, match="'up, 1' is no list of numbers"):
        read_state("up, 1")
