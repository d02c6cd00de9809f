"""`attribute` and `explain` on the command line."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from tiny import MASKED_PROMPT, PROMPT, tiny_directory, tiny_model

from ablation.attribution import attribute_logits, logit_lens, tokens_by_head
from ablation.query_key import explain_attention
from app.cli.run import run
from models.attention_flow import attention_rollout, moved_attention
from models.types import Head

MODEL = str(tiny_directory("llama"))
Outcome = tuple[int, str, str]

ROUNDING = 1e-5
"""Two runs of the same pass in float32."""


def asked(command: str, *more: str, prompt: str = PROMPT, model: str = MODEL) -> list[str]:
    return [command, "--model", model, "--device", "cpu", "--prompt", prompt, *more]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], Outcome]:
    """Run a command line; give its exit status, stdout and stderr."""

    def outcome(arguments: list[str]) -> Outcome:
        capsys.readouterr()
        status = run(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return outcome


def test_attribute_prints_terms_and_their_sum(output: Callable[[list[str]], Outcome]) -> None:
    status, out, err = output(
        asked("attribute", "--target", " Mary", "--versus", " John", "--top-k", "3")
    )
    assert (status, err) == (0, "")
    found = attribute_logits(tiny_model("llama"), PROMPT, " Mary", " John")
    for component, value in found.ranked()[:3]:
        assert f"{component} " in out
        assert f"{value:+.4f}"[:-1] in out
    assert f"sum of {len(found.terms)} terms" in out
    assert "others" in out


def test_attribute_writes_everything_as_json(output: Callable[[list[str]], Outcome]) -> None:
    options = ("--target", " Mary", "--lens", "--heads", "1.2,0.0", "--json", "-")
    status, out, err = output(asked("attribute", *options))
    assert (status, err) == (0, "")
    result = json.loads(out)
    model = tiny_model("llama")
    found = attribute_logits(model, PROMPT, " Mary")
    assert result["logit"] == pytest.approx(found.logit, abs=ROUNDING)
    assert result["error"] < ROUNDING
    assert result["stream_error"] < ROUNDING
    assert sum(term["value"] for term in result["terms"]) == pytest.approx(result["sum"])
    assert result["scores"][1][2] == pytest.approx(
        float(found.head_scores.values[1, 2]), abs=ROUNDING
    )
    lens = logit_lens(model, PROMPT, watched=" Mary")
    assert [row["after"] for row in result["lens"]["layers"]] == lens.names
    assert result["lens"]["layers"][-1]["watched_rank"] == lens.predictions[-1].rank(
        lens.watched.id
    )
    (one, _) = tokens_by_head(model, PROMPT, [Head(0, 0), Head(1, 2)])
    assert [token["id"] for token in result["head_tokens"][0]["raised"]] == [
        token.id for token, _ in one.raised
    ]


def test_explain_prints_and_writes_a_score_told_apart(
    output: Callable[[list[str]], Outcome],
) -> None:
    cell = ("--head", "2.3", "--query", "-1", "--key", "4")
    status, out, err = output(asked("explain", *cell))
    assert (status, err) == (0, "")
    detail = explain_attention(tiny_model("llama"), PROMPT, Head(2, 3), -1, 4)
    assert f"{detail.score:.3f}"[:-1] in out
    assert "where the query" in out
    assert "it shares key head 1" in out
    result = json.loads(output(asked("explain", *cell, "--relative", "--json", "-"))[1])
    relative = explain_attention(tiny_model("llama"), PROMPT, Head(2, 3), -1, 4, relative=True)
    assert result["relative"] is True
    assert result["score"] == pytest.approx(relative.score, abs=ROUNDING)
    assert sum(result["dimensions"]) == pytest.approx(relative.score, abs=ROUNDING)
    for side in ("query", "key"):
        terms = result["sources"][side]["terms"]
        assert sum(term["value"] for term in terms) == pytest.approx(relative.score, abs=ROUNDING)


@pytest.mark.parametrize("kind", ["moved", "rollout"])
def test_attention_can_be_shown_as_what_it_moves(
    output: Callable[[list[str]], Outcome], kind: str
) -> None:
    status, out, err = output(asked("attention", "--heads", "1.2", "--show", kind, "--json", "-"))
    assert (status, err) == (0, "")
    result = json.loads(out)
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    maps = (
        moved_attention(model, prompt, [Head(1, 2)])
        if kind == "moved"
        else attention_rollout(model, prompt, [1])
    )
    assert result["kind"] == kind
    np.testing.assert_allclose(result["values"], maps.values, atol=ROUNDING)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (asked("attribute", "--target", " Mary", "--versus", " Mary"), "against itself"),
        (asked("attribute", "--target", "no such token"), "error: "),
        (asked("attribute", "--heads", "9.9"), "error: "),
        (
            asked("attention", "--heads", "1.1", "--show", "moved", "--ablate", "1.1"),
            "of the clean run",
        ),
        (
            asked("attribute", prompt=MASKED_PROMPT, model=str(tiny_directory("bert"))),
            "cannot be told apart",
        ),
        (asked("explain", "--head", "2.*", "--query", "3", "--key", "1"), "names 4 heads"),
        (asked("explain", "--head", "2.1", "--query", "99", "--key", "1"), "Position 99"),
        (
            asked(
                "explain", "--head", "2.1", "--query", "3", "--key", "1",
                model=str(tiny_directory("gptj")),
            ),
            "queries and keys cannot be seen",
        ),
    ],
)  # fmt: skip
def test_wrong_input_gets_one_sentence(
    output: Callable[[list[str]], Outcome], arguments: list[str], sentence: str
) -> None:
    status, out, err = output(arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert sentence in err
