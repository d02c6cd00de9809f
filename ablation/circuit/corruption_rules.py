"""Ideas how a prompt could be corrupted: words that may stand for others, without a tokenizer.

A rule reads a text and yields groups of ideas: the ideas of a group do the same with other words,
and the first that suits a model is enough.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ablation.circuit.words import (
    ADJECTIVES,
    CAPITALS,
    DETERMINERS,
    ENDINGS,
    FUNCTION_WORDS,
    MEN,
    NOUNS,
    OTHER_KINDS,
    TELLING_KINDS,
    THINGS,
    WOMEN,
    words_of,
)

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+")

_SENTENCE_END = re.compile(r"(?:^|[.!?:\n\"“])\s*$")

MOST_NAMES = 6
"""More names than this are not all replaced."""

MOST_TRADED = 50
"""So many words of a text are looked at for two that trade places."""

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True, slots=True)
class Edit:
    """Some characters of a text, and what stands there instead."""

    start: int
    stop: int
    replacement: str


@dataclass(frozen=True, slots=True)
class Idea:
    """Edits that make one change together."""

    edits: tuple[Edit, ...]
    """In the order of the text, apart from each other."""
    words: str
    """What changes, for a person."""


def applied(edits: Iterable[Edit], text: str) -> str:
    """Return a text with edits made."""
    parts, done = [], 0
    for edit in edits:
        parts += [text[done : edit.start], edit.replacement]
        done = edit.stop
    return "".join((*parts, text[done:]))


@dataclass(frozen=True, slots=True)
class Word:
    """A run of letters ("it's" too), or of digits, in a text."""

    text: str
    start: int
    stop: int
    nth: int
    """Which of its occurrences it is, from 1."""
    n_occurrences: int
    opens: bool
    """Whether it opens a sentence, so that a capital says nothing."""
    before: str
    """The word in front of it, in small letters; empty for the first."""

    @property
    def named(self) -> str:
        """The word as a sentence names it: '"France"', 'the second "John"'."""
        if self.n_occurrences == 1:
            return f'"{self.text}"'
        if self.nth <= len(ORDINALS):
            return f'the {ORDINALS[self.nth - 1]} "{self.text}"'
        return f'"{self.text}" ({self.nth} of {self.n_occurrences})'

    @property
    def is_proper(self) -> bool:
        """Whether it is written as a name is, where other words are not."""
        return len(self.text) > 1 and self.text.istitle() and not self.opens

    @property
    def is_content(self) -> bool:
        """Whether it is a word that says something by itself."""
        return self.text.isalpha() and self.text.lower() not in FUNCTION_WORDS

    def edit(self, replacement: str) -> Edit:
        return Edit(self.start, self.stop, replacement)

    def becoming(self, replacement: str) -> Idea:
        return Idea((self.edit(replacement),), f'{self.named} becomes "{replacement}"')


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt and its words."""

    text: str
    words: tuple[Word, ...]
    held: frozenset[str]
    """Its words in small letters."""

    @staticmethod
    def of(text: str) -> "Text":
        found = list(_WORD.finditer(text))
        totals = Counter(match[0] for match in found)
        seen: Counter[str] = Counter()
        words: list[Word] = []
        for match in found:
            word, start = match[0], match.start()
            seen[word] += 1
            opens = bool(_SENTENCE_END.search(text[max(0, start - 8) : start]))
            before = words[-1].text.lower() if words else ""
            words.append(
                Word(word, start, match.end(), seen[word], totals[word], opens or not start, before)
            )
        return Text(text, tuple(words), frozenset(word.text.lower() for word in words))

    @property
    def last_of_each(self) -> list[Word]:
        """The last occurrence of each word, those nearest to the end first."""
        return [word for word in reversed(self.words) if word.nth == word.n_occurrences]

    @property
    def is_code(self) -> bool:
        return bool(_CODE.search(self.text))

    @property
    def people(self) -> list[Word]:
        """Known first names."""
        return [word for word in self.words if word.text in _PEOPLE]

    @property
    def names(self) -> list[Word]:
        """Known first names, and unknown words that are written as names are."""
        unknown = {w.text for w in self.words if w.is_proper and w.is_content} - _KINDS.keys()
        names = _PEOPLE if self.is_code else unknown | _PEOPLE
        return [word for word in self.words if word.text in names]

    def others(self, candidates: Iterable[str]) -> list[str]:
        """Return those candidates that the text does not hold, in their order, once each."""
        return [c for c in dict.fromkeys(candidates) if c.lower() not in self.held]


Rule = Callable[[Text], Iterator[Iterable[Idea]]]

_PEOPLE = frozenset((*WOMEN, *MEN))


