"""Text to `TokenizedPrompt`, and token ids to labels that a person can read.

Tokenizers store tokens in their own alphabets: byte-level ones write a space as "Ġ" and "é" as
two other letters, SentencePiece writes "▁" and "<0x0A>", WordPiece marks continuations with "##",
CLIP the ends of words with "</w>". Nobody should see these. A token is turned into its bytes first,
then into a label.
"""

import json
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import index
from typing import Any, Literal

from models.errors import ErrorKind, UserError
from models.types import TokenizedPrompt

Alphabet = Literal["byte_level", "sentencepiece", "wordpiece", "plain"]

VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}
"""Characters that would not be seen, and what stands for them in a label."""

CHARACTERS_A_POSITION = 32
"""A prompt with more characters a position than this is refused before it is tokenised: real
text has about four, so it cannot fit, and tokenising a pasted file would only cost time."""

LEAST_CHARACTER_LIMIT = 20_000

PAIR_MARK = " ||| "
"""What stands between the two sentences of a pair where they are shown as one text."""


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """Map the printable alphabet of byte-level tokenizers back to bytes.

    Bytes that are printable in Latin-1 stand for themselves; the others, in order, are the
    characters from U+0100 on (Radford et al. 2019, GPT-2).
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return alphabet


@dataclass(frozen=True, slots=True)
class TokenReader:
    """Reads one tokenizer's tokens."""

    tokenizer: Any
    alphabet: Alphabet
    special_ids: frozenset[int]
    literal: dict[int, str]
    """Added tokens, which are stored as they are typed."""
    word_end: str = ""
    """What marks the last token of a word; behind it stands a space."""

    @staticmethod
    def of(tokenizer: Any) -> "TokenReader":
        literal = {int(i): str(t) for i, t in tokenizer.added_tokens_decoder.items()}
        special = frozenset(int(i) for i in tokenizer.all_special_ids)
        description = _description(tokenizer)
        end = (description or {}).get("model", {}).get("end_of_word_suffix")
        return TokenReader(
            tokenizer, _alphabet_of(tokenizer, description), special, literal, end or ""
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for in running text."""
        if token_id in self.literal:
            return self.literal[token_id].encode()
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        if self.word_end and token.endswith(self.word_end):
            return self._bytes_of(token.removesuffix(self.word_end)) + b" "
        return self._bytes_of(token)

    def _bytes_of(self, token: str) -> bytes:
        """Return the bytes of what a tokenizer stores as a token."""
        if self.alphabet == "byte_level":
            alphabet = _byte_of_character()
            if all(character in alphabet for character in token):
                return bytes(alphabet[character] for character in token)
            return str(token).encode()
        if self.alphabet == "sentencepiece":
            byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
            return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()
        if self.alphabet == "wordpiece":
            return (token[2:] if token.startswith("##") else " " + token).encode()
        return str(token).encode()

    def text(self, token_id: int) -> str:
        """Return a token's characters; bytes that are no whole character as `\\xE2`."""
        return self.token_bytes(token_id).decode("utf-8", errors="backslashreplace")

    def label(self, token_id: int) -> str:
        """Return a token as a person reads it; never empty."""
        if not 0 <= token_id < len(self.tokenizer):
            return f"[id {token_id}]"
        if self.alphabet == "wordpiece" and token_id not in self.literal:
            # Words stand alone here: the marked ones are the continuations.
            return visible(str(self.tokenizer.convert_ids_to_tokens(token_id)))
        text = self.text(token_id)
        if self.word_end and token_id not in self.literal:
            text = text.removesuffix(" ")
        return visible(text) or "∅"

    def kind(self, token_id: int) -> str:
        return "special" if token_id in self.special_ids else "text"


def _description(tokenizer: Any) -> dict[str, Any] | None:
    """Return a tokenizer's own description; None where it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else json.loads(backend.to_str())


def _alphabet_of(tokenizer: Any, description: dict[str, Any] | None) -> Alphabet:
    """Tell from a tokenizer's own description in which alphabet it stores tokens."""
    if description is None:
        return "sentencepiece" if hasattr(tokenizer, "sp_model") else "plain"
    rooms = [description.get(name) for name in ("decoder", "pre_tokenizer", "normalizer")]
    parts = json.dumps(rooms, ensure_ascii=False)
    if '"ByteLevel"' in parts:
        return "byte_level"
    if '"WordPiece"' in parts:
        return "wordpiece"
    if '"Metaspace"' in parts or "▁" in parts:
        return "sentencepiece"
    return "plain"


def visible(text: str) -> str:
    """Return text with every character that could not be seen, or that could disturb what
    stands beside it, replaced by something visible."""
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character in VISIBLE:
        return VISIBLE[character]
    category = unicodedata.category(character)
    # Control and format characters (direction marks, zero-width ones) would reorder or hide
    # a label; other separators look like nothing.
    if category in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}:
        return f"<U+{ord(character):04X}>"
    if category.startswith("M"):
        return "◌" + character
    return character


