"""The layers x heads map and the ranking."""

from dataclasses import replace

import numpy as np
import pytest
from viz_samples import CLEAN, KL, LOG_PROB, token

from ablation.types import HeadScores, MetricInfo
from models.types import Head, TokenProbability
from viz.heads import head_map_figure, ranking_table
from viz.theme import diverging_scale, palette, sequential_scale


def scores(metric: MetricInfo = KL, target: TokenProbability | None = None) -> HeadScores:
    values = np.array([[0.1, 0.5, np.nan], [0.2, 0.0, 0.3]], np.float32)
    if metric.diverging:
        values[0, 1] = -0.5
    return HeadScores(metric, values, CLEAN, target)


def test_every_cell_belongs_to_exactly_one_trace() -> None:
    empty, coloured = head_map_figure(2, 3, scores()).data
    np.testing.assert_array_equal(np.isnan(empty.z), ~np.isnan(coloured.z))
    assert not np.isnan(empty.z[0, 2])
    assert empty.hoverongaps is coloured.hoverongaps is False
    assert "not evaluated" in empty.hovertemplate


def test_a_plain_grid_offers_every_head() -> None:
    (grid,) = head_map_figure(2, 3).data
    assert grid.z.shape == (2, 3)
    assert not np.isnan(grid.z).any()
    assert "not evaluated" not in grid.hovertemplate


def test_layer_0_is_at_the_bottom() -> None:
    low, high = head_map_figure(2, 3).layout.yaxis.range
    # Half a cell, and a rim for outlines.
    assert -0.7 < low < -0.5
    assert 1.5 < high < 1.7


def test_a_distance_is_coloured_from_zero_up() -> None:
    trace = head_map_figure(2, 3, scores(), dark=True).data[1]
    assert (trace.zmin, trace.zmax) == (0, 0.5)
    assert [tuple(stop) for stop in trace.colorscale] == sequential_scale(dark=True)
    assert list(trace.colorbar.ticktext) == ["0", "0.5"]


def test_an_effect_is_coloured_symmetrically_around_zero() -> None:
    figure = head_map_figure(2, 3, scores(LOG_PROB, token(1, 0.1)))
    trace = figure.data[1]
    assert (trace.zmin, trace.zmax) == (-0.5, 0.5)
    assert [tuple(stop) for stop in trace.colorscale] == diverging_scale(dark=False)
    assert list(trace.colorbar.ticktext) == ["−0.5", "0", "+0.5"]
    assert "Log-prob change: ·John" in figure.layout.title.text
    assert "nats · ablated − clean" in figure.layout.title.text


def test_hovering_names_the_head_the_value_and_its_unit() -> None:
    template = head_map_figure(2, 3, scores()).data[1].hovertemplate
    assert template == "<b>L%{y:d}H%{x:d}</b><br>KL divergence %{z:.3g} nats<extra></extra>"


def test_all_scores_zero_still_have_a_range() -> None:
    zero = HeadScores(KL, np.zeros((2, 3), np.float32), CLEAN)
    assert head_map_figure(2, 3, zero).data[1].zmax == 1


def test_nothing_evaluated_yet_is_a_grid_of_empty_cells() -> None:
    nothing = HeadScores(KL, np.full((2, 3), np.nan, np.float32), CLEAN, stopped="running")
    empty = head_map_figure(2, 3, nothing).data[0]
    assert not np.isnan(empty.z).any()


def test_chosen_heads_are_outlined_over_a_halo() -> None:
    halo, line = head_map_figure(2, 3, chosen=[Head(1, 2), Head(1, 2)], dark=True).layout.shapes
    assert halo.path == line.path == "M1.5,0.5H2.5V1.5H1.5Z"
    assert (halo.line.color, line.line.color) == (palette(True).surface, palette(True).accent)
    assert head_map_figure(2, 3).layout.shapes == ()


@pytest.mark.parametrize(("n_layers", "n_heads"), [(2, 4), (12, 12), (30, 9), (32, 32), (80, 64)])
def test_it_fits_a_narrow_column_with_labels_that_do_not_touch(n_layers: int, n_heads: int) -> None:
    layout = head_map_figure(n_layers, n_heads).layout
    assert layout.width == 280
    assert layout.height < 400
    cell_height = (layout.height - layout.margin.t - layout.margin.b) / n_layers
    cell_width = (layout.width - layout.margin.l - layout.margin.r) / n_heads
    step = np.diff(layout.yaxis.tickvals).min() if n_layers > 1 else 1
    assert step * cell_height >= 11
    assert np.diff(layout.xaxis.tickvals).min() * cell_width >= 15


def test_scores_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[4, 3\]"):
        head_map_figure(4, 3, scores())


def test_the_ranking_is_by_absolute_value() -> None:
    rows = ranking_table(scores(LOG_PROB, token(1, 0.1)))
    assert [(row["rank"], row["head"]) for row in rows] == [
        (1, "L0H1"),
        (2, "L1H2"),
        (3, "L1H0"),
        (4, "L0H0"),
        (5, "L1H1"),
    ]
    assert rows[0] == {"rank": 1, "head": "L0H1", "layer": 0, "head_index": 1, "value": -0.5}


def test_values_that_are_no_effects_say_what_their_sign_is_for() -> None:
    metric = replace(LOG_PROB, sign="for ·Mary less ·John")
    found = HeadScores(metric, np.ones((2, 3), np.float32), CLEAN)
    title = head_map_figure(2, 3, found).layout.title.text
    assert "for ·Mary less ·John" in title
    assert "ablated" not in title


def test_only_the_chosen_heads_of_the_stack_are_outlined_and_counted() -> None:
    chosen = [Head(0, 1), Head(1, 1, "cross"), Head(1, 0, "cross")]
    figure = head_map_figure(2, 2, chosen=chosen, stack="cross")
    assert figure.layout.shapes[0].path.count("M") == 2
    assert figure.layout.title.text == "2 of 4 heads chosen"
    assert figure.data[0].hovertemplate.startswith("<b>cross:L")
    assert head_map_figure(2, 2, chosen=chosen).layout.shapes[0].path.count("M") == 1
