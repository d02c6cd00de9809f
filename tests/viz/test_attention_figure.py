"""One head's heat map."""

import json
import re
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from viz_samples import causal_maps, prompt

from models.types import AttentionMaps, Head
from viz import coding
from viz.attention import (
    Look,
    attention_figure,
    attention_message,
    clicked_cell,
    dots_across,
    shared_maximum,
    token_message,
    token_names,
)
from viz.cells import Region, cells_of
from viz.extent import extent_of, unit_of
from viz.map_frame import NOTE
from viz.weight_colours import LOG_FLOOR, log_floor

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
    assert "max .667 (row 0 apart)" in clean  # its only weight is a 1
    assert "ablated run" not in clean
    maps = causal_maps(*LABELS, ablated=True)
    assert "ablated run" in attention_figure(maps, 0).layout.title.text
    hidden = attention_figure(causal_maps(*LABELS), 0, sink="hide").layout.title.text
    assert "apart" not in hidden  # nothing of that row is shown
    renormalised = attention_figure(causal_maps(*LABELS), 0, sink="renormalise").layout.title.text
    assert "(row 1 apart)" in renormalised
    assert "apart" not in attention_figure(cross_maps(np.full((3, 2), 0.5)), 0).layout.title.text


def test_notes_that_do_not_fit_into_a_line_get_another() -> None:
    maps = causal_maps(*["·word"] * 400)
    short = attention_figure(maps, 0, size=300).layout
    long = attention_figure(maps, 0, size=300, sink="renormalise").layout
    assert (short.title.text.count("<br>"), long.title.text.count("<br>")) == (1, 2)
    assert long.margin.t > short.margin.t
    assert long.height - long.margin.t == short.height - short.margin.t
    wide = attention_figure(maps, 0, size=640, sink="renormalise").layout
    assert wide.title.text.count("<br>") == 1


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


def test_a_map_of_1024_tokens_takes_at_most_a_megabyte_and_a_half() -> None:
    # The longest labels there are, each of them four bytes a character.
    maps = causal_maps(*["𝄞" * 16] * 1024)
    message = attention_message(maps, 0, Look(position=1023, size=300))
    sent = json.dumps([message, token_names(maps.prompt)], ensure_ascii=False)
    assert len(sent.encode()) < 1_500_000
    shown = coding.decode(message["cells"]["coded"])
    lower = np.tril_indices(1024)
    np.testing.assert_allclose(
        shown[lower], maps.values[0][lower], rtol=coding.RELATIVE_ERROR, atol=0
    )
    assert np.isnan(shown[np.triu_indices(1024, k=1)]).all()


