"""Maps without their first token: what is blank, and what the rest sums to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from viz.sink import LEAST_REST, SINKS, apart, column_without_first, largest_weight, without_first

ROUNDING = 1e-5
"""A row of up to 12 float32 weights, each divided and summed: some dozen roundings of 6e-8 each,
relative to a rest that is itself known to float32."""


@st.composite
def maps(draw: st.DrawFn) -> np.ndarray:
    """Rows that sum to 1, causal or not, [query, key]."""
    n = draw(st.integers(1, 12))
    scores = draw(
        arrays.arrays(np.float64, (n, n), elements=st.floats(-30, 30, allow_subnormal=False))
    )
    if draw(st.booleans()):
        scores[np.triu_indices(n, 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@given(maps())
def test_shown_is_what_it_was(weights: np.ndarray) -> None:
    assert without_first(weights, "show") is weights


@given(maps())
def test_hidden_is_the_first_column_and_nothing_else(weights: np.ndarray) -> None:
    before = weights.copy()
    shown = without_first(weights, "hide")
    assert np.isnan(shown[:, 0]).all()
    np.testing.assert_array_equal(shown[:, 1:], weights[:, 1:])
    np.testing.assert_array_equal(weights, before)


@given(maps())
def test_renormalised_rows_sum_to_1_or_are_blank(weights: np.ndarray) -> None:
    shown = without_first(weights, "renormalise")
    assert np.isnan(shown[:, 0]).all()
    for row, rest in zip(shown, weights[:, 1:].astype(np.float64), strict=True):
        if rest.sum() < LEAST_REST:
            assert np.isnan(row).all()
        else:
            np.testing.assert_allclose(row[1:], rest / rest.sum(), rtol=ROUNDING)
            assert row[1:].sum() == pytest.approx(1, rel=ROUNDING)


@given(maps(), st.sampled_from(list(SINKS)), st.booleans())
def test_the_largest_weight_is_one_that_is_shown(
    weights: np.ndarray, sink: str, causal: bool
) -> None:
    largest = largest_weight(weights, causal, sink)
    shown = np.nan_to_num(without_first(weights, sink))
    assert largest == 0 or np.isclose(shown, largest, rtol=1e-6).any()
    if not causal:
        assert largest == pytest.approx(shown.max(initial=0), rel=1e-6)


def test_by_hand() -> None:
    weights = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.6, 0.1, 0.3]], np.float32)
    shown = without_first(weights, "renormalise")
    expected = np.array([[np.nan] * 3, [np.nan, 1, 0], [np.nan, 0.25, 0.75]])
    np.testing.assert_allclose(shown, expected, rtol=1e-6)
    # The second query has one key left: its 1 says nothing.
    assert largest_weight(weights, True, "renormalise") == pytest.approx(0.75)
    assert largest_weight(weights, True, "hide") == pytest.approx(0.5)
    assert largest_weight(weights, True, "show") == pytest.approx(0.6)


@pytest.mark.parametrize("sink", ["hide", "renormalise"])
def test_a_single_token_leaves_nothing(sink: str) -> None:
    weights = np.ones((1, 1), np.float32)
    assert np.isnan(without_first(weights, sink)).all()
    assert largest_weight(weights, True, sink) == 0


@given(maps(), st.sampled_from(list(SINKS)), st.data())
def test_a_column_is_that_of_the_whole_map(
    weights: np.ndarray, sink: str, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(weights) - 1))
    expected = without_first(weights, sink)[:, position]
    np.testing.assert_array_equal(column_without_first(weights, position, sink), expected)


@pytest.mark.parametrize("sink", ["hide", "renormalise"])
def test_each_of_several_texts_has_a_first_token(sink: str) -> None:
    """Two texts of three tokens, each seeing itself alone: what is shown of each is what would be
    shown of it by itself."""
    rng = np.random.default_rng(0)
    texts = [np.tril(rng.random((3, 3)).astype(np.float32)) for _ in range(2)]
    texts = [text / text.sum(axis=1, keepdims=True) for text in texts]
    weights = np.zeros((6, 6), np.float32)
    weights[:3, :3], weights[3:, 3:] = texts
    shown = without_first(weights, sink, (0, 3))
    for i, text in enumerate(texts):
        own = slice(3 * i, 3 * i + 3)
        np.testing.assert_allclose(shown[own, own], without_first(text, sink), rtol=1e-6)
    for position in range(6):
        column = column_without_first(weights, position, sink, (0, 3))
        np.testing.assert_array_equal(column, shown[:, position])
    expected = max(largest_weight(text, True, sink) for text in texts)
    assert largest_weight(weights, True, sink, (0, 3)) == pytest.approx(expected)
    assert largest_weight(weights, True, "show", (0, 3)) < 1
    assert apart(True, 6, "show", (0, 3)) == "first rows"
    assert apart(False, 6, "show", (0, 3)) == ""
