"""What pairs take in memory, and that more of them than fit are refused before anything is run."""

import pytest
from tiny import tiny_model

from ablation.circuit.discovery import discover_circuit
from ablation.circuit.memory import (
    BATCH_POSITIONS,
    HELD,
    WORKING,
    bytes_needed,
    in_gigabytes,
    refuse_beyond_memory,
)
from ablation.circuit.question import pose
from ablation.circuit.types import PromptPair
from models.budget import MemoryBudget
from models.edge_patching import EdgePatching
from models.errors import ErrorKind, UserError

PAIR = PromptPair("The cat sat on the mat. The", "The cat sat on the cat. The", " Mary", " John")


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: float) -> None:
    monkeypatch.setattr(MemoryBudget, "free", lambda _budget: n_bytes)


def test_a_pair_takes_what_its_parts_put_out() -> None:
    model = tiny_model("llama")
    n_sources, d_model = 1 + 3 * (4 + 1), model.head_sets.budget.d_model
    one = n_sources * 10 * d_model * 4
    assert bytes_needed(model, [10]) == pytest.approx((HELD + WORKING) * one)
    # Beyond a batch each pair takes only what it keeps.
    many = 3 * BATCH_POSITIONS // 10
    beyond = bytes_needed(model, [10] * (many + 1)) - bytes_needed(model, [10] * many)
    assert beyond == pytest.approx(HELD * one)


def test_the_outputs_that_a_question_keeps_are_counted() -> None:
    question = pose(tiny_model("llama"), [PAIR] * 6, "logit_diff", "resample")
    kept = sum(
        tensor.numel() * tensor.element_size()
        for batch in question.batches
        for tensor in (batch.clean.parts.outputs, batch.reference.outputs)
    )
    length = question.batches[0].clean.n_positions
    assert kept <= bytes_needed(question.model, [length] * 6) <= 4 * kept


def test_it_is_said_how_many_pairs_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    free(monkeypatch, bytes_needed(model, [10] * 7))
    refuse_beyond_memory(model, [10] * 7)
    with pytest.raises(UserError, match=r"8 pairs .* up to 10 tokens .* give fewer, about 7") as it:
        refuse_beyond_memory(model, [10] * 8)
    assert it.value.kind is ErrorKind.DEVICE
    free(monkeypatch, 1.0)
    with pytest.raises(UserError, match=r"One pair .* shorten the prompts"):
        refuse_beyond_memory(model, [10])


def test_a_discovery_is_refused_before_anything_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    length = len(model.tokenize(PAIR.clean))
    monkeypatch.setattr(EdgePatching, "run", lambda *_: pytest.fail("it ran"))
    free(monkeypatch, bytes_needed(model, [length] * 2))
    # Pairs held out count.
    with pytest.raises(UserError, match="3 pairs of prompts"):
        discover_circuit(model, [PAIR], held_out=[PAIR, PAIR])
    with pytest.raises(UserError, match="3 pairs of prompts"):
        pose(model, [PAIR] * 3, "logit_diff", "resample")


@pytest.mark.parametrize(
    ("n_bytes", "words"), [(6.4e8, "0.6 GB"), (1.0, "0.1 GB"), (1.24e10, "12 GB")]
)
def test_memory_is_said_in_gigabytes(n_bytes: float, words: str) -> None:
    assert in_gigabytes(n_bytes) == words
