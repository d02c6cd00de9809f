"""`study` on the command line, those that run on prompts."""

import json
from pathlib import Path

import pytest
from handwired import hand_wired

from app.cli.run import run

MODEL = ["--model", hand_wired().name, "--device", "cpu"]


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,answer\nc a b f a,b\nd e g h e,g\n", encoding="utf-8")
    return str(path)


def test_a_study_is_printed_and_written(
    prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "study.html"
    asked = ["study", "critical-heads", *MODEL, "--prompts", prompts, "--html", str(page)]
    assert run(asked) == 0
    out = capsys.readouterr().out
    assert "critical-heads, 2 prompts" in out
    assert "2 of 4 heads are critical" in out
    assert "note: Ablated by zero" in out
    assert "<h1>Which attention heads are critical" in page.read_text(encoding="utf-8")
    assert run([*asked[:-2], "--set", "least=50", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "critical-heads"
    assert found["options"] == {"intervention": "zero", "least": 50.0, "seed": 0}
    assert found["answer"][0].startswith("No head of 4 is critical")
    assert {row["head"] for row in found["table"]} == {"L0H0", "L0H1", "L1H0", "L1H1"}
    assert found["n_prompts"] == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "speed=1"], "the study's names are intervention, least, seed"),
        (["--set", "least"], "--set takes NAME=VALUE"),
        (["--prompts", "poems"], "no prompt set 'poems'"),
        (["--prompt", "a b", "--prompts", "ioi"], "do not go together"),
        (["--head", "0.1"], "--head goes with the study heads alone"),
        (["--html", "/nowhere/x.html", "--prompt", "a b a"], "--html"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "critical-heads", *MODEL, *more]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
