"""A head's score told apart, against plain eager attention and against the same by hand.

TOLERANCE: scores are of order 1 to 10, float32 rounding about 1e-6; a wrong head, rotation or norm
is off by over 1e-2.
"""

import json
import math

import numpy as np
import pytest
import torch
from parts import head_term, parts
from reference import attentions, reference
from tiny import CAUSAL, FAMILIES, prompt_text, tiny_model
from torch import Tensor

from ablation.query_key import explain_attention
from models.errors import UserError
from models.types import Component, Head

TOLERANCE = 3e-5
HOOKED = ("gptj", "gpt_neo", "bloom", "falcon", "falcon_alibi")
DISPATCHING = tuple(family for family in FAMILIES if family not in HOOKED)
HEAD = Head(2, 3)
QUERY, NEAR, NEARER = 8, 5, 6


@pytest.mark.parametrize("family", DISPATCHING)
def test_scores_are_those_that_eager_attention_used(family: str) -> None:
    """A ratio of two weights of a row is e to the difference of their scores."""
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    weights = attentions(family, prompt.ids)[HEAD.layer, HEAD.head, QUERY]
    one, other = (explain_attention(model, prompt, HEAD, QUERY, key) for key in (NEAR, NEARER))
    scores = [
        d.score if d.softcap is None else d.softcap * math.tanh(d.score / d.softcap)
        for d in (one, other)
    ]
    expected = float((weights[NEAR] / weights[NEARER]).log())
    assert scores[0] - scores[1] == pytest.approx(expected, abs=TOLERANCE * 10)
    assert abs(expected) > 1e-3
    for detail, key in ((one, NEAR), (other, NEARER)):
        assert detail.weight == pytest.approx(float(weights[key]), abs=1e-5)
        assert detail.visible
        assert detail.dimensions.sum() == pytest.approx(detail.score, abs=TOLERANCE)
        assert np.abs(detail.dimensions).max() > 1e-3
    assert (one.softcap is not None) is (family == "gemma2")
    assert (one.sink is not None) is (family == "gpt_oss")


