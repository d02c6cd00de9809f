"""Interventions, sweeps and searches on the stacks of encoder-decoders, against plain hooks.

TOLERANCE: float32 rounding is of order 1e-6, as in `test_intervention_parity`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plain_interventions import plain_edit
from reference import EditZ, edited_stack_heads, kl, reference, zero
from tiny import PROMPT, tiny_model
from torch import Tensor

from ablation import (
    Ablation,
    attribute_logits,
    explain_attention,
    logit_lens,
    run_study,
    search_heads,
    summarise_heads,
    sweep_heads,
    sweep_positions,
)
from ablation.interventions import (
    Intervention,
    Knockout,
    Mean,
    Permute,
    Resample,
    Scale,
    Sparsify,
    Zero,
)
from models.attention_flow import attention_rollout, moved_attention
from models.errors import UserError
from models.language_model import LanguageModel
from models.types import Head, TokenizedPrompt

TOLERANCE = 1e-5
DECODER_TEXT = "The cat sat on"
SOURCE = PROMPT.replace("Mary and John", "John and Mary")
REFERENCES = ("The cat sat on the mat.", "The key to the cabinets")
FAMILIES = ["bart", "t5"]
HEADS = [Head(1, 1, "encoder"), Head(1, 2), Head(0, 3, "cross")]
"""One of each stack."""
MANY = (Head(0, 1, "encoder"), Head(1, 0), Head(1, 3, "cross"), Head(2, 2))
"""Heads of all stacks, to be ablated together."""


def posed(family: str) -> tuple[LanguageModel, TokenizedPrompt]:
    model = tiny_model(family)
    return model, model.tokenize(PROMPT, decoder=DECODER_TEXT)


def log_probs(
    family: str, prompt: TokenizedPrompt, edits: Sequence[tuple[Head, EditZ]] = ()
) -> Tensor:
    """Return float64 log-probabilities after the last position, one plain forward pass."""
    assert prompt.source is not None
    with edited_stack_heads(family, edits), torch.no_grad():
        logits = reference(family)(
            input_ids=torch.tensor([prompt.source.ids]),
            decoder_input_ids=torch.tensor([prompt.ids]),
            use_cache=False,
        ).logits
    return logits[0, -1].double().log_softmax(-1)


def plain_z(family: str, prompt: TokenizedPrompt, head: Head) -> Tensor:
    """Return a head's clean output [position, d_head], seen by a plain hook."""
    seen: list[Tensor] = []

    def see(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return z

    log_probs(family, prompt, [(head, see)])
    return seen[0]


def with_source(model: LanguageModel, prompt: TokenizedPrompt, text: str) -> TokenizedPrompt:
    return replace(prompt, source=model.tokenize(text).source)


def edit_of(
    family: str,
    intervention: Intervention,
    head: Head,
    prompt: TokenizedPrompt,
    positions: Sequence[int] | None,
) -> EditZ:
    """Return an intervention on one head of a stack, worked out plainly."""
    model = tiny_model(family)
    n = len(prompt.typed) if head.stack == "encoder" else len(prompt)
    at = list(range(n)) if positions is None else list(positions)
    match intervention:
        case Mean((_, *_) as references):
            prompts = [with_source(model, prompt, text) for text in references]
            rows = torch.cat([plain_z(family, other, head) for other in prompts])
            other = rows.mean(0).expand(n, -1)
        case Resample(source):
            other = plain_z(family, with_source(model, prompt, source), head)
        case _:
            return plain_edit(family, intervention, head, n, positions)

    def replaced(z: Tensor) -> Tensor:
        out = z.clone()
        out[at] = other[at]
        return out

    return replaced


@pytest.mark.parametrize("positions", [None, (1, 2, 3)], ids=["everywhere", "some positions"])
@pytest.mark.parametrize(
    "intervention",
    [
        Zero(),
        Scale(-0.7),
        Mean(),
        Mean(REFERENCES),
        Resample(SOURCE),
        Permute(3),
        Sparsify(threshold=0.3),
        Sparsify(fraction=0.3),
    ],
    ids=lambda intervention: intervention.spec,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_intervention_on_heads_of_each_stack_equals_plain_hooks(
    family: str, intervention: Intervention, positions: tuple[int, ...] | None
) -> None:
    model, prompt = posed(family)
    sets: list[Sequence[Head]] = [*([head] for head in HEADS), MANY]
    ours = model.ablated_logprobs(prompt, sets, intervention, positions=positions)
    clean = log_probs(family, prompt)
    for heads, row in zip(sets, ours, strict=True):
        edits = [(h, edit_of(family, intervention, h, prompt, positions)) for h in heads]
        torch.testing.assert_close(row, log_probs(family, prompt, edits), atol=TOLERANCE, rtol=0)
        one_run = model.predict(prompt, ablation=Ablation(tuple(heads), intervention, positions))
        np.testing.assert_allclose(one_run.log_probs, row, atol=TOLERANCE, rtol=0)
        # The heads did something: equality alone could be that of runs without them.
        assert (row - clean).abs().max() > 10 * TOLERANCE, heads


# --- Knockout. ---

ATTENTION = {
    "bart": {
        "encoder": "model.encoder.layers.{}.self_attn",
        "": "model.decoder.layers.{}.self_attn",
        "cross": "model.decoder.layers.{}.encoder_attn",
    },
    "t5": {
        "encoder": "encoder.block.{}.layer.0.SelfAttention",
        "": "decoder.block.{}.layer.0.SelfAttention",
        "cross": "decoder.block.{}.layer.1.EncDecAttention",
    },
}


def knocked_out(
    family: str, prompt: TokenizedPrompt, head: Head, cells: Sequence[tuple[int, int]]
) -> Tensor:
    """Return log-probs of the eager model given a mask of its own for one head of one layer."""
    name = "mask" if family == "t5" else "attention_mask"
    n_source, n = len(prompt.typed), len(prompt)
    n_query = n_source if head.stack == "encoder" else n
    n_key = n if head.stack == "" else n_source
    n_heads = 2 if family == "bart" and head.stack == "encoder" else 4

    def mask_cells(_module: object, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get(name)
        shape = (1, n_heads, n_query, n_key)
        full = torch.zeros(shape) if mask is None else mask.expand(shape).clone()
        for query, key in cells:
            full[0, head.head, query, key] = torch.finfo(torch.float32).min
        return args, {**kwargs, name: full}

    module = reference(family).get_submodule(ATTENTION[family][head.stack].format(head.layer))
    handle = module.register_forward_pre_hook(mask_cells, with_kwargs=True)
    try:
        return log_probs(family, prompt)
    finally:
        handle.remove()


@pytest.mark.parametrize("stack", ["encoder", "", "cross"])
@pytest.mark.parametrize("family", FAMILIES)
def test_knockout_in_each_stack_equals_a_mask_in_the_eager_model(family: str, stack: str) -> None:
    model, prompt = posed(family)
    # Keys of the source that the decoder text is too short to have, but for its own stack.
    queries, keys = (2, 3), (0, 1) if stack == "" else (0, 12)
    heads = model.all_heads(stack)
    ours = model.ablated_logprobs(prompt, [[head] for head in heads], Knockout(queries, keys))
    cells = [(query, key) for query in queries for key in keys]
    for head, row in zip(heads, ours, strict=True):
        expected = knocked_out(family, prompt, head, cells)
        torch.testing.assert_close(row, expected, atol=TOLERANCE, rtol=0, msg=f"{family} {head}")
    assert (ours - log_probs(family, prompt)).abs().max() > 100 * TOLERANCE


def test_knocked_out_cross_attention_goes_to_the_other_keys() -> None:
    """In layer 0 the queries are what they were, so the pattern follows from the clean one."""
    model, prompt = posed("t5")
    head = Head(0, 2, "cross")
    expected = model.attention(prompt, [head]).values[0].astype(float)
    expected[:, [3, 5]] = 0.0
    expected /= expected.sum(axis=1, keepdims=True)
    ours = model.attention(prompt, [head], Ablation((head,), Knockout(None, (3, 5)))).values[0]
    np.testing.assert_allclose(ours, expected, atol=1e-6, rtol=0)


def test_cross_attention_has_no_own_position_to_leave() -> None:
    model, prompt = posed("t5")
    with pytest.raises(UserError, match="cross attention"):
        model.predict(prompt, ablation=Ablation((Head(0, 0, "cross"),), Knockout((1,), None)))


# --- Positions. ---


def test_positions_are_those_of_the_queries_of_the_heads_stack() -> None:
    model, prompt = posed("t5")
    far = len(prompt.typed) - 1
    model.predict(prompt, ablation=Ablation((Head(0, 0, "encoder"),), Zero(), (far,)))
    for head in (Head(0, 0), Head(0, 0, "cross")):
        with pytest.raises(UserError, match="outside the decoder text"):
            model.predict(prompt, ablation=Ablation((head,), Zero(), (far,)))


def test_a_grid_has_the_positions_of_its_heads() -> None:
    model, prompt = posed("t5")
    head = Head(1, 2, "encoder")
    scores = sweep_positions(model, prompt, [head])
    assert scores.values.shape == (1, len(prompt.typed))
    assert scores.prompt is prompt.source
    clean = log_probs("t5", prompt)
    for at in (0, 9):
        edit = edit_of("t5", Zero(), head, prompt, (at,))
        expected = kl(clean, log_probs("t5", prompt, [(head, edit)]))
        assert scores.values[0, at] == pytest.approx(expected, abs=TOLERANCE)
    with pytest.raises(UserError, match="one stack at a time"):
        sweep_positions(model, prompt, [head, Head(0, 0)])


# --- Sweep and search. ---


@pytest.mark.parametrize("stack", ["encoder", "", "cross"])
def test_a_sweep_scores_every_head_of_its_stack(stack: str) -> None:
    model, prompt = posed("bart")
    scores = sweep_heads(model, prompt, stack=stack)
    clean = log_probs("bart", prompt)
    assert len(scores.ranked()) == len(model.all_heads(stack)) == scores.values.size
    for head, value in scores.ranked():
        assert head.stack == stack
        expected = kl(clean, log_probs("bart", prompt, [(head, zero)]))
        assert value == pytest.approx(expected, abs=TOLERANCE)
        assert value == scores.values[head.layer, head.head]
    assert scores.to_json().get("stack", "") == stack


def test_a_search_looks_among_the_heads_of_all_stacks() -> None:
    model, prompt = posed("t5")
    result = search_heads(model, prompt, max_heads=2)
    clean = log_probs("t5", prompt)

    def divergence(*heads: Head) -> float:
        return kl(clean, log_probs("t5", prompt, [(head, zero) for head in heads]))

    first = max(model.all_heads(None), key=divergence)
    rest = [head for head in model.all_heads(None) if head != first]
    second = max(rest, key=lambda head: divergence(first, head))
    assert [step.head for step in result.steps] == [first, second]
    assert result.steps[1].kl == pytest.approx(divergence(first, second), abs=TOLERANCE)
    few = [Head(0, 0, "cross"), Head(1, 0, "encoder")]
    only = search_heads(model, prompt, max_heads=1, candidates=few)
    assert only.heads == (max(few, key=divergence),)


def test_estimates_equal_the_gradient_of_a_plain_gate() -> None:
    """Also what a screened search goes by: each stack's heads at their place."""
    family = "bart"
    model, prompt = posed(family)
    token = int(model.predict(prompt).top[1].id)
    posed_zero = model.head_sets.pose(prompt, Zero())
    estimates = model.head_sets.estimate(posed_zero, [], lambda row: row[token])
    for head in (Head(1, 0, "encoder"), Head(0, 3), Head(2, 1, "cross")):
        gate = torch.ones((), requires_grad=True)
        with edited_stack_heads(family, [(head, lambda z, gate=gate: z * gate)]):
            logits = reference(family)(
                input_ids=torch.tensor([prompt.typed.ids]),
                decoder_input_ids=torch.tensor([prompt.ids]),
                use_cache=False,
            ).logits
        [gradient] = torch.autograd.grad(logits[0, -1].double().log_softmax(-1)[token], gate)
        found = estimates[model.stacks.run_layer(head), head.head]
        assert found == pytest.approx(-float(gradient), abs=TOLERANCE)
    assert np.isnan(estimates[0, 2:]).all()  # the encoder's layers have two heads
    targeted = search_heads(model, prompt, token, strategy="screened", screen=4, max_heads=2)
    assert targeted.steps


def test_a_question_about_some_stacks_gates_only_these() -> None:
    model, prompt = posed("t5")
    posed_cross = model.head_sets.pose(prompt, Zero(), [Head(0, 0, "cross")])
    estimates = model.head_sets.estimate(posed_cross, [], lambda row: row[5])
    known = [model.stacks.places[i][0] for i in np.flatnonzero(~np.isnan(estimates).all(axis=1))]
    assert known == ["cross"] * 3


# --- what is asked of all heads, or of the residual stream ---


@pytest.mark.parametrize("stack", ["", "encoder"])
@pytest.mark.parametrize("family", FAMILIES)
def test_summaries_are_of_the_stack_that_is_named(family: str, stack: str) -> None:
    model, prompt = posed(family)
    found = summarise_heads(model, prompt, stack=stack, side=100)
    heads = model.all_heads(stack)
    maps = model.attention(prompt, heads)
    assert found.prompt.content == maps.prompt.content
    assert found.step == 1
    for head, weights in zip(heads, maps.values, strict=True):
        thumbnail = found.thumbnails[head.layer, head.head]
        np.testing.assert_allclose(thumbnail, weights, atol=TOLERANCE)
        counted = weights[1:] if not stack else weights  # a decoder's first query has one key
        largest = found.values_of("largest_weight")[head.layer, head.head]
        assert largest == pytest.approx(counted.max(axis=1).mean(), abs=TOLERANCE)
    assert {head.stack for head, _ in found.ranked("entropy")} == {stack}


def test_summaries_of_an_ablated_run_are_those_of_the_ablated_maps() -> None:
    model, prompt = posed("bart")
    ablation = Ablation(MANY, Zero())
    found = summarise_heads(model, prompt, ablation, side=100)
    head = Head(2, 1)
    [weights] = model.attention(prompt, [head], ablation).values
    np.testing.assert_allclose(found.thumbnails[2, 1], weights, atol=TOLERANCE)
    clean = model.attention(prompt, [head]).values[0]
    assert np.abs(weights - clean).max() > 100 * TOLERANCE


def test_summaries_of_cross_attention_are_those_of_its_maps() -> None:
    """Queries are the decoder's, keys the encoder's: cells are as many of each."""
    model, prompt = posed("bart")
    found = summarise_heads(model, prompt, stack="cross", side=100)
    heads = [Head(layer, 1, "cross") for layer in range(found.thumbnails.shape[0])]
    maps = model.attention(prompt, heads).values
    np.testing.assert_allclose(found.thumbnails[:, 1], maps, atol=TOLERANCE)
    largest = found.values_of("largest_weight")[:, 1]
    np.testing.assert_allclose(largest, maps.max(axis=2).mean(axis=1), atol=TOLERANCE)
    names = [info.name for info in found.metrics]
    assert "entropy" in names
    assert "previous_weight" not in names  # no key is the one before a query
    # Pooled, a cell is the largest of its weights.
    pooled = summarise_heads(model, prompt, stack="cross", side=2)
    assert pooled.thumbnails[0, 1].max() == pytest.approx(maps[0].max(), abs=TOLERANCE)


ASKED: dict[str, Callable[[LanguageModel, TokenizedPrompt], object]] = {
    "attribution": attribute_logits,
    "lens": logit_lens,
    "query and key": lambda model, prompt: explain_attention(model, prompt, Head(0, 0), 1, 0),
    "moved": lambda model, prompt: moved_attention(model, prompt, [Head(0, 0)]),
    "rollout": attention_rollout,
    "critical heads": lambda model, prompt: run_study("critical-heads", model, [prompt.text]),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_needs_one_stack_says_so(name: str) -> None:
    model, prompt = posed("bart")
    with pytest.raises(UserError, match="needs a model with one stack of attention layers") as said:
        ASKED[name](model, prompt)
    assert "is an encoder-decoder" in str(said.value)
