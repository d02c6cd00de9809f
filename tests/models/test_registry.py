"""One load for all who ask, within a memory budget."""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from tiny import PROMPT, tiny_directory

from ablation import Zero
from models.errors import ErrorKind, UserError
from models.registry import GIGABYTE, Registry, load_model


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """Three models of equal size under names of their own."""
    return [
        str(shutil.copytree(tiny_directory("gpt2"), tmp_path / letter))
        for letter in ("a", "b", "c")
    ]


def test_a_model_is_loaded_once(names: list[str]) -> None:
    registry = Registry("cpu")
    said: list[str] = []
    model = registry.get(names[0], progress=said.append)
    assert registry.get(names[0], progress=said.append) is model
    assert said == [f"Loading {names[0]}"]
    assert model.name == names[0]
    assert registry.loaded_names() == [names[0]]


def test_two_spellings_of_a_path_are_one_model(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(names[0]).parent)
    registry = Registry("cpu")
    assert registry.get("./a") is registry.get(names[0])


def test_a_directory_named_builtin_is_not_the_builtin_model(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(names[1], Path(names[0]).parent / "builtin")
    monkeypatch.chdir(Path(names[0]).parent)
    monkeypatch.setattr("models.registry.ensure_builtin", lambda _: Path(names[0]))
    registry = Registry("cpu")
    assert registry.get("builtin") is not registry.get("./builtin")
    assert registry.get("builtin") is registry.get("builtin")


def test_who_asks_at_the_same_time_waits_for_the_one_load(names: list[str]) -> None:
    registry = Registry("cpu")
    said: list[str] = []
    together = threading.Barrier(4)
    found = []

    def ask() -> None:
        together.wait()
        found.append(registry.get(names[0], progress=said.append))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(model) for model in found}) == 1
    assert said == [f"Loading {names[0]}"]


def test_different_models_at_the_same_time(names: list[str]) -> None:
    registry = Registry("cpu")
    expected = load_model(names[0], device="cpu")
    prompt = expected.tokenize(PROMPT)
    found = {}

    def ask(name: str) -> None:
        found[name] = registry.get(name).predict(prompt).log_probs

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(registry.loaded_names()) == set(names)
    # The three are copies of one model: each must have come out of its load unharmed.
    for log_probs in found.values():
        assert (log_probs == expected.predict(prompt).log_probs).all()


def test_a_failure_is_told_to_all_and_not_kept(tmp_path: Path) -> None:
    registry = Registry("cpu")
    directory = tmp_path / "late"
    for _ in range(2):
        with pytest.raises(UserError):
            registry.get(str(directory))
    assert registry.loaded_names() == []
    shutil.copytree(tiny_directory("gpt2"), directory)
    assert registry.get(str(directory)).n_layers == 3


def test_the_least_recently_used_makes_room(names: list[str]) -> None:
    a, b, c = names
    size = load_model(a, device="cpu").n_bytes
    registry = Registry("cpu", memory_gb=2.5 * size / GIGABYTE)
    first = registry.get(a)
    registry.get(b)
    registry.get(a)
    registry.get(c)
    assert registry.loaded_names() == [a, c]
    assert registry.get(a) is first


def test_the_one_asked_for_is_kept_however_large(names: list[str]) -> None:
    registry = Registry("cpu", memory_gb=0.0)
    for name in names:
        assert registry.get(name).name == name
        assert registry.loaded_names() == [name]


def test_device_and_dtype_are_those_of_the_registry(names: list[str]) -> None:
    model = Registry("cpu", "bfloat16").get(names[0])
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.bfloat16)
    for wrong in ({"device": "cuda:99"}, {"dtype": "int8"}):
        with pytest.raises(UserError) as caught:
            Registry(**wrong)
        assert caught.value.kind is ErrorKind.DEVICE


def test_the_memory_of_a_pass_reaches_each_model_and_is_not_that_of_the_weights(
    names: list[str],
) -> None:
    registry = Registry("cpu", pass_memory_gb=1e-9)
    model = registry.get(names[0])
    registry.get(names[1])
    assert registry.loaded_names() == names[:2]
    prompt = model.tokenize(PROMPT)
    passes = model.head_sets.evaluate(
        model.head_sets.pose(prompt, Zero()), [(head,) for head in model.all_heads()]
    )
    assert {len(indices) for indices, _ in passes} == {1}
    roomy = load_model(names[0], device="cpu", pass_memory_gb=1.0)
    passes = roomy.head_sets.evaluate(
        roomy.head_sets.pose(prompt, Zero()), [(head,) for head in roomy.all_heads()]
    )
    assert max(len(indices) for indices, _ in passes) > 1


def test_the_builtin_model_is_offered_first() -> None:
    assert Registry("cpu").available()[0] == "builtin"
