"""The message that the grid of all heads is drawn from: codes, numbers, size."""

import json
from dataclasses import replace

import numpy as np
import pytest
from viz_samples import prompt

from ablation.types import HeadSummaries, MetricInfo
from viz.overview import (
    RELATIVE_ERROR,
    decoded_thumbnails,
    overview_message,
    thumbnail_side,
)
from viz.sink import SINK_NOTES
from viz.theme import sequential_scale
from viz.weight_colours import LOG_FLOOR

ENTROPY = MetricInfo("entropy", "Entropy", "nats", False, False, "How spread out it looks.")


def summaries(n_layers: int, n_heads: int, side: int, causal: bool) -> HeadSummaries:
    chance = np.random.default_rng(0)
    cells = 10 ** chance.uniform(-5, 0, (n_layers, n_heads, side, side)).astype(np.float32)
    cells[0, 0, 1, 0] = 0
    if causal:
        cells = np.tril(cells)
    values = chance.uniform(0, 3, (1, n_layers, n_heads)).astype(np.float32)
    return HeadSummaries(prompt(*["x"] * side), (ENTROPY,), values, cells, 1, causal)


@pytest.mark.parametrize("causal", [True, False])
def test_thumbnails_survive_their_codes(causal: bool) -> None:
    made = summaries(2, 3, 7, causal)
    decoded = decoded_thumbnails(overview_message(made))
    reached = np.tril(np.ones((7, 7), bool)) if causal else np.ones((7, 7), bool)
    assert np.isnan(decoded[..., ~reached]).all()
    found, expected = decoded[..., reached], made.thumbnails[..., reached]
    shown = expected >= LOG_FLOOR
    np.testing.assert_allclose(found[shown], expected[shown], rtol=RELATIVE_ERROR)
    assert (found[~shown] <= LOG_FLOOR).all()
    assert (expected == 0).any()
    assert (found[expected == 0] == 0).all()


def test_a_head_that_was_not_read_is_blank() -> None:
    made = summaries(2, 2, 5, causal=True)
    made.thumbnails[1] = np.nan
    made.values[:, 1] = np.nan
    message = overview_message(made)
    decoded = decoded_thumbnails(message)
    assert np.isnan(decoded[1]).all()
    assert not np.isnan(decoded[0][:, 4]).any()
    assert message["metrics"][0]["values"][1] == [None, None]


def test_numbers_have_four_digits_and_words() -> None:
    made = summaries(2, 3, 4, causal=True)
    (metric,) = overview_message(made)["metrics"]
    assert (metric["name"], metric["label"], metric["unit"]) == ("entropy", "Entropy", "nats")
    np.testing.assert_allclose(metric["values"], made.values[0], rtol=5e-4)


def test_colours_are_those_of_weights_in_both_themes() -> None:
    colours = overview_message(summaries(1, 1, 2, causal=True))["colours"]
    for theme, dark in (("light", False), ("dark", True)):
        assert colours[theme] == [colour for _, colour in sequential_scale(dark)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("n_layers", "n_heads"), [(12, 12), (30, 9), (32, 32), (80, 64)])
def test_all_thumbnails_are_a_megabyte_at_most(n_layers: int, n_heads: int, causal: bool) -> None:
    side = thumbnail_side(n_layers * n_heads, causal)
    assert 10 <= side <= 48
    made = summaries(n_layers, n_heads, side, causal)
    message = overview_message(made)
    assert len(message["codes"]) <= 1_000_000
    assert len(json.dumps(message)) <= 1_100_000


def test_the_built_in_models_thumbnails_are_as_large_as_any() -> None:
    assert thumbnail_side(270, causal=True) == 48
    assert thumbnail_side(1, causal=False) == 48
    assert thumbnail_side(32 * 32, causal=True) == 37


@pytest.mark.parametrize(
    ("sink", "causal", "step", "rows"),
    [
        ("show", True, 1, 1),
        ("renormalise", True, 1, 2),
        ("renormalise", True, 3, 1),
        ("renormalise", False, 1, 0),
    ],
)
def test_rows_that_hold_a_trivial_1_do_not_count_for_the_largest(
    sink: str, causal: bool, step: int, rows: int
) -> None:
    made = replace(summaries(1, 1, 6, causal), sink=sink)
    if step > 1:
        long = prompt(*["x"] * (6 * step))
        made = replace(made, prompt=long, step=step)
    message = overview_message(made)
    assert message["trivial"] == rows
    assert message["note"] == SINK_NOTES.get(sink, "")
