"""Proposed corrupted prompts: a word changed, all else in its place, and said in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import MASKED_PROMPT, PROMPT, tiny_model
from word_models import words_model

from ablation import propose_corruption
from ablation.circuit.corruption import MOST_PROPOSALS
from ablation.circuit.corruption_rules import Edit, Text, applied
from ablation.circuit.words import words_of
from models.errors import UserError
from models.language_model import LanguageModel

CODE = "def add(a, b):\n    return a + b\n\nprint(add(2, 3))"

PIECES = st.sampled_from(
    words_of(
        """
        Mary John Alice Zorblax France Paris May Two seven keys cat the a to gave went is running
        quickly said, 1732 3 x + return f( don't Größe 世界 . " <|endoftext|>
        """
    )
)


def first(model: LanguageModel, prompt: str) -> tuple[str, str]:
    """Return the first proposal and its words."""
    proposal = propose_corruption(model, prompt)[0]
    return proposal.corrupt, proposal.words


@given(
    st.lists(PIECES, min_size=1, max_size=12),
    st.sampled_from([" ", "\n", ""]),
    st.sampled_from([None, True]),
)
def test_every_proposal_keeps_every_token_in_its_place(
    pieces: list[str], blank: str, bos: bool | None
) -> None:
    model, prompt = words_model(), blank.join(pieces)
    clean = model.tokenize(prompt, bos)
    proposals = propose_corruption(model, prompt, bos)
    assert len(proposals) == len({p.corrupt for p in proposals} - {prompt}) <= MOST_PROPOSALS
    for proposal in proposals:
        corrupt = model.tokenize(proposal.corrupt, bos)
        assert len(corrupt) == len(clean)
        differing = [i for i in range(len(clean)) if clean.ids[i] != corrupt.ids[i]]
        assert differing == list(proposal.changed) != []
        assert all(clean.kinds[i] == corrupt.kinds[i] == "text" for i in differing)
        assert proposal.words
    assert proposals == propose_corruption(model, prompt, bos)


@pytest.mark.parametrize(
    ("prompt", "corrupt", "words"),
    [
        (
            PROMPT,
            "When Mary and John went to the store, Mary gave a drink to",
            'the second "John" becomes "Mary"',
        ),
        ("The capital of France is", "The capital of Italy is", '"France" becomes "Italy"'),
        ("The keys to the cabinet", "The key to the cabinet", '"keys" becomes singular: "key"'),
        ("The key to the cabinet", "The keys to the cabinet", '"key" becomes plural: "keys"'),
        ("Two plus two is", "Two plus one is", '"two" becomes "one"'),
        (CODE, CODE.replace("+", "-"), 'the last "+" becomes "-"'),
        (
            "def f(x, y):\n    return x",
            "def f(a, y):\n    return x",
            'the first "x" becomes "a"',
        ),
        (
            "The war lasted from the year 1732 to the year 17",
            "The war lasted from the year 1701 to the year 17",
            '"1732" becomes "1701"',
        ),
    ],
)
@pytest.mark.parametrize("which", ["words", pytest.param("builtin", marks=pytest.mark.builtin)])
def test_what_is_changed_first(
    prompt: str, corrupt: str, words: str, which: str, request: pytest.FixtureRequest
) -> None:
    model = words_model() if which == "words" else request.getfixturevalue("builtin")
    assert first(model, prompt) == (corrupt, words)


def test_names_are_also_replaced_by_others_each_once() -> None:
    proposals = propose_corruption(words_model(), PROMPT)
    assert proposals[1].words == "the names Mary, John, John become Anna, Tom, Paul"
    assert proposals[1].corrupt == "When Anna and Tom went to the store, Paul gave a drink to"
    assert len(proposals[1].changed) == 3


def test_last_resorts_are_for_want_of_better() -> None:
    model = words_model()
    assert first(model, "It was strange and then he")[1] == '"he" becomes "she"'
    assert first(model, "It was strange and then")[1] == '"strange" becomes "old"'
    assert all("trade" not in p.words for p in propose_corruption(model, PROMPT))
    assert first(model, "of qqqq and xxxx") == (
        "of xxxx and qqqq",
        '"qqqq" and "xxxx" trade places',
    )


@pytest.mark.parametrize("prompt", ["!!!", "世界", "the of to", "Hmm"])
def test_nothing_may_be_found(prompt: str) -> None:
    assert propose_corruption(words_model(), prompt) == ()


def test_no_prompt_is_an_error() -> None:
    with pytest.raises(UserError, match="empty"):
        propose_corruption(words_model(), "")


def test_mask_tokens_stay() -> None:
    model = tiny_model("bert")
    proposals = propose_corruption(model, MASKED_PROMPT)
    assert proposals
    assert all("[MASK]" in proposal.corrupt for proposal in proposals)


def test_two_edits_may_not_make_up_for_each_other() -> None:
    """What stands between a long word and a short one would move if they traded places."""
    model, prompt = words_model(), "of qq and xxxxx"
    assert len(model.tokenize("of xxxxx and qq")) == len(model.tokenize(prompt))
    assert propose_corruption(model, prompt) == ()


def test_edits_are_made_in_order() -> None:
    assert applied((Edit(0, 1, "xy"), Edit(2, 4, "")), "abcde") == "xybe"
    assert applied((), "abc") == "abc"


def test_words_know_where_they_stand() -> None:
    text = Text.of('Mary said: "It\'s John." John left 12 of 30')
    told = [(w.text, w.nth, w.n_occurrences, w.opens, w.before) for w in text.words]
    assert told[:6] == [
        ("Mary", 1, 1, True, ""),
        ("said", 1, 1, False, "mary"),
        ("It's", 1, 1, True, "said"),
        ("John", 1, 2, False, "it's"),
        ("John", 2, 2, True, "john"),
        ("left", 1, 1, False, "john"),
    ]
    assert all(text.text[w.start : w.stop] == w.text for w in text.words)
    assert text.words[4].named == 'the second "John"'
    assert text.words[0].named == '"Mary"'
    assert Text.of("cat " * 30).last_of_each[0].named == '"cat" (30 of 30)'
