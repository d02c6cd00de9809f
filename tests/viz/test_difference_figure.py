"""The map of how a head's attention differs between two runs."""

import numpy as np
import pytest
from viz_samples import causal_maps, prompt

from models.types import AttentionMaps, Head
from viz.difference import difference_figure, largest_difference, position_names
from viz.theme import diverging_scale

LABELS = ("When", "·Mary", "·and", "·Mary")


def changed(maps: AttentionMaps, query: int, key: int, by: float) -> AttentionMaps:
    values = maps.values.copy()
    values[:, query, key] += by
    return AttentionMaps(maps.heads, values, maps.prompt, ablated=True)


def test_what_is_drawn_is_after_minus_before_and_nothing_above_the_diagonal() -> None:
    before = causal_maps(*LABELS)
    after = changed(before, 3, 1, -0.125)
    (trace,) = difference_figure(before, after, 0).data
    expected = np.zeros((4, 4), np.float32)
    expected[3, 1] = -0.125
    expected[np.triu_indices(4, 1)] = np.nan
    np.testing.assert_allclose(trace.z, expected, atol=1e-7)
    assert trace.z.dtype == np.float32
    np.testing.assert_array_equal(trace.customdata[..., 0], before.values[0])
    np.testing.assert_array_equal(trace.customdata[..., 1], after.values[0])


@pytest.mark.parametrize("dark", [False, True])
def test_colours_are_symmetric_around_zero(dark: bool) -> None:
    before = causal_maps(*LABELS)
    after = changed(changed(before, 3, 1, -0.25), 2, 0, 0.125)
    (trace,) = difference_figure(before, after, 0, dark=dark).data
    assert (trace.zmin, trace.zmax) == (-0.25, 0.25)
    assert [tuple(stop) for stop in trace.colorscale] == diverging_scale(dark)
    assert largest_difference(before, after, 0) == 0.25
    (shared,) = difference_figure(before, after, 0, zmax=0.5).data
    assert (shared.zmin, shared.zmax) == (-0.5, 0.5)


def test_runs_that_do_not_differ_are_all_zero() -> None:
    before = causal_maps(*LABELS)
    (trace,) = difference_figure(before, before, 0).data
    assert np.nanmax(np.abs(trace.z)) == 0
    assert (trace.zmin, trace.zmax) == (-1, 1)


def test_hovering_tells_both_weights_and_the_signed_change() -> None:
    before = causal_maps(*LABELS)
    template = difference_figure(before, before, 0).data[0].hovertemplate
    for part in ("customdata[0]", "customdata[1]", "%{z:+.3g}", "<b>%{y}</b>", "key   %{x:d}"):
        assert part in template


def test_positions_are_named_by_both_tokens_where_they_differ() -> None:
    one = causal_maps("When", "·Mary", "·and")
    other = AttentionMaps(one.heads, one.values, prompt("When", "·<b>", "·and"))
    assert position_names(one.prompt, other.prompt) == ["When", "·Mary→·&lt;b&gt;", "·and"]
    layout = difference_figure(one, other, 0).layout
    assert layout.xaxis.labelalias["1"] == layout.yaxis.labelalias["1"] == "·Mary→·&lt;b&gt;"


def test_of_a_long_map_each_cell_shows_the_weight_that_changed_most() -> None:
    n = 1000
    weights = np.tril(np.full((n, n), 0.001, np.float32))[None]
    before = AttentionMaps((Head(0, 0),), weights, prompt(*["·to"] * n))
    after = changed(changed(before, 700, 300, -0.5), 701, 300, 0.25)
    figure = difference_figure(before, after, 0)
    (trace,) = figure.data
    step = trace.dx
    assert step == trace.dy == -(-n // (300 - 10 - (round(7 * 10 * 0.602) + 12)))
    assert trace.z.shape == (-(-n // step),) * 2
    cell = trace.z[700 // step, 300 // step]
    assert cell == pytest.approx(-0.5)
    assert trace.customdata[700 // step, 300 // step].tolist() == pytest.approx([0.001, -0.499])
    assert np.isnan(trace.z[0, -1])
    assert not np.isnan(np.diagonal(trace.z)).any()
    assert f"{step}×{step}" in trace.hovertemplate
    assert len(figure.to_json()) < 1_500_000


def test_encoders_are_drawn_in_full() -> None:
    values = np.full((1, 3, 3), 1 / 3, np.float32)
    before = AttentionMaps((Head(0, 0),), values, prompt("a", "b", "c"))
    (trace,) = difference_figure(before, changed(before, 0, 2, 0.1), 0).data
    assert trace.z[0, 2] == pytest.approx(0.1)


def test_maps_that_do_not_correspond_are_refused() -> None:
    with pytest.raises(ValueError, match="same heads"):
        difference_figure(causal_maps(*LABELS), causal_maps("a", "b"), 0)


@pytest.mark.parametrize("n_keys", [3, 1000])
def test_a_map_of_one_text_on_another_has_its_own_names_on_each_side(n_keys: int) -> None:
    queries, keys = prompt("start", "·Un"), prompt(*[f"k{i}" for i in range(n_keys)])
    weights = np.full((1, 2, n_keys), 1 / n_keys, np.float32)
    before = AttentionMaps((Head(1, 0, "cross"),), weights, queries, looked_at=keys)
    values = weights.copy()
    values[0, 0, n_keys - 1] = 0.75
    after = AttentionMaps(before.heads, values, queries, looked_at=keys)
    figure = difference_figure(before, after, 0)
    (trace,) = figure.data
    assert trace.z.shape == (-(-2 // trace.dy), -(-n_keys // trace.dx))
    assert trace.z[0, -1] == pytest.approx(0.75 - 1 / n_keys)
    assert not np.isnan(trace.z).any()  # no query comes before a key
    assert figure.layout.yaxis.labelalias == {"0": "start", "1": "·Un"}
    assert figure.layout.xaxis.labelalias[str(n_keys - 1)] == f"k{n_keys - 1}"
