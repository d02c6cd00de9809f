"""`circuit` on the command line, on the model whose circuit is known."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from handwired import TRUE_EDGES, hand_wired, pairs
from tiny import tiny_directory

from app.cli.run import run
from models.builtin import CACHE_VARIABLE

Outcome = Callable[..., tuple[int, str, str]]
PAIR = pairs(1)[0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Run `circuit`; give its exit status, stdout and stderr."""
    model = hand_wired().name

    def outcome(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        given = () if "--model" in arguments else ("--model", model)
        status = run(["circuit", *given, "--device", "cpu", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return outcome


def one_pair() -> list[str]:
    return [
        "--prompt", PAIR.clean, "--corrupt", PAIR.corrupt, "--answer", PAIR.answer,
        "--distractor", PAIR.distractor,
    ]  # fmt: skip


def test_the_circuit_is_printed_with_its_proof(output: Outcome) -> None:
    status, out, err = output(*one_pair())
    assert (status, err) == (0, "")
    assert "5 of 42 edges" in out
    assert re.search(r"L0H0 +L1H0 +k ", out)
    assert re.search(r"L1H0 +logits ", out)
    assert "Minimality" in out


def test_positions_are_told_and_drawn(output: Outcome, tmp_path: Path) -> None:
    picture = tmp_path / "circuit.svg"
    given = [*one_pair(), "--by-position", "--svg", str(picture)]
    status, out, err = output(*given, "--json", "-")
    assert (status, err) == (0, "")
    places = json.loads(out)["by_position"]
    assert len(places["tokens"]) == len(PAIR.clean.split())
    first = places["edges"][0]
    assert (first["from"], first["to"], first["position"]) == ("L1H0", "logits", 4)
    drawn = ElementTree.fromstring(picture.read_text())
    assert "L1H0 at 4" in {element.get("data-name") for element in drawn.iter()}


def test_json_and_graphml_hold_the_edges(output: Outcome, tmp_path: Path) -> None:
    file = tmp_path / "circuit.graphml"
    status, out, err = output(*one_pair(), "--json", "-", "--graphml", str(file))
    assert (status, err) == (0, "")
    result = json.loads(out)
    found = {
        (row["from"], row["to"] + (f".{row['input']}" if row["input"] else ""))
        for row in result["edges"]
    }
    assert found == TRUE_EDGES
    assert result["ids"] == list(hand_wired().tokenize(PAIR.clean).ids)
    assert result["position"] == 4
    assert result["intervention"] is None
    assert result["faithfulness"] == pytest.approx(1, abs=1e-3)
    names = ElementTree.parse(file).getroot().iter("{http://graphml.graphdrawing.org/xmlns}edge")
    assert len(list(names)) == len(TRUE_EDGES)


def test_pairs_come_from_a_file(output: Outcome, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    rows = [f"{p.clean},{p.corrupt},{p.answer},{p.distractor}" for p in pairs(3)]
    file.write_text("\n".join(["clean,corrupt,answer,distractor", *rows]), encoding="utf-8")
    status, out, _ = output("--pairs", str(file), "--method", "acdc", "--held-out", "1")
    assert status == 0
    said = " ".join(out.split())
    assert "pairs.csv, 2 pairs (1 more held out), each with its own answer and distractor" in said
    assert "Held out: on pairs that it was not found on" in said
    assert "5 of 42 edges" in out


def test_answer_and_distractor_are_what_the_prompts_lead_to(output: Outcome) -> None:
    status, out, _ = output("--prompt", PAIR.clean, "--corrupt", PAIR.corrupt)
    assert status == 0
    assert f"{PAIR.answer!r} against {PAIR.distractor!r}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "exactly one of --prompt, --task, --pairs"),
        (["--prompt", "b c", "--task", "ioi"], "2 were given"),
        (["--prompt", "b c d", "--corrupt", "b c"], "has 3 tokens and the corrupted one 2"),
        (["--prompt", "b c", "--corrupt", "b c", "--metric", "logprob"], "nothing to explain"),
        (["--pairs", "/nowhere/pairs.csv"], "/nowhere/pairs.csv"),
        (["--prompt", "b c", "--held-out", "3"], "--task"),
        ([*one_pair(), "--method", "magic"], "choose one of eap-ig"),
        ([*one_pair(), "--faithfulness", "2"], "up to 1"),
        (["--task", "nothing"], "nothing"),
    ],
)
def test_wrong_input_is_one_sentence(output: Outcome, arguments: list[str], words: str) -> None:
    status, out, err = output(*arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


def test_a_model_whose_edges_cannot_be_patched_says_why(output: Outcome) -> None:
    directory = str(tiny_directory("bloom"))
    status, _, err = output(
        "--model", directory, "--prompt", "The cat", "--corrupt", "The mat", "--metric", "logprob",
    )  # fmt: skip
    assert status == 2
    assert "edges cannot be patched" in err
