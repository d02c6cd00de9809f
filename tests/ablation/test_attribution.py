"""Direct logit attribution and the logit lens against the same worked out by hand.

TOLERANCE: logits are of order 1 to 10, so that float32 rounding is about 1e-6; a wrong norm,
scale or unembedding is off by over 1e-2.
"""

import json

import numpy as np
import pytest
import torch
from parts import head_term, parts
from reference import reference
from tiny import CAUSAL, prompt_text, tiny_model
from torch import Tensor

from ablation.attribution import attribute_logits, logit_lens, tokens_by_head
from models.errors import UserError
from models.types import Component, Head

TOLERANCE = 2e-5
FINAL_NORMS = {"gpt2": "transformer.ln_f", "llama": "model.norm", "gemma2": "model.norm"}


def by_hand(family: str, hidden: Tensor, term: Tensor) -> Tensor:
    """Return a term's share of every logit, its position's stream being `hidden`."""
    model = reference(family)
    norm = model.get_submodule(FINAL_NORMS[family])
    if family == "gpt2":
        size = (hidden.var(correction=0) + norm.eps).sqrt()
        scaled = (term - term.mean()) / size * norm.weight
    else:
        size = (hidden.square().mean() + 1e-6).sqrt()
        gain = norm.weight + (1 if family == "gemma2" else 0)
        scaled = term / size * gain
    return (model.lm_head.weight @ scaled).detach()


def raw_logits(family: str, ids: tuple[int, ...]) -> Tensor:
    """Return what the reference model's unembedding puts out, [position, n_vocab]."""
    model, seen = reference(family), []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _m, _a, output: seen.append(output[0])
    )
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", list(FINAL_NORMS))
@pytest.mark.parametrize("position", [-1, 3])
def test_shares_equal_the_hand_computation(family: str, position: int) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    expected = parts(family, prompt.ids)
    found = dict(attribute_logits(model, prompt, 7, 9, position).terms)
    hidden = expected.hidden[-1][position]
    terms = {Component("embed"): expected.hidden[0][position]}
    for layer in range(3):
        terms[Component("mlp", layer)] = expected.mlps[layer][position]
        for head in range(4):
            term = head_term(family, expected, layer, head)[position]
            terms[Component("head", layer, head)] = term
    for component, term in terms.items():
        share = by_hand(family, hidden, term)
        assert found[component] == pytest.approx(float(share[7] - share[9]), abs=TOLERANCE)
    if family == "gpt2":
        bias = reference(family).get_submodule(FINAL_NORMS[family]).bias
        constant = (reference(family).lm_head.weight @ bias).detach()
        assert found[Component("constant")] == pytest.approx(
            float(constant[7] - constant[9]), abs=TOLERANCE
        )
        of_projection = reference(family).transformer.h[1].attn.c_proj.bias
        share = by_hand(family, hidden, of_projection)
        assert found[Component("bias", 1)] == pytest.approx(
            float(share[7] - share[9]), abs=TOLERANCE
        )


@pytest.mark.parametrize("family", CAUSAL)
def test_terms_add_up_to_the_logit(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    raw = raw_logits(family, prompt.ids)[-1]
    scale = 0.0625 if family == "cohere" else 1.0
    for target, versus in ((7, None), (7, 9)):
        found = attribute_logits(model, prompt, target, versus)
        expected = float(raw[7] - (0 if versus is None else raw[9])) * scale
        assert found.logit == pytest.approx(expected, abs=TOLERANCE)
        assert found.total == pytest.approx(expected, abs=TOLERANCE)
        assert found.error < TOLERANCE
        assert found.capped is (family == "gemma2")
        assert max(abs(value) for _, value in found.terms) > 100 * TOLERANCE
    assert np.isfinite(found.head_scores.values).all()
    assert found.head_scores.values.shape == (3, 4)
    assert found.head_scores.values[1, 2] == pytest.approx(
        dict(found.terms)[Component("head", 1, 2)], abs=1e-6
    )


def test_the_most_likely_token_is_the_default_target() -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(prompt_text("llama"))
    found = attribute_logits(model, prompt)
    assert found.target.id == model.predict(prompt).top[0].id
    assert found.target.prob == pytest.approx(model.predict(prompt).top[0].prob, abs=1e-6)
    assert found.ranked()[0][1] == found.to_frame()["value"][0]
    json.dumps(found.to_json())


def test_a_target_is_not_held_against_itself() -> None:
    with pytest.raises(UserError, match="cannot be held against itself"):
        attribute_logits(tiny_model("llama"), "The cat", 5, 5)


@pytest.mark.parametrize("family", list(FINAL_NORMS))
def test_the_lens_is_norm_and_unembedding_of_each_layer(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    expected = parts(family, prompt.ids)
    plain = reference(family)
    lens = logit_lens(model, prompt, watched=7)
    assert len(lens.predictions) == 4
    assert lens.names == ["embed", "L0", "L1", "L2"]
    for hidden, prediction in zip(expected.hidden, lens.predictions, strict=True):
        with torch.no_grad():
            logits = plain.lm_head(plain.get_submodule(FINAL_NORMS[family])(hidden[-1]))
        if family == "gemma2":
            logits = 30 * torch.tanh(logits / 30)
        np.testing.assert_allclose(
            prediction.log_probs, logits.double().log_softmax(-1), atol=TOLERANCE
        )
    frame = lens.to_frame()
    assert frame["watched_rank"].tolist() == [p.rank(7) for p in lens.predictions]
    json.dumps(lens.to_json())


@pytest.mark.parametrize("family", CAUSAL)
def test_the_last_layer_of_the_lens_is_the_prediction(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    for position in (3, -1):
        lens = logit_lens(model, prompt, position)
        expected = model.predict(prompt, position)
        np.testing.assert_allclose(
            lens.predictions[-1].log_probs, expected.log_probs, atol=TOLERANCE
        )
        assert lens.watched.id == expected.top[0].id


@pytest.mark.parametrize("family", list(FINAL_NORMS))
def test_the_tokens_a_head_raises_are_its_share_of_all_logits(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    expected = parts(family, prompt.ids)
    (found,) = tokens_by_head(model, prompt, [Head(1, 2)], top_k=4)
    share = by_hand(family, expected.hidden[-1][-1], head_term(family, expected, 1, 2)[-1])
    share = share - share.mean()
    best, worst = share.topk(4), share.topk(4, largest=False)
    for side, by_value in ((found.raised, best), (found.lowered, worst)):
        assert [token.id for token, _ in side] == by_value.indices.tolist()
        np.testing.assert_allclose(
            [value for _, value in side], by_value.values.numpy(), atol=TOLERANCE
        )


def test_a_stream_that_was_read_before_is_used() -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(prompt_text("llama"))
    stream = model.residual.read(prompt)
    fresh, again = (
        attribute_logits(model, prompt, 7),
        attribute_logits(model, prompt, 7, stream=stream),
    )
    assert fresh.terms == again.terms


def test_a_logit_scale_is_honoured() -> None:
    from test_residual_stream import variant

    model = variant("granite", logits_scaling=8.0, residual_multiplier=0.22)
    prompt = model.tokenize(prompt_text("granite"))
    found = attribute_logits(model, prompt, 7, 9)
    log_probs = model.predict(prompt).log_probs
    # A difference of log-probabilities is one of logits.
    assert found.total == pytest.approx(log_probs[7] - log_probs[9], abs=TOLERANCE)
    assert not found.capped
