"""Models that accelerate spreads: the same numbers, wherever the weights lie."""

import numpy as np
import pytest
import torch
from tiny import PROMPT, tiny_directory, tiny_model

from ablation import Zero, search_heads, sweep_heads
from models.language_model import LanguageModel
from models.placement import execution_device, weights_at_hand
from models.registry import load_model

TOLERANCE = 1e-5  # the same float32 computation, in passes of other sizes

OFFLOADED = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.norm": "cpu",
    "lm_head": "cpu",
}


@pytest.fixture(scope="module")
def offloaded() -> LanguageModel:
    return load_model(tiny_directory("llama"), device_map=OFFLOADED)


def test_weights_lie_on_disk_and_come_when_needed(offloaded: LanguageModel) -> None:
    projection = offloaded.sites[2].projection
    assert projection.weight.device.type == "meta"
    assert execution_device(projection).type in ("cpu", "cuda")
    with weights_at_hand(projection):
        assert projection.weight.device.type != "meta"
    assert projection.weight.device.type == "meta"


def test_an_offloaded_model_gives_the_same_numbers(offloaded: LanguageModel) -> None:
    whole = tiny_model("llama")
    assert offloaded.branches
    assert all(check.passed for check in offloaded.info.self_check.checks)
    ours, expected = sweep_heads(offloaded, PROMPT), sweep_heads(whole, PROMPT)
    np.testing.assert_allclose(ours.values, expected.values, atol=TOLERANCE, rtol=0)
    prompt = whole.tokenize(PROMPT)
    np.testing.assert_allclose(
        offloaded.attention(prompt, offloaded.all_heads()).values,
        whole.attention(prompt, whole.all_heads()).values,
        atol=TOLERANCE,
        rtol=0,
    )
    last = [[head] for head in whole.all_heads()]
    torch.testing.assert_close(
        offloaded.ablated_logprobs(prompt, last, Zero(), positions=[-2]),
        whole.ablated_logprobs(prompt, last, Zero(), positions=[-2]),
        atol=TOLERANCE,
        rtol=0,
    )


def test_a_screened_search_differentiates_through_offloaded_weights(
    offloaded: LanguageModel,
) -> None:
    options = {"max_heads": 4, "strategy": "screened", "screen": 3}
    ours = search_heads(offloaded, PROMPT, **options)
    expected = search_heads(tiny_model("llama"), PROMPT, **options)
    assert [step.head for step in ours.steps] == [step.head for step in expected.steps]


def test_auto_spreads_over_what_there_is() -> None:
    model = load_model(tiny_directory("gpt2"), device_map="auto")
    expected = tiny_model("gpt2").predict(tiny_model("gpt2").tokenize(PROMPT))
    ours = model.predict(model.tokenize(PROMPT))
    np.testing.assert_allclose(ours.log_probs, expected.log_probs, atol=TOLERANCE, rtol=0)
