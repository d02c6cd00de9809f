"""Pairs of prompts: what can be asked of a model, and the sentence for what cannot."""

import pytest
from reference import log_probs
from tiny import PROMPT, tiny_model
from word_models import words_model

from ablation import PromptPair, check_pair, check_pairs
from ablation.circuit.pairs import UnequalTokens, answer_lead
from models.errors import ErrorKind, UserError

CORRUPT = PROMPT.replace("John gave", "Mary gave")
PAIR = PromptPair(PROMPT, CORRUPT, " Mary", " John")

TOLERANCE = 1e-5  # rounding of float32 logits; see test_intervention_parity


def test_a_pair_is_seen_as_the_model_sees_it() -> None:
    model = words_model()
    posed = check_pair(model, PAIR)
    assert posed.clean == model.tokenize(PROMPT)
    assert posed.corrupt == model.tokenize(CORRUPT)
    assert [posed.clean.texts[i] for i in posed.changed] == [" John"]
    assert [posed.corrupt.texts[i] for i in posed.changed] == [" Mary"]
    assert posed.position == len(posed.clean) - 1
    assert posed.answer_id == model.resolve_token(" Mary")
    assert posed.distractor_id == model.resolve_token(" John")
    assert check_pair(model, PromptPair(PROMPT, CORRUPT, " Mary")).distractor_id is None


def test_the_opening_token_stands_in_front_of_both() -> None:
    model = words_model()
    plain, opened = check_pair(model, PAIR), check_pair(model, PAIR, bos=True)
    assert opened.clean.ids[0] == opened.corrupt.ids[0] == model.opening_id
    assert opened.changed == tuple(position + 1 for position in plain.changed)


def test_unequal_lengths_show_both_lists_of_tokens() -> None:
    model = words_model()
    pair = PromptPair(PROMPT, PROMPT.replace("Mary and", "Zebulon and"), " Mary")
    with pytest.raises(UnequalTokens) as caught:
        check_pair(model, pair)
    clean, corrupt = model.tokenize(pair.clean), model.tokenize(pair.corrupt)
    message = str(caught.value)
    assert f"{len(clean)} tokens and the corrupted one {len(corrupt)}" in message
    assert "[·Mary]" in message
    assert "\n" not in message
    columns = caught.value.columns
    assert tuple(c.clean for c in columns if c.clean is not None) == clean.labels
    assert tuple(c.corrupt for c in columns if c.corrupt is not None) == corrupt.labels


@pytest.mark.parametrize(
    ("pair", "kind", "words"),
    [
        (PromptPair(PROMPT, PROMPT, " Mary", " John"), ErrorKind.PROMPT, "the same tokens"),
        (PromptPair(PROMPT, CORRUPT, " Mary", " Mary"), ErrorKind.TARGET, "are the same token"),
        (PromptPair(PROMPT, CORRUPT, " Zebulon"), ErrorKind.TARGET, "not one"),
        (PromptPair(PROMPT, CORRUPT, " Mary", " Zebulon"), ErrorKind.TARGET, "not one"),
        (PromptPair(PROMPT, CORRUPT, ""), ErrorKind.TARGET, "No token is named"),
        (PromptPair("", CORRUPT, " Mary"), ErrorKind.PROMPT, "empty"),
    ],
)
def test_what_cannot_be_asked_is_said(pair: PromptPair, kind: ErrorKind, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        check_pair(words_model(), pair)
    assert caught.value.kind == kind


def test_models_with_several_stacks_are_refused() -> None:
    with pytest.raises(UserError, match="A circuit needs a model with one stack"):
        check_pair(tiny_model("t5"), PAIR)


def test_masks_have_to_be_at_the_same_position() -> None:
    model = tiny_model("bert")
    clean, moved = "When Mary went to the [MASK] store", "When Mary went to [MASK] the store"
    other = "When John went to the [MASK] store"
    assert check_pair(model, PromptPair(clean, other, "the")).position == model.tokenize(
        clean
    ).labels.index("[MASK]")
    with pytest.raises(UserError, match="put it at the same position"):
        check_pair(model, PromptPair(clean, moved, "the"))


def test_of_several_pairs_the_wrong_one_is_named() -> None:
    model = words_model()
    assert [posed.pair for posed in check_pairs(model, [PAIR, PAIR])] == [PAIR, PAIR]
    same = PromptPair(PROMPT, PROMPT, " Mary")
    with pytest.raises(UserError, match=r"^Pair 2 of 2: The clean and the corrupted"):
        check_pairs(model, [PAIR, same])
    with pytest.raises(UserError, match=r"^The clean and the corrupted"):
        check_pairs(model, [same])
    with pytest.raises(UserError, match="give at least one"):
        check_pairs(model, [])


def test_the_lead_of_the_answer_is_the_difference_of_the_logits() -> None:
    model = tiny_model("gpt2")
    answer, distractor = " Mary", " John"
    posed = check_pair(model, PromptPair(PROMPT, CORRUPT, answer, distractor))
    leads = []
    for prompt, corrupt in ((posed.clean, False), (posed.corrupt, True)):
        expected = log_probs("gpt2", prompt.ids, len(prompt) - 1)
        lead = answer_lead(model, posed, corrupt=corrupt)
        difference = expected[posed.answer_id] - expected[posed.distractor_id]
        assert lead == pytest.approx(float(difference), abs=TOLERANCE)
        leads.append(lead)
    assert abs(leads[0] - leads[1]) > 100 * TOLERANCE
    with pytest.raises(ValueError, match="no difference"):
        answer_lead(model, check_pair(model, PromptPair(PROMPT, CORRUPT, answer)))
