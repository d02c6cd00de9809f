"""Labels a person can read, unique labels, the opening token, and refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_level_tokenizer, tiny_model, wordpiece_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from models.errors import ErrorKind, UserError
from models.tokens import TokenReader, single_token, tokenize, visible
from models.types import TokenizedPrompt

READER = TokenReader.of(byte_level_tokenizer())


def sentencepiece_reader() -> TokenReader:
    """A SentencePiece-like tokenizer as Llama's and Gemma's are stored."""
    pieces = ["<unk>", "<s>", "▁", "▁John", "John", "n", "▁gave", "a", "<0x0A>", "<0xE2>"]
    tokenizer = Tokenizer(
        models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=0)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return TokenReader.of(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    )


def test_spaces_newlines_and_tabs_are_visible() -> None:
    prompt = tokenize(READER, "a b\n\tc", 128)
    assert "".join(prompt.labels) == "a·b⏎⇥c"
    assert "".join(prompt.texts) == "a b\n\tc"


def test_no_label_shows_the_tokenizers_own_alphabet() -> None:
    for token_id in range(len(READER.tokenizer)):
        label = READER.label(token_id)
        assert label
        assert not set(label) & set("ĠĊĉ▁")


def test_partial_bytes_are_shown_as_hex() -> None:
    prompt = tokenize(READER, "€", 128)
    assert prompt.labels == ("\\xe2", "\\x82", "\\xac")


def test_sentencepiece_pieces_and_byte_tokens_are_read() -> None:
    reader = sentencepiece_reader()
    assert reader.alphabet == "sentencepiece"
    assert [reader.label(i) for i in (3, 4, 8, 9)] == ["·John", "John", "⏎", "\\xe2"]
    assert reader.kind(1) == "special"


def test_ends_of_words_are_read_as_spaces() -> None:
    """CLIP's tokenizer marks them."""
    words = ["<|startoftext|>", "<|endoftext|>", "c", "a", "t</w>", "ca", "cat</w>", "Ã©</w>"]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[("c", "a"), ("ca", "t</w>")])
    reader = TokenReader.of(tokenizer)
    assert reader.word_end == "</w>"
    labels = [reader.label(i) for i in range(len(words))]
    assert labels == ["<|startoftext|>", "<|endoftext|>", "c", "a", "t", "ca", "cat", "é"]
    assert reader.text(vocab["cat</w>"]) == "cat "
    assert READER.word_end == ""


def test_a_target_typed_with_a_space_finds_the_sentencepiece_token() -> None:
    reader = sentencepiece_reader()
    assert single_token(reader, "John", 10) == 3
    assert single_token(reader, " John", 10) == 3


def test_wordpiece_continuations_keep_their_mark() -> None:
    reader = TokenReader.of(wordpiece_tokenizer())
    labels = [reader.label(i) for i in range(len(reader.tokenizer))]
    assert any(label.startswith("##") for label in labels)
    assert reader.label(reader.tokenizer.mask_token_id) == "[MASK]"


def test_characters_that_would_disturb_a_label_are_named() -> None:
    assert visible("a\u202eb\u200b\x00") == "a<U+202E>b<U+200B><U+0000>"
    assert visible("\u0301") == "◌\u0301"


def test_repeats_carry_their_number() -> None:
    labels = ("John", "and", "John", "John")
    prompt = TokenizedPrompt("", (1, 2, 1, 1), labels, labels, ("text",) * 4)
    assert prompt.unique_labels == ("John", "and", "John_2", "John_3")


@given(st.lists(st.sampled_from(["a", "a_2", "a_3", "b"]), max_size=12))
def test_unique_labels_are_unique_and_keep_what_is_unique(labels: list[str]) -> None:
    n = len(labels)
    prompt = TokenizedPrompt("", tuple(range(n)), tuple(labels), tuple(labels), ("text",) * n)
    assert len(set(prompt.unique_labels)) == n
    for label, unique in zip(labels, prompt.unique_labels, strict=True):
        assert unique.startswith(label)


@given(st.text(min_size=1, max_size=60))
def test_any_text_keeps_its_bytes_and_has_printable_labels(text: str) -> None:
    encoded = text.encode("utf-8", errors="ignore")
    if not encoded or encoded.decode() != text:
        return
    prompt = tokenize(READER, text, 1000)
    assert b"".join(READER.token_bytes(i) for i in prompt.ids) == encoded
    assert all(label.isprintable() and label for label in prompt.labels)


def test_the_opening_token_is_a_switch() -> None:
    default = tokenize(READER, "a cat", 128)
    with_it = tokenize(READER, "a cat", 128, bos=True)
    assert with_it.ids == (READER.tokenizer.bos_token_id, *default.ids)
    assert with_it.kinds[0] == "special"
    assert tokenize(READER, "a cat", 128, bos=False) == default


def test_the_opening_token_of_an_encoder_can_be_taken_away() -> None:
    reader = TokenReader.of(wordpiece_tokenizer())
    default = tokenize(reader, "the [MASK]", 128)
    assert default.labels[0] == "[CLS]"
    assert tokenize(reader, "the [MASK]", 128, bos=False).ids == default.ids[1:]
    assert tokenize(reader, "the [MASK]", 128, bos=True) == default


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("x" * 1_000_000, "1,000,000 characters"),
        ("When Mary " * 200, "128"),
        ("no text: \udcff", "Character 10 of the prompt is not valid Unicode"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        tokenize(READER, text, 128)
    assert refusal.value.kind is ErrorKind.PROMPT
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 200


def test_text_that_turns_into_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="no tokens"):
        tokenize(TokenReader.of(wordpiece_tokenizer()), "   ", 128)
    opening = READER.tokenizer.bos_token
    assert len(tokenize(READER, opening, 128)) == 1
    with pytest.raises(UserError, match="no tokens"):
        tokenize(READER, opening, 128, bos=False)


def test_a_target_of_several_tokens_is_refused_and_shown() -> None:
    model = tiny_model("llama")
    with pytest.raises(UserError) as refusal:
        model.resolve_token(" zebra")
    assert refusal.value.kind is ErrorKind.TARGET
    assert "tokens for this model, not one" in str(refusal.value)
    assert "[z]" in str(refusal.value) or "[·z]" in str(refusal.value)


@pytest.mark.parametrize("target", [-1, 320, "", "\ud800"])
def test_targets_outside_the_vocabulary_are_refused(target: int | str) -> None:
    with pytest.raises(UserError) as refusal:
        tiny_model("llama").resolve_token(target)
    assert refusal.value.kind is ErrorKind.TARGET


def test_a_target_may_come_out_of_an_array() -> None:
    found = tiny_model("llama").resolve_token(np.int64(7))
    assert (found, type(found)) == (7, int)
