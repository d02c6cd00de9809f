"""The heads x positions map."""

from dataclasses import replace

import numpy as np
import pytest
from viz_samples import CLEAN, KL, LOG_PROB, prompt, token

from ablation.types import MetricInfo, PositionScores
from models.types import FloatArray, Head, TokenProbability
from viz.positions import MAX_CELLS, MAX_ROWS, map_width, most_heads, position_map_figure
from viz.theme import diverging_scale, palette, sequential_scale

LABELS = ("When", "·Mary", "·and", "·Mary", "·gave")
HEADS = (Head(9, 9), Head(0, 3))


def scores(metric: MetricInfo = KL, target: TokenProbability | None = None) -> PositionScores:
    values = np.array([[0.1, 0.5, 0, 0.25, np.nan], [0.2, 0, 0, 0.3, np.nan]], np.float32)
    if metric.diverging:
        values[0, 1] = -0.5
    return PositionScores(metric, HEADS, values, prompt(*LABELS), CLEAN, target)


def large(n_heads: int, n_positions: int) -> PositionScores:
    values: FloatArray = np.zeros((n_heads, n_positions), np.float32)
    heads = tuple(Head(i // 32, i % 32) for i in range(n_heads))
    return PositionScores(KL, heads, values, prompt(*["·to"] * n_positions), CLEAN)


def test_the_scores_are_drawn_as_they_are_and_those_missing_stay_blank() -> None:
    (cells,) = position_map_figure(scores()).data
    np.testing.assert_array_equal(cells.z, scores().values)
    assert cells.z.dtype == np.float32
    assert cells.hoverongaps is False


def test_rows_are_heads_from_the_top_and_columns_the_tokens() -> None:
    layout = position_map_figure(scores()).layout
    assert layout.yaxis.labelalias == {"0": "L9H9", "1": "L0H3"}
    assert layout.yaxis.range == (1.5, -0.5)
    aliases = layout.xaxis.labelalias
    assert [aliases[str(i)] for i in range(5)] == [
        "When",
        "·Mary",
        "·and",
        "<b>·Mary_2</b>",
        "·gave",
    ]
    assert layout.xaxis.range == (-0.5, 4.5)


def test_the_position_read_is_framed() -> None:
    (frame,) = position_map_figure(scores(), dark=True).layout.shapes
    assert CLEAN.position == 3
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (2.5, 3.5, -0.5, 1.5)
    assert frame.line.color == palette(True).muted


def test_a_distance_is_coloured_from_zero_up() -> None:
    (cells,) = position_map_figure(scores(), dark=True).data
    assert (cells.zmin, cells.zmax) == (0, 0.5)
    assert [tuple(stop) for stop in cells.colorscale] == sequential_scale(dark=True)


def test_an_effect_is_coloured_symmetrically_around_zero() -> None:
    figure = position_map_figure(scores(LOG_PROB, token(1, 0.1)))
    (cells,) = figure.data
    assert (cells.zmin, cells.zmax) == (-0.5, 0.5)
    assert [tuple(stop) for stop in cells.colorscale] == diverging_scale(dark=False)
    assert "Log-prob change: ·John" in figure.layout.title.text
    assert "nats · ablated − clean" in figure.layout.title.text


def test_hovering_names_head_position_token_value_and_unit() -> None:
    template = position_map_figure(scores()).data[0].hovertemplate
    for part in ("<b>%{y}</b>", "position %{x:d}", "<b>%{x}</b>", "KL divergence %{z:.3g} nats"):
        assert part in template


def test_markup_of_tokens_is_escaped() -> None:
    evil = PositionScores(KL, HEADS, scores().values, prompt("<b>", "a", "b", "<i>", "$$"), CLEAN)
    aliases = position_map_figure(evil).layout.xaxis.labelalias
    assert aliases["0"] == "&lt;b&gt;"
    assert aliases["3"] == "<b>&lt;i&gt;</b>"
    assert "$" not in aliases["4"]


@pytest.mark.parametrize(("n_heads", "n_positions"), [(1, 5), (100, 300), (1000, 100)])
def test_maps_are_bounded_and_their_labels_have_room(n_heads: int, n_positions: int) -> None:
    figure = position_map_figure(large(n_heads, n_positions))
    layout = figure.layout
    plot = layout.height - layout.margin.t - layout.margin.b
    assert plot <= 1600
    assert plot / n_heads >= 1.6
    assert layout.yaxis.nticks <= n_heads
    assert layout.yaxis.nticks * 9 <= max(plot, 9)
    assert len(figure.to_json()) < 1_000_000
    if n_heads == 100:
        assert plot <= 640  # nearly all of it is in sight


def test_a_map_is_as_wide_as_its_prompt_asks_for() -> None:
    assert map_width(large(2, 5)) < map_width(large(2, 30)) < map_width(large(2, 300))


@pytest.mark.parametrize("n_positions", [1, 100, 300, MAX_CELLS, 2 * MAX_CELLS])
def test_as_many_heads_as_fit_can_be_shown(n_positions: int) -> None:
    n_heads = most_heads(n_positions)
    assert 1 <= n_heads <= MAX_ROWS
    assert n_heads * n_positions <= MAX_CELLS or n_heads == 1
    assert (n_heads + 1) * n_positions > MAX_CELLS or n_heads == MAX_ROWS


def test_no_column_is_framed_where_the_position_read_is_elsewhere() -> None:
    of_source = replace(scores(), read_here=False)
    figure = position_map_figure(of_source)
    assert not figure.layout.shapes
    assert "<b>" not in "".join(figure.layout.xaxis.labelalias.values())
