"""Encoder-decoders against plain transformers, stack by stack: encoder, decoder, cross attention.

TOLERANCE is 1e-5, as in `test_parity`: float32 rounding of these 2- and 3-layer models is about
1e-6, and a wrong head, layer or stack differs by more than ten times the tolerance
(`test_the_tolerance_tells_heads_of_all_stacks_apart`).
"""

from typing import Any

import numpy as np
import pytest
import torch
from reference import edited_stack_heads, reference, zero
from tiny import ENCODER_DECODERS, PROMPT, byte_level_tokenizer, tiny_model, tiny_torch_model
from torch import Tensor

from ablation import Ablation, Zero
from models.attention_tap import ATTENTION_NAME, TapRequest, active
from models.errors import UserError
from models.language_model import LanguageModel
from models.types import Head, TokenizedPrompt

TOLERANCE = 1e-5
DECODER_TEXT = "The cat sat on"
FIELDS = {"encoder": "encoder_attentions", "": "decoder_attentions", "cross": "cross_attentions"}
"""Stack -> where transformers returns its attention."""


def posed(family: str) -> tuple[LanguageModel, TokenizedPrompt]:
    model = tiny_model(family)
    prompt = model.tokenize(PROMPT, decoder=DECODER_TEXT)
    assert len(prompt) != len(prompt.typed)  # else a wrong axis would not show
    return model, prompt


def plain(family: str, prompt: TokenizedPrompt, **options: Any) -> Any:
    """Run the untouched eager model, as transformers documents it."""
    assert prompt.source is not None
    with torch.no_grad():
        return reference(family)(
            input_ids=torch.tensor([prompt.source.ids]),
            decoder_input_ids=torch.tensor([prompt.ids]),
            use_cache=False,
            **options,
        )


def log_probs(family: str, prompt: TokenizedPrompt, position: int = -1) -> Tensor:
    return plain(family, prompt).logits[0, position].double().log_softmax(-1)


