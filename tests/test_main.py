"""The command line: its results, its one-line errors, its exit statuses."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from tiny import MASKED_PROMPT, PROMPT, tiny_directory, tiny_model

from ablation import (
    HEAD_METRICS,
    INTERVENTIONS,
    METRICS,
    Ablation,
    Zero,
    parse_heads,
    search_heads,
    summarise_heads,
    sweep_heads,
    sweep_positions,
)
from ablation.screening import SCREENED
from ablation.types import STRATEGIES, Progress
from app.cli.parser import build_parser, with_command
from app.cli.run import DEBUG_VARIABLE, run
from app.cli.terminal import Terminal, cancelled_by_interrupt, visible
from models.builtin import CACHE_VARIABLE
from viz.sink import SINKS

MODEL = str(tiny_directory("llama"))
OTHER_PROMPT = "The key to the cabinets"
ONE_ROW = ("--memory-gb", "1e-9")
"""Room for one head set in a pass, so that a study of the tiny model takes several."""

ROUNDING = 1e-6
"""The same forward pass, alone and within a batch, in float32."""


def asked(command: str, *more: str, prompt: str = PROMPT, model: str = MODEL) -> list[str]:
    return [command, "--model", model, "--device", "cpu", "--prompt", prompt, *more]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; give its exit status, stdout and stderr."""

    def outcome(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return outcome


@pytest.fixture
def result(output: Callable[..., tuple[int, str, str]]) -> Callable[..., dict[str, Any]]:
    """Run a command line that succeeds; give its JSON, which is all there is on stdout."""

    def outcome(*arguments: str) -> dict[str, Any]:
        status, out, err = output(*arguments, "--json", "-")
        assert (status, err) == (0, "")
        assert out.count("\n") == 1
        return json.loads(out)

    return outcome


def in_a_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "main.py", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, **options
    )


