"""The bars of next tokens and the numbers beside them."""

import numpy as np
import pytest
from viz_samples import ABLATED, CLEAN, prediction, token

from ablation.types import Comparison
from models.types import Prediction, TokenProbability
from viz.predictions import metric_rows, prediction_figure


def ids(trace: object) -> list[int]:
    return [row[0] for row in trace.customdata]  # type: ignore[attr-defined]


def test_before_alone_is_one_neutral_trace() -> None:
    figure = prediction_figure(CLEAN)
    (bars,) = figure.data
    assert bars.name == "before"
    np.testing.assert_allclose(bars.x, [0.80, 0.10, 0.05])
    assert list(bars.text) == [".80", ".10", ".05"]
    assert list(figure.layout.yaxis.ticktext) == ["·Mary", "·John", "·the"]
    assert figure.layout.showlegend is False


def test_rows_are_the_top_tokens_of_both_ordered_by_the_clean_run() -> None:
    figure = prediction_figure(CLEAN, ABLATED)
    before, after = figure.data
    assert ids(before) == ids(after) == [0, 1, 2, 4]  # 4 is only in the ablated top three
    np.testing.assert_allclose(before.x, [0.80, 0.10, 0.05, 0.015])
    np.testing.assert_allclose(after.x, [0.20, 0.60, 0.02, 0.14])
    assert list(after.text) == [".20", ".60", ".02", ".14"]
    assert before.marker.color != after.marker.color
    assert figure.layout.showlegend is True


def test_n_limits_each_of_the_two_tops() -> None:
    assert ids(prediction_figure(CLEAN, ABLATED, n=1).data[0]) == [0, 1]


def test_the_first_row_is_on_top_and_each_row_adds_its_height() -> None:
    one, both = prediction_figure(CLEAN), prediction_figure(CLEAN, ABLATED)
    assert list(one.layout.yaxis.range) == [2.5, -0.5]
    assert both.layout.height > one.layout.height
    assert one.layout.width is None  # as wide as its container


@pytest.mark.parametrize(
    ("largest", "end"), [(0.80, 1.0), (0.50, 0.5), (0.30, 0.5), (0.2, 0.25), (0.04, 0.05)]
)
def test_the_axis_ends_at_a_round_number(largest: float, end: float) -> None:
    rest = (1 - largest) / 30
    labels = tuple(TokenProbability(i, "a", "a", 0, 0) for i in range(1))
    log_probs = np.log([largest, *[rest] * 30])
    figure = prediction_figure(Prediction(0, labels, 0.0, log_probs))
    assert figure.layout.xaxis.range[1] == pytest.approx(end * 1.24)


def test_hovering_says_probability_and_ranks() -> None:
    before, after = prediction_figure(CLEAN, ABLATED).data
    assert after.customdata[0] == [0, "·Mary", "1 → 2"]
    assert "p after %{x:.4g}" in after.hovertemplate
    assert "rank %{customdata[2]}" in before.hovertemplate


def test_markup_of_a_token_is_escaped() -> None:
    evil = TokenProbability(0, "<b>x</b>", "<b>x</b>", 0.8, -0.2)
    figure = prediction_figure(Prediction(0, (evil,), 0.1, CLEAN.log_probs))
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;x&lt;/b&gt;"]
    assert figure.data[0].customdata[0][1] == "&lt;b&gt;x&lt;/b&gt;"


def comparison(before: Prediction, after: Prediction) -> Comparison:
    return Comparison(
        kl=1.2345,
        total_variation=0.6,
        top_prob_change=after.prob(before.top[0].id) - before.top[0].prob,
        entropy_before=0.75,
        entropy_after=1.125,
        top_before=before.top[0],
        top_after=after.top[0],
    )


def test_metric_rows_of_an_ablation() -> None:
    rows = metric_rows(CLEAN, ABLATED, comparison(CLEAN, ABLATED), token(4, 0.015))
    shown = [(row.label, row.before, row.after, row.change, row.unit) for row in rows]
    assert shown == [
        ("KL", "", "", "1.23", "nats"),
        ("total variation", "", "", "0.6", ""),
        ("p(·Mary)", ".80", ".20", "−0.60", ""),
        ("entropy", "0.75", "1.12", "+0.38", "nats"),
        ("p(·him)", ".01", ".14", "+0.13", ""),
        ("rank of ·him", "5", "3", "−2", ""),
    ]


def test_metric_rows_of_the_clean_run_alone() -> None:
    rows = metric_rows(CLEAN, token=token(1, 0.1))
    assert [row.name for row in rows] == ["entropy", "token_prob", "rank"]
    assert [row.before for row in rows] == [f"{CLEAN.entropy:.2f}", ".10", "2"]


def test_nothing_changed_reads_as_nothing() -> None:
    same = Comparison(0.0, 0.0, 0.0, 0.5, 0.5, CLEAN.top[0], CLEAN.top[0])
    rows = metric_rows(CLEAN, prediction(*np.exp(CLEAN.log_probs)), same, token(1, 0.1))
    assert [row.change for row in rows] == ["0", "0", "±0", "±0", "±0", "±0"]
