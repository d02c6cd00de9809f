"""Long maps in Chromium: what Plotly holds against the model's weights, zooming, and bytes."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from page_fixtures import TIMEOUT, Shelf, make_page, serving
from playwright.sync_api import Page, expect

from app import permalink
from app.view import View
from models.language_model import LanguageModel
from models.types import Head, TokenizedPrompt
from viz.cells import Region, cells_of
from viz.coding import RELATIVE_ERROR

HEAD = Head(1, 2)

pytestmark = [pytest.mark.browser, pytest.mark.thorough]


@pytest.fixture(scope="module")
def sizes() -> list[int]:
    """Bytes of each message that the server sent over the websocket."""
    return []


@pytest.fixture(scope="module")
def address(sizes: list[int]) -> Iterator[str]:
    with serving(make_page("long"), sizes) as url:
        yield url


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return Shelf().get("long")


def text_of(model: LanguageModel, n_tokens: int) -> str:
    """Return a prompt of exactly so many tokens, no two stretches of it alike."""
    chance = np.random.default_rng(0)
    words = ("Mary", "John", "store", "drink", "key", "cat", "mat", "school", "the", "to")
    text = " ".join(chance.choice(words, n_tokens // 3))
    while len(model.tokenize(text)) < n_tokens - 4:
        text += " " + str(chance.choice(words))
    while len(model.tokenize(text)) < n_tokens:
        text += " a"
    assert len(model.tokenize(text)) == n_tokens
    return text


def open_map(page: Page, address: str, model: LanguageModel, n_tokens: int) -> TokenizedPrompt:
    """Open the page at one head's map of a prompt of so many tokens."""
    text = text_of(model, n_tokens)
    page.goto(address + "#" + str(permalink.encode(View("long", text, heads=(HEAD,)))))
    expect(page.locator(".map-card .hm image")).to_be_visible(timeout=TIMEOUT)
    return model.tokenize(text)


def held(page: Page) -> tuple[np.ndarray, Region, int]:
    """Return the cells that Plotly holds, float32 with NaN for blank, their region and step."""
    data = page.evaluate(
        """() => {
            const plot = document.querySelector(".map-card .js-plotly-plot");
            const { z, x0, dx, y0 } = plot._fullData[0];
            const numbers = (row) => Array.from(row, (value) => (value === value ? value : null));
            return { z: Array.from(z, numbers), x0, dx, y0 };
        }"""
    )
    values = np.array(data["z"], dtype=np.float64).astype(np.float32)
    step, centre = data["dx"], (data["dx"] - 1) / 2
    key, query = int(data["x0"] - centre), int(data["y0"] - centre)
    rows, columns = values.shape
    return values, Region(query, query + rows * step, key, key + columns * step), step


def double_click(page: Page) -> None:
    box = page.locator(".map-card .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def ranges(page: Page) -> list[list[float]]:
    """Return what the axes of the map show, across and down."""
    found: list[list[float]] = page.evaluate(
        """() => {
            const plot = document.querySelector(".map-card .js-plotly-plot");
            const { xaxis, yaxis } = plot._fullLayout;
            return [xaxis.range, yaxis.range];
        }"""
    )
    return found


def wait_until(page: Page, holds: Callable[[], bool]) -> None:
    for _ in range(200):
        if holds():
            return
        page.wait_for_timeout(50)
    assert holds()


def title(page: Page) -> str:
    return page.locator(".map-card .gtitle").text_content() or ""


def zoom(page: Page, top: float, left: float, share: float) -> None:
    """Drag over a square of the map, given as shares of it."""
    box = page.locator(".map-card .nsewdrag").first.bounding_box()
    assert box is not None
    x, y = box["x"] + left * box["width"], box["y"] + top * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + share * box["width"] / 2, y + share * box["height"] / 2)
    page.mouse.move(x + share * box["width"], y + share * box["height"])
    page.mouse.up()