def _table(kinds: Sequence[Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return word -> its kind; the first kind of a word that is in several."""
    return {word: kind for kind in reversed(kinds) for word in kind}


_TELLING, _OTHER = _table(TELLING_KINDS), _table(OTHER_KINDS)

_KINDS = _TELLING | _OTHER

_SAYING_NUMBER = frozenset(words_of("a an one this that these those"))
"""Behind these a noun's number is settled."""

_SINGULARS = {plural: singular for singular, plural in NOUNS.items()}


# --- people ---


def names_swapped(text: Text) -> Iterator[Iterable[Idea]]:
    """Where a name is said again, let another of the text be said instead."""
    again = [word for word in reversed(text.names) if word.nth == word.n_occurrences > 1]
    for word in again:
        others = dict.fromkeys(other.text for other in text.names if other.text != word.text)
        yield (word.becoming(other) for other in others)


def names_replaced(text: Text) -> Iterator[Iterable[Idea]]:
    """Replace every name, each by one of its own, so that none is said twice."""
    names = text.people
    if not 1 < len(names) <= MOST_NAMES:
        return
    women, men = text.others(WOMEN), text.others(MEN)
    # Other tokenizers keep other names whole: several sets are tried.
    yield (_renamed(names, women[i:] + women[:i], men[i:] + men[:i]) for i in range(0, 40, 2))


def _renamed(names: Sequence[Word], women: Sequence[str], men: Sequence[str]) -> Idea:
    given = {True: iter(women), False: iter(men)}
    new = [next(given[word.text in WOMEN]) for word in names]
    edits = tuple(word.edit(name) for word, name in zip(names, new, strict=True))
    before = ", ".join(word.text for word in names)
    return Idea(edits, f"the names {before} become {', '.join(new)}")


def one_name_replaced(text: Text) -> Iterator[Iterable[Idea]]:
    """Replace one known name, where it is said last."""
    for word in reversed(text.people):
        if word.nth == word.n_occurrences:
            known = WOMEN if word.text in WOMEN else MEN
            yield (word.becoming(name) for name in text.others(known))


# --- words of a kind ---


def _same_kind(text: Text, table: Mapping[str, Sequence[str]]) -> Iterator[Iterable[Idea]]:
    for word in text.last_of_each:
        if word.text in table:
            yield (word.becoming(other) for other in text.others(table[word.text]))
        elif word.text.istitle() and word.text.lower() in table:
            kind = text.others(table[word.text.lower()])
            yield (word.becoming(other.capitalize()) for other in kind)


def telling_words(text: Text) -> Iterator[Iterable[Idea]]:
    """Replace a country, a city, a month, a number in words...: what prompts ask about."""
    return _same_kind(text, _TELLING)


def other_words(text: Text) -> Iterator[Iterable[Idea]]:
    """Replace a word by another of its kind: a colour, an animal, an opposite."""
    return _same_kind(text, _OTHER)


def subject_number(text: Text) -> Iterator[Iterable[Idea]]:
    """Make the first noun of the text plural or singular."""
    known = (word for word in text.words if word.text in NOUNS or word.text in _SINGULARS)
    word = next(known, None)
    if word is not None and word.before not in _SAYING_NUMBER:
        other = NOUNS.get(word.text) or _SINGULARS[word.text]
        number = "plural" if word.text in NOUNS else "singular"
        yield [Idea((word.edit(other),), f'{word.named} becomes {number}: "{other}"')]


def numbers(text: Text) -> Iterator[Iterable[Idea]]:
    """Change a number; one at the very end, which may not be complete, last of all."""
    found = [word for word in text.words if word.text.isdecimal() and word.text.isascii()]
    for word in sorted(found, key=lambda word: word.stop == len(text.text)):
        yield (word.becoming(other) for other in text.others(_other_numbers(word.text)))


def _other_numbers(digits: str) -> Iterator[str]:
    """Yield numbers of as many digits; of a year first the one that all others are later than."""
    if len(digits) == 4 and digits[0] in "12" and digits[2:] not in ("00", "01"):
        yield f"{digits[:2]}01"
    yield from (f"{digits[:-1]}{(int(digits[-1]) + step) % 10}" for step in (1, 2, 3, 5, 7))
    if len(digits) > 1:
        yield from (f"{(int(digits[0]) + step) % 9 + 1}{digits[1:]}" for step in (0, 1, 2, 4, 6))


# --- code ---

_CODE = re.compile(r"\b(?:def|return|import|function|var|let|const|class)\b .*\W|\w\(|==|[{};]\s*$")

_OPERATORS = {
    "+": "-*", "-": "+*", "*": "+-", "/": "*+", "<": (">", "<="), ">": ("<", ">="),
    "<=": (">=", "<"), ">=": ("<=", ">"), "==": ("!=", "<="), "!=": ("==", "<="),
    "and": ("or",), "or": ("and",), "True": ("False",), "False": ("True",),
    "true": ("false",), "false": ("true",), "&&": ("||",), "||": ("&&",),
}  # fmt: skip
"""What can stand for an operator or truth value, one token mostly."""

_OPERATOR = re.compile(r"(?<= )(?:[-+*/<>]|[<>=!]=|&&|\|\||and|or|[Tt]rue|[Ff]alse)(?=\W|$)")

_IDENTIFIER = re.compile(r"[^\W\d]\w*")

_KEYWORDS = frozenset(
    words_of(
        """
        def return import from as class if elif else for while in is not and or None True False
        true false null var let const function new this self print lambda try except raise with
        yield int float str bool void public static
        """
    )
)

_IDENTIFIERS = (*"abcxyznmijk", "value", "item", "name", "result", "data", "count", "index",
                "text", "total", "first", "last", "left", "right", "number", "size")  # fmt: skip


def operators(text: Text) -> Iterator[Iterable[Idea]]:
    """In code, replace the last operator or truth value."""
    if not text.is_code:
        return
    if found := list(_OPERATOR.finditer(text.text)):
        last = found[-1]
        yield (
            Idea((Edit(*last.span(), other),), f'the last "{last[0]}" becomes "{other}"')
            for other in _OPERATORS[last[0]]
        )


def identifiers(text: Text) -> Iterator[Iterable[Idea]]:
    """In code, call a thing by another name where it is first named."""
    if not text.is_code:
        return
    found = [m for m in _IDENTIFIER.finditer(text.text) if m[0] not in _KEYWORDS]
    names = [match[0] for match in found]
    for name, total in Counter(names).items():
        if total > 1:
            first = found[names.index(name)]
            # What is as long is mostly as many tokens.
            alike = sorted(_IDENTIFIERS, key=lambda other: abs(len(other) - len(name)))
            yield (
                Idea((Edit(*first.span(), other),), f'the first "{name}" becomes "{other}"')
                for other in alike
                if other not in names
            )


# --- last resorts ---


def proper_words(text: Text) -> Iterator[Iterable[Idea]]:
    """Replace a word that is written as a name is, whatever it names."""
    candidates = text.others((*MEN, *WOMEN, *CAPITALS.values(), *CAPITALS))
    for word in reversed(text.names):
        if word.nth == word.n_occurrences:
            yield (word.becoming(name) for name in candidates)


def content_words(text: Text) -> Iterator[Iterable[Idea]]:
    """Replace a word by one of the same form: an -ing, a noun behind "the"."""
    if text.is_code:
        return
    for word in text.last_of_each:
        if not word.is_content or not word.text.islower() or len(word.text) < 3:
            continue
        if kind := _form(word.text, word.before):
            yield (word.becoming(other) for other in text.others(kind))


def _form(word: str, before: str) -> Sequence[str]:
    """Return words of the form of a word that stands behind another; none if it cannot be told."""
    if word in ADJECTIVES:
        return ADJECTIVES
    if word in _SINGULARS:
        return tuple(_SINGULARS)
    if word in NOUNS or word in THINGS:
        return (*NOUNS, *THINGS)
    if ending := next((e for e in ENDINGS if word.endswith(e) and len(word) > len(e) + 2), None):
        return ENDINGS[ending]
    return (*NOUNS, *THINGS) if before in DETERMINERS else ()


def places_traded(text: Text) -> Iterator[Iterable[Idea]]:
    """Let two words change places, long ones first; that works in other languages too."""
    if text.is_code:
        return
    words = [w for w in text.words if w.is_content and len(w.text) > 1 and w.nth == 1]
    found = (
        (first, second)
        for first, second in combinations(words[:MOST_TRADED], 2)
        if first.text.islower() == second.text.islower()
    )
    yield (
        Idea(
            (first.edit(second.text), second.edit(first.text)),
            f"{first.named} and {second.named} trade places",
        )
        for first, second in sorted(found, key=lambda pair: -min(len(w.text) for w in pair))
    )


RULES: tuple[Rule, ...] = (
    names_swapped,
    names_replaced,
    operators,
    identifiers,
    telling_words,
    subject_number,
    numbers,
    other_words,
    one_name_replaced,
)
"""In the order in which their ideas are proposed."""

LAST_RESORTS: tuple[Rule, ...] = (proper_words, content_words, places_traded)
"""Rules that know little of what they change; each is for texts of which nothing else has ideas."""
