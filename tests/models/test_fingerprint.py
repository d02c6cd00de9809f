"""A model's fingerprint: the same for the same weights, another for any other."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny import tiny_directory, tiny_torch_model

from models.fingerprint import SAMPLE, weights_fingerprint
from models.registry import load_model


def test_two_copies_of_a_checkpoint_have_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_directory("llama"), copy)
    one, other = (load_model(str(d), device="cpu") for d in (tiny_directory("llama"), copy))
    assert one.fingerprint == other.fingerprint
    assert len(one.fingerprint) == 64


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_other_weights_or_another_dtype_have_another(family: str) -> None:
    found = {weights_fingerprint(tiny_torch_model(family, seed)) for seed in (0, 1)}
    found.add(weights_fingerprint(tiny_torch_model(family).to(torch.bfloat16)))
    assert len(found) == 3


def test_a_single_changed_number_is_seen_wherever_it_stands() -> None:
    model = tiny_torch_model("gpt2")
    weight = model.transformer.wte.weight
    before = weights_fingerprint(model)
    at = 3  # between two numbers of the sample
    assert weight.numel() // SAMPLE > 1
    assert at % (weight.numel() // SAMPLE) != 0
    with torch.no_grad():
        weight.view(-1)[at] += 1e-3
    assert weights_fingerprint(model) != before


def test_the_configuration_counts() -> None:
    one, other = tiny_torch_model("llama"), tiny_torch_model("llama", rms_norm_eps=1e-3)
    assert weights_fingerprint(one) != weights_fingerprint(other)


def test_nothing_but_the_weights_decides() -> None:
    model = tiny_torch_model("gpt2")
    before = weights_fingerprint(model)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert weights_fingerprint(model) == before
    finally:
        torch.set_num_threads(threads)
