"""The benchmarks run, on tiny models, and say what they should."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_directory

from benchmarks import __main__ as front_door
from benchmarks import gpu, gpu_seeing, overview, profile_sweep, screened
from benchmarks.memory import MIB, peak_bytes, peak_mib
from benchmarks.prompts import PROMPTS
from benchmarks.report import Goal
from benchmarks.subjects import Subject, prompt_of_length, subject_named
from models import Head, LanguageModel


@pytest.fixture(autouse=True)
def _threads_stay() -> Any:
    """Benchmarks set torch's threads; later tests want theirs."""
    n = torch.get_num_threads()
    yield
    torch.set_num_threads(n)


def test_the_front_door_prints_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--models", str(tiny_directory("llama"))]
    assert (
        front_door.main(
            [*models, "--no-peers", "--quick", "--threads", "1", "--questions", "sweep", "search"]
        )
        == 0
    )
    shown = capsys.readouterr().out
    for title in ("Sweep of all heads, seconds", "Search in 2 steps, ratios", "Heads found"):
        assert title in shown
    assert "(≤ 1.3 " in shown
    assert shown.count("agrees") == 1


def test_the_search_is_measured_against_the_exact_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        front_door.parse(["--strategies", "screened", "--no-peers"])
    assert "name it too" in capsys.readouterr().err


def test_goals_bound_from_above_or_below() -> None:
    assert Goal(2.0).verdict(2.5) == "≥ 2 met"
    assert Goal(2.0).verdict(1.5) == "≥ 2 NOT met"
    assert Goal(1.3, at_most=True).verdict(1.2) == "≤ 1.3 met"
    assert Goal(1.3, at_most=True).verdict(1.4) == "≤ 1.3 NOT met"


def test_the_peak_is_what_was_taken_and_given_back() -> None:
    def take_and_free() -> None:
        torch.ones(64, MIB // 4)  # float32

    assert peak_bytes(take_and_free) / MIB == pytest.approx(64, abs=4)


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    peak = peak_mib("sweep", Subject("tiny", tiny_directory("llama")), n_tokens=64, threads=1)
    assert 0 < peak < 1024


def test_prompts_have_the_length_asked_for(llama: LanguageModel) -> None:
    for n in (3, 64):
        assert len(prompt_of_length(llama, n)) == n


def test_a_model_without_a_language_gets_random_tokens() -> None:
    model, _ = gpu.random_llama(gpu.TINY, "cpu")
    prompt = prompt_of_length(model, 32)
    assert len(prompt) == 32
    assert len(set(prompt.ids)) > 16


# --- The screened search. ---


def test_the_prompts_are_twenty_of_different_kinds() -> None:
    assert len(PROMPTS) == len(set(PROMPTS.values())) == 20


@pytest.mark.builtin
def test_the_prompts_have_10_to_40_tokens(builtin: LanguageModel) -> None:
    for text in PROMPTS.values():
        assert 10 <= len(builtin.tokenize(text)) <= 40


def test_searches_are_compared_by_heads_order_and_kl() -> None:
    first, second, third = Head(0, 0), Head(1, 1), Head(2, 2)
    exact = _found([(first, 1.0), (second, 4.0)])
    same = _pair(exact, _found([(first, 1.0), (second, 4.0)]))
    assert (same.same_heads, same.same_order, same.overlap, same.kl_share) == (True, True, 1, 1)
    assert same.is_fast_and_right
    turned = _pair(exact, _found([(second, 2.0), (first, 4.0)]))
    assert (turned.same_heads, turned.same_order) == (True, False)
    other = _pair(exact, _found([(first, 1.0), (third, 3.0)]))
    assert not other.same_heads
    assert not other.is_fast_and_right
    assert other.overlap == pytest.approx(1 / 3)
    assert other.kl_share == pytest.approx(0.75)
    nothing = _pair(_found([]), _found([]))
    assert (nothing.same_heads, nothing.overlap, nothing.kl_share) == (True, 1, 1)


def test_the_screened_search_is_tried_on_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    screened.main(
        [
            "--model",
            str(tiny_directory("llama")),
            "--prompts",
            "2",
            "--max-heads",
            "2",
            "--threads",
            "1",
        ]
    )
    shown = capsys.readouterr().out
    assert "Generic search" in shown
    assert "Targeted search" in shown
    assert "same heads in the same order" in shown


def _found(steps: list[tuple[Head, float]]) -> Any:
    return SimpleNamespace(
        steps=[SimpleNamespace(head=head, kl=kl) for head, kl in steps],
        heads=tuple(sorted(head for head, _ in steps)),
    )


def _pair(exact: Any, other: Any) -> screened.Pair:
    return screened.Pair("kind", exact, other, exact_seconds=10.0, screened_seconds=2.0)


# --- The summary of all heads. ---


@pytest.mark.thorough
def test_the_summary_is_measured_beside_a_pass_and_eager_attention(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ["--model", str(tiny_directory("llama")), "--rounds", "1", "--threads", "1"]
    overview.main([*model, "--tokens", "12"])
    shown = capsys.readouterr().out
    assert "All 12 heads" in shown
    assert "maps do not fit" not in shown
    said = shown.split("at 12 tokens: ")
    assert float(said[1]) < 1e-5  # float32 rounding is 1e-7 of the largest value
    assert overview.cells(None, {"seconds": 1.0, "mib": 1.0})[2] == "maps do not fit"
    monkeypatch.setattr(overview, "available_bytes", lambda: 1000)
    assert overview.measured_apart("eager", overview.argparse.Namespace(), 12, 12) is None


# --- The GPU and the profile. ---


def test_the_gpu_benchmark_says_that_there_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_the_gpu_benchmark_runs_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--device", "cpu", "--tiny", "--tokens", "8", "--rounds", "1"]
    models = ["--models", str(tiny_directory("llama"))]
    assert gpu.main([*tiny, *models, "--questions", "large", "parity"]) == 0
    shown = capsys.readouterr().out
    assert "3 x 4 heads, bfloat16" in shown
    assert "agrees" in shown


@pytest.mark.parametrize(
    ("operation", "group"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_softmax", "attention"),
        ("aten::_log_softmax", "norms and elementwise"),
        ("aten::native_layer_norm", "norms and elementwise"),
        ("aten::silu", "norms and elementwise"),
        ("aten::rsqrt", "norms and elementwise"),
        ("aten::copy_", "copies and indexing"),
        ("aten::cat", "copies and indexing"),
        ("aten::t", "copies and indexing"),
        ("aten::_to_copy", "copies and indexing"),
        ("aten::tanh", "norms and elementwise"),
    ],
)
def test_operations_are_grouped(operation: str, group: str) -> None:
    assert profile_sweep.group_of(operation) == group


def test_what_is_left_of_the_wall_time_is_pythons() -> None:
    groups = profile_sweep.seconds_by_group({"aten::mm": 3.0, "aten::mul": 0.5}, wall=4.0)
    assert groups["matrix products"] == 3.0
    assert groups[profile_sweep.BETWEEN] == pytest.approx(0.5)
    assert sum(groups.values()) == pytest.approx(4.0)


def test_subjects_are_known_by_name_or_directory() -> None:
    directory = tiny_directory("gpt2")
    assert subject_named(str(directory)).directory == directory


def test_the_gpu_benchmark_of_what_sees_and_acts_runs_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_seeing.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert gpu_seeing.main(["--device", "cpu", "--tiny", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "attention of L1H0 on the picture" in printed
    assert "sweep of the expert's 8 heads" in printed
