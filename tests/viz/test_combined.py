"""One map of several heads, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from viz_samples import prompt

from models.types import AttentionMaps, Head
from viz.attention import attention_figure
from viz.combined import COMBINATIONS, combined, combined_name

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
