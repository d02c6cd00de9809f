"""The parts of the residual stream against plain hooks on every part, family by family.

TOLERANCE: float32 rounding of sums of a few dozen numbers, about 1e-6 of the stream's values,
which are of order 1 to 10; a wrong slice, norm or multiplier is off by over 1e-2.
"""

from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from parts import Parts, head_term, parts
from tiny import (
    CAUSAL,
    MASKED,
    byte_level_tokenizer,
    prompt_text,
    tiny_directory,
    tiny_model,
    tiny_torch_model,
    wordpiece_tokenizer,
)
from transformers import AutoModelForMaskedLM, ModernBertConfig

from ablation.attribution import attribute_logits
from models.attention_tap import ATTENTION_NAME
from models.errors import UserError
from models.language_model import LanguageModel
from models.registry import load_model
from models.residual_stream import ResidualStream
from models.types import Component

TOLERANCE = 2e-5


def read(family: str) -> tuple[ResidualStream, Parts]:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    return model.residual.read(prompt), parts(family, prompt.ids)


def variant(family: str, **overrides: Any) -> LanguageModel:
    """Return a family's model with other settings, loaded as the program would."""
    model = tiny_torch_model(family, **overrides)
    model.set_attn_implementation(ATTENTION_NAME)
    return LanguageModel(model, byte_level_tokenizer(), family)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("family", CAUSAL)
def test_the_stream_is_what_enters_and_leaves_the_blocks(family: str) -> None:
    stream, expected = read(family)
    for layer, hidden in enumerate(expected.hidden):
        close(stream.before(layer), hidden)
    close(stream.embedding, expected.hidden[0])


@pytest.mark.parametrize("family", CAUSAL)
def test_mlp_terms_are_what_a_plain_hook_on_the_mlp_sees(family: str) -> None:
    stream, expected = read(family)
    for terms, mlp in zip(stream.layers, expected.mlps, strict=True):
        close(terms.mlp(), mlp)
        close(terms.mlp([3]), mlp[3:4])


@pytest.mark.parametrize("family", CAUSAL)
def test_head_terms_are_z_times_its_slice_of_the_projection(family: str) -> None:
    stream, expected = read(family)
    for layer, terms in enumerate(stream.layers):
        by_hand = torch.stack([head_term(family, expected, layer, head) for head in range(4)])
        close(terms.heads(), by_hand)
        close(terms.heads([5, 2], [1]), by_hand[1:2, [5, 2]])
        assert float((by_hand[0] - by_hand[1]).abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize("family", CAUSAL)
def test_the_parts_add_up_to_the_stream(family: str) -> None:
    stream, expected = read(family)
    errors = stream.error_at()
    assert len(errors) == 4
    assert max(errors) < 1e-6
    # The same by hand, of what the parts are said to be.
    total = sum(terms.sum(0) for _, terms in stream.terms(up_to=2))
    close(total, expected.hidden[2])
    names = [component for components, _ in stream.terms() for component in components]
    assert names[0] == Component("embed")
    assert names[-1] == Component("mlp", 2)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_projection_is_the_scalar_product_with_every_part(family: str) -> None:
    stream, expected = read(family)
    direction = torch.linspace(-1, 1, stream.embedding.shape[1])
    found = dict(stream.project(direction[None], [4], up_to=2))
    assert Component("mlp", 2) not in found
    assert found[Component("embed")] == pytest.approx(
        float(expected.hidden[0][4] @ direction), abs=1e-4
    )
    head = head_term(family, expected, 1, 2)[4] @ direction
    assert found[Component("head", 1, 2)] == pytest.approx(float(head), abs=1e-4)
    total = float(expected.hidden[2][4] @ direction)
    assert sum(found.values()) == pytest.approx(total, abs=1e-4)
    two = dict(stream.project(torch.stack([direction, -2 * direction]), [4, 6], up_to=2))
    both = head_term(family, expected, 1, 2)[4] - 2 * head_term(family, expected, 1, 2)[6]
    assert two[Component("head", 1, 2)] == pytest.approx(float(both @ direction), abs=1e-4)


def test_a_multiplier_is_found() -> None:
    model = variant("granite", residual_multiplier=0.22, embedding_multiplier=3.0)
    assert [w.multiplier for w in model.residual.wiring] == pytest.approx([0.22] * 3)
    prompt = model.tokenize(prompt_text("granite"))
    stream = model.residual.read(prompt)
    assert max(stream.error_at()) < 1e-6
    mlps: list[torch.Tensor] = []
    hook = model._model.model.layers[1].mlp.register_forward_hook(
        lambda _m, _a, output: mlps.append(output[0])
    )
    model.predict(prompt)
    hook.remove()
    close(stream.layers[1].mlp(), mlps[0] * 0.22)


@pytest.mark.parametrize(
    ("family", "overrides", "n_norms"),
    [
        ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}, 4 + 3 * (4 + 2)),
        ("cohere", {"use_qk_norm": True}, 4 + 3 * 2),
        ("gpt_neox", {"use_parallel_residual": False}, 7),
        ("falcon", {"parallel_attn": False, "new_decoder_architecture": False}, 7),
    ],
)
def test_variants_of_families_add_up(family: str, overrides: dict[str, Any], n_norms: int) -> None:
    model = variant(family, **overrides)
    assert len(model.residual.norms) == n_norms
    stream = model.residual.read(model.tokenize(prompt_text(family)))
    assert max(stream.error_at()) < 1e-6


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gptj"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes_add_up_as_well_as_they_can(family: str, dtype: str) -> None:
    """bfloat16 has three digits; the sum is taken in float32 of what the model rounded."""
    model = load_model(str(tiny_directory(family)), device="cpu", dtype=dtype)
    stream = model.residual.read(model.tokenize(prompt_text(family)))
    assert max(stream.error_at()) < 2e-2