def in_a_shell(script: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", script]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def besides_loading(stderr: str) -> str:
    """Leave out what a machine says that takes over ten seconds to load the model."""
    return "".join(
        line for line in stderr.splitlines(keepends=True) if not line.startswith("Loading ")
    )


# --- results ---


def test_predict(result: Callable[..., dict[str, Any]]) -> None:
    found = result(*asked("predict", "--top-k", "3"))
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    expected = model.predict(prompt, top_k=3)
    assert found["model"] == MODEL
    assert found["prompt"] == PROMPT
    assert found["ids"] == list(prompt.ids)
    assert found["tokens"] == list(prompt.labels)
    assert found["position"] == len(prompt) - 1
    assert [t["id"] for t in found["baseline"]["top"]] == [t.id for t in expected.top]
    assert found["baseline"]["entropy"] == pytest.approx(expected.entropy)
    assert {found[key] for key in ("intervention", "ablated", "metrics")} == {None}


def test_predict_with_heads_ablated(result: Callable[..., dict[str, Any]]) -> None:
    more = ("--ablate", "0.1, L2H3", "--position", "-2", "--intervention", "scale:0.5")
    found = result(*asked("predict", *more, "--positions", "0,4-6,-1", "--target", "id:7"))
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    heads = parse_heads("0.1, 2.3", 3, 4)
    n = len(prompt)
    ablation = Ablation(heads, INTERVENTIONS["scale"].build(factor=0.5), (0, 4, 5, 6, n - 1))
    expected = model.predict(prompt, n - 2, ablation)
    assert found["position"] == n - 2
    assert found["positions"] == [0, 4, 5, 6, n - 1]
    assert found["intervention"] == "scale:0.5"
    assert found["ablated_heads"] == [[0, 1], [2, 3]]
    assert found["ablated"]["top"][0]["prob"] == pytest.approx(expected.top[0].prob)
    assert found["metrics"]["kl"] > 0
    assert found["metrics"]["entropy_after"] == pytest.approx(expected.entropy)
    assert found["target"]["ablated_prob"] == pytest.approx(expected.prob(7))
    assert found["target"]["ablated_rank"] == expected.rank(7)


def test_attention(result: Callable[..., dict[str, Any]]) -> None:
    found = result(*asked("attention", "--heads", "L2H3, 0.1"))
    model = tiny_model("llama")
    heads = parse_heads("L2H3, 0.1", 3, 4)
    expected = model.attention(model.tokenize(PROMPT), heads)
    assert found["heads"] == [head.to_json() for head in heads]
    np.testing.assert_allclose(found["values"], expected.values, atol=ROUNDING)
    ablated = result(*asked("attention", "--heads", "2.3", "--ablate", "0.*"))
    assert ablated["intervention"] == "zero"
    assert np.abs(np.array(ablated["values"][0]) - expected.values[0]).max() > 0.01


def test_heads(result: Callable[..., dict[str, Any]]) -> None:
    found = result(*asked("heads"))
    model = tiny_model("llama")
    summaries = summarise_heads(model, PROMPT)
    assert list(found["metrics"]) == list(HEAD_METRICS)
    for name, metric in found["metrics"].items():
        np.testing.assert_allclose(metric["values"], summaries.values_of(name), atol=ROUNDING)
    assert found["stopped"] == "complete"
    assert found["tokens"] == list(model.tokenize(PROMPT).labels)
    ablated = result(*asked("heads", "--ablate", "0.*"))
    assert ablated["ablated"]
    assert ablated["ablated_heads"] == [[0, head] for head in range(4)]
    assert ablated["metrics"]["entropy"]["values"][0] == found["metrics"]["entropy"]["values"][0]
    assert ablated["metrics"]["entropy"]["values"][2] != found["metrics"]["entropy"]["values"][2]


def test_heads_of_a_prompt_without_a_mask_token(result: Callable[..., dict[str, Any]]) -> None:
    found = result(*asked("heads", prompt=OTHER_PROMPT, model=str(tiny_directory("bert"))))
    assert len(found["metrics"]["entropy"]["values"]) == 3


def test_sweep(result: Callable[..., dict[str, Any]]) -> None:
    found = result(*asked("sweep"))
    model = tiny_model("llama")
    expected = sweep_heads(model, PROMPT)
    assert found["metric"] == "kl"
    assert found["intervention"] == "zero"
    np.testing.assert_allclose(found["scores"], expected.values, atol=ROUNDING)
    about = result(*asked("sweep", "--metric", "target_rank", "--target", "id:7"))
    assert about["target"]["id"] == 7


def test_search(result: Callable[..., dict[str, Any]]) -> None:
    found = result(*asked("search", "--max-heads", "2"))
    assert (found["objective"], found["target"]) == ("kl", None)
    assert len(found["steps"]) == len(found["heads"]) == 2
    assert sorted(step["head"] for step in found["steps"]) == found["heads"]
    assert found["stopped"] == "max_heads"
    assert found["dropped"] == []
    model = tiny_model("llama")
    ablation = Ablation(parse_heads(_spelled(found["heads"]), 3, 4), Zero())
    top = model.predict(model.tokenize(PROMPT), ablation=ablation).top[0]
    assert found["steps"][-1]["top"]["id"] == top.id


def test_search_for_a_target(result: Callable[..., dict[str, Any]]) -> None:
    second = tiny_model("llama").predict(tiny_model("llama").tokenize(PROMPT)).top[1].id
    found = result(*asked("search", "--target", f"id:{second}", "--heads", "L0, L1"))
    assert found["objective"] == "target"
    assert found["target"]["id"] == second
    assert found["stopped"] in {"target_reached", "no_improvement", "max_heads"}
    assert all(step["head"][0] < 2 for step in found["steps"])


def test_a_screened_search(result: Callable[..., dict[str, Any]]) -> None:
    screened = ("--strategy", "screened", "--screen", "3")
    found = result(*asked("search", "--max-heads", "3", *screened))
    model = tiny_model("llama")
    expected = search_heads(model, PROMPT, max_heads=3, strategy="screened", screen=3)
    assert found["strategy"] == "screened"
    assert found["heads"] == [head.to_json() for head in expected.heads]
    # The first step of a generic search is exact: 12 heads, then 3 and 3.
    assert [step["evaluated"] for step in found["steps"]] == [12, 3, 3]
    assert found["evaluated"] == 18


def test_a_sweep_over_several_prompts(result: Callable[..., dict[str, Any]]) -> None:
    one = result(*asked("sweep"))
    found = result(*asked("sweep", "--prompt", OTHER_PROMPT))
    model = tiny_model("llama")
    expected = sweep_heads(model, [PROMPT, OTHER_PROMPT])
    np.testing.assert_allclose(found["scores"], expected.values, atol=ROUNDING)
    np.testing.assert_allclose(found["scores_by_prompt"], expected.by_prompt, atol=ROUNDING)
    np.testing.assert_allclose(found["scores_by_prompt"][0], one["scores"], atol=ROUNDING)
    kept = ("model", "prompt", "tokens", "ids", "position", "intervention", "baseline")
    assert {key: found[key] for key in kept} == {key: one[key] for key in kept}
    assert found.keys() - one.keys() == {"prompts", "scores_by_prompt"}
    other = model.tokenize(OTHER_PROMPT)
    assert found["prompts"][1] == {**other.to_json(), "position": len(other) - 1}


def test_positions_count_from_the_end_of_each_prompt(
    result: Callable[..., dict[str, Any]],
) -> None:
    more = ("--prompt", OTHER_PROMPT, "--position", "-2", "--positions=-3,-2")
    found = result(*asked("sweep", *more))
    model = tiny_model("llama")
    assert [entry["position"] for entry in found["prompts"]] == [
        len(model.tokenize(prompt)) - 2 for prompt in (PROMPT, OTHER_PROMPT)
    ]
    expected = sweep_heads(model, [PROMPT, OTHER_PROMPT], position=-2, positions=[-3, -2])
    np.testing.assert_allclose(found["scores_by_prompt"], expected.by_prompt, atol=ROUNDING)


def test_a_search_over_several_prompts(result: Callable[..., dict[str, Any]]) -> None:
    model = tiny_model("llama")
    prompts = [PROMPT, OTHER_PROMPT]
    targets = [model.predict(model.tokenize(prompt)).top[1].id for prompt in prompts]
    named = [part for target in targets for part in ("--target", f"id:{target}")]
    found = result(*asked("search", "--prompt", OTHER_PROMPT, "--max-heads", "2", *named))
    expected = search_heads(model, prompts, targets, max_heads=2)
    assert found["heads"] == [head.to_json() for head in expected.heads]
    assert [target["id"] for target in found["targets"]] == targets
    assert [entry["prompt"] for entry in found["prompts"]] == prompts
    assert [len(step["tops"]) for step in found["steps"]] == [2] * len(found["steps"])
    assert [entry["top"][0]["id"] for entry in found["baselines"]] == [
        prediction.top[0].id for prediction in expected.baselines
    ]
    assert [entry["top"][0]["id"] for entry in found["finals"]] == [
        prediction.top[0].id for prediction in expected.finals
    ]


def test_one_target_is_that_of_all_prompts(result: Callable[..., dict[str, Any]]) -> None:
    more = ("--metric", "target_prob", "--target", "id:7", "--prompt", OTHER_PROMPT)
    found = result(*asked("sweep", *more))
    assert [target["id"] for target in found["targets"]] == [7, 7]


def test_a_sweep_by_position(result: Callable[..., dict[str, Any]]) -> None:
    more = ("--by-position", "--heads", "2.3, 0.1", "--metric", "target_logprob")
    found = result(*asked("sweep", *more, "--target", "id:7", "--intervention", "scale:0.5"))
    model = tiny_model("llama")
    heads = parse_heads("2.3, 0.1", 3, 4)
    scale = INTERVENTIONS["scale"].build(factor=0.5)
    expected = sweep_positions(model, PROMPT, heads, scale, "target_logprob", target=7)
    assert found["heads"] == [head.to_json() for head in heads]
    assert (found["metric"], found["target"]["id"]) == ("target_logprob", 7)
    assert (found["intervention"], found["positions"]) == ("scale:0.5", None)
    assert np.array(found["scores"]).shape == (2, len(found["tokens"]))
    np.testing.assert_allclose(found["scores"], expected.values, atol=ROUNDING)


def test_memory_of_a_pass_changes_no_result(result: Callable[..., dict[str, Any]]) -> None:
    np.testing.assert_allclose(
        result(*asked("sweep", *ONE_ROW))["scores"],
        result(*asked("sweep"))["scores"],
        atol=ROUNDING,
    )


def _spelled(heads: list[list[int]]) -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads)


