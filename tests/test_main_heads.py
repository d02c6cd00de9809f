"""The commands about all heads at once: `dossier`, `study` and `compare`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import CORPUS, PROMPT, tiny_directory, tiny_model

from ablation import HEAD_METRICS, Ablation, Zero, head_dossier
from ablation.attention_change import attention_change, with_ablation, with_model, with_prompt
from ablation.corpus import Passage
from ablation.stimuli import ROLES
from app.cli.run import run
from models.builtin import CACHE_VARIABLE
from models.types import Head

MODEL = ("--model", str(tiny_directory("llama")), "--device", "cpu")
OTHER_PROMPT = "When John and Mary went to the store, Mary gave a drink to"
PASSAGES = tuple(Passage(f"tiny-{i}", "tiny", text) for i, text in enumerate(CORPUS))

Outcome = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Run a command line; give its exit status, stdout and stderr."""

    def outcome(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return outcome


def result(output: Outcome, *arguments: str) -> dict[str, Any]:
    """Run a command line that succeeds; give its JSON, which is all there is on stdout."""
    status, out, err = output(*arguments, "--json", "-")
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out)
    return found


def refusal(output: Outcome, *arguments: str) -> str:
    status, out, err = output(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    return err


# --- dossier ---


def test_dossier(output: Outcome) -> None:
    found = result(output, "dossier", *MODEL, "--sequences", "2", "--length", "9", "--seed", "3")
    expected = head_dossier(tiny_model("llama"), n_sequences=2, length=9, seed=3)
    assert found["model"] == MODEL[1]
    stimulus = {"n_sequences": 2, "length": 9, "seed": 3, "has_opening": True}
    assert found["stimulus"] == {"given": "[BOS r r]", **stimulus}
    assert list(found["roles"]) == list(ROLES)
    scores = [found["roles"][role]["scores"] for role in ROLES]
    np.testing.assert_array_equal(np.array(scores, np.float32), expected.values)


def test_the_leaders_of_each_role_are_listed(output: Outcome) -> None:
    status, out, _ = output("dossier", *MODEL, "--sequences", "1", "--top-k", "2")
    assert status == 0
    dossier = head_dossier(tiny_model("llama"), n_sequences=1)
    *heading, columns, first, second = out.splitlines()
    said = " ".join(" ".join(heading).split())
    assert "1 sequence [BOS r r], r being 50 random tokens (seed 0)" in said
    assert [role.info.label.lower() in columns for role in ROLES.values()] == [True] * 4
    for role in ROLES:
        for line, (head, score) in zip((first, second), dossier.leaders(role, 2), strict=True):
            assert f"{head!s:8s} {score:.3f}" in line


def test_a_length_that_does_not_fit_is_refused(output: Outcome) -> None:
    assert "from 2 to 63" in refusal(output, "dossier", *MODEL, "--length", "64")


# --- study ---


@pytest.fixture
def small_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablation.studies.heads.load_corpus", lambda: PASSAGES)


@pytest.mark.usefixtures("small_corpus")
def test_study_heads(output: Outcome) -> None:
    found = result(output, "study", "heads", *MODEL)
    assert found["name"] == "heads"
    assert found["n_prompts"] == len(PASSAGES)
    assert len(found["table"]) == len(HEAD_METRICS) * 12
    assert set(found["table"][0]) == {
        "layer",
        "head",
        "metric",
        "mean",
        "low",
        "median",
        "high",
        "rank",
    }
    assert found["answer"]
    assert found["caveats"]
    assert found["seconds"] > 0
    assert "contexts" not in found


@pytest.mark.usefixtures("small_corpus")
def test_the_strongest_contexts_of_one_head(output: Outcome) -> None:
    found = result(output, "study", "heads", *MODEL, "--head", "2.1")
    assert found["head"] == [2, 1]
    assert len(found["contexts"]) == len(PASSAGES), "one of each passage"
    status, out, _ = output("study", "heads", *MODEL, "--head", "L2H1")
    assert status == 0
    assert out.count("L2H1") >= len(HEAD_METRICS)
    for context in found["contexts"]:
        assert context["passage"] in out
        assert f"{context['weight']:.3f}" in out


@pytest.mark.usefixtures("small_corpus")
def test_as_many_heads_as_asked_for_are_listed(output: Outcome) -> None:
    status, out, _ = output("study", "heads", *MODEL, "--top-k", "2")
    assert status == 0
    assert sum(line.startswith(("Entropy", " Entropy")) for line in out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("tails",), "no study 'tails'; choose one of heads"),
        (("heads", "--head", "1-2.0"), "'1-2.0' names 2; name one"),
        (("heads", "--head", "9.9"), "no '9.9'"),
        (("heads", "--head", "x"), "Cannot read 'x'"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    output: Outcome, arguments: tuple[str, ...], part: str
) -> None:
    assert part in refusal(output, "study", *arguments, *MODEL)


# --- compare ---


def test_compare_with_a_prompt(output: Outcome) -> None:
    more = ("--prompt", PROMPT, "--with-prompt", OTHER_PROMPT)
    found = result(output, "compare", *MODEL, *more)
    model = tiny_model("llama")
    pair = with_prompt(model, model.tokenize(PROMPT), model.tokenize(OTHER_PROMPT))
    np.testing.assert_allclose(found["scores"], attention_change(pair).values, atol=1e-7)
    assert found["prompt"] == PROMPT
    assert found["other"]["prompt"] == OTHER_PROMPT
    assert (found["metric"], found["unit"], found["intervention"]) == ("js", "nats", None)


def test_compare_with_a_model(output: Outcome) -> None:
    other = str(tiny_directory("llama", 3))
    found = result(output, "compare", *MODEL, "--prompt", PROMPT, "--with-model", other)
    model = tiny_model("llama")
    pair = with_model(model, model.tokenize(PROMPT), tiny_model("llama", 3))
    np.testing.assert_allclose(found["scores"], attention_change(pair).values, atol=1e-7)
    assert found["other"]["model"] == other


def test_compare_with_heads_ablated(output: Outcome) -> None:
    more = ("--prompt", PROMPT, "--ablate", "0.1", "--positions", "0-3")
    found = result(output, "compare", *MODEL, *more)
    model = tiny_model("llama")
    ablation = Ablation((Head(0, 1),), Zero(), (0, 1, 2, 3))
    change = attention_change(with_ablation(model, model.tokenize(PROMPT), ablation))
    np.testing.assert_allclose(found["scores"], change.values, atol=1e-7)
    assert found["intervention"] == "zero"
    assert found["other"]["ablated_heads"] == [[0, 1]]


def test_the_heads_that_change_most_are_listed(output: Outcome) -> None:
    status, out, _ = output("compare", *MODEL, "--prompt", PROMPT, "--ablate", "0.1")
    assert status == 0
    assert "clean against ablated (zero)" in out
    assert "Change of attention (nats)" in out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "exactly one of --with-prompt, --with-model, --ablate; 0 were given"),
        (("--ablate", "0.1", "--with-prompt", "x"), "2 were given"),
        (("--with-prompt", "The"), "as many tokens"),
        (("--ablate", "9.9"), "no '9.9'"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    output: Outcome, arguments: tuple[str, ...], part: str
) -> None:
    assert part in refusal(output, "compare", *MODEL, "--prompt", PROMPT, *arguments)
