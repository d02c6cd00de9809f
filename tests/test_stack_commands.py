"""The command line on an encoder-decoder and on a pair of sentences."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import CORPUS, PROMPT, tiny_directory, tiny_model

from ablation import (
    Ablation,
    Zero,
    compare_attention,
    head_dossier,
    search_heads,
    summarise_heads,
    sweep_heads,
    sweep_positions,
)
from ablation.corpus import Passage
from app.cli.run import run
from models.builtin import CACHE_VARIABLE
from models.types import Head

MODEL = str(tiny_directory("bart"))
DECODER_TEXT = "The cat sat"
ROUNDING = 1e-6
"""The same forward pass, alone and within a batch, in float32."""


def asked(command: str, *more: str) -> list[str]:
    common = ["--model", MODEL, "--device", "cpu", "--prompt", PROMPT]
    return [command, *common, "--decoder", DECODER_TEXT, *more]


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run a command line that succeeds; return its JSON."""
    capsys.readouterr()
    status = run([*arguments, "--json", "-"])
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    return json.loads(captured.out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run(arguments) == 2
    return capsys.readouterr().err


def test_predict_reads_the_decoders_last_position(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, *asked("predict", "--ablate", "encoder:1.0, cross:all, 0.2"))
    model = tiny_model("bart")
    prompt = model.tokenize(PROMPT, decoder=DECODER_TEXT)
    assert (found["prompt"], found["decoder"]) == (PROMPT, DECODER_TEXT)
    assert found["ids"] == list(prompt.ids)
    assert found["source"]["tokens"] == list(prompt.typed.labels)
    assert found["position"] == len(prompt) - 1
    heads = (Head(1, 0, "encoder"), Head(0, 2), *model.all_heads("cross"))
    expected = model.predict(prompt, ablation=Ablation(heads, Zero()))
    assert found["ablated"]["top"][0]["prob"] == pytest.approx(expected.top[0].prob, abs=ROUNDING)
    assert "encoder:1.0" in found["ablated_heads"]
    assert [0, 2] in found["ablated_heads"]


def test_attention_of_several_stacks(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, *asked("attention", "--heads", "cross:1.2, encoder:0.1, 2.3"))
    model = tiny_model("bart")
    prompt = model.tokenize(PROMPT, decoder=DECODER_TEXT)
    values = dict(zip(map(str, found["heads"]), found["values"], strict=True))
    for head in (Head(1, 2, "cross"), Head(0, 1, "encoder"), Head(2, 3)):
        expected = model.attention(prompt, [head]).values[0]
        np.testing.assert_allclose(values[str(head.to_json())], expected, atol=ROUNDING)


def test_the_table_of_cross_attention_names_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(asked("attention", "--heads", "cross:1.2", "--top-k", "18")) == 0
    out = capsys.readouterr().out
    prompt = tiny_model("bart").tokenize(PROMPT, decoder=DECODER_TEXT)
    assert "cross:L1H2" in out
    assert all(label in out for label in (*prompt.labels, *prompt.typed.unique_labels))


@pytest.mark.parametrize("stack", ["", "decoder", "encoder", "cross"])
def test_sweep_of_a_stack(capsys: pytest.CaptureFixture[str], stack: str) -> None:
    more = ("--stack", stack) if stack else ()
    found = result(capsys, *asked("sweep", *more))
    model = tiny_model("bart")
    prompt = model.tokenize(PROMPT, decoder=DECODER_TEXT)
    expected = sweep_heads(model, prompt, stack=stack)
    np.testing.assert_allclose(found["scores"], expected.values, atol=ROUNDING)
    assert found.get("stack") == {"encoder": "encoder", "cross": "cross"}.get(stack)


def test_sweep_by_position_in_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, *asked("sweep", "--by-position", "--heads", "encoder:1.*"))
    model = tiny_model("bart")
    prompt = model.tokenize(PROMPT, decoder=DECODER_TEXT)
    expected = sweep_positions(model, prompt, [Head(1, 0, "encoder"), Head(1, 1, "encoder")])
    np.testing.assert_allclose(found["scores"], expected.values, atol=ROUNDING)


def test_search_over_all_stacks(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, *asked("search", "--max-heads", "2"))
    model = tiny_model("bart")
    expected = search_heads(model, model.tokenize(PROMPT, decoder=DECODER_TEXT), max_heads=2)
    assert [step["head"] for step in found["steps"]] == [s.head.to_json() for s in expected.steps]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("predict", "--ablate", "vision:0.0"), "its stacks are encoder, decoder, cross"),
        (("sweep", "--stack", "vision"), "no stack of attention layers 'vision'"),
        (("sweep", "--by-position", "--heads", "0.0, cross:0.0"), "one stack at a time"),
        (("sweep", "--by-position", "--heads", "0.0", "--stack", "cross"), "--stack does not go"),
        (("predict", "--ablate", "0.0", "--positions", "9"), "outside the decoder text"),
        (("predict", "--pair", "The cat"), "does not tell the sentences of a pair apart"),
    ],
)
def test_what_does_not_fit_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(capsys, *asked(*arguments))