@pytest.mark.parametrize("n", [1500, 3000])
def test_longer_maps_are_sent_pooled_and_regions_of_them_whole(n: int) -> None:
    maps = causal_maps(*["·word"] * n)
    look = Look(size=400)
    cells = attention_message(maps, 0, look)["cells"]
    step = -(-n // dots_across(maps.prompt, 400))
    assert (cells["query"], cells["key"], cells["step"]) == (0, 0, step)
    expected = cells_of(maps.values[0], causal=True, step=step).values
    np.testing.assert_allclose(coding.decode(cells["coded"]), expected, rtol=coding.RELATIVE_ERROR)

    message = attention_message(maps, 0, look, Region(700, 1000, 600, 900))
    cells = message["cells"]
    assert (cells["query"], cells["key"], cells["step"]) == (700, 600, 1)
    expected = np.where(np.tri(300, k=100, dtype=bool), maps.values[0, 700:1000, 600:900], np.nan)
    np.testing.assert_allclose(coding.decode(cells["coded"]), expected, rtol=coding.RELATIVE_ERROR)


def test_the_message_has_the_figure_but_for_what_the_browser_makes() -> None:
    maps = causal_maps(*LABELS)
    message = attention_message(maps, 0, Look(position=2, threshold=0.3, zmax=0.9, log=True))
    figure = attention_figure(maps, 0, position=2, threshold=0.3, zmax=0.9, log=True)
    whole = json.loads(figure.to_json())
    coded = coding.decode(message["cells"]["coded"])
    np.testing.assert_allclose(coded, heat_map(figure).z, rtol=coding.RELATIVE_ERROR)
    for name in ("z", "x0", "dx", "y0", "dy"):
        del whole["data"][0][name]
    assert whole["data"][0].pop("hovertemplate") == message["hover"][0]
    for axis in ("xaxis", "yaxis"):
        del whole["layout"][axis]["categoryarray"], whole["layout"][axis]["labelalias"]
    assert message["layout"].pop("template") == {}
    del whole["layout"]["template"]
    title = message["layout"]["title"]
    assert title["text"].count(NOTE) == 1
    title["text"] = title["text"].replace(NOTE, "")
    sent = json.loads(json.dumps({"data": message["data"], "layout": message["layout"]}))
    assert sent == {"data": whole["data"], "layout": whole["layout"]}


def test_a_dot_of_several_weights_is_their_largest_and_says_so() -> None:
    n = 900
    maps = causal_maps(*[f"·{i}" for i in range(n)])
    figure = attention_figure(maps, 0, size=300)
    step = -(-n // dots_across(maps.prompt, 300))
    assert step > 1
    trace = heat_map(figure)
    np.testing.assert_array_equal(trace.z, cells_of(maps.values[0], causal=True, step=step).values)
    assert (trace.x0, trace.dx, trace.y0, trace.dy) == ((step - 1) / 2, step, (step - 1) / 2, step)
    assert f"each dot: max of {step}×{step}" in figure.layout.title.text
    assert "largest" in trace.hovertemplate
    query, key = trace.customdata[5][2]
    assert query == f"{5 * step}–{6 * step - 1} <b>·{5 * step} … ·{6 * step - 1}</b>"
    assert key == f"{2 * step}–{3 * step - 1} <b>·{2 * step} … ·{3 * step - 1}</b>"
    last, _ = trace.customdata[-1][0]
    assert f"–{n - 1} <b>" in last
    assert "each dot" not in attention_figure(causal_maps(*LABELS), 0).layout.title.text


def test_a_region_is_drawn_in_its_place_weight_by_weight() -> None:
    maps = causal_maps(*[f"·{i}" for i in range(900)])
    figure = attention_figure(maps, 0, size=300, region=Region(500, 600, 450, 550))
    trace = heat_map(figure)
    expected = np.where(np.tri(100, k=50, dtype=bool), maps.values[0, 500:600, 450:550], np.nan)
    np.testing.assert_array_equal(trace.z, expected)
    assert (trace.x0, trace.dx, trace.y0, trace.dy) == (450, 1, 500, 1)
    assert "every weight" in figure.layout.title.text
    assert trace.customdata is None


def test_maps_of_some_rows_only_are_refused() -> None:
    maps = AttentionMaps(
        (Head(0, 0),), np.array([[[0.5, 0.5]]], np.float32), prompt("a", "b"), queries=(1,)
    )
    with pytest.raises(ValueError, match="all their rows"):
        attention_figure(maps, 0)


@pytest.mark.parametrize("direction", ["at", "by"])
def test_one_tokens_weights_are_its_row_or_column(direction: str) -> None:
    maps = causal_maps("a", "b", "c", "d")
    row = coding.decode(token_message(maps, 0, Look(), 2, direction))[0]
    weights = maps.values[0]
    expected = [*weights[2, :3], np.nan] if direction == "at" else [np.nan] * 2 + [*weights[2:, 2]]
    np.testing.assert_allclose(row, expected, rtol=coding.RELATIVE_ERROR)


def test_one_tokens_weights_are_shown_as_the_map_is() -> None:
    maps = causal_maps("a", "b", "c", "d")  # the last row: 0.4, 0.2, 0.2, 0.2
    look = Look(threshold=0.3, sink="renormalise")
    row = coding.decode(token_message(maps, 0, look, 3, "at"))[0]
    np.testing.assert_allclose(row, [np.nan, 1 / 3, 1 / 3, 1 / 3], rtol=coding.RELATIVE_ERROR)
    row = coding.decode(token_message(maps, 0, Look(threshold=0.3), 3, "at"))[0]
    np.testing.assert_allclose(row, [0.4, np.nan, np.nan, np.nan], rtol=coding.RELATIVE_ERROR)


@pytest.mark.parametrize(
    ("sink", "said"), [("hide", "first token hidden"), ("renormalise", "without first token")]
)
def test_a_map_says_that_its_first_token_is_left_out(sink: str, said: str) -> None:
    maps = causal_maps("a", "b", "c", "d")
    figure = attention_figure(maps, 0, sink=sink)
    assert said in figure.layout.title.text
    assert said in figure.data[0].hovertemplate
    assert np.isnan(figure.data[0].z[:, 0]).all()
    assert figure.data[0].z[3, 1] == pytest.approx(0.2 if sink == "hide" else 1 / 3)
    assert "first token" not in attention_figure(maps, 0).layout.title.text


@pytest.mark.parametrize(
    ("kind", "title"),
    [("attention", "L9H0"), ("moved", "L9H0 moved"), ("rollout", "rollout to L9")],
)
def test_maps_of_other_kinds_say_what_they_are(kind: str, title: str) -> None:
    maps = replace(causal_maps("a", "b", "c"), kind=kind)
    assert f"<b>{title}</b>" in attention_figure(maps, 0).layout.title.text


def moved_maps(*labels: str, times: float = 40.0) -> AttentionMaps:
    """Norms up to `times` as large as the weights of `causal_maps`."""
    maps = causal_maps(*labels)
    return replace(maps, values=maps.values * np.float32(times), kind="moved")


def test_norms_are_called_so_and_sent_as_they_are() -> None:
    maps = moved_maps("a", "b", "c", "d")  # the last row: 16, 8, 8, 8
    extent = extent_of(maps, 0)
    assert (extent.causal, extent.largest) == (True, pytest.approx(80 / 3))
    message = attention_message(maps, 0, Look(unit=unit_of("moved", [extent])))
    shown = coding.decode(message["cells"]["coded"])
    np.testing.assert_allclose(shown[3], [16, 8, 8, 8], rtol=1.1 * coding.RELATIVE_ERROR)
    assert all("weight" not in template for template in message["hover"])
    assert "norm" in message["hover"][0]
    assert message["scale"] == {"zmax": extent.largest, "floor": None, "unit": extent.largest}
    assert "max 26.7" in message["layout"]["title"]["text"]


def test_a_threshold_of_norms_is_a_part_of_the_largest() -> None:
    maps = moved_maps("a", "b", "c", "d")
    look = Look(threshold=0.4, unit=unit_of("moved", [extent_of(maps, 0)]))  # of 26.7: 10.7
    blank = np.isnan(coding.decode(attention_message(maps, 0, look)["cells"]["coded"]))
    assert blank[3].tolist() == [False, True, True, True]
    row = coding.decode(token_message(maps, 0, look, 3, "at"))[0]
    assert np.isnan(row).tolist() == [False, True, True, True]


def test_probabilities_have_no_unit_but_1() -> None:
    extent = extent_of(causal_maps("a", "b", "c"), 0)
    assert (unit_of("attention", [extent]), unit_of("rollout", [extent])) == (1, 1)


def test_the_logarithmic_scale_of_norms_ends_at_a_part_of_the_largest() -> None:
    assert log_floor(0.5) == LOG_FLOOR
    assert log_floor(50) == pytest.approx(50 * LOG_FLOOR)


def test_maps_of_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="no maps of kind 'else'"):
        replace(causal_maps("a", "b"), kind="else")


def cross_maps(values: np.ndarray) -> AttentionMaps:
    """Cross attention [query, key] of a decoder that has written "<s>", "Le", ... ."""
    queries = prompt("<s>", "Le", "chat", "dort")
    keys = prompt("The", "cat", "sleeps", "now", "here", "again")
    n_query, n_key = values.shape
    queries, keys = prompt(*queries.labels[:n_query]), prompt(*keys.labels[:n_key])
    maps = values[None].astype(np.float32)
    return AttentionMaps((Head(2, 1, "cross"),), maps, queries, looked_at=keys)


def test_cross_attention_has_the_names_of_both_sides() -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(6), size=3)
    figure = attention_figure(cross_maps(values), 0, position=2)
    np.testing.assert_array_equal(heat_map(figure).z, values.astype(np.float32))
    aliases = figure.layout.xaxis.labelalias, figure.layout.yaxis.labelalias
    assert list(aliases[0].values()) == ["The", "cat", "sleeps", "now", "here", "again"]
    assert list(aliases[1].values()) == ["&lt;s&gt;", "Le", "<b>chat</b>"]
    assert figure.layout.xaxis.range == (-0.5, 5.5)
    assert figure.layout.yaxis.range == (2.5, -0.5)
    # The marked row goes across all keys: nothing is out of its reach.
    assert figure.layout.shapes[0].x1 == 5.5
    assert "cross:L2H1" in figure.layout.title.text