def tokenize(
    reader: TokenReader,
    text: str,
    max_positions: int,
    bos: bool | None = None,
    pair: str | None = None,
) -> TokenizedPrompt:
    """Turn text into a prompt.

    Args:
        bos: whether a beginning-of-sequence token stands in front; None leaves it to the
            tokenizer.
        pair: the second sentence of a pair whose first is `text`.

    Raises:
        UserError: the text is empty or no valid Unicode, turns into nothing, or does not fit the
            model's context.
    """
    if not text:
        raise UserError(ErrorKind.PROMPT, "The prompt is empty; type some text.")
    refuse_unusable_text(text, "prompt", max_positions)
    if pair is not None:
        refuse_unusable_text(pair, "second sentence", max_positions)
    tokenizer = reader.tokenizer
    own = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    encoded = tokenizer(text, pair, verbose=False, return_token_type_ids=pair is not None)
    ids = with_bos(tokenizer, encoded["input_ids"], bos)
    # The second: all that was typed is the opening token, and it is switched off.
    if not own or not ids:
        raise UserError(
            ErrorKind.PROMPT, "The tokenizer turns this prompt into no tokens; type some words."
        )
    refuse_too_many(len(ids), "prompt", max_positions)
    prompt = prompt_of_ids(reader, ids, text)
    if pair is None:
        return prompt
    segments = encoded["token_type_ids"]
    # An opening token put in front, or taken away, is one of the first sentence.
    changed = len(ids) - len(segments)
    segments = [0] * changed + segments[max(0, -changed) :]
    return replace(prompt, text=f"{text}{PAIR_MARK}{pair}", segments=tuple(segments))


def decoder_prompt(
    reader: TokenReader, text: str, start: int, max_positions: int, source: TokenizedPrompt
) -> TokenizedPrompt:
    """Return the prompt of an encoder-decoder: the token that starts its decoder, then the text.

    Args:
        text: may be empty.

    Raises:
        UserError: the text is no valid Unicode, or does not fit the model's context.
    """
    refuse_unusable_text(text, "decoder text", max_positions)
    ids = []
    if text:
        # Translation models write the target's language by another vocabulary.
        encoded = reader.tokenizer(text_target=text, add_special_tokens=False, verbose=False)
        ids = encoded["input_ids"]
    ids = [start, *ids]
    refuse_too_many(len(ids), "decoder text", max_positions)
    return replace(prompt_of_ids(reader, ids, text), source=source)


def refuse_unusable_text(text: str, role: str, max_positions: int) -> None:
    """Refuse text that no tokenizer takes, or that is so long that it cannot fit."""
    _refuse_broken_text(text, role, ErrorKind.PROMPT)
    limit = max(LEAST_CHARACTER_LIMIT, CHARACTERS_A_POSITION * max_positions)
    if len(text) > limit:
        raise UserError(
            ErrorKind.PROMPT,
            f"The {role} has {len(text):,} characters, far more than fit the model's context of "
            f"{max_positions:,} tokens; shorten it.",
        )


