"""Pairs of sentences: the model is told which token is of which, in every kind of run.

TOLERANCE: float32 rounding is of order 1e-6 (`test_parity`).
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from reference import edited_heads, reference, zero
from tiny import tiny_model
from torch import Tensor

from ablation import Ablation, Mean, Resample, Zero, sweep_heads
from models.errors import UserError
from models.language_model import LanguageModel
from models.types import Head, TokenizedPrompt

TOLERANCE = 1e-5
FIRST, SECOND = "The cat sat on the [MASK].", "Mary gave the cat a drink."


def posed() -> tuple[LanguageModel, TokenizedPrompt]:
    model = tiny_model("bert")
    return model, model.tokenize(FIRST, pair=SECOND)


def log_probs(
    prompt: TokenizedPrompt, position: int, heads: Sequence[Head] = (), segments: bool = True
) -> Tensor:
    """Return float64 log-probabilities of the plain eager model, told the segments or not."""
    given = {"token_type_ids": torch.tensor([prompt.segments])} if segments else {}
    edits = [(head.layer, head.head, zero) for head in heads]
    with edited_heads("bert", edits) as model, torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt.ids]), **given).logits
    return logits[0, position].double().log_softmax(-1)


def test_a_pair_is_one_prompt_with_segments() -> None:
    model, prompt = posed()
    alone = model.tokenize(FIRST)
    assert model.pairs
    assert alone.segments is None
    assert prompt.ids[: len(alone)] == alone.ids
    assert prompt.segments == (0,) * len(alone) + (1,) * (len(prompt) - len(alone))
    assert prompt.text == f"{FIRST} ||| {SECOND}"
    assert prompt.to_json()["segments"] == list(prompt.segments)
    without = model.tokenize(FIRST, bos=False, pair=SECOND)
    assert (without.ids, without.segments) == (prompt.ids[1:], prompt.segments[1:])
    assert model.tokenize(FIRST, bos=True, pair=SECOND).segments == prompt.segments
    assert prompt.content != model.prompt_of_ids(prompt.ids).content


def test_the_segments_go_through_the_model() -> None:
    model, prompt = posed()
    position = model.resolve_position(prompt)
    ours = model.predict(prompt).log_probs
    np.testing.assert_allclose(ours, log_probs(prompt, position), atol=TOLERANCE, rtol=0)
    blind = log_probs(prompt, position, segments=False)
    assert np.abs(ours - blind.numpy()).max() > 100 * TOLERANCE


def test_attention_of_a_pair_equals_eager_output_attentions() -> None:
    model, prompt = posed()
    with torch.no_grad():
        output = reference("bert")(
            input_ids=torch.tensor([prompt.ids]),
            token_type_ids=torch.tensor([prompt.segments]),
            output_attentions=True,
        )
    theirs = torch.stack(output.attentions)[:, 0].flatten(0, 1)
    ours = model.attention(prompt, model.all_heads()).values
    np.testing.assert_allclose(ours, theirs.numpy(), atol=TOLERANCE, rtol=0)


def test_ablated_runs_are_told_the_segments_too() -> None:
    """One run a set of heads, and many branches of a shared one."""
    model, prompt = posed()
    assert model.branches
    position = model.resolve_position(prompt)
    heads = model.all_heads()
    rows = model.ablated_logprobs(prompt, [[head] for head in heads], Zero())
    for head, row in zip(heads, rows, strict=True):
        expected = log_probs(prompt, position, [head])
        torch.testing.assert_close(row, expected, atol=TOLERANCE, rtol=0)
    one = model.predict(prompt, ablation=Ablation((heads[5],), Zero())).log_probs
    np.testing.assert_allclose(one, rows[5], atol=TOLERANCE, rtol=0)
    assert not np.isnan(sweep_heads(model, prompt).values).any()


def test_what_is_put_in_may_come_from_a_pair() -> None:
    model, prompt = posed()
    head = Head(1, 2)
    same = Resample(f"{FIRST} ||| {SECOND}")
    clean = model.predict(prompt).log_probs
    unchanged = model.predict(prompt, ablation=Ablation((head,), same)).log_probs
    np.testing.assert_allclose(unchanged, clean, atol=TOLERANCE, rtol=0)
    reference_pair = Mean((f"{FIRST} ||| {SECOND}",))
    own = model.predict(prompt, ablation=Ablation((head,), Mean())).log_probs
    theirs = model.predict(prompt, ablation=Ablation((head,), reference_pair)).log_probs
    np.testing.assert_allclose(theirs, own, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_a_model_that_knows_no_pairs_refuses_one(family: str) -> None:
    model = tiny_model(family)
    assert not model.pairs
    with pytest.raises(UserError, match="does not tell the sentences of a pair apart"):
        model.tokenize("The cat", pair="The mat")