def expect_cells(page: Page, weights: np.ndarray, step: int) -> Region:
    """Check that what Plotly holds are the cells of the weights, and return their region."""
    values, region, held_step = held(page)
    n = len(weights)
    assert held_step == step
    clipped = Region(region.query, min(region.query_end, n), region.key, min(region.key_end, n))
    expected = cells_of(weights, True, clipped, step).values
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    np.testing.assert_allclose(values, expected, rtol=RELATIVE_ERROR, atol=1e-12)
    return clipped


def test_a_map_of_1024_tokens_holds_the_models_weights_and_costs_1_5_megabytes(
    quiet: Page, address: str, model: LanguageModel, sizes: list[int]
) -> None:
    sizes.clear()
    prompt = open_map(quiet, address, model, 1024)
    weights = model.attention(prompt, [HEAD]).values[0]
    assert 1_000_000 < max(sizes) <= 1_500_000
    n_messages = len(sizes)
    overview = held(quiet)[2]
    assert overview > 1
    assert f"each dot: max of {overview}×{overview}" in title(quiet)
    assert expect_cells(quiet, weights, overview) == Region.whole(1024)

    zoom(quiet, top=0.5, left=0.3, share=0.15)
    expect(quiet.locator(".map-card .gtitle")).to_contain_text("every weight")
    region = expect_cells(quiet, weights, 1)
    assert 100 < region.side < 200
    assert abs(region.query - 512) < 12
    assert abs(region.key - 307) < 12
    assert len(sizes) == n_messages  # the weights were there


def test_a_longer_map_is_pooled_and_a_region_of_it_is_fetched(
    quiet: Page, address: str, model: LanguageModel, sizes: list[int]
) -> None:
    prompt = open_map(quiet, address, model, 2000)
    weights = model.attention(prompt, [HEAD]).values[0]
    overview = held(quiet)[2]
    assert overview >= 4
    assert max(sizes[-20:]) < 1_500_000
    assert expect_cells(quiet, weights, overview) == Region.whole(2000)
    assert f"each dot: max of {overview}×{overview}" in title(quiet)
    expect(quiet.locator("#attention-note")).to_contain_text("largest of several weights")

    zoom(quiet, top=0.6, left=0.2, share=0.1)
    expect(quiet.locator(".map-card .gtitle")).to_contain_text("every weight")
    region = expect_cells(quiet, weights, 1)
    assert abs(region.query - 1200) < 20
    assert abs(region.key - 400) < 20
    # The tokens beside the axes are those of the region.
    first = quiet.locator(".map-card .ytick text").first.text_content()
    assert first in prompt.unique_labels[region.query : region.query_end]

    double_click(quiet)
    expect(quiet.locator(".map-card .gtitle")).to_contain_text("each dot")
    assert expect_cells(quiet, weights, overview) == Region.whole(2000)


@pytest.mark.parametrize(("before", "after"), [(40, 1024), (1024, 40)], ids=["longer", "shorter"])
def test_a_double_click_goes_back_to_the_whole_of_another_prompt(
    quiet: Page, address: str, model: LanguageModel, before: int, after: int
) -> None:
    open_map(quiet, address, model, before)
    text = text_of(model, after)
    quiet.locator("#prompt-text").fill(text)
    quiet.get_by_role("button", name="Run", exact=True).click()
    expect(quiet.locator("#token-count")).to_contain_text(f"{after:,} tokens", timeout=TIMEOUT)
    whole = [-0.5, after - 0.5]
    wait_until(quiet, lambda: ranges(quiet)[0] == whole)
    zoom(quiet, top=0.5, left=0.3, share=0.3)
    wait_until(quiet, lambda: ranges(quiet)[0] != whole)
    double_click(quiet)
    wait_until(quiet, lambda: ranges(quiet)[0] == whole)
    assert ranges(quiet)[1] == [after - 0.5, -0.5]


