"""Text as figures show it."""

import pytest

from models.types import TokenProbability
from viz.labels import clipped, literal, probability, quoted, short_probability


def test_markup_of_a_token_is_escaped() -> None:
    assert literal("<a href='x'>&lt;") == "&lt;a href='x'&gt;&amp;lt;"
    assert literal("$$") == "&#36;&#36;"


def test_a_long_label_is_shortened_to_the_limit() -> None:
    assert clipped("·John") == "·John"
    assert clipped("abcdefgh", limit=4) == "abc…"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1e-9, "<0.001"),
        (0.004, "0.004"),
        (0.0096, "0.01"),
        (0.915, "0.92"),
        (0.9949, "0.99"),
        (0.9961, "0.996"),
        (0.99999, ">0.999"),
        (1.0, "1"),
    ],
)
def test_probabilities_are_never_rounded_to_certainty(value: float, text: str) -> None:
    assert probability(value) == text


def test_short_probabilities_have_no_leading_zero() -> None:
    assert [short_probability(p) for p in (0.0, 0.0001, 0.92, 1.0)] == ["0", "<.001", ".92", "1"]


@pytest.mark.parametrize(
    ("text", "label", "shown"),
    [(" Mary", "·Mary", "' Mary'"), ("\n", "⏎", "'⏎'"), ("�", "<0xE2>", "'<0xE2>'")],
)
def test_a_token_in_a_sentence_is_what_one_types_unless_it_cannot_be_seen(
    text: str, label: str, shown: str
) -> None:
    assert quoted(TokenProbability(1, text, label, 0.5, -0.7)) == shown
