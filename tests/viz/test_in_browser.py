"""What only a browser can show: tokens appear literally, and a click yields indices."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from playwright.sync_api import Page
from plotly.offline import get_plotlyjs
from viz_samples import CLEAN, KL, causal_maps, prompt

from ablation.types import HeadScores, PositionScores
from models.types import Head, Prediction, TokenProbability
from viz.attention import attention_figure, clicked_cell
from viz.heads import head_map_figure
from viz.positions import position_map_figure
from viz.predictions import prediction_figure

pytestmark = pytest.mark.browser

EVIL = ("<b>x</b>", "<a href='e'>", "&lt;", "%{z}", "$$", "·John", "·John", "<br>")


@pytest.fixture
def quiet_page(page: Page) -> Iterator[Page]:
    """A page whose console has to stay empty."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    assert said == []


def draw(page: Page, figure: go.Figure) -> None:
    page.set_content('<meta charset="utf-8"><div id="plot" style="width:400px"></div>')
    page.add_script_tag(content=get_plotlyjs())
    page.evaluate(
        """async (figure) => {
            window.clicked = [];
            window.hovered = 0;
            const plot = await Plotly.newPlot("plot", figure.data, figure.layout);
            plot.on("plotly_hover", () => window.hovered++);
            plot.on("plotly_click", (event) => {
                const {x, y, z, customdata} = event.points[0];
                window.clicked.push({x, y, z, customdata});
            });
        }""",
        json.loads(figure.to_json()),
    )
    page.wait_for_selector("#plot .main-svg")


def click(page: Page, x: float, y: float) -> tuple[str, dict[str, Any]]:
    """Click a place given in the figure's units; return what hovering said, and the point."""
    at = page.evaluate(
        """([x, y]) => {
            const layout = plot._fullLayout, box = plot.getBoundingClientRect();
            return [box.x + layout.xaxis._offset + layout.xaxis.l2p(x) + 1,
                    box.y + layout.yaxis._offset + layout.yaxis.l2p(y) + 1];
        }""",
        [x, y],
    )
    before = page.evaluate("window.hovered")
    page.mouse.move(*at)
    page.wait_for_function("before => window.hovered > before", arg=before)
    said = page.locator(".hoverlayer").text_content() or ""
    page.mouse.click(*at)
    page.wait_for_function("() => window.clicked.length > 0")
    return said, page.evaluate("window.clicked.pop()")


def test_tokens_of_a_map_appear_literally(quiet_page: Page) -> None:
    maps = causal_maps(*EVIL)
    draw(quiet_page, attention_figure(maps, 0, position=6))
    shown = quiet_page.locator(".ytick text").all_text_contents()
    assert sorted(shown) == sorted((*EVIL[:6], "·John_2", "<br>"))
    assert quiet_page.locator("#plot .main-svg a").count() == 0
    for query, key in ((1, 0), (3, 1), (7, 4)):
        said, point = click(quiet_page, key, query)
        assert f"query {query} {maps.prompt.unique_labels[query]}" in said
        assert f"key   {key} {maps.prompt.unique_labels[key]}" in said
        assert f"{maps.values[0, query, key]:.3g}" in said
        assert clicked_cell(point) == (query, key)


def test_long_prompts_label_fewer_tokens_and_more_when_zoomed(quiet_page: Page) -> None:
    draw(quiet_page, attention_figure(causal_maps(*["·to"] * 60), 0, log=True))
    assert quiet_page.locator(".xtick").count() == 30
    said, point = click(quiet_page, 7, 33)
    assert "·to_34" in said
    assert clicked_cell(point) == (33, 7)
    assert point["z"] == pytest.approx(1 / 35)
    quiet_page.evaluate(
        "Plotly.relayout(plot, {'xaxis.range': [9.5, 15.5], 'yaxis.range': [25.5, 19.5]})"
    )
    assert quiet_page.locator(".xtick text").all_text_contents() == [
        f"·to_{i}" for i in range(11, 17)
    ]


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (("·to",), {"size": 300}),
        (("·to", "·a"), {}),
        (["·store"] * 14, {"size": 200, "name": "L8H0 moved"}),
        (["·store"] * 400, {"size": 300, "name": "Mean of 12 heads", "sink": "renormalise"}),
    ],
)
def test_the_header_of_a_map_has_room(
    quiet_page: Page, labels: list[str], options: dict[str, Any]
) -> None:
    draw(quiet_page, attention_figure(causal_maps(*labels), 0, **options))
    texts = quiet_page.locator(".gtitle tspan.line, .cbaxis text, .cbfills").evaluate_all(
        """parts => parts.map((part) => part.getBoundingClientRect())
            .map(({ left, top, right, bottom }) => ({ left, top, right, bottom }))"""
    )
    plot = quiet_page.locator("#plot .main-svg").first.bounding_box()
    assert plot is not None
    assert len(texts) >= 5  # name, notes, the bar and its ends
    for i, one in enumerate(texts):
        assert plot["x"] <= one["left"]
        assert one["right"] <= plot["x"] + plot["width"]
        for other in texts[:i]:
            beside = one["right"] <= other["left"] or other["right"] <= one["left"]
            below = one["bottom"] <= other["top"] + 4 or other["bottom"] <= one["top"] + 4
            assert beside or below


def test_cells_with_and_without_a_score_can_be_clicked(quiet_page: Page) -> None:
    values = np.array([[0.1, np.nan], [0.3, 0.2], [np.nan, np.nan]], np.float32)
    draw(quiet_page, head_map_figure(3, 2, HeadScores(KL, values, CLEAN)))
    said, point = click(quiet_page, 0, 1)
    assert "L1H0" in said
    assert "0.300 nats" in said
    assert (point["y"], point["x"]) == (1, 0)
    said, point = click(quiet_page, 1, 2)
    assert "L2H1not evaluated" in said
    assert (point["y"], point["x"]) == (2, 1)


def test_tokens_under_a_map_by_position_appear_literally(quiet_page: Page) -> None:
    values = np.arange(16, dtype=np.float32).reshape(2, 8)
    scores = PositionScores(KL, (Head(9, 9), Head(0, 3)), values, prompt(*EVIL), CLEAN)
    draw(quiet_page, position_map_figure(scores))
    shown = quiet_page.locator(".xtick text").all_text_contents()
    assert sorted(shown) == sorted((*EVIL[:6], "·John_2", "<br>"))
    assert sorted(quiet_page.locator(".ytick text").all_text_contents()) == ["L0H3", "L9H9"]
    assert quiet_page.locator("#plot .main-svg a").count() == 0
    said, point = click(quiet_page, 3, 1)
    assert "head L0H3" in said
    assert "position 3 %{z}" in said
    assert "KL divergence 11.0 nats" in said
    assert (int(point["y"]), int(point["x"])) == (1, 3)


def test_predicted_tokens_appear_literally(quiet_page: Page) -> None:
    evil = TokenProbability(0, "<b>%{x}", "<b>%{x}", 0.8, -0.2)
    before = Prediction(0, (evil, *CLEAN.top[1:]), 0.1, CLEAN.log_probs)
    draw(quiet_page, prediction_figure(before, CLEAN))
    assert "<b>%{x}" in quiet_page.locator(".ytick text").all_text_contents()
    said, point = click(quiet_page, 0.3, -0.2)
    assert "<b>%{x} id 0" in said
    assert point["customdata"][0] == 0
