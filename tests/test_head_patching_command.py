"""`circuit --patch-heads` on the command line."""

import json

import numpy as np
import pytest
from tiny import tiny_directory, tiny_model

from ablation.circuit.methods import DIRECTIONS
from ablation.circuit.patching import patch_heads
from ablation.circuit.types import PromptPair
from app.cli.run import run

PAIR = PromptPair("The cat sat on the mat. The", "The cat sat on the cat. The", " Mary", " John")
ASKED = [
    "circuit", "--model", str(tiny_directory("llama")), "--device", "cpu", "--prompt", PAIR.clean,
    "--corrupt", PAIR.corrupt, "--answer", PAIR.answer, "--distractor", PAIR.distractor,
]  # fmt: skip


@pytest.mark.parametrize("direction", list(DIRECTIONS))
def test_heads_are_ranked_and_shown_as_a_grid(
    capsys: pytest.CaptureFixture[str], direction: str
) -> None:
    assert run([*ASKED, "--patch-heads", direction, "--top-k", "3"]) == 0
    out = capsys.readouterr().out
    found = patch_heads(tiny_model("llama"), [PAIR], direction)
    assert DIRECTIONS[direction].description[:40] in out
    for rank, (head, _) in enumerate(found.scores.ranked()[:3], 1):
        assert f"{rank}     {head}" in out
    assert "Share of the effect" in out
    assert "()" not in out
    assert f"{found.values[1, 2]:.3f}" in out
    assert "position" not in out


def test_json_holds_all_that_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*ASKED, "--patch-heads", "noising", "--by-position", "--json", "-"]) == 0
    written = json.loads(capsys.readouterr().out)
    found = patch_heads(tiny_model("llama"), [PAIR], "noising", by_position=True)
    expected = found.to_json()
    for key in ("direction", "metric", "labels", "n_pairs", "stopped"):
        assert written[key] == expected[key]
    for key in ("scores", "by_position"):
        np.testing.assert_allclose(written[key], expected[key], atol=1e-5)
    assert (written["prompt"], written["corrupt"]) == (PAIR.clean, PAIR.corrupt)
    assert len(written["tokens"]) == len(written["ids"]) == len(found.labels)


def test_positions_are_ranked_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*ASKED, "--patch-heads", "noising", "--by-position", "--top-k", "2"]) == 0
    out = capsys.readouterr().out
    found = patch_heads(tiny_model("llama"), [PAIR], "noising", by_position=True)
    assert found.by_position is not None
    layer, head, at = np.unravel_index(
        np.abs(found.by_position).argmax(), (3, 4, len(found.labels))
    )
    row = next(
        line for line in out.splitlines() if f"L{layer}H{head}" in line and f" {at} " in line
    )
    assert row.split()[:3] == ["1", f"L{layer}H{head}", str(at)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--patch-heads", "noising", "--svg", "x.svg"], "finds none"),
        (["--patch-heads", "noising", "--graphml", "c.xml"], "--graphml is about a circuit"),
        (["--patch-heads", "noising", "--metric", "kl"], "logit_diff or logprob"),
        (["--patch-heads", "sideways"], "invalid choice"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run([*ASKED, *options]) == 2
    assert words in capsys.readouterr().err
