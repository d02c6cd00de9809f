"""What the program is measured against computes the same, and is found out when it does not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_directory, tiny_model
from torch import Tensor

from ablation import sweep_heads
from benchmarks.agreement import compare
from benchmarks.loops import LensLoop, PlainLoop, spread
from benchmarks.subjects import Subject, prompt_of_length
from models import Head

FAMILIES = ("gpt2", "llama")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_loop_agrees(family: str) -> None:
    loop = PlainLoop(_subject(family))
    assert _agrees(family, loop.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformer_lens_agrees(family: str) -> None:
    pytest.importorskip("transformer_lens", reason="install benchmarks/requirements.txt")
    loop = LensLoop(_subject(family))
    assert _agrees(family, loop.logits)
    assert _agrees(family, lambda ids, head: loop.layer_logits(ids, head.layer)[head.head])


def test_another_head_does_not_agree() -> None:
    loop = PlainLoop(_subject("llama"))
    other = {head: Head(head.layer, (head.head + 1) % 4) for head in tiny_model().all_heads()}
    assert not _agrees("llama", lambda ids, head: loop.logits(ids, other[head]))


def test_samples_are_spread_over_all() -> None:
    assert spread(range(10), 2) == [2, 7]
    assert spread(range(3), 5) == [0, 1, 2]


def _subject(family: str) -> Subject:
    return Subject(family, Path(tiny_directory(family)))


def _agrees(family: str, logits: Callable[[tuple[int, ...], Head], Tensor]) -> bool:
    model = tiny_model(family)
    prompt = prompt_of_length(model, 12)
    found = compare(
        "loop",
        lambda head: logits(prompt.ids, head),
        model,
        prompt,
        sweep_heads(model, prompt),
        model.all_heads(),
    )
    assert found.n_heads == 12
    return found.holds
