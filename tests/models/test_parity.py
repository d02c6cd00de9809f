"""Every supported family against an independent computation: plain hooks, plain eager attention.

TOLERANCE is 1e-5: in float32 two correct computations of these 3-layer models, one fused and one
eager, one batched and one not, differ by rounding of order 1e-6 in a log-probability; a wrong
head, scale or mask differs by more than 1e-3 (`test_the_tolerance_tells_heads_apart`).
"""

import numpy as np
import pytest
import torch
from reference import attentions, log_probs, zero
from tiny import FAMILIES, prompt_text, tiny_model

from ablation import Ablation, Zero
from models.attention_tap import TapRequest, active
from models.types import Head

TOLERANCE = 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_every_head_equals_eager_output_attentions(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    ours = model.attention(prompt, model.all_heads()).values
    theirs = attentions(family, prompt.ids).reshape(ours.shape).numpy()
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_clean_prediction_equals_the_plain_model(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    prediction = model.predict(prompt)
    expected = log_probs(family, prompt.ids, prediction.position)
    np.testing.assert_allclose(prediction.log_probs, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_zeroing_each_head_equals_a_plain_hook_on_the_output_projection(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    position = model.resolve_position(prompt)
    heads = model.all_heads()
    ours = model.ablated_logprobs(prompt, [[head] for head in heads], Zero())
    for head, row in zip(heads, ours, strict=True):
        expected = log_probs(family, prompt.ids, position, [(head.layer, head.head, zero)])
        torch.testing.assert_close(row, expected, atol=TOLERANCE, rtol=0, msg=f"{family} {head}")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tolerance_tells_heads_apart(family: str) -> None:
    """Guard against a test that could not fail: every head's ablation is its own, visibly."""
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    heads = model.all_heads()
    rows = model.ablated_logprobs(prompt, [[], *([head] for head in heads)], Zero())
    difference = (rows[:, None] - rows[None]).abs().amax(-1)
    difference.fill_diagonal_(torch.inf)
    assert float(difference.min()) > 10 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_every_position_can_be_read_and_negative_ones_count_from_the_end(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    for position in (0, 3, len(prompt) - 1):
        expected = log_probs(family, prompt.ids, position)
        for same in (position, position - len(prompt)):
            prediction = model.predict(prompt, same)
            np.testing.assert_allclose(prediction.log_probs, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_an_ablated_run_equals_that_of_the_hooked_model(family: str) -> None:
    from reference import edited_heads

    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    ablation = Ablation((Head(0, 1), Head(1, 2)), Zero())
    ours = model.attention(prompt, model.all_heads(), ablation)
    with edited_heads(family, [(0, 1, zero), (1, 2, zero)]):
        theirs = attentions(family, prompt.ids).reshape(ours.values.shape).numpy()
    assert ours.ablated
    np.testing.assert_allclose(ours.values, theirs, atol=TOLERANCE, rtol=0)
    clean = model.attention(prompt, model.all_heads())
    assert not clean.ablated
    assert np.abs(clean.values - ours.values).max() > 10 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tap_is_reached_once_a_layer(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    request = TapRequest()
    with active(request):
        model._model(input_ids=torch.tensor([prompt.ids]), use_cache=False)
    assert request.n_calls == model.n_layers == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_ablating_nothing_is_bit_identical(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    clean = model.predict(prompt)
    nothing = model.predict(prompt, ablation=Ablation((), Zero()))
    assert np.array_equal(clean.log_probs, nothing.log_probs)