def test_a_masked_model_is_read_at_its_mask(result: Callable[..., dict[str, Any]]) -> None:
    bert = str(tiny_directory("bert"))
    found = result(*asked("predict", prompt=MASKED_PROMPT, model=bert))
    assert found["tokens"][found["position"]] == "[MASK]"
    maps = result(*asked("attention", "--heads", "0.0", prompt="no mask", model=bert))
    assert len(maps["values"]) == 1


def test_bos_is_a_switch(result: Callable[..., dict[str, Any]]) -> None:
    without = result(*asked("predict"))["ids"]
    assert result(*asked("predict", "--no-bos"))["ids"] == without
    assert result(*asked("predict", "--bos"))["ids"] == [0, *without]


def test_tables(output: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = output(*asked("predict", "--ablate", "0.0", "--target", "id:7"))
    assert (status, err) == (0, "")
    assert "KL(before || after)" in out
    assert "·to_2 (position 17)" in out
    assert re.search(r"target .*: probability .*; ablated", out)
    status, out, err = output(*asked("sweep", "--top-k", "2"))
    assert (status, err) == (0, "")
    assert re.search(r"layer +H0 +H1 +H2 +H3", out)
    assert len(re.findall(r"^ \d +L\dH\d ", out, re.MULTILINE)) == 2
    status, out, err = output(*asked("attention", "--heads", "1.2", "--top-k", "1"))
    assert (status, err) == (0, "")
    assert re.search(r"^ 0 +Whe +Whe 1\.000", out, re.MULTILINE)
    status, out, err = output(*asked("search", "--max-heads", "2"))
    assert (status, err) == (0, "")
    assert "  2. L" in out
    assert "The limit of heads was reached." in out


@pytest.mark.parametrize("smallest", [(), ("--smallest",)], ids=["largest", "smallest"])
def test_heads_are_listed_by_a_metric(
    smallest: tuple[str, ...], output: Callable[..., tuple[int, str, str]]
) -> None:
    more = ("--sort", "first_weight", "--top-k", "3", *smallest)
    status, out, err = output(*asked("heads", *more))
    assert (status, err) == (0, "")
    listed = re.findall(r"^\d +(L\dH\d) ", out, re.MULTILINE)
    ranked = summarise_heads(tiny_model("llama"), PROMPT).ranked("first_weight")
    names = [str(head) for head, _ in (reversed(ranked) if smallest else ranked)]
    assert listed == names[:3]
    assert "all heads on 18 tokens" in out
    assert "…" not in out


def test_tables_of_several_prompts(output: Callable[..., tuple[int, str, str]]) -> None:
    several = ("--prompt", OTHER_PROMPT, "--prompt", "Two students")
    status, out, err = output(*asked("sweep", *several))
    assert (status, err) == (0, "")
    assert "the mean over 3 prompts" in out
    assert _joined(out).count("KL divergence (nats), mean over 3 prompts") == 2
    status, out, err = output(*asked("search", *several, "--prompt", "it", "--max-heads", "1"))
    assert (status, err) == (0, "")
    assert re.search(r"\n  1\. L\dH\d .* top tokens .*%, .*%, .*% and 1 more", _joined(out))
    assert re.search(r"prompt 4: most likely token: ", out)


def test_the_table_of_a_screened_search_says_so(
    output: Callable[..., tuple[int, str, str]],
) -> None:
    exact = output(*asked("search", "--max-heads", "2"))[1]
    assert "Screened" not in exact
    status, out, _ = output(
        *asked("search", "--max-heads", "2", "--strategy", "screened", "--screen", "2")
    )
    assert status == 0
    assert (
        "Screened: each step after the first evaluated only the 2 most promising heads; "
        "14 head sets were evaluated exactly."
    ) in _joined(out)


def test_the_tables_by_position(
    output: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    more = ("--by-position", "--heads", "0.1, 1.2, 2.3", "--top-k", "4")
    status, out, err = output(*asked("sweep", *more))
    assert (status, err) == (0, "")
    assert len(re.findall(r"^ \d +L\dH\d +\d+ ", out, re.MULTILINE)) == 4
    assert re.search(r"^ +token +L0H1 +L1H2 *$", out, re.MULTILINE)
    assert re.search(r"^ +token +L2H3 *$", out, re.MULTILINE)
    assert len(re.findall(r"^ 17 +·to_2 ", out, re.MULTILINE)) == 2


def _joined(out: str) -> str:
    """Return text without the line breaks that fit it to a terminal."""
    return re.sub(r" *\n(?! )", " ", out)


def test_a_wide_model_is_shown_in_parts(
    output: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    _, out, _ = output(*asked("sweep"))
    assert re.search(r"layer +H0 +H1 *$", out, re.MULTILINE)
    assert re.search(r"layer +H2 +H3 *$", out, re.MULTILINE)


def test_the_proof_of_minimality_is_shown(output: Callable[..., tuple[int, str, str]]) -> None:
    model = tiny_model("gpt2")
    candidates = model.predict(model.tokenize(PROMPT), top_k=8).top[1:]
    for token in candidates:
        arguments = asked("search", "--target", f"id:{token.id}", model=str(tiny_directory("gpt2")))
        status, out, _ = output(*arguments)
        assert status == 0
        if "The target became the most likely token." in out:
            assert "left intact" in out
            assert "Minimal:" in out
            return
    pytest.fail("no target of the tiny model could be reached")


def test_markup_and_control_characters_are_shown_as_they_are(
    output: Callable[..., tuple[int, str, str]],
) -> None:
    status, out, _ = output(*asked("predict", prompt="[bold]x[/bold] \x1b[31m [/nonsense]"))
    assert status == 0
    assert "\x1b" not in out
    assert visible("a\x1b[31m\u202eb") == "a\\x1b[31m\\u202eb"


# --- JSON files ---


def test_a_json_file_beside_the_tables(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "result.json"
    status, out, _ = output(*asked("sweep", "--json", str(path)))
    assert status == 0
    assert "layer" in out
    assert np.array(json.loads(path.read_text("utf-8"))["scores"]).shape == (3, 4)


def test_a_json_file_that_cannot_be_written_is_known_before_the_work(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    for target in (tmp_path, tmp_path / "missing" / "x.json"):
        status, out, err = output(*asked("sweep", "--json", str(target)))
        assert (status, out) == (2, "")
        assert "cannot be written" in err


def test_attention_as_one_html_file(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "maps.html"
    options = ("--heads", "0.1, 2.3", "--html", str(path), "--first-token", "renormalise")
    status, out, err = output(*asked("attention", *options))
    assert (status, err) == (0, "")
    assert "looks at" in out
    text = path.read_text("utf-8")
    about = json.loads(text.partition('id="about">')[2].partition("</script>")[0])
    assert [one["name"] for one in about["maps"]] == ["L0H1", "L2H3"]
    assert (about["sink"], about["marked"]) == ("renormalise", 17)
    assert about["labels"] == list(tiny_model("llama").tokenize(PROMPT).labels)


def test_an_html_file_that_cannot_be_written_is_known_before_the_work(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    target = tmp_path / "missing" / "x.html"
    status, out, err = output(*asked("attention", "--heads", "0.1", "--html", str(target)))
    assert (status, out) == (2, "")
    assert "give --html another one" in err


def test_the_first_token_may_be_all_that_the_pictures_know() -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["attention", "--prompt", "x", "--heads", "0", "--first-token=x"])
    for sink in SINKS:
        arguments = ["attention", "--prompt", "x", "--heads", "0", "--first-token", sink]
        assert build_parser().parse_args(arguments).first_token == sink


def test_a_failure_leaves_an_older_json_file_alone(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "older.json"
    path.write_text("older")
    assert output(*asked("predict", "--ablate", "99.0", "--json", str(path)))[0] == 2
    assert path.read_text() == "older"
    fresh = tmp_path / "fresh.json"
    assert output(*asked("predict", "--ablate", "99.0", "--json", str(fresh)))[0] == 2
    assert not fresh.exists()


def test_numbers_that_json_lacks_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal("-")
    terminal.write_json({"a": [1.5, float("nan"), (float("inf"),)], "·": "·"})
    assert capsys.readouterr().out == '{"a": [1.5, null, [null]], "·": "·"}\n'


# --- wrong input ---

WRONG = {
    "unknown command": (["predikt"], "predikt"),
    "unknown option": (["--colour"], "--colour"),
    "port not a number": (["serve", "--port", "x"], "--port"),
    "port out of range": (["serve", "--port", "70000"], "--port"),
    "no such address": (["serve", "--host", "203.0.113.7"], "--host"),
    "prompt missing": (["predict"], "--prompt"),
    "heads missing": (["attention", "--prompt", "x"], "--heads"),
    "empty prompt": (asked("predict", prompt=""), "prompt"),
    "prompt too long": (asked("predict", prompt="word " * 500), "128"),
    "prompt of a megabyte": (asked("predict", prompt="word " * 200_000), "1,000,000 characters"),
    "prompt of no tokens": (
        asked("attention", "--heads", "0.0", prompt="  ", model=str(tiny_directory("bert"))),
        "no tokens",
    ),
    "prompt no Unicode": (asked("predict", prompt="a\udcff"), "not valid Unicode"),
    "top-k zero": (asked("predict", "--top-k", "0"), "--top-k"),
    "max-heads negative": (asked("search", "--max-heads", "-3"), "--max-heads"),
    "position outside": (asked("predict", "--position", "99"), "99"),
    "positions outside": (asked("predict", "--ablate", "0.0", "--positions", "99"), "99"),
    "positions nonsense": (asked("predict", "--ablate", "0.0", "--positions", "x"), "'x'"),
    "heads nonsense": (asked("attention", "--heads", "first"), "first"),
    "no heads named": (asked("attention", "--heads", " , "), "No heads are named"),
    "no heads to ablate": (asked("predict", "--ablate", ""), "No heads are named"),
    "head outside": (asked("predict", "--ablate", "99.0"), "99"),
    "intervention unknown": (asked("sweep", "--intervention", "explode"), "explode"),
    "resample of other length": (
        asked("predict", "--ablate", "0.0", "--intervention", "resample:short"),
        "token",
    ),
    "by position without heads": (asked("sweep", "--by-position"), "needs heads"),
    "by position of no heads": (
        asked("sweep", "--by-position", "--heads", ","),
        "No heads are named",
    ),
    "by position at positions": (
        asked("sweep", "--by-position", "--heads", "0.0", "--positions", "1"),
        "--positions does not go with --by-position",
    ),
    "by position of two prompts": (
        asked("sweep", "--by-position", "--heads", "0.0", "--prompt", "x"),
        "give --prompt once",
    ),
    "by position to two targets": (
        asked("sweep", "--by-position", "--heads", "0.0", "--target", "a", "--target", "b"),
        "give --target once",
    ),
    "metric of heads unknown": (asked("heads", "--sort", "kl"), "'kl'"),
    "heads of a whole sweep": (asked("sweep", "--heads", "0.0"), "--by-position"),
    "strategy unknown": (asked("search", "--strategy", "lucky"), "'lucky'"),
    "screen of an exact search": (asked("search", "--screen", "4"), "--strategy screened"),
    "screen zero": (asked("search", "--strategy", "screened", "--screen", "0"), "--screen"),
    "second prompt empty": (asked("sweep", "--prompt", ""), "prompt"),
    "position outside the second prompt": (
        asked("sweep", "--prompt", "it", "--position", "9"),
        "9",
    ),
    "positions outside the second prompt": (
        asked("sweep", "--prompt", "it", "--positions", "9"),
        "9",
    ),
    "targets fewer than prompts": (
        asked("search", "--prompt", "x", "--prompt", "y", "--target", "id:1", "--target", "id:2"),
        "2 targets for 3 prompts",
    ),
    "memory nothing": (asked("sweep", "--memory-gb", "0"), "--memory-gb"),
    "memory negative": (asked("predict", "--memory-gb", "-1"), "--memory-gb"),
    "memory not a number": (asked("search", "--memory-gb", "nan"), "--memory-gb"),
    "memory without end": (asked("search", "--memory-gb", "inf"), "--memory-gb"),
    "memory nonsense, serving": (["serve", "--memory-gb", "much"], "--memory-gb"),
    "metric unknown": (asked("sweep", "--metric", "beauty"), "beauty"),
    "metric without target": (asked("sweep", "--metric", "target_prob"), "target"),
    "target of many tokens": (asked("search", "--target", " Mississippi"), "Mississippi"),
    "target out of range": (asked("search", "--target", "id:123456"), "123456"),
    "model unknown": (asked("predict", model="no-such-model-here"), "no-such-model-here"),
    "model no directory": (asked("predict", model="./nowhere"), "./nowhere"),
    "model a directory without one": (asked("predict", model="tests"), "config.json"),
    "model a file": (asked("predict", model="README.md"), "README.md"),
    "device absent": ([*asked("predict"), "--device", "cuda:99"], "cuda:99"),
    "dtype unknown": ([*asked("predict"), "--dtype", "int8"], "int8"),
    "device absent, serving": (["--port", "0", "--device", "cuda:99"], "cuda:99"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_named_in_one_line(
    case: str, output: Callable[..., tuple[int, str, str]]
) -> None:
    arguments, named = WRONG[case]
    status, out, err = output(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert "internal" not in err


def test_the_target_that_is_on_top_already(output: Callable[..., tuple[int, str, str]]) -> None:
    top = tiny_model("llama").predict(tiny_model("llama").tokenize(PROMPT)).top[0].id
    status, _, err = output(*asked("search", "--target", f"id:{top}"))
    assert status == 2
    assert "already" in err


def test_weights_that_are_not_numbers(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(MODEL, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    status, out, err = output(*asked("predict", model=str(tmp_path)))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "finite" in err


def test_weights_that_are_cut_short(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    shutil.copytree(MODEL, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    status, out, err = output(*asked("predict", model=str(tmp_path)))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "cut short" in err


def test_a_cache_directory_that_cannot_be_written(
    output: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(in_the_way))
    status, out, err = output(*asked("predict", model="builtin"))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert str(in_the_way) in err
    assert CACHE_VARIABLE in err


def test_a_taken_port_is_known_before_a_model_is_loaded(
    output: Callable[..., tuple[int, str, str]],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, out, err = output("--port", port, "--model", "./nowhere")
    assert (status, out) == (2, "")
    assert f"Port {port} is taken" in err
    assert "--port" in err


def test_an_internal_error_is_logged_and_not_shown(
    output: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("app.cli.predict.pose", broken)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    status, out, err = output(*asked("predict"))
    log = tmp_path / "error.log"
    assert (status, out) == (1, "")
    assert err == f"internal error (ZeroDivisionError); the traceback is in {log}.\n"
    assert "a defect" in log.read_text()
    assert PROMPT not in log.read_text()
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    assert "Traceback" in output(*asked("predict"))[2]
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(in_the_way))
    assert DEBUG_VARIABLE in output(*asked("predict"))[2].splitlines()[-1]


# --- Ctrl-C ---


def test_the_first_ctrl_c_cancels_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with cancelled_by_interrupt() as cancel:
        assert not cancel.is_set()
        signal.raise_signal(signal.SIGINT)
        assert cancel.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def ctrl_c_after_first_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is pressed when the first progress is reported."""

    @contextmanager
    def bar(_: Terminal) -> Iterator[Callable[[Progress], None]]:
        yield lambda _: signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Terminal, "bar", bar)


@pytest.mark.usefixtures("ctrl_c_after_first_report")
def test_ctrl_c_in_a_sweep_keeps_what_was_found(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "part.json"
    status, out, err = output(*asked("sweep", *ONE_ROW, "--json", str(path)))
    assert status == 130
    assert "Stopped by Ctrl-C; the heads scored" in err
    assert "L0H0" in out
    found = json.loads(path.read_text())
    assert found["stopped"] == "cancelled"
    flat = [score for row in found["scores"] for score in row]
    assert None in flat
    assert any(score is not None for score in flat)


@pytest.mark.usefixtures("ctrl_c_after_first_report")
def test_ctrl_c_while_heads_are_read(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "part.json"
    status, out, err = output(*asked("heads", "--json", str(path)))
    assert status == 130
    assert "Stopped by Ctrl-C; the layers read" in err
    assert "L0H0" in out
    entropy = json.loads(path.read_text())["metrics"]["entropy"]["values"]
    assert None not in entropy[0]
    assert entropy[2] == [None] * 4


@pytest.mark.usefixtures("ctrl_c_after_first_report")
def test_ctrl_c_in_a_sweep_by_position(
    output: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "part.json"
    more = ("--by-position", "--heads", "0.*", "--json", str(path))
    status, out, err = output(*asked("sweep", *more))
    assert status == 130
    assert "Stopped by Ctrl-C; the cells scored" in err
    assert re.search(r"^ 0 +Whe *$", out, re.MULTILINE)  # without scores
    scores = json.loads(path.read_text())["scores"]
    assert None in scores[0]
    assert scores[0][-1] is not None  # the position read is the first to be scored


@pytest.mark.usefixtures("ctrl_c_after_first_report")
def test_ctrl_c_in_a_search(output: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    status, out, _ = output(*asked("search", *ONE_ROW, "--json", str(path)))
    assert status == 130
    assert "Cancelled; what was found until then is kept." in out
    assert json.loads(path.read_text())["stopped"] == "cancelled"


# --- the process ---


def test_help_is_instant_and_tells_everything() -> None:
    script = (
        "import sys; from app.cli.run import run; status = run(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'dash', 'pandas'} & sys.modules.keys(); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    for arguments in (["--help"], ["serve", "--help"]):
        shown = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "usage: python main.py" in shown.stdout


def test_help_lists_every_metric_and_intervention(
    output: Callable[..., tuple[int, str, str]],
) -> None:
    status, text, _ = output("sweep", "--help")
    assert status == 0
    for name in METRICS:
        assert f"  {name} (" in text
    for entry in INTERVENTIONS.values():
        assert entry.usage in text
    search = output("search", "--help")[1]
    for name, words in STRATEGIES.items():
        assert f"  {name}\n      {words}" in search
    assert f"{SCREENED} by default" in search
    heads = output("heads", "--help")[1]
    for name, metric in HEAD_METRICS.items():
        assert f"  {name} ({metric.info.unit})" in heads
        assert metric.info.description in heads
    for command in ("serve", "predict", "attention", "heads", "sweep", "search"):
        assert "--memory-gb" in output(command, "--help")[1]
    for command in ("predict", "attention", "heads", "search"):
        assert INTERVENTIONS["knockout"].usage in output(command, "--help")[1]


def test_serve_is_the_default_command() -> None:
    parser = build_parser()
    for arguments in ([], ["serve"], ["--port", "8050"], ["--model", "builtin"]):
        options = parser.parse_args(with_command(arguments))
        assert (options.command, options.host, options.port) == ("serve", "127.0.0.1", 8050)
        assert (options.model, options.open) == ("builtin", False)


def test_as_a_program() -> None:
    shown = in_a_process(*asked("predict", "--json", "-"))
    assert shown.returncode == 0
    # On a busy machine it says that it is loading; quick work goes without a word.
    assert all(line.startswith("Loading") for line in shown.stderr.splitlines())
    assert json.loads(shown.stdout)["model"] == MODEL
    wrong = in_a_process(*asked("predict", "--ablate", "nonsense"))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert besides_loading(wrong.stderr).count("\n") == 1


def test_a_reader_that_goes_away() -> None:
    command = [sys.executable, "main.py", *asked("attention", "--heads", "all")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.close()
        assert besides_loading(writer.stderr.read().decode()) == ""
        assert writer.wait(120) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which only Linux has")
def test_a_full_disk_and_a_closed_stdout() -> None:
    script = f'"{sys.executable}" main.py predict --model "{MODEL}" --prompt x'
    full = in_a_shell(f"{script} >/dev/full")
    assert full.returncode == 2
    said = "error: standard output cannot be written: No space left on device.\n"
    assert besides_loading(full.stderr) == said
    closed = in_a_shell(f"{script} >&-")
    assert (closed.returncode, besides_loading(closed.stderr)) == (0, "")


def test_a_terminal_without_unicode() -> None:
    shown = in_a_process(
        *asked("predict"), env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    )
    assert (shown.returncode, besides_loading(shown.stderr)) == (0, "")
    assert "\\xb7to_2" in shown.stdout


def test_the_page_is_served_until_ctrl_c() -> None:
    command = [sys.executable, "main.py", "--model", MODEL, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        line = server.stdout.readline()
        link = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert link is not None, line
        with urlopen(link[0], timeout=60) as page:
            assert page.status == 200
            assert "Attention Visualizer" in page.read().decode()
            assert page.headers["X-Frame-Options"] == "DENY"
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert server.stdout.read() == "Stopped.\n"
        # The page stands before the model is there: loading may not have begun.
        assert server.stderr.read() in ("", f"Loading {MODEL}\n")


def test_a_model_that_cannot_be_loaded_ends_the_server() -> None:
    ended = in_a_process("--model", "./nowhere", "--port", "0", "--device", "cpu")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: ")
    assert "./nowhere" in ended.stderr
    assert "Stopped" not in ended.stdout


def test_serving_others_is_warned_about() -> None:
    command = [sys.executable, "main.py", "--model", MODEL, "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        assert "http://127.0.0.1:" in server.stdout.readline()
        # The page stands before the model is there: the warning does not wait for it.
        said = [server.stderr.readline(), server.stderr.readline()]
        assert f"Loading {MODEL}\n" in said
        assert any(line.startswith("Warning: everyone who can reach 0.0.0.0") for line in said)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