@pytest.mark.parametrize("stack", FIELDS)
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_attention_of_each_stack_equals_eager_output_attentions(family: str, stack: str) -> None:
    model, prompt = posed(family)
    heads = model.all_heads(stack)
    ours = model.attention(prompt, heads)
    theirs = torch.stack(getattr(plain(family, prompt, output_attentions=True), FIELDS[stack]))
    theirs = theirs[:, 0].flatten(0, 1)  # [n_layers * n_heads, query, key]
    assert len(heads) == len(theirs)
    np.testing.assert_allclose(ours.values, theirs.numpy(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_the_clean_prediction_equals_the_plain_model_at_every_position(family: str) -> None:
    model, prompt = posed(family)
    for position in range(len(prompt)):
        ours = model.predict(prompt, position).log_probs
        expected = log_probs(family, prompt, position)
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("stack", FIELDS)
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_zeroing_each_head_equals_a_plain_hook(family: str, stack: str) -> None:
    model, prompt = posed(family)
    heads = model.all_heads(stack)
    ours = model.ablated_logprobs(prompt, [[head] for head in heads], Zero())
    for head, row in zip(heads, ours, strict=True):
        with edited_stack_heads(family, [(head, zero)]):
            expected = log_probs(family, prompt)
        torch.testing.assert_close(row, expected, atol=TOLERANCE, rtol=0, msg=f"{family} {head}")


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_the_tolerance_tells_heads_of_all_stacks_apart(family: str) -> None:
    """Guard against a test that could not fail: every head's ablation is its own, visibly."""
    model, prompt = posed(family)
    heads = model.all_heads(None)
    rows = model.ablated_logprobs(prompt, [[], *([head] for head in heads)], Zero())
    difference = (rows[:, None] - rows[None]).abs().amax(-1)
    difference.fill_diagonal_(torch.inf)
    assert float(difference.min()) > 10 * TOLERANCE


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_heads_of_several_stacks_ablated_together_equal_plain_hooks(family: str) -> None:
    model, prompt = posed(family)
    heads = (Head(0, 1, "encoder"), Head(1, 0), Head(2, 2), Head(1, 3, "cross"))
    ours = model.run(prompt, heads=model.all_heads(None), ablation=Ablation(heads, Zero()))
    with edited_stack_heads(family, [(head, zero) for head in heads]):
        theirs = plain(family, prompt, output_attentions=True)
    expected = theirs.logits[0, -1].double().log_softmax(-1)
    np.testing.assert_allclose(ours.prediction.log_probs, expected, atol=TOLERANCE, rtol=0)
    assert [maps.heads[0].stack for maps in ours.maps] == ["encoder", "", "cross"]
    for maps in ours.maps:
        stacked = torch.stack(getattr(theirs, FIELDS[maps.heads[0].stack]))[:, 0].flatten(0, 1)
        assert maps.ablated
        np.testing.assert_allclose(maps.values, stacked.numpy(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_the_tap_is_reached_once_for_each_attention_layer(family: str) -> None:
    model, prompt = posed(family)
    request = TapRequest()
    assert prompt.source is not None
    with active(request):
        model._model(
            input_ids=torch.tensor([prompt.source.ids]),
            decoder_input_ids=torch.tensor([prompt.ids]),
            use_cache=False,
        )
    assert request.n_calls == len(model.sites) == 2 + 3 + 3


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_ablating_nothing_is_bit_identical(family: str) -> None:
    model, prompt = posed(family)
    nothing = model.predict(prompt, ablation=Ablation((), Zero()))
    assert np.array_equal(model.predict(prompt).log_probs, nothing.log_probs)


def test_every_check_is_made_of_every_stack() -> None:
    report = tiny_model("t5").info.self_check
    assert report.passed
    names = [check.name for check in report.checks]
    for stack in ("encoder", "decoder", "cross attention"):
        for check in (
            "rows sum to 1",
            "pattern is the one used",
            "heads add up",
            "ablating a head",
        ):
            assert f"{check} ({stack})" in names
    assert "causal (decoder)" in names
    assert "causal (encoder)" not in names
    assert "causal (cross attention)" not in names


def test_one_stack_that_does_nothing_is_refused_by_its_name() -> None:
    model = tiny_torch_model("bart")
    model.set_attn_implementation(ATTENTION_NAME)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.self_attn.out_proj.weight.zero_()
            layer.self_attn.out_proj.bias.zero_()
    with pytest.raises(UserError, match=r"'ablating a head \(decoder\)'"):
        LanguageModel(model, byte_level_tokenizer(), "sabotaged")


def test_a_model_whose_stacks_cannot_be_told_apart_is_refused() -> None:
    model = tiny_torch_model("bart")
    model.set_attn_implementation(ATTENTION_NAME)
    for layer in model.model.decoder.layers:
        forward = layer.encoder_attn.forward

        def half(
            *args: Any, key_value_states: Tensor, forward: Any = forward, **options: Any
        ) -> Any:
            return forward(*args, key_value_states=key_value_states[:, 1:], **options)

        layer.encoder_attn.forward = half
    with pytest.raises(UserError, match="neither the encoder's, the decoder's nor"):
        LanguageModel(model, byte_level_tokenizer(), "sabotaged")


def test_heads_count_layers_within_their_stack() -> None:
    model = tiny_model("bart")
    assert (model.n_layers, model.n_heads) == (3, 4)
    assert [(s.name, s.n_layers, s.n_heads) for s in model.info.stacks] == [
        ("encoder", 2, 2),
        ("", 3, 4),
        ("cross", 3, 4),
    ]
    assert len(model.all_heads(None)) == 2 * 2 + 3 * 4 + 3 * 4
    assert model.all_heads() == model.all_heads("")
    assert len(model.all_heads()) == model.n_layers * model.n_heads
    assert model.all_heads("encoder")[-1] == Head(1, 1, "encoder")
    # The encoder runs first; then the decoder's layers, each with its cross attention behind.
    assert model.layers_of([Head(1, 0, "encoder"), Head(0, 0), Head(2, 0, "cross")]) == [1, 2, 7]


@pytest.mark.parametrize(
    "head",
    [
        Head(2, 0, "encoder"),
        Head(0, 2, "encoder"),
        Head(3, 0),
        Head(0, 4, "cross"),
        Head(0, 0, "x"),
    ],
)
def test_a_head_that_a_stack_lacks_is_refused(head: Head) -> None:
    with pytest.raises(UserError, match=f"There is no head {head}.*cross:L0H0 to L2H3"):
        tiny_model("bart").check_heads([head])


def test_a_stack_that_a_model_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="encoder, cross"):
        tiny_model("bart").all_heads("vision")
    with pytest.raises(UserError, match="only one"):
        tiny_model("llama").all_heads("cross")


def test_maps_of_several_stacks_are_not_put_into_one_array() -> None:
    model, prompt = posed("t5")
    with pytest.raises(UserError, match="one stack at a time"):
        model.attention(prompt, [Head(0, 0), Head(0, 0, "cross")])


def test_rows_of_cross_attention_are_the_decoders_and_columns_the_sources() -> None:
    model, prompt = posed("t5")
    maps = model.attention(prompt, [Head(1, 2, "cross"), Head(0, 1, "cross")])
    assert maps.values.shape == (2, len(prompt), len(prompt.typed))
    assert maps.prompt is prompt
    assert maps.keys is prompt.source
    frame = maps.to_frame()
    row = frame[(frame["head"] == 1) & (frame["query"] == 2) & (frame["key"] == 7)].iloc[0]
    assert (row["stack"], row["layer"]) == ("cross", 0)
    assert row["query_token"] == prompt.labels[2]
    assert row["key_token"] == prompt.typed.labels[7]
    assert row["weight"] == maps.values[1, 2, 7]
    assert maps.to_json()["heads"] == ["cross:1.2", "cross:0.1"]


def test_chosen_rows_are_positions_of_the_heads_own_stack() -> None:
    model, prompt = posed("t5")
    last = len(prompt.typed) - 1
    head = [Head(0, 0, "encoder")]
    chosen = model.attention(prompt, head, queries=[-1, 0])
    assert chosen.queries == (last, 0)
    whole = model.attention(prompt, head).values
    np.testing.assert_allclose(chosen.values, whole[:, [last, 0]], atol=TOLERANCE, rtol=0)


def test_the_prompt_is_the_decoders_and_starts_with_its_token() -> None:
    model = tiny_model("bart")
    alone, written = model.tokenize(PROMPT), model.tokenize(PROMPT, decoder=DECODER_TEXT)
    assert alone.ids == (1,)
    assert written.ids[0] == 1
    assert "".join(written.texts[1:]) == DECODER_TEXT
    assert alone.source == written.source
    assert written.typed.text == PROMPT
    assert model.resolve_position(written) == len(written) - 1
    data = written.to_json()
    assert (data["prompt"], data["decoder"]) == (PROMPT, DECODER_TEXT)
    assert data["source"]["ids"] == list(written.typed.ids)
    assert data["ids"] == list(written.ids)


def test_a_decoder_text_needs_an_encoder_decoder() -> None:
    with pytest.raises(UserError, match="no encoder-decoder"):
        tiny_model("llama").tokenize(PROMPT, decoder="The")


def test_token_ids_are_the_source_of_an_encoder_decoder() -> None:
    model = tiny_model("bart")
    prompt = model.prompt_of_ids([5, 6], [7])
    assert prompt.source is not None
    assert prompt.source.ids == (5, 6)
    assert prompt.ids == (*model.tokenize(PROMPT).ids[:1], 7)


def test_token_ids_for_a_decoder_need_a_decoder() -> None:
    with pytest.raises(UserError, match="no encoder-decoder"):
        tiny_model("llama").prompt_of_ids([5], [6])


def test_a_decoder_text_that_is_too_long_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="The decoder text has"):
        tiny_model("bart").tokenize(PROMPT, decoder="cat " * 200)


# --- the decoder run alone, on what the encoder has made of the source ---


NOT_ALONE = "switch_transformers"
"""Its forward pass wants more of the encoder than its last hidden states."""


@pytest.mark.parametrize("family", [name for name in ENCODER_DECODERS if name != NOT_ALONE])
def test_sets_without_a_head_of_the_encoder_run_the_decoder_alone(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = posed(family)
    calls: list[int] = []
    forward = model._pass.logits

    def counted(ids: Any, request: TapRequest, *args: Any, **options: Any) -> Tensor:
        first = request.n_calls
        logits = forward(ids, request, *args, **options)
        calls.append(request.n_calls - first)
        return logits

    monkeypatch.setattr(model._pass, "logits", counted)
    sets = [[], [Head(1, 2)], [Head(0, 1, "encoder"), Head(1, 2)], [Head(1, 2, "cross")]]
    rows = model.ablated_logprobs(prompt, sets, Zero())
    assert calls == [2 + 3 + 3, 3 + 3]
    for heads, row in zip(sets, rows, strict=True):
        with edited_stack_heads(family, [(head, zero) for head in heads]):
            expected = log_probs(family, prompt)
        torch.testing.assert_close(row, expected, atol=TOLERANCE, rtol=0)


def test_a_decoder_that_cannot_run_alone_runs_with_its_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not tiny_model(NOT_ALONE).head_sets._decodes_alone  # its parity is proven above
    model, prompt = posed("bart")
    alone = model.ablated_logprobs(prompt, [[Head(1, 2)]], Zero())
    monkeypatch.setattr(model.head_sets, "_decodes_alone", False)
    together = model.ablated_logprobs(prompt, [[Head(1, 2)]], Zero())
    torch.testing.assert_close(alone, together, atol=TOLERANCE, rtol=0)
