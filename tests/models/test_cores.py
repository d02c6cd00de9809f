"""Passes shared out among cores give what whole ones give, and leave torch's threads alone."""

import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
import torch
from tiny import FAMILIES, PROMPT, prompt_text, tiny_model

from ablation import Knockout, Mean, Zero
from models import branching
from models.cores import Cores
from models.errors import UserError

CORES = 3
ASKED: ContextVar[str] = ContextVar("asked", default="nothing")


@pytest.fixture(autouse=True)
def three_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    yield
    torch.set_num_threads(before)


def test_parts_are_done_side_by_side_on_one_core_each() -> None:
    together = threading.Barrier(CORES)

    def work(part: int) -> tuple[int, int, bool, str]:
        together.wait(timeout=10)  # passed only if all of them run at once
        return part, torch.get_num_threads(), torch.is_inference_mode_enabled(), ASKED.get()

    token = ASKED.set("something")
    found = Cores().map(work, range(CORES))
    ASKED.reset(token)
    assert found == [(part, 1, True, "something") for part in range(CORES)]
    assert torch.get_num_threads() == CORES
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [CORES]  # threads that come after it compute on all cores


def test_as_many_cores_as_torch_is_told() -> None:
    cores = Cores()

    def name(_part: int) -> str:
        return threading.current_thread().name

    assert len(set(cores.map(name, range(30)))) <= CORES
    torch.set_num_threads(1)
    assert len(set(cores.map(name, range(30)))) == 1


def test_the_first_error_is_raised_when_all_are_done() -> None:
    done: list[int] = []

    def work(part: int) -> None:
        if part != 2:
            raise ValueError(f"part {part}")
        done.append(part)

    with pytest.raises(ValueError, match="part 0"):
        Cores().map(work, range(CORES))
    assert done == [2]


@pytest.mark.parametrize("family", [f for f in FAMILIES if tiny_model(f).branches])
def test_shared_out_passes_equal_whole_ones(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    sets = [[head] for head in model.all_heads()] + [list(model.all_heads()[1:5]), []]
    shared: list[bool] = []
    plain = branching.shared_out

    def watched(*given: int) -> bool:
        shared.append(plain(*given))
        return shared[-1]

    monkeypatch.setattr(branching, "shared_out", watched)
    monkeypatch.setattr(branching, "LEAST_OF_A_CORE", 1)
    found = model.ablated_logprobs(prompt, sets, Zero())
    assert any(shared)
    monkeypatch.setattr(branching, "shared_out", lambda *_: False)
    whole = model.ablated_logprobs(prompt, sets, Zero())
    # Batches of different size round differently, by about 1e-6.
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


def test_any_intervention_can_be_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    sets = [[head] for head in model.all_heads()]
    monkeypatch.setattr(branching, "LEAST_OF_A_CORE", 1)
    asked = ((Mean(), None), (Knockout((4,), (2,)), None), (Zero(), (3,)))
    found = [model.ablated_logprobs(prompt, sets, kind, positions=at) for kind, at in asked]
    monkeypatch.setattr(branching, "shared_out", lambda *_: False)
    for rows, (kind, at) in zip(found, asked, strict=True):
        whole = model.ablated_logprobs(prompt, sets, kind, positions=at)
        torch.testing.assert_close(rows, whole, atol=1e-5, rtol=0)


def test_a_refusal_on_a_core_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    monkeypatch.setattr(branching, "LEAST_OF_A_CORE", 1)
    alone = Knockout((2,), (0, 1, 2))
    with pytest.raises(UserError, match="leave position 2 no key to attend to"):
        model.ablated_logprobs(prompt, [[head] for head in model.all_heads()], alone)