def test_an_encoder_that_norms_before_the_addition_adds_up() -> None:
    config = ModernBertConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=128,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id"), 0),
    )  # fmt: skip
    torch.manual_seed(0)
    plain = AutoModelForMaskedLM.from_config(config, attn_implementation=ATTENTION_NAME)
    model = LanguageModel(plain, wordpiece_tokenizer(), "modernbert")
    prompt = model.tokenize(prompt_text("bert"))
    assert max(model.residual.read(prompt).error_at()) < 1e-6
    with pytest.raises(UserError, match="more than a norm and a linear map"):
        attribute_logits(model, prompt)


def test_offloaded_weights_are_fetched() -> None:
    plain = tiny_torch_model("gemma2")
    plain.set_attn_implementation(ATTENTION_NAME)
    offloaded = cpu_offload(plain, execution_device=torch.device("cpu"))
    model = LanguageModel(offloaded, byte_level_tokenizer(), "offloaded")
    stream = model.residual.read(model.tokenize(prompt_text("gemma2")))
    assert max(stream.error_at()) < 1e-6
    here = tiny_model("gemma2").residual.read(stream.prompt)
    close(stream.layers[1].heads(), here.layers[1].heads())


@pytest.mark.parametrize("family", MASKED)
def test_norms_of_the_stream_itself_are_refused(family: str) -> None:
    with pytest.raises(UserError, match="cannot be told apart: in layer 0 the residual stream"):
        _ = tiny_model(family).residual


def test_a_post_norm_decoder_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be told apart"):
        _ = variant("opt", do_layer_norm_before=False).residual


def test_reading_leaves_nothing_behind() -> None:
    model = tiny_model("gemma2")
    prompt = model.tokenize(prompt_text("gemma2"))
    before = model.predict(prompt).log_probs
    hooks = [len(m._forward_hooks) for m in model._model.modules()]
    stream = model.residual.read(prompt)
    if model.dispatches:
        model.residual.attention_inputs(stream, 1)
    assert [len(m._forward_hooks) for m in model._model.modules()] == hooks
    assert np.array_equal(model.predict(prompt).log_probs, before)