def test_hovering_says_what_a_dot_stands_for(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    prompt = open_map(quiet, address, model, 2000)
    weights = model.attention(prompt, [HEAD]).values[0]
    step = held(quiet)[2]
    box = quiet.locator(".map-card .nsewdrag").bounding_box()
    assert box is not None
    quiet.mouse.move(box["x"] + 0.15 * box["width"], box["y"] + 0.75 * box["height"])
    hover = quiet.locator(".map-card .hoverlayer")
    expect(hover).to_contain_text("largest")
    said = re.fullmatch(
        r"queries (\d+)–(\d+) (\S+) … (\S+)keys +(\d+)–(\d+) \S+ … \S+largest (\S+)",
        hover.text_content() or "",
    )
    assert said is not None, hover.text_content()
    query, last_query, key, last_key = (int(said[i]) for i in (1, 2, 5, 6))
    assert query % step == key % step == 0
    assert abs(query - 1500) <= step
    assert abs(key - 300) <= step
    assert (last_query, last_key) == (query + step - 1, key + step - 1)
    assert (said[3], said[4]) == (prompt.unique_labels[query], prompt.unique_labels[last_query])
    largest = weights[query : query + step, key : key + step].max()
    assert float(said[7]) == pytest.approx(largest, rel=5e-3 + RELATIVE_ERROR)  # three digits


def test_a_theme_or_a_head_may_change_while_a_map_is_zoomed(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    prompt = open_map(quiet, address, model, 2000)
    weights = model.attention(prompt, [HEAD]).values[0]
    overview = held(quiet)[2]
    zoom(quiet, top=0.6, left=0.2, share=0.1)
    expect(quiet.locator(".map-card .gtitle")).to_contain_text("every weight")
    quiet.get_by_role("button", name="Switch between light and dark").click()
    expect(quiet.locator(".map-card .gtitle")).to_contain_text("each dot")
    assert expect_cells(quiet, weights, overview) == Region.whole(2000)
    quiet.get_by_role("textbox", name="Add heads").fill("0.0")
    quiet.keyboard.press("Enter")
    expect(quiet.locator(".map-card .hm image")).to_have_count(2)


def test_a_short_map_is_not_asked_for_again(
    quiet: Page, address: str, model: LanguageModel, sizes: list[int]
) -> None:
    prompt = open_map(quiet, address, model, 40)
    weights = model.attention(prompt, [HEAD]).values[0]
    assert expect_cells(quiet, weights, 1) == Region.whole(40)
    n_messages = len(sizes)
    zoom(quiet, top=0.5, left=0.2, share=0.2)
    assert quiet.locator(".map-card .ytick").count() < 20
    assert expect_cells(quiet, weights, 1) == Region.whole(40)
    assert "weight" not in title(quiet)
    assert len(sizes) == n_messages


def all_ranges(page: Page) -> list[list[list[float]]]:
    """Return what the axes of each map show, across and down."""
    found: list[list[list[float]]] = page.evaluate(
        """() => [...document.querySelectorAll(".map-card .js-plotly-plot")].map((plot) =>
            [plot._fullLayout.xaxis.range, plot._fullLayout.yaxis.range])"""
    )
    return found


def open_maps(page: Page, address: str, view: View, n_maps: int) -> None:
    page.goto(address + "#" + str(permalink.encode(view)))
    expect(page.locator(".map-card .hm image")).to_have_count(n_maps, timeout=TIMEOUT)


def test_linked_maps_are_zoomed_together_and_only_these(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    text = text_of(model, 2000)
    prompt = model.tokenize(text)
    heads = (HEAD, Head(0, 3))
    weights = model.attention(prompt, heads).values
    open_maps(quiet, address, View("long", text, heads=heads, linked=True), 2)
    zoom(quiet, top=0.6, left=0.2, share=0.1)
    for title_of_map in quiet.locator(".map-card .gtitle").all():
        expect(title_of_map).to_contain_text("every weight")
    first, second = all_ranges(quiet)
    assert first == second
    values = quiet.evaluate(
        """() => [...document.querySelectorAll(".map-card .js-plotly-plot")].map((plot) => {
            const { z, x0, y0 } = plot._fullData[0];
            return { z: z[0][0], x0, y0 };
        })"""
    )
    for index, value in enumerate(values):
        expected = weights[index, int(value["y0"]), int(value["x0"])]
        assert value["z"] == pytest.approx(float(expected), rel=RELATIVE_ERROR, abs=1e-12)
    double_click(quiet)
    wait_until(quiet, lambda: all_ranges(quiet)[1][0] == [-0.5, 1999.5])
    quiet.get_by_role("button", name="Display").press("Enter")
    quiet.get_by_role("switch", name="link zoom").focus()
    quiet.keyboard.press("Space")
    quiet.keyboard.press("Escape")
    zoom(quiet, top=0.6, left=0.2, share=0.1)
    wait_until(quiet, lambda: all_ranges(quiet)[0][0] != [-0.5, 1999.5])
    assert all_ranges(quiet)[1][0] == [-0.5, 1999.5]


def test_one_more_map_shows_the_chosen_heads_together(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    prompt = model.tokenize(View().prompt)
    heads = (HEAD, Head(0, 3), Head(2, 0))
    weights = model.attention(prompt, heads).values
    open_maps(quiet, address, View("long", heads=heads, extra="mean"), 4)
    held_values = """() => {
        const plots = document.querySelectorAll(".map-card .js-plotly-plot");
        return Array.from(plots[plots.length - 1]._fullData[0].z[17]);
    }"""
    last = quiet.locator(".map-card .gtitle").last
    expect(last).to_contain_text("Mean of 3 heads")
    expected = weights[:, 17].mean(axis=0)
    np.testing.assert_allclose(quiet.evaluate(held_values), expected, rtol=2 * RELATIVE_ERROR)
    quiet.get_by_role("button", name="Display").press("Enter")
    quiet.get_by_role("textbox", name="One more map").click()
    quiet.get_by_role("option", name="+ maximum").click()
    expect(last).to_contain_text("Maximum of 3 heads")
    expected = weights[:, 17].max(axis=0)
    np.testing.assert_allclose(quiet.evaluate(held_values), expected, rtol=2 * RELATIVE_ERROR)
    quiet.get_by_role("button", name="Take L0H3 out of the choice").click()
    expect(last).to_contain_text("Maximum of 2 heads")
    expect(quiet.locator(".map-card")).to_have_count(3)


def frames(page: Page) -> list[list[float]]:
    """Return the edges of the selected token's frame in the first map: x0, x1, y0, y1."""
    found: list[list[float]] = page.evaluate(
        """() => document.querySelector(".map-card .js-plotly-plot").layout.shapes
            .filter((shape) => shape.line.width === 2)
            .map(({ x0, x1, y0, y1 }) => [x0, x1, y0, y1])"""
    )
    return found


def test_the_row_or_the_column_of_the_selected_token_is_framed(quiet: Page, address: str) -> None:
    open_maps(quiet, address, View("long", heads=(HEAD,)), 1)
    assert frames(quiet) == []
    box = quiet.locator(".map-card .nsewdrag").bounding_box()
    assert box is not None
    quiet.mouse.click(box["x"] + box["width"] * 2.5 / 18, box["y"] + box["height"] * 9.5 / 18)
    wait_until(quiet, lambda: frames(quiet) == [[-0.5, 9.5, 8.5, 9.5]])
    # It is asked why the head looks there: a cell of this short prompt is one weight.
    labels = Shelf().get("long").tokenize(View().prompt).labels
    opened = quiet.locator("#explain-panel .token-inline")
    expect(opened.nth(0)).to_have_text(labels[9])
    expect(opened.nth(1)).to_have_text(labels[2])
    quiet.keyboard.down("Shift")
    quiet.mouse.click(box["x"] + box["width"] * 2.5 / 18, box["y"] + box["height"] * 9.5 / 18)
    quiet.keyboard.up("Shift")
    wait_until(quiet, lambda: frames(quiet) == [[1.5, 2.5, 1.5, 17.5]])