def test_a_decoder_text_of_another_kind_of_model_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = asked("predict")
    arguments[arguments.index(MODEL)] = str(tiny_directory("llama"))
    assert "no encoder-decoder" in refused(capsys, *arguments)


def test_attention_of_all_stacks_in_one_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "maps.html"
    heads = ("--heads", "encoder:0.1, 2.0, cross:1.2")
    found = result(capsys, *asked("attention", *heads, "--html", str(file)))
    assert found["heads"] == ["encoder:0.1", "cross:1.2", [2, 0]]
    page = file.read_text("utf-8")
    about = json.loads(page.partition('id="about">')[2].partition("</script")[0])
    assert about["labels"] == found["tokens"]
    assert about["sides"]["source"]["labels"] == found["source"]["tokens"]
    sides = [one["sides"] for one in about["maps"]]
    assert sides == [["source", "source"], ["prompt", "source"], ["prompt", "prompt"]]


@pytest.mark.parametrize(
    "command",
    [
        ("attention", "--heads", "1.2", "--show", "moved"),
        ("attention", "--heads", "1.2", "--show", "rollout"),
        ("attribute",),
    ],
    ids=lambda command: " ".join(command[:1] + command[-1:]),
)
def test_what_needs_one_stack_is_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    said = refused(capsys, *asked(*command))
    assert "needs a model with one stack of attention layers" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("stack", ["", "encoder", "cross"])
def test_comparison_roles_and_numbers_of_a_stack(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stack: str
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    of_stack = ("--stack", stack) if stack else ()
    model = tiny_model("bart")
    prompt = model.tokenize(PROMPT, decoder=DECODER_TEXT)
    found = result(capsys, *asked("compare", "--ablate", "encoder:0.1, 0.0", *of_stack))
    ablation = Ablation((Head(0, 1, "encoder"), Head(0, 0)), Zero())
    expected = compare_attention(model, prompt, ablation=ablation, stack=stack)
    np.testing.assert_allclose(found["scores"], expected.values, atol=ROUNDING)
    assert found.get("stack", "") == stack
    common = ("--model", MODEL, "--device", "cpu", *of_stack)
    scored = result(capsys, "dossier", *common, "--sequences", "1", "--length", "9")
    roles = head_dossier(model, n_sequences=1, length=9, stack=stack)
    assert list(scored["roles"]) == list(roles.roles)
    for i, role in enumerate(roles.roles):
        np.testing.assert_allclose(scored["roles"][role]["scores"], roles.values[i], atol=ROUNDING)
    if stack != "cross":
        numbers = result(capsys, *asked("heads", *of_stack))
        summaries = summarise_heads(model, prompt, stack=stack)
        given = numbers["metrics"]["entropy"]["values"]
        np.testing.assert_allclose(given, summaries.values_of("entropy"), atol=ROUNDING)


def test_a_comparison_of_decoder_texts(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, *asked("compare", "--with-decoder", "The cat on"))
    assert found["other"]["decoder"] == "The cat on"
    assert found["other"]["prompt"] == PROMPT
    assert "exactly one" in refused(
        capsys, *asked("compare", "--with-decoder", "The cat on", "--ablate", "0.0")
    )


def test_a_head_of_cross_attention_over_the_corpus(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = tuple(Passage(f"p-{i}", "tiny", text) for i, text in enumerate(CORPUS))
    monkeypatch.setattr("ablation.studies.heads.load_corpus", lambda: passages)
    common = ("study", "heads", "--model", MODEL, "--device", "cpu", "--head", "cross:1.1")
    asked_for = (*common, "--metric", "entropy", "--statistic", "median")
    found = result(capsys, *asked_for)
    assert found["stack"] == "cross"
    assert len(found["distributions"]["entropy"]["values"]) == len(passages)
    assert run(asked_for) == 0
    out = capsys.readouterr().out
    counts, _ = np.histogram(found["distributions"]["entropy"]["values"], bins=24)
    n = sum(passage["n_positions"] for passage in found["passages"])
    assert f"cross:L1H1: Entropy, 5 passages, {n} positions" in " ".join(out.split())
    assert out.count("█" * 40) == int((counts == counts.max()).sum())
    assert "Entropy, median" in out
    assert "means nothing for the stack cross" in refused(
        capsys, *common, "--metric", "self_weight"
    )
    assert "no statistic 'mode'" in refused(capsys, *common, "--statistic", "mode")
