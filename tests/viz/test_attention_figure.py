"""One head's heat map."""

import re

import numpy as np
import plotly.graph_objects as go
import pytest
from viz_samples import causal_maps, prompt

from models.types import AttentionMaps, Head
from viz.attention import LOG_FLOOR, attention_figure, clicked_cell, shared_maximum

LABELS = ("When", "·John", "·and", "·John")


def heat_map(figure: go.Figure) -> go.Heatmap:
    return figure.data[0]


def colour_bar(figure: go.Figure) -> go.scatter.Marker:
    return figure.data[1].marker


def test_the_trace_holds_the_weights_as_they_are() -> None:
    maps = causal_maps(*LABELS)
    trace = heat_map(attention_figure(maps, 0))
    lower = np.tril_indices(4)
    np.testing.assert_array_equal(trace.z[lower], maps.values[0][lower])
    assert trace.z.dtype == np.float32
    assert (trace.x0, trace.dx, trace.y0, trace.dy) == (0, 1, 0, 1)
    # Row 1 is (2/3, 1/3, 0, 0); the first row, which can only be (1, 0, 0, 0), does not count.
    assert (trace.zmin, trace.zmax) == (0, pytest.approx(2 / 3))


def test_what_causal_attention_cannot_reach_is_blank() -> None:
    trace = heat_map(attention_figure(causal_maps(*LABELS), 0))
    np.testing.assert_array_equal(np.isnan(trace.z), np.triu(np.ones((4, 4), bool), k=1))
    assert trace.hoverongaps is False


def test_an_encoder_shows_every_cell() -> None:
    values = np.full((1, 3, 3), 1 / 3, np.float32)
    figure = attention_figure(AttentionMaps((Head(0, 0),), values, prompt("a", "b", "c")), 0)
    assert not np.isnan(heat_map(figure).z).any()


def test_weights_below_the_threshold_are_blank_and_the_maps_stay_as_they_were() -> None:
    maps = causal_maps(*LABELS)
    before = maps.values.copy()
    trace = heat_map(attention_figure(maps, 0, threshold=0.3))
    np.testing.assert_array_equal(np.nan_to_num(trace.z), np.where(before[0] >= 0.3, before[0], 0))
    np.testing.assert_array_equal(maps.values, before)


def test_the_colour_range_is_the_maps_own_or_a_shared_one() -> None:
    values = np.array([[[0.5, 0.25], [0.25, 0.5]], [[0.3, 0.1], [0.2, 0.1]]], np.float32)
    maps = AttentionMaps((Head(0, 0), Head(0, 1)), values, prompt("a", "b"))
    assert shared_maximum(maps) == 0.5
    assert heat_map(attention_figure(maps, 1)).zmax == pytest.approx(0.3)
    shared = attention_figure(maps, 1, zmax=shared_maximum(maps))
    assert heat_map(shared).zmax == 0.5
    assert list(colour_bar(shared).colorbar.ticktext) == ["0", ".5"]


def test_a_causal_first_row_does_not_set_the_range() -> None:
    values = np.array([[[1.0, 0.0], [0.3, 0.2]]], np.float32)
    maps = AttentionMaps((Head(0, 0),), values, prompt("a", "b"))
    assert shared_maximum(maps) == pytest.approx(0.3)
    assert heat_map(attention_figure(maps, 0)).zmax == pytest.approx(0.3)


def test_a_single_token_attends_to_itself() -> None:
    maps = causal_maps("a")
    assert shared_maximum(maps) == 1
    assert heat_map(attention_figure(maps, 0, log=True)).z.tolist() == [[1]]


def test_a_map_of_zeros_still_has_a_range() -> None:
    maps = AttentionMaps((Head(0, 0),), np.zeros((1, 2, 2), np.float32), prompt("a", "b"))
    assert shared_maximum(maps) == 1.0
    assert heat_map(attention_figure(maps, 0)).zmax == 1.0


def interpolated(scale: tuple[tuple[float, str], ...], at: float) -> np.ndarray:
    positions = [position for position, _ in scale]
    colours = np.array([[int(c) for c in re.findall(r"\d+", colour)] for _, colour in scale])
    return np.array([np.interp(at, positions, channel) for channel in colours.T])


