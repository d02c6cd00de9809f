"""How many sets of heads go into one pass."""

from dataclasses import replace

import pytest
import torch
from tiny import PROMPT, tiny_directory, tiny_model

from ablation import Knockout, Zero, sweep_heads
from models.blocks import Window
from models.branching import BaseRun
from models.budget import MemoryBudget
from models.registry import load_model
from models.types import Head

LLAMA_8B = MemoryBudget(
    device=torch.device("meta"),  # no limit but memory
    item_bytes=2,
    d_model=4096,
    d_inner=14_336,
    n_heads=32,
    n_vocab=128_256,
    memory_gb=30.0,
)


def test_a_pass_fits_the_memory_it_is_given() -> None:
    rows = LLAMA_8B.rows(Window(0, 256), 256, False)
    # The residual stream's and the MLP's activations of one row alone, in bfloat16.
    least = 256 * (4096 + 14_336) * 2
    assert 100 < rows < 30e9 / least
    assert replace(LLAMA_8B, memory_gb=15.0).rows(Window(0, 256), 256, False) == pytest.approx(
        rows / 2, abs=1
    )


def test_fewer_positions_make_room_for_more_rows() -> None:
    whole, last = (LLAMA_8B.rows(Window(*span), 256, False) for span in ((0, 256), (255, 1)))
    assert last > 5 * whole


def test_scores_that_are_written_out_take_room() -> None:
    window = Window(0, 2048)
    fused, written = (LLAMA_8B.rows(window, 2048, scores) for scores in (False, True))
    # One float32 tensor of scores alone: 32 heads x 2,048 x 2,048.
    assert 1 <= written < 30e9 / (32 * 2048 * 2048 * 4) < 2 * fused


def test_eager_layers_few_queries_and_knockouts_write_scores() -> None:
    def base(family: str, **posed: object) -> BaseRun:
        model = tiny_model(family)
        prompt = model.tokenize(PROMPT)
        question = model.head_sets.pose(prompt, posed.pop("intervention", Zero()), **posed)
        sets = [frozenset(), frozenset({Head(0, 1)})]
        return model.head_sets.engine.base_run(prompt.ids, sets, question.editing)

    assert not base("llama").writes_scores
    assert base("gemma2").writes_scores  # a soft cap
    assert base("llama", positions=[-1]).writes_scores
    assert not base("llama", positions=[4]).writes_scores  # keys are copied for so many queries
    assert base("llama", intervention=Knockout((9,), (3,))).writes_scores


def test_one_set_is_evaluated_whatever_the_memory() -> None:
    assert replace(LLAMA_8B, memory_gb=1e-9).rows(Window(0, 4096), 4096, False) == 1
    assert LLAMA_8B.rows(Window(5, 0), 5, False) == 1  # nothing to compute: any number does


@pytest.mark.parametrize(("n_threads", "rows", "wide_rows"), [(1, 16, 8), (4, 64, 32)])
def test_passes_on_a_cpu_stay_small(n_threads: int, rows: int, wide_rows: int) -> None:
    """6 MiB a core are 1,024 positions of 1,536 numbers; of wider ones each core has 128."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        on_cpu = replace(LLAMA_8B, device=torch.device("cpu"), item_bytes=4, d_inner=1536)
        assert on_cpu.rows(Window(0, 64), 64, False) == rows
        wide = replace(on_cpu, d_inner=10**6)
        assert wide.rows(Window(0, 16), 16, False) == wide_rows
    finally:
        torch.set_num_threads(before)


def test_the_sizes_are_those_of_the_model() -> None:
    budget = tiny_model("llama").head_sets.budget
    assert (budget.d_model, budget.d_inner, budget.n_vocab) == (32, 48, 320)
    # GPT-2's position embeddings are wider than its blocks, and no part of them.
    assert tiny_model("gpt2").head_sets.budget.d_inner == 128


def test_what_the_user_allows_reaches_the_pass() -> None:
    reports: list[int] = []
    model = load_model(tiny_directory("llama"), device="cpu", pass_memory_gb=1e-6)
    sweep_heads(model, PROMPT, progress=lambda progress: reports.append(progress.done))
    assert reports == list(range(1, 13))
