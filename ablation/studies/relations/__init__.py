"""Sentences whose grammatical relations are marked, made from templates.

Seven relations, each a mark from a word to one that comes later and has to do with it. A model that
reads from left to right can look from the later word at the earlier one only, so that it is the
query. Written for this program; every sentence is made anew from `templates` by a seed.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter

from ablation.studies.relations import templates as texts
from models.types import TokenizedPrompt

PER_TEMPLATE = 10
"""Sentences of each template."""

_OPTIONAL = re.compile(r"\[([^\]]*)\]")

RELATIONS = (
    "subject-verb",
    "verb-object",
    "determiner-noun",
    "adjective-noun",
    "pronoun-antecedent",
    "possessive",
    "preposition-object",
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Two words of a sentence that stand in a relation."""

    relation: str
    key: tuple[int, int]
    """Where the earlier word begins and ends in the text, in characters."""
    query: tuple[int, int]
    """The same of the later one."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with its marks."""

    text: str
    marks: tuple[Mark, ...]
    structure: str
    """Which template it is of, and which of its optional parts it has."""
    held_out: bool
    """Whether it is of a held-out template."""


def make_sentences(seed: int = 0, per_template: int = PER_TEMPLATE) -> tuple[Sentence, ...]:
    """Return sentences of all templates, one of each in turn, training and held-out ones mixed."""
    rng = random.Random(seed)
    parted = zip(texts.TRAINING, texts.HELD_OUT, strict=True)
    listed = [
        (template, half) for pair in parted for half, template in enumerate(pair)
    ]  # training, held out, training...
    return tuple(
        _sentence(text, marks, number, half, rng)
        for _ in range(per_template)
        for number, ((text, marks), half) in enumerate(listed)
    )


def relation_of(key_kind: str, query_kind: str) -> str:
    """Return the relation of two marked words, the earlier one first, by their kinds."""
    if query_kind in texts.PRONOUNS:
        return "pronoun-antecedent"
    if query_kind in texts.VERBS:
        return "subject-verb"
    if key_kind in texts.MODIFIERS:
        return texts.MODIFIERS[key_kind]
    return "verb-object" if key_kind in texts.VERBS else "possessive"


def words_of_half(kind: str, half: int) -> tuple[str, ...]:
    """Return the words of a kind that fill training (0) or held-out (1) templates."""
    words = texts.WORDS[kind]
    return words if len(words) == 1 else words[half::2]


def _sentence(text: str, marks: str, number: int, half: int, rng: random.Random) -> Sentence:
    said, spans, taken = rng.choice(texts.OPENINGS[half]), dict[str, tuple[int, int]](), set[str]()
    parts = _OPTIONAL.split(text)  # what is between brackets has odd places
    kept = [place % 2 == 0 or rng.random() < 0.5 for place in range(len(parts))]
    chosen = "".join(part for part, keep in zip(parts, kept, strict=True) if keep)
    for literal, slot, _, _ in Formatter().parse(chosen):
        said += literal
        if slot is None:
            continue
        words = words_of_half(slot.rstrip("0123456789"), half)
        # Nothing is said twice in a sentence, so that what a head looks at is one word.
        word = rng.choice([word for word in words if word not in taken] or list(words))
        taken.add(word)
        spans[slot] = (len(said), len(said) + len(word))
        said += word
    structure = f"{number}:" + "".join(str(int(keep)) for keep in kept[1::2])
    return Sentence(said, tuple(_marks(marks, spans)), structure, bool(half))


def _marks(marks: str, spans: dict[str, tuple[int, int]]) -> Iterator[Mark]:
    for mark in marks.split():
        key, query = mark.split("-")
        if key not in spans or query not in spans:
            continue  # of a part that the sentence does not have
        relation = relation_of(*(slot.rstrip("0123456789") for slot in (key, query)))
        yield Mark(relation, spans[key], spans[query])


def token_spans(prompt: TokenizedPrompt, text: str) -> tuple[tuple[int, int], ...] | None:
    """Return where each token begins and ends in the text, in its characters without white space;
    None where the tokens do not spell the text.

    Special tokens are empty. Case is not looked at: some tokenizers have none.
    """
    whole = re.sub(r"\s", "", text).lower()
    spans, at = [], 0
    for token, kind in zip(prompt.texts, prompt.kinds, strict=True):
        own = "" if kind == "special" else re.sub(r"\s", "", token).lower()
        if whole[at : at + len(own)] != own:
            return None
        spans.append((at, at + len(own)))
        at += len(own)
    return tuple(spans) if at == len(whole) else None


@dataclass(frozen=True, slots=True)
class PlacedMark:
    """A mark in a tokenised sentence."""

    relation: str
    keys: tuple[int, ...]
    """Positions of the tokens of the earlier word."""
    query: int
    """Position of the last token of the later word: there the whole of it was read."""
    split: bool
    """Whether the tokenizer splits either word."""


def place_marks(prompt: TokenizedPrompt, sentence: Sentence) -> tuple[PlacedMark, ...]:
    """Return the marks of a sentence as positions; those that the tokens do not fit are left out.

    Left out are marks whose words are not made of whole tokens, and those whose earlier word is at
    the first position, where heads leave what they do not need.
    """
    spans = token_spans(prompt, sentence.text)
    if spans is None:
        return ()
    placed = []
    for mark in sentence.marks:
        key, query = (_tokens_of(spans, sentence.text, word) for word in (mark.key, mark.query))
        if key and query and key[0] > 0 and key[-1] < query[0]:
            split = len(key) > 1 or len(query) > 1
            placed.append(PlacedMark(mark.relation, key, query[-1], split))
    return tuple(placed)


def _tokens_of(
    spans: tuple[tuple[int, int], ...], text: str, word: tuple[int, int]
) -> tuple[int, ...]:
    """Return the positions that make up a word; none if its ends are within tokens."""
    start, end = (len(re.sub(r"\s", "", text[:at])) for at in word)
    own = [i for i, (a, b) in enumerate(spans) if a < b and a >= start and b <= end]
    if not own or spans[own[0]][0] != start or spans[own[-1]][1] != end:
        return ()
    return tuple(own)