def refuse_too_many(n_tokens: int, role: str, max_positions: int) -> None:
    if n_tokens > max_positions:
        raise UserError(
            ErrorKind.PROMPT,
            f"The {role} has {n_tokens:,} tokens; the model's context holds {max_positions:,}. "
            "Shorten it.",
        )


def prompt_of_ids(reader: TokenReader, ids: list[int], text: str | None = None) -> TokenizedPrompt:
    """Return the prompt made of these token ids."""
    texts = tuple(reader.text(i) for i in ids)
    return TokenizedPrompt(
        text="".join(texts) if text is None else text,
        ids=tuple(ids),
        labels=tuple(reader.label(i) for i in ids),
        texts=texts,
        kinds=tuple(reader.kind(i) for i in ids),
    )


def _refuse_broken_text(text: str, role: str, kind: ErrorKind) -> None:
    """Refuse text that no tokenizer takes: an argument that was no UTF-8, half a character pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            kind,
            f"Character {error.start + 1} of the {role} is not valid Unicode (bytes that are not "
            "UTF-8, or half a character pair); take it out.",
        ) from None


def bos_id(tokenizer: Any) -> int | None:
    """Return the id of the token that opens a sequence: BOS, or CLS for encoders."""
    for token_id in (tokenizer.bos_token_id, tokenizer.cls_token_id):
        if token_id is not None:
            return int(token_id)
    return None


def with_bos(tokenizer: Any, ids: list[int], bos: bool | None) -> list[int]:
    """Put the opening token in front of `ids`, or take it away, or leave them alone (None)."""
    if bos is None:
        return ids
    opening = bos_id(tokenizer)
    has = bool(ids) and opening is not None and ids[0] == opening
    if bos and opening is None:
        raise UserError(
            ErrorKind.PROMPT,
            "This model's tokenizer has no beginning-of-sequence token; switch it off.",
        )
    if bos and not has:
        return [int(opening), *ids] if opening is not None else ids
    return ids[1:] if has and not bos else ids


def _id_in_vocabulary(token_id: int, n_vocab: int) -> int:
    if 0 <= token_id < n_vocab:
        return token_id
    raise UserError(
        ErrorKind.TARGET,
        f"The model predicts no token {token_id}; its ids run from 0 to {n_vocab - 1}.",
    )


def single_token(reader: TokenReader, target: int | str, n_vocab: int) -> int:
    """Return the one token id that a target names.

    Raises:
        UserError: the text is more than one token (its tokens are shown), or no token, or the
            id is outside the vocabulary.
    """
    if not isinstance(target, str):
        return _id_in_vocabulary(index(target), n_vocab)
    if not target:
        raise UserError(ErrorKind.TARGET, "No token is named; type one, such as ' John'.")
    _refuse_broken_text(target, "target", ErrorKind.TARGET)
    ids = reader.tokenizer(target, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) != 1 and reader.alphabet == "sentencepiece" and target.startswith(" "):
        # SentencePiece puts a space in front by itself; the one typed is the same space.
        bare = reader.tokenizer(target[1:], add_special_tokens=False, verbose=False)["input_ids"]
        ids = bare if len(bare) == 1 else ids
    if len(ids) == 1:
        return _id_in_vocabulary(int(ids[0]), n_vocab)
    shown = " ".join(f"[{reader.label(i)}]" for i in ids[:12]) + (" …" if len(ids) > 12 else "")
    hint = "" if target.startswith(" ") else " A leading space often matters: try it with one."
    raise UserError(
        ErrorKind.TARGET,
        f"The text {visible(target)[:80]} is {len(ids)} tokens for this model, not one: "
        f"{shown or 'none'}.{hint}",
    )
