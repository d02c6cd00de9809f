"""One map of several heads, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from viz_samples import prompt

from models.types import AttentionMaps, Head
from viz.attention import Look, attention_figure, shown_map
from viz.combined import COMBINATIONS, combined, combined_extent, combined_name

ONE = np.array([[1, 0], [0.5, 0.5]], np.float32)
TWO = np.array([[1, 0], [0.1, 0.9]], np.float32)
THREE = np.array([[1, 0], [0.3, 0.7]], np.float32)
LAST_ROW = {"mean": [0.3, 0.7], "maximum": [0.5, 0.9]}


def maps(*weights: np.ndarray) -> AttentionMaps:
    heads = tuple(Head(0, i) for i in range(len(weights)))
    return AttentionMaps(heads, np.stack(weights), prompt("a", "b"))


@pytest.mark.parametrize("how", list(COMBINATIONS))
def test_all_heads_count_however_they_come(how: str) -> None:
    for several in ([maps(ONE, TWO, THREE)], [maps(ONE), maps(TWO, THREE)]):
        one = combined(several, how)
        np.testing.assert_allclose(one.values, [[[1, 0], LAST_ROW[how]]], rtol=1e-6)


def test_what_is_combined_are_the_maps_that_are_shown() -> None:
    rows = np.array([[[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.1, 0.1]]], np.float32)
    other = np.array([[[1, 0, 0], [1, 0, 0], [0.2, 0.2, 0.6]]], np.float32)
    heads = (Head(0, 0), Head(0, 1))
    several = AttentionMaps(heads, np.concatenate([rows, other]), prompt("a", "b", "c"))
    nan = np.nan
    # Renormalised, their last rows are [.5, .5] and [.25, .75]; one's second row is blank.
    mean = combined([several], "mean", "renormalise")
    np.testing.assert_allclose(mean.values[0, 1:], [[nan, 1, 0], [nan, 0.375, 0.625]], rtol=1e-5)
    maximum = combined([several], "maximum", "renormalise")
    np.testing.assert_allclose(maximum.values[0, 2], [nan, 0.5, 0.75], rtol=1e-5)
    assert combined_extent(maximum, True, "renormalise").largest == pytest.approx(0.75)
    look = Look(sink="renormalise", done=True)
    shown = shown_map(maximum, 0, look, combined_extent(maximum, True, "renormalise"))
    np.testing.assert_array_equal(shown.weights, maximum.values[0])  # not once more
    hidden = combined([several], "mean", "hide").values[0]
    np.testing.assert_allclose(hidden[2], [nan, 0.15, 0.35], rtol=1e-5)


def test_the_maps_stay_as_they_are() -> None:
    several = [maps(ONE), maps(TWO)]
    before = [one.values.copy() for one in several]
    for how in COMBINATIONS:
        combined(several, how)
    for one, kept in zip(several, before, strict=True):
        np.testing.assert_array_equal(one.values, kept)


def test_the_map_says_what_it_is() -> None:
    assert combined_name("mean", [maps(ONE, TWO), maps(THREE)]) == "Mean of 3 heads"
    assert combined_name("maximum", [maps(ONE)]) == "Maximum of 1 head"
    several = [maps(ONE, TWO)]
    figure = attention_figure(combined(several, "mean"), 0, name=combined_name("mean", several))
    assert "<b>Mean of 2 heads</b>" in figure.layout.title.text


def test_maps_of_layers_stay_such() -> None:
    several = [replace(maps(ONE, TWO), kind="rollout")]
    assert combined_name("mean", several) == "Mean of 2 layers"
    assert combined(several, "mean").kind == "rollout"