def test_a_triangle_in_cross_attention_is_no_causal_mask() -> None:
    values = np.eye(3)
    trace = heat_map(attention_figure(cross_maps(values), 0))
    np.testing.assert_array_equal(trace.z, values)
    assert shared_maximum(cross_maps(values)) == 1


@pytest.mark.parametrize("shape", [(1, 6), (4, 2), (4, 1)])
@pytest.mark.parametrize("size", [None, 300])
def test_cells_are_square_and_the_colour_bar_stays_in_the_figure(
    shape: tuple[int, int], size: int | None
) -> None:
    maps = cross_maps(np.full(shape, 1 / shape[1]))
    figure = attention_figure(maps, 0, size=size)
    margin = figure.layout.margin
    across = figure.layout.width - margin.l - margin.r
    down = figure.layout.height - margin.t - margin.b
    assert across / shape[1] == pytest.approx(down / shape[0], abs=1)
    assert across <= (size or 420)
    bar = colour_bar(figure).colorbar
    left = margin.l + bar.x * across
    assert 0 < left <= left + bar.len <= figure.layout.width
    assert bar.x <= 3  # Plotly's limit


def test_the_message_of_a_long_cross_map_has_cells_for_its_longer_side() -> None:
    keys = prompt(*(f"k{i}" for i in range(2000)))
    queries = prompt("a", "b")
    values = np.random.default_rng(1).random((1, 2, 2000)).astype(np.float32)
    maps = AttentionMaps((Head(0, 0, "cross"),), values, queries, looked_at=keys)
    assert attention_message(maps, 0, Look(size=300))["cells"]["step"] == 1  # few enough to send
    step = -(-2000 // dots_across(queries, 300, keys))
    figure = attention_figure(maps, 0, size=300)
    expected = cells_of(values[0], causal=False, step=step).values
    np.testing.assert_array_equal(heat_map(figure).z, expected)
    assert heat_map(figure).customdata[0][0][0] == "0–1 <b>a … b</b>"


@pytest.mark.parametrize("between", [(0, 1), (1, 0)])
def test_one_sentence_of_a_pair_looking_at_the_other(between: tuple[int, int]) -> None:
    segments = (0, 0, 0, 1, 1)
    pair = replace(prompt("[CLS]", "a", "[SEP]", "b", "[SEP]"), segments=segments)
    values = np.random.default_rng(0).dirichlet(np.ones(5), size=(1, 5)).astype(np.float32)
    maps = AttentionMaps((Head(0, 0),), values, pair)
    shown = heat_map(attention_figure(maps, 0, between=between)).z
    for query, key in np.ndindex(5, 5):
        inside = (segments[query], segments[key]) == between
        expected = values[0, query, key] if inside else np.nan
        np.testing.assert_equal(shown[query, key], expected)
    alone = AttentionMaps((Head(0, 0),), values, replace(pair, segments=None))
    assert not np.isnan(heat_map(attention_figure(alone, 0, between=between)).z).any()
