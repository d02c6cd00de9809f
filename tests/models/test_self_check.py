"""The self-check refuses models that would be shown wrongly: each check is made to fail once."""

from typing import Any

import pytest
import torch
from tiny import byte_level_tokenizer, tiny_model, tiny_torch_model

from models.attention_tap import ATTENTION_NAME
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel


def broken(sabotage: Any, family: str = "llama") -> UserError:
    """Load a model after sabotage; return the refusal."""
    model = tiny_torch_model(family)
    model.set_attn_implementation(ATTENTION_NAME)
    sabotage(model)
    with pytest.raises(UserError) as refusal:
        LanguageModel(model, byte_level_tokenizer(), "sabotaged")
    assert "\n" not in str(refusal.value)
    return refusal.value


def attention_modules(model: Any) -> list[Any]:
    return [layer.self_attn for layer in model.model.layers]


def test_every_check_is_reported_with_its_measured_error() -> None:
    report = tiny_model("llama").info.self_check
    assert report.passed
    assert [check.name for check in report.checks] == [
        "rows sum to 1",
        "causal",
        "pattern is the one used",
        "heads add up",
        "ablating nothing",
        "ablating a head",
        "unchanged",
    ]
    measured = {check.name: check.value for check in report.checks if check.value is not None}
    assert measured["ablating nothing"] == 0
    # Measured and not made up: rounding is not exactly zero.
    assert 0 < measured["heads add up"] < 1e-5
    assert 0 < measured["pattern is the one used"] < 1e-5


def test_sinks_are_allowed_to_take_probability() -> None:
    names = [check.name for check in tiny_model("gpt_oss").info.self_check.checks]
    assert "rows sum to at most 1 (attention sinks)" in names


def test_hooked_architectures_prove_which_head_is_which() -> None:
    names = [check.name for check in tiny_model("bloom").info.self_check.checks]
    assert "each head its own slice" in names


def test_a_model_that_looks_ahead_is_refused() -> None:
    def sabotage(model: Any) -> None:
        for module in attention_modules(model):
            module.is_causal = False

    assert "'causal'" in str(broken(sabotage))


def test_heads_that_do_not_add_up_are_refused() -> None:
    def sabotage(model: Any) -> None:
        attention_modules(model)[1].o_proj.register_forward_hook(lambda _m, _a, out: out + 1)

    assert "'heads add up'" in str(broken(sabotage))


def test_a_changed_input_of_the_output_projection_is_refused() -> None:
    def sabotage(model: Any) -> None:
        projection = attention_modules(model)[2].o_proj
        projection.register_forward_pre_hook(lambda _m, args: (args[0] * 2,))

    refusal = broken(sabotage)
    assert refusal.kind is ErrorKind.MODEL
    assert "layer 2" in str(refusal)


def test_a_model_whose_heads_do_nothing_is_refused() -> None:
    def sabotage(model: Any) -> None:
        with torch.no_grad():
            for module in attention_modules(model):
                module.o_proj.weight.zero_()

    assert "'ablating a head'" in str(broken(sabotage))


def test_a_model_that_changes_while_it_runs_is_refused() -> None:
    def sabotage(model: Any) -> None:
        def drift(module: Any, _args: Any, _output: Any) -> None:
            with torch.no_grad():
                module.weight.mul_(1.01)

        model.model.layers[0].mlp.down_proj.register_forward_hook(drift)

    assert "'ablating nothing'" in str(broken(sabotage))


def test_a_model_that_does_not_run_on_token_ids_is_refused_with_the_reason() -> None:
    def sabotage(model: Any) -> None:
        def needy(_module: Any, _args: Any) -> None:
            raise ValueError("a default language must be set")

        model.model.register_forward_pre_hook(needy)

    refusal = broken(sabotage)
    assert refusal.kind is ErrorKind.MODEL
    assert "a default language must be set" in str(refusal)


def test_attention_that_runs_twice_a_layer_is_refused() -> None:
    def sabotage(model: Any) -> None:
        for module in attention_modules(model):
            forward = module.forward
            module.forward = lambda *a, forward=forward, **k: (forward(*a, **k), forward(*a, **k))[
                0
            ]

    assert "runs attention 6 times in 3 layers" in str(broken(sabotage))


def test_weights_that_are_not_numbers_are_refused() -> None:
    def sabotage(model: Any) -> None:
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")

    refusal = broken(sabotage)
    assert refusal.kind is ErrorKind.NUMBERS
    assert "not finite" in str(refusal)


def test_an_attention_keyword_that_is_not_known_is_refused_by_name() -> None:
    def sabotage(model: Any) -> None:
        for module in attention_modules(model):
            forward = module.forward
            module.forward = lambda *a, forward=forward, **k: forward(*a, **k, tilt=0.5)

    refusal = broken(sabotage)
    assert "tilt" in str(refusal)
    assert "LlamaAttention" in str(refusal)


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "use_cache": False}),
        (
            "qwen3_next",
            {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "linear_num_value_heads": 4,
                "linear_num_key_heads": 2,
            },
        ),
    ],
)
def test_layers_without_a_softmax_pattern_are_refused_by_name(
    model_type: str, config: dict[str, Any]
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(
        model_type, vocab_size=320, bos_token_id=0, eos_token_id=0, pad_token_id=None, **config
    )
    model = AutoModelForCausalLM.from_config(made, attn_implementation="eager").eval()
    if type(model)._can_set_attn_implementation():
        model.set_attn_implementation(ATTENTION_NAME)
    with pytest.raises(UserError) as refusal:
        LanguageModel(model, byte_level_tokenizer(), model_type)
    assert type(model).__name__ in str(refusal.value)
    assert "state-space" in str(refusal.value)
