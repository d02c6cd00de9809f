"""Passes shared out among cores give what whole ones give, and leave torch's threads alone."""

import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import torch
from tiny import FAMILIES, PROMPT, prompt_text, tiny_model

from ablation import Knockout, Mean, Zero
from models import branching, cores
from models.branching import BlockPass
from models.cores import on_cores
from models.errors import ErrorKind, UserError

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
    found = on_cores(work, range(CORES))
    ASKED.reset(token)
    assert found == [(part, 1, True, "something") for part in range(CORES)]
    assert torch.get_num_threads() == CORES
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [CORES]  # threads that come after it compute on all cores


def test_as_many_cores_as_torch_is_told() -> None:
    def name(_part: int) -> str:
        return threading.current_thread().name

    assert len(set(on_cores(name, range(30)))) <= CORES
    torch.set_num_threads(1)
    assert len(set(on_cores(name, range(30)))) == 1


def test_the_first_error_is_raised_when_all_are_done() -> None:
    done: list[int] = []

    def work(part: int) -> None:
        if part != 2:
            raise ValueError(f"part {part}")
        done.append(part)

    with pytest.raises(ValueError, match="part 0"):
        on_cores(work, range(CORES))
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
    ran: list[int] = []
    plain = branching.on_cores

    def counted(work: Any, parts: Any) -> Any:
        ran.append(len(parts))
        return plain(work, parts)

    monkeypatch.setattr(branching, "on_cores", counted)
    found = [model.ablated_logprobs(prompt, sets, kind, positions=at) for kind, at in asked]
    assert ran[0] == CORES
    assert len(ran) >= len(asked)
    monkeypatch.setattr(branching, "shared_out", lambda *_: False)
    for rows, (kind, at) in zip(found, asked, strict=True):
        whole = model.ablated_logprobs(prompt, sets, kind, positions=at)
        torch.testing.assert_close(rows, whole, atol=1e-5, rtol=0)


def test_a_refusal_on_a_core_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    on: list[str] = []

    def refuse(*_given: object) -> None:
        on.append(threading.current_thread().name)
        raise UserError(ErrorKind.INTERVENTION, "There is no key left.")

    monkeypatch.setattr(branching, "LEAST_OF_A_CORE", 1)
    monkeypatch.setattr(BlockPass, "newborn_z", refuse)
    with pytest.raises(UserError, match=r"^There is no key left\.$"):
        model.ablated_logprobs(prompt, [[head] for head in model.all_heads()], Zero())
    assert on
    assert all(name.startswith("core") for name in on)


def test_without_room_for_threads_parts_are_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "prepared", lambda _n: None)
    here = threading.current_thread().name
    assert on_cores(lambda part: (part, threading.current_thread().name), [1, 2]) == [
        (1, here),
        (2, here),
    ]