@pytest.mark.parametrize("dark", [False, True])
def test_the_log_scale_colours_a_weight_by_its_logarithm(dark: bool) -> None:
    figure = attention_figure(causal_maps(*LABELS), 0, log=True, zmax=1.0, dark=dark)
    marker = colour_bar(figure)
    assert (marker.cmin, marker.cmax) == (np.log10(LOG_FLOOR), 0)
    assert list(marker.colorbar.ticktext) == [".0001", ".001", ".01", ".1", "1"]
    assert list(marker.colorbar.tickvals) == [-4, -3, -2, -1, 0]
    for weight in (1e-4, 3e-4, 1e-2, 0.05, 0.5, 1.0):
        on_bar = (np.log10(weight) - marker.cmin) / (marker.cmax - marker.cmin)
        np.testing.assert_allclose(
            interpolated(heat_map(figure).colorscale, weight),
            interpolated(marker.colorscale, on_bar),
            atol=3,  # of 255: both scales are pieced together from straight lines
        )


def test_hovering_names_query_key_and_weight() -> None:
    template = heat_map(attention_figure(causal_maps(*LABELS), 0)).hovertemplate
    assert all(part in template for part in ("query", "%{y:d}", "%{y}", "key", "%{x:d}", "%{x}"))
    assert "%{z:.3g}" in template


def test_tokens_are_named_by_position_and_their_markup_is_escaped() -> None:
    figure = attention_figure(causal_maps("<b>x</b>", "·John", "·John", "&lt;"), 0, position=1)
    escaped = {"0": "&lt;b&gt;x&lt;/b&gt;", "1": "·John", "2": "·John_2", "3": "&amp;lt;"}
    assert figure.layout.xaxis.labelalias == escaped
    assert figure.layout.yaxis.labelalias == escaped | {"1": "<b>·John</b>"}


def test_a_click_is_read_by_index() -> None:
    assert clicked_cell({"x": "3", "y": "12", "z": 0.1}) == (12, 3)


def test_row_0_is_on_top_and_the_row_read_is_marked() -> None:
    figure = attention_figure(causal_maps(*LABELS), 0, position=2)
    assert list(figure.layout.yaxis.range) == [3.5, -0.5]
    mark = figure.layout.shapes[0]
    assert (mark.y0, mark.y1, mark.x0, mark.x1) == (1.5, 2.5, -0.5, 2.5)
    assert attention_figure(causal_maps(*LABELS), 0).layout.shapes == ()


def test_the_title_says_which_head_and_that_the_run_is_ablated() -> None:
    clean = attention_figure(causal_maps(*LABELS, n_heads=4), 3).layout.title.text
    assert "<b>L9H3</b>" in clean
    assert "max .667" in clean
    assert "ablated run" not in clean
    maps = causal_maps(*LABELS, ablated=True)
    assert "ablated run" in attention_figure(maps, 0).layout.title.text


@pytest.mark.parametrize("n", [1, 3, 14, 26, 27, 60, 200, 1024])
@pytest.mark.parametrize("size", [None, 300, 700])
def test_cells_are_square_and_labels_have_room(n: int, size: int | None) -> None:
    figure = attention_figure(causal_maps(*["·word"] * n), 0, size=size)
    layout = figure.layout
    across = layout.width - layout.margin.l - layout.margin.r
    down = layout.height - layout.margin.t - layout.margin.b
    assert across == pytest.approx(down, abs=1)
    assert layout.yaxis.scaleanchor == "x"
    assert size is None or layout.width == size
    assert layout.xaxis.nticks == n or across / layout.xaxis.nticks >= 12
    if across / n >= 9:
        assert layout.xaxis.nticks == n


def test_figures_stay_small() -> None:
    small = attention_figure(causal_maps(*["·word"] * 14), 0)
    assert len(small.to_json()) < 6_000
    n = 1024
    large = attention_figure(causal_maps(*["·word"] * n), 0, position=n - 1)
    # float32 in base64 takes 5.6 MB; as a list of lists it would be near 20.
    assert isinstance(large.to_plotly_json()["data"][0]["z"], dict)
    assert len(large.to_json()) < 7_500_000
