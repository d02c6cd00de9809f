"""`main.py policy` and `--image`: what is printed, what is written, and what is refused."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from tiny_policy import policy_directory
from tiny_vision import noise_picture, tiny_vision_directory

from ablation import Ablation, Zero
from ablation.actions import act, compare_actions
from ablation.modalities import knock_out_modalities, modality_positions
from ablation.traces import trace
from app.cli.run import run
from app.images import table_picture, table_text
from models.errors import UserError
from models.language_model import LanguageModel
from models.recordings import open_recording
from models.registry import load_model
from models.types import Head, TokenizedPrompt

SCENE = "tabletop:7"


@pytest.fixture(scope="module")
def policy() -> LanguageModel:
    return load_model(policy_directory(), device="cpu")


@pytest.fixture(scope="module")
def prompt(policy: LanguageModel) -> TokenizedPrompt:
    return policy.tokenize(table_text(SCENE), pictures=[table_picture(SCENE)])


def command(*options: str) -> list[str]:
    return ["policy", "--model", str(policy_directory()), "--image", SCENE, *options]


def test_the_action_is_printed_and_written(
    policy: LanguageModel,
    prompt: TokenizedPrompt,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "action.json"
    assert run(command("--ablate", "0.1, vision:1.2", "--json", str(path))) == 0
    data = json.loads(path.read_text())
    heads = (Head(0, 1), Head(1, 2, "vision"))
    change = compare_actions(policy, prompt, Ablation(heads, Zero()))
    assert data["before"] == change.before.to_json()
    assert data["after"] == change.after.to_json()
    assert data["l2"] == pytest.approx(change.l2)
    assert data["pictures"] == [SCENE]
    printed = capsys.readouterr().out
    assert "touch the yellow triangle" in printed
    assert "of its reach" in printed


def test_heads_are_swept_and_searched(
    policy: LanguageModel, prompt: TokenizedPrompt, tmp_path: Path
) -> None:
    path = tmp_path / "found.json"
    assert run(command("--sweep", "--stack", "vision", "--json", str(path))) == 0
    scores = np.array(json.loads(path.read_text())["scores"])
    assert scores.shape == (3, 6)
    assert run(command("--search", "--max-heads", "2", "--json", str(path))) == 0
    steps = json.loads(path.read_text())["steps"]
    assert len(steps) == 2
    assert steps[0]["l2"] >= scores.max() - 1e-6
    clean = act(policy, prompt)
    goal = "dx<0" if clean.values[0] >= 0 else "dx>0"
    assert run(command("--goal", goal, "--max-heads", "12", "--json", str(path))) == 0
    assert json.loads(path.read_text())["stopped"] == "target_reached"


def test_modalities_are_the_scale(
    policy: LanguageModel, prompt: TokenizedPrompt, tmp_path: Path
) -> None:
    groups = modality_positions(prompt)
    assert {name: len(where) for name, where in groups.items()} == {
        "image": 64,
        "instruction": 4,
        "state": 3,
    }
    found = {one.name: one.change for one in knock_out_modalities(policy, prompt)}
    assert all(change.kl.max() > 1e-4 for change in found.values())
    other = policy.tokenize(table_text(SCENE), pictures=[table_picture("tabletop:11")])
    blind = {one.name: one.change for one in knock_out_modalities(policy, other)}
    # Whoever may not look at the picture does the same whatever it shows.
    np.testing.assert_allclose(
        found["image"].after.log_probs[0], blind["image"].after.log_probs[0], atol=1e-5
    )
    path = tmp_path / "found.json"
    assert run(command("--modalities", "--json", str(path))) == 0
    assert set(json.loads(path.read_text())["modalities"]) == set(found)


def test_what_the_policy_is_not_told_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["policy", "--model", str(policy_directory()), "--prompt", "reach the red one"]
    assert run(asked) == 0
    said = capsys.readouterr().err
    assert "acts blindly" in said
    assert "tells no state" in said
    assert run(command()) == 0
    assert capsys.readouterr().err == ""


def test_episodes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    options = ["--episodes", "3", "--pairs", "held-out", "--ablate", "0.1", "--json", str(path)]
    assert run(["policy", "--model", str(policy_directory()), *options]) == 0
    data = json.loads(path.read_text())
    assert data["clean"]["episodes"] == data["ablated"]["episodes"] == 3
    assert [one["episodes"] for one in data["random"]] == [3, 3, 3]
    assert "as many random heads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "POLICY"], "Nothing is said of what the policy is told"),
        (["--model", "POLICY", "--image", "nowhere.png", "--prompt", "a"], "cannot be read"),
        (["--model", "POLICY", "--image", SCENE, "--goal", "up"], "Cannot read 'up' as a goal"),
        (["--model", "POLICY", "--image", SCENE, "--positions", "3"], "--positions does not go"),
        (["--model", "LLAVA", "--image", SCENE], "does not say which of its tokens are actions"),
        (["--model", "LLAVA", "--episodes", "2"], "does not say which of its tokens are actions"),
        (
            ["--model", "POLICY", "--episodes", "2", "--ablate", "0.1", "--intervention", "mean"],
            "zero or scale",
        ),
    ],
)
def test_wrong_questions_are_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"POLICY": str(policy_directory()), "LLAVA": str(tiny_vision_directory("llava"))}
    assert run(["policy", *(places.get(option, option) for option in options)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error


def test_other_commands_take_pictures(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    path.write_bytes(noise_picture().png())
    model = str(tiny_vision_directory("llava"))
    out = tmp_path / "out.json"
    about = ["--model", model, "--image", str(path), "--prompt", "what is this"]
    assert run(["predict", *about, "--json", str(out)]) == 0
    loaded = load_model(model, device="cpu")
    expected = loaded.predict(loaded.tokenize("what is this", pictures=[noise_picture()]))
    top = json.loads(out.read_text())["baseline"]["top"][0]
    assert top["prob"] == pytest.approx(expected.top[0].prob, abs=1e-6)
    heads = ["--heads", "vision:1.2"]
    assert run(["attention", *about, *heads, "--json", str(out)]) == 0
    assert np.array(json.loads(out.read_text())["values"]).shape == (1, 17, 17)
    assert run(["sweep", *about, "--stack", "vision", "--json", str(out)]) == 0
    assert np.array(json.loads(out.read_text())["scores"]).shape == (3, 4)


def test_one_modality_is_nothing_to_compare(policy: LanguageModel) -> None:
    with pytest.raises(UserError, match="but one modality"):
        knock_out_modalities(policy, policy.tokenize("find the red square"))


def test_an_episode_is_recorded_followed_and_filmed(
    policy: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episode, film, data = tmp_path / "episode", tmp_path / "episode.mp4", tmp_path / "trace.json"
    assert run(command("--record", str(episode), "--json", str(data))) == 0
    recording = open_recording(episode)
    told = json.loads(data.read_text())
    assert told["done"] == [list(frame.action or ()) for frame in recording.frames]
    assert recording.instruction == "touch the yellow triangle"
    model = ["policy", "--model", str(policy_directory()), "--recording", str(episode)]
    options = ["--ablate", "0.*, 1.*", "--watch", "1.2, 2.3"]
    assert run([*model, *options, "--film", str(film), "--json", str(data)]) == 0
    written = json.loads(data.read_text())
    found = trace(
        policy,
        recording,
        Ablation(tuple(h for h in policy.all_heads() if h.layer < 2), Zero()),
        [Head(1, 2), Head(2, 3)],
    )
    assert {**found.to_json(), "model": written["model"]}.items() <= written.items()
    assert written["recorded"] == written["before"]  # it did what it does
    assert written["ablated"]["intervention"] == "zero"
    assert len(written["ablated"]["heads"]) == 16
    with av.open(str(film)) as container:
        [stream] = container.streams.video
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == len(recording)
    assert frames[0].shape[1] == 256  # a table of 64, four times
    printed = capsys.readouterr().out
    assert "L1H2" in printed
    assert "yellow triangle" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--film", "x.gif"], "--film needs --recording"),
        (["--recording", "nowhere", "--film", "x.avi"], "--film writes .gif or .mp4"),
        (["--recording", "nowhere"], "There is no recording in nowhere"),
        (["--recording", "x", "--image", SCENE], "--image does not go with --recording"),
        (["--recording", "x", "--prompt", "go"], "--prompt does not go with --recording"),
        (["--record", "x"], "--record begins in one scene of the table; add --image"),
        (["--ablate", "1.2", "--positions", "3"], "--positions does not go with policy"),
        (["--camera", "top"], "--camera needs --recording"),
        (["--record", str(Path(__file__).parent), "--image", SCENE], "there are files in it"),
    ],
)
def test_what_does_not_go_with_a_recording(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["policy", "--model", str(policy_directory()), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_head_is_ablated_where_the_picture_stands(
    policy: LanguageModel, prompt: TokenizedPrompt, tmp_path: Path
) -> None:
    path = tmp_path / "action.json"
    heads = tuple(h for h in policy.all_heads() if h.layer < 2)
    assert prompt.cells is not None
    for word, rows in (("image", range(8)), ("image[2-4,*]", range(2, 5))):
        options = ["--ablate", "0.*, 1.*", "--positions", word, "--json", str(path)]
        assert run(command(*options)) == 0
        at = tuple(i for i, cell in enumerate(prompt.cells) if cell and cell.row in rows)
        expected = compare_actions(policy, prompt, Ablation(heads, Zero(), at))
        assert json.loads(path.read_text())["kl"] == expected.to_json()["kl"]
