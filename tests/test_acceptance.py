"""The main job on the built-in model, against plain hooks on a separately loaded plain copy.

The plain copy never meets the attention tap: transformers' own attention, one forward pass a
head, a hook on each output projection that zeroes a head's columns.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from reference import kl
from torch import Tensor
from transformers import AutoModelForCausalLM

from ablation import Head, HeadScores, search_heads, sweep_heads
from models.builtin import ensure_builtin
from models.language_model import LanguageModel

pytestmark = [pytest.mark.builtin, pytest.mark.timeout(900)]

PROMPT = "When Mary and John went to the store, John gave a drink to"

KL_TOLERANCE = 1e-4
"""Nats. Two float32 computations of 30 layers differ by about 1e-5 in a log-probability."""


class PlainModel:
    """The built-in weights in plain transformers, with plain hooks."""

    def __init__(self) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            ensure_builtin(), dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    @contextmanager
    def zeroed(self, heads: Sequence[Head]) -> Iterator[None]:
        handles = []
        for head in heads:

            def hook(_m: Any, args: tuple[Tensor], h: int = head.head) -> tuple[Tensor]:
                z = args[0].clone()
                z[..., 64 * h : 64 * (h + 1)] = 0
                return (z,)

            projection = self.model.model.layers[head.layer].self_attn.o_proj
            handles.append(projection.register_forward_pre_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def log_probs(self, ids: Sequence[int], heads: Sequence[Head] = ()) -> Tensor:
        """Return float64 log-probabilities [n_vocab] after the last token."""
        with self.zeroed(heads), torch.no_grad():
            logits = self.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits
        return logits[0, -1].double().log_softmax(-1)


@pytest.fixture(scope="module")
def plain() -> PlainModel:
    return PlainModel()


@pytest.fixture(scope="module")
def scores(builtin: LanguageModel) -> HeadScores:
    return sweep_heads(builtin, builtin.tokenize(PROMPT))


def test_the_first_example_is_answered_with_mary(builtin: LanguageModel) -> None:
    prompt = builtin.tokenize(PROMPT)
    assert prompt.unique_labels[3] == "·John"
    assert prompt.unique_labels[9] == "·John_2"
    top = builtin.predict(prompt).top[0]
    assert top.text == " Mary"
    assert top.prob == pytest.approx(0.92, abs=0.01)
    paris = builtin.predict(builtin.tokenize("The capital of France is")).top[0]
    assert paris.text == " Paris"
    assert paris.prob == pytest.approx(0.77, abs=0.01)


def test_attention_equals_the_eager_model(builtin: LanguageModel) -> None:
    eager = AutoModelForCausalLM.from_pretrained(
        ensure_builtin(), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompt = builtin.tokenize(PROMPT)
    with torch.no_grad():
        output = eager(input_ids=torch.tensor([prompt.ids]), output_attentions=True)
    theirs = torch.stack(output.attentions)[:, 0].reshape(270, 14, 14).numpy()
    ours = builtin.attention(prompt, builtin.all_heads()).values
    # Differences of float32 rounding grow over 30 layers; a probability has two more digits.
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_the_sweep_equals_one_plain_forward_a_head(
    builtin: LanguageModel, plain: PlainModel, scores: HeadScores
) -> None:
    prompt = builtin.tokenize(PROMPT)
    clean = plain.log_probs(prompt.ids)
    # Three heads of each layer, each head's number in ten layers, and those that do most.
    strongest = {head for head, _ in scores.ranked()[:5]}
    for head in builtin.all_heads():
        if (head.layer + head.head) % 3 == 0 or head in strongest:
            expected = kl(clean, plain.log_probs(prompt.ids, [head]))
            assert abs(scores.values[head.layer, head.head] - expected) < KL_TOLERANCE, head
    assert scores.ranked()[0][1] > 100 * KL_TOLERANCE


def test_the_generic_search_grows_kl_at_every_step(
    builtin: LanguageModel, plain: PlainModel, scores: HeadScores
) -> None:
    prompt = builtin.tokenize(PROMPT)
    result = search_heads(builtin, prompt, max_heads=3)
    assert result.stopped == "max_heads"
    assert result.steps[0].head == scores.ranked()[0][0]
    clean = plain.log_probs(prompt.ids)
    chosen: list[Head] = []
    for step in result.steps:
        chosen.append(step.head)
        expected = kl(clean, plain.log_probs(prompt.ids, chosen))
        assert step.kl == pytest.approx(expected, abs=KL_TOLERANCE)
    found = [step.kl for step in result.steps]
    assert found == sorted(found)
    assert len(set(found)) == 3


def test_the_targeted_search_makes_john_the_answer_with_a_minimal_set(
    builtin: LanguageModel, plain: PlainModel
) -> None:
    prompt = builtin.tokenize(PROMPT)
    result = search_heads(builtin, prompt, target=" John")
    john = builtin.resolve_token(" John")
    assert result.stopped == "target_reached"
    assert 1 <= len(result.heads) <= 6
    assert int(plain.log_probs(prompt.ids, result.heads).argmax()) == john
    for head in result.heads:
        others = [other for other in result.heads if other != head]
        assert int(plain.log_probs(prompt.ids, others).argmax()) != john, f"{head} is not needed"