@pytest.mark.parametrize("family", [f for f in DISPATCHING if f in CAUSAL])
def test_sources_add_up_to_the_score(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    detail = explain_attention(model, prompt, HEAD, QUERY, NEAR)
    assert [side.side for side in detail.sources] == ["query", "key"]
    for side in detail.sources:
        assert side.error < TOLERANCE
        assert sum(value for _, value in side.terms) == pytest.approx(detail.score, abs=TOLERANCE)
        layers = {c.layer for c, _ in side.terms}
        assert layers == {-1, 0, 1}  # what comes before layer 2, and no more
        assert max(abs(value) for _, value in side.terms) > 1e-3
    json.dumps(detail.to_json())
    assert set(detail.to_frame()["side"]) == {"query", "key"}


def rotated(x: Tensor, position: int) -> Tensor:
    """Return a Llama head's vector [d] turned by its position, written out by hand."""
    half = x.shape[0] // 2
    angle = position * 10000.0 ** (-torch.arange(half) / half)
    one, two = x[:half], x[half:]
    return torch.cat([one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()])


def vector(family: str, side: str, hidden: Tensor, term: Tensor, position: int) -> Tensor:
    """Return what a term of the stream makes of HEAD's query or key, without biases."""
    model = reference(family)
    if family == "gpt2":
        block = model.transformer.h[HEAD.layer]
        size = (hidden.var(correction=0) + block.ln_1.eps).sqrt()
        normed = (term - term.mean()) / size * block.ln_1.weight
        first = HEAD.head * 8 + (0 if side == "query" else 32)
        return (normed @ block.attn.c_attn.weight[:, first : first + 8]).detach()
    block = model.model.layers[HEAD.layer]
    size = (hidden.square().mean() + block.input_layernorm.variance_epsilon).sqrt()
    normed = term / size * block.input_layernorm.weight
    attention = block.self_attn
    weight = (attention.q_proj if side == "query" else attention.k_proj).weight
    head = HEAD.head if side == "query" else HEAD.head // 2  # two query heads share a key head
    return rotated((weight[head * 8 : head * 8 + 8] @ normed).detach(), position)


def bias(family: str, side: str, position: int) -> Tensor:
    model = reference(family)
    if family == "gpt2":
        block = model.transformer.h[HEAD.layer]
        first = HEAD.head * 8 + (0 if side == "query" else 32)
        of_norm = block.ln_1.bias @ block.attn.c_attn.weight[:, first : first + 8]
        return (of_norm + block.attn.c_attn.bias[first : first + 8]).detach()
    attention = model.model.layers[HEAD.layer].self_attn
    projection = attention.q_proj if side == "query" else attention.k_proj
    head = HEAD.head if side == "query" else HEAD.head // 2
    return rotated(projection.bias[head * 8 : head * 8 + 8].detach(), position)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sources_and_dimensions_equal_the_hand_computation(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    detail = explain_attention(model, prompt, HEAD, QUERY, NEAR)
    expected = parts(family, prompt.ids)
    at = {"query": QUERY, "key": NEAR}
    whole = {
        side: vector(family, side, expected.hidden[2][place], expected.hidden[2][place], place)
        + bias(family, side, place)
        for side, place in at.items()
    }
    scale = 8**-0.5
    np.testing.assert_allclose(
        detail.dimensions, (whole["query"] * whole["key"] * scale).numpy(), atol=TOLERANCE
    )
    assert detail.key_head == (1 if family == "llama" else 3)
    for side in detail.sources:
        place = at[side.side]
        other = whole["key" if side.side == "query" else "query"]
        found = dict(side.terms)
        terms = {
            Component("embed"): expected.hidden[0][place],
            Component("mlp", 1): expected.mlps[1][place],
            Component("head", 0, 2): head_term(family, expected, 0, 2)[place],
        }
        for component, term in terms.items():
            share = vector(family, side.side, expected.hidden[2][place], term, place) @ other
            assert found[component] == pytest.approx(float(share * scale), abs=TOLERANCE)
        constant = bias(family, side.side, place) @ other * scale
        assert found[Component("constant")] == pytest.approx(float(constant), abs=TOLERANCE)


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma3", "bert"])
def test_a_relative_score_is_above_the_mean_of_the_keys_that_are_seen(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    seen = torch.nonzero(attentions(family, prompt.ids)[HEAD.layer, HEAD.head, QUERY])[:, 0]
    assert len(seen) > 3
    scores = {
        int(key): explain_attention(model, prompt, HEAD, QUERY, int(key)).score for key in seen
    }
    detail = explain_attention(model, prompt, HEAD, QUERY, NEAR, relative=True)
    mean = sum(scores.values()) / len(scores)
    assert detail.score == pytest.approx(scores[NEAR] - mean, abs=TOLERANCE)
    assert detail.relative
    assert detail.dimensions.sum() == pytest.approx(detail.score, abs=TOLERANCE)
    assert bool(detail.sources) is (family != "bert")
    for side in detail.sources:
        assert side.error < TOLERANCE


def test_relative_sources_of_a_key_are_its_own_less_the_mean_of_the_others() -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(prompt_text("llama"))
    absolute = []
    for key in range(QUERY + 1):
        sides = explain_attention(model, prompt, HEAD, QUERY, key).sources
        absolute.append(dict(sides[1].terms))
    relative = explain_attention(model, prompt, HEAD, QUERY, NEAR, relative=True).sources[1]
    for component, value in relative.terms:
        mean = sum(terms[component] for terms in absolute) / len(absolute)
        assert value == pytest.approx(absolute[NEAR][component] - mean, abs=TOLERANCE)


def test_a_key_behind_the_query_is_not_visible() -> None:
    model = tiny_model("llama")
    detail = explain_attention(model, prompt_text("llama"), HEAD, 3, 7)
    assert not detail.visible
    assert detail.weight == 0.0
    assert detail.sources[0].error < TOLERANCE


def test_a_stream_that_cannot_be_told_apart_leaves_the_dimensions() -> None:
    model = tiny_model("bert")
    detail = explain_attention(model, prompt_text("bert"), HEAD, QUERY, NEAR)
    assert detail.sources == ()
    assert "cannot be told apart" in detail.problem
    assert detail.to_frame().empty


@pytest.mark.parametrize("family", HOOKED)
def test_queries_that_cannot_be_seen_are_refused(family: str) -> None:
    with pytest.raises(UserError, match="queries and keys cannot be seen"):
        explain_attention(tiny_model(family), prompt_text(family), HEAD, 3, 1)
