"""The overview in Chromium: what its canvas shows against the model's weights and metrics."""

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from page_fixtures import Shelf, make_page, serving, show
from playwright.sync_api import Page, expect

from ablation import HEAD_METRICS, HeadSummaries, summarise_heads
from ablation.types import Progress
from app import permalink
from app.overviews import Overviews, Reading
from app.view import View
from models.types import Head
from viz.theme import sequential_scale

PROMPT = "The key to the cabinets is on the table."
GAP, ROW_LABEL = 2, 26  # px: see assets/overview.js
COLOUR_ERROR = 12
"""Largest, of a channel of 255: weights travel to 2 %, and the scale's steepest part goes through
a channel in a sixth of its length."""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def sizes() -> list[int]:
    """Bytes of each message that the server sent over the websocket."""
    return []


@pytest.fixture(scope="module")
def address(sizes: list[int]) -> Iterator[str]:
    with serving(make_page("llama"), sizes) as url:
        yield url


def open_overview(page: Page, address: str, **view: object) -> HeadSummaries:
    """Open the page at the overview of a prompt, and return what it should show."""
    asked = View(**{"model": "llama", "prompt": PROMPT, "picture": "overview", **view})
    show(page, address, permalink.encode(asked))
    expect(page.locator("canvas.overview-grid")).to_be_visible()
    return summarise_heads(Shelf().get(asked.model), asked.prompt)


def corner(page: Page, head: Head, shape: tuple[int, int]) -> tuple[float, float, float]:
    """Return the upper left corner of a head's tile within the canvas, and the tile's edge, in px.

    For grids that stand in one stack: layer 0 at the bottom.
    """
    n_layers, n_heads = shape
    box = page.locator("canvas.overview-grid").bounding_box()
    assert box is not None
    edge = (box["width"] - ROW_LABEL) / n_heads
    return ROW_LABEL + head.head * edge, (n_layers - 1 - head.layer) * edge, edge


def colour_at(page: Page, x: float, y: float) -> np.ndarray:
    """Return the channels and the opacity of a pixel of the grid."""
    channels = page.evaluate(
        """([x, y]) => {
            const dot = document.createElement("canvas");
            const context = dot.getContext("2d", { willReadFrequently: true });
            context.drawImage(document.querySelector("canvas.overview-grid"), -x, -y);
            return Array.from(context.getImageData(0, 0, 1, 1).data);
        }""",
        [round(x), round(y)],
    )
    return np.array(channels)


def expected_colour(share: float, dark: bool = False) -> np.ndarray:
    """Return the channels of the scale of weights at a share of its length."""
    stops = [re.findall(r"\d+", colour) for _, colour in sequential_scale(dark)]
    channels = np.array(stops, dtype=float)
    at = np.linspace(0, 1, len(channels))
    return np.array([np.interp(share, at, channel) for channel in channels.T])


def settle(page: Page) -> None:
    """Wait until what was asked for is painted."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")


def hover(page: Page, head: Head, shape: tuple[int, int]) -> None:
    x, y, edge = corner(page, head, shape)
    page.locator("canvas.overview-grid").hover(position={"x": x + edge / 3, "y": y + edge / 2})


def click(page: Page, head: Head, shape: tuple[int, int]) -> None:
    x, y, edge = corner(page, head, shape)
    page.locator("canvas.overview-grid").click(position={"x": x + edge / 3, "y": y + edge / 2})


def choose_cells(page: Page, label: str) -> None:
    page.get_by_role("textbox", name="What the overview shows of each head").click()
    page.get_by_role("option", name=label, exact=True).click()
    settle(page)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_each_thumbnail_has_the_colours_of_its_heads_weights(
    lasting: Page, address: str, dark: bool
) -> None:
    found = open_overview(lasting, address, heads=())
    if dark:
        lasting.get_by_role("button", name="Switch between light and dark").click()
        expect(lasting.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    settle(lasting)
    n = len(found.prompt)
    weights = found.thumbnails
    largest = weights[:, :, 1:].max()
    for head in (Head(0, 0), Head(1, 3), Head(2, 1)):
        x, y, edge = corner(lasting, head, (3, 4))
        cell = (edge - GAP) / n
        for query, key in ((0, 0), (5, 2), (n - 1, n - 1), (n - 1, 0), (7, 6)):
            share = min(weights[head.layer, head.head, query, key] / largest, 1)
            colour = colour_at(lasting, x + (key + 0.5) * cell, y + (query + 0.5) * cell)
            difference = np.abs(colour[:3] - expected_colour(share, dark)).max()
            assert difference <= COLOUR_ERROR, (head, query, key)
        unreached = colour_at(lasting, x + 8.5 * cell, y + 3.5 * cell)
        assert unreached[3] == 0  # nothing is painted there


def test_each_map_may_have_its_own_scale(lasting: Page, address: str) -> None:
    found = open_overview(lasting, address, heads=(), scale="own")
    expect(lasting.locator("#overview-legend")).to_have_text("0each head's largest")
    settle(lasting)
    n = len(found.prompt)
    for head in (Head(0, 0), Head(2, 1)):
        weights = found.thumbnails[head.layer, head.head]
        query, key = np.unravel_index(weights[1:].argmax(), weights[1:].shape)
        x, y, edge = corner(lasting, head, (3, 4))
        cell = (edge - GAP) / n
        colour = colour_at(lasting, x + (key + 0.5) * cell, y + (query + 1.5) * cell)
        assert np.abs(colour[:3] - expected_colour(1)).max() <= COLOUR_ERROR


@pytest.mark.parametrize("name", ["entropy", "previous_weight"])
def test_a_metric_colours_the_cells(lasting: Page, address: str, name: str) -> None:
    found = open_overview(lasting, address, heads=())
    info = HEAD_METRICS[name].info
    choose_cells(lasting, info.label)
    values = found.values_of(name)
    for head in (Head(0, 0), Head(1, 3), Head(2, 1)):
        x, y, edge = corner(lasting, head, (3, 4))
        colour = colour_at(lasting, x + edge / 2, y + edge / 2)
        expected = expected_colour(values[head.layer, head.head] / values.max())
        assert np.abs(colour[:3] - expected).max() <= 2  # four digits of each value travel
    unit = "" if info.unit == "probability" else f" {info.unit}"
    expect(lasting.locator("#overview-legend")).to_have_text(f"0{values.max():.2g}{unit}")
    expect(lasting.get_by_text("Colours", exact=True)).to_be_hidden()
    fragment = lasting.evaluate("window.location.hash")
    assert permalink.decode(fragment).cells == name


def test_hovering_enlarges_a_head_and_tells_its_numbers(lasting: Page, address: str) -> None:
    found = open_overview(lasting, address, heads=(Head(1, 3),))
    settle(lasting)
    hover(lasting, Head(1, 3), (3, 4))
    card = lasting.locator(".overview-card")
    expect(card.locator("strong")).to_have_text("L1H3")
    expect(card.locator(".overview-chosen")).to_have_text("chosen")
    said = dict(
        zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True)
    )
    assert list(said) == [metric.info.label for metric in HEAD_METRICS.values()]
    for name, metric in HEAD_METRICS.items():
        number = float(said[metric.info.label].split()[0])
        assert number == pytest.approx(found.values_of(name)[1, 3], rel=6e-3)  # three digits
    assert said["Mean distance"].endswith(" positions")
    hover(lasting, Head(0, 0), (3, 4))
    expect(card.locator("strong")).to_have_text("L0H0")
    expect(card.locator(".overview-chosen")).to_have_text("")
    lasting.locator("#prompt-text").hover()
    expect(card).to_be_hidden()


def test_a_click_chooses_a_head_and_another_takes_it_out(lasting: Page, address: str) -> None:
    open_overview(lasting, address, heads=(Head(1, 3),))
    settle(lasting)
    pills = lasting.locator(".heads-select .mantine-Pill-root")
    expect(pills).to_have_text(["L1H3"])
    click(lasting, Head(2, 0), (3, 4))
    expect(pills).to_have_text(["L1H3", "L2H0"])
    click(lasting, Head(1, 3), (3, 4))
    expect(pills).to_have_text(["L2H0"])
    lasting.get_by_text("Matrix", exact=True).click()
    expect(lasting.locator(".map-card [role=img]")).to_have_attribute(
        "aria-label", "Attention of head L2H0"
    )
    expect(lasting.locator("canvas.overview-grid")).to_be_hidden()
    lasting.get_by_text("Overview", exact=True).click()
    expect(lasting.locator("canvas.overview-grid")).to_be_visible()
    expect(lasting.locator(".map-card")).to_be_hidden()


def test_chosen_heads_are_outlined(lasting: Page, address: str) -> None:
    open_overview(lasting, address, heads=())
    settle(lasting)
    x, y, edge = corner(lasting, Head(2, 0), (3, 4))
    before = colour_at(lasting, x - 1, y + edge / 2)
    click(lasting, Head(2, 0), (3, 4))
    expect(lasting.locator(".heads-select .mantine-Pill-root")).to_have_text(["L2H0"])
    settle(lasting)
    accent = colour_at(lasting, x - 1, y + edge / 2)
    assert not np.array_equal(before, accent)
    assert np.abs(accent[:3] - [0xD5, 0x5E, 0x00]).max() <= 8


def test_keys_go_from_head_to_head_and_choose(lasting: Page, address: str) -> None:
    open_overview(lasting, address, heads=())
    settle(lasting)
    lasting.locator("canvas.overview-grid").focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        lasting.keyboard.press(key)
    expect(lasting.locator(".overview-card strong")).to_have_text("L0H1")
    lasting.keyboard.press("Enter")
    expect(lasting.locator(".heads-select .mantine-Pill-root")).to_have_text(["L0H1"])
    lasting.keyboard.press("Escape")
    expect(lasting.locator(".overview-card")).to_be_hidden()


def test_another_prompt_is_read_and_nothing_is_sent_twice(
    lasting: Page, address: str, sizes: list[int]
) -> None:
    open_overview(lasting, address, heads=())
    note = lasting.locator("#overview-note")
    expect(note).to_contain_text("12 heads")
    expect(note).not_to_contain_text("largest of")
    lasting.locator("#prompt-text").fill("The cat sat on the mat. " * 12)
    lasting.get_by_role("button", name="Run", exact=True).click()
    expect(note).to_contain_text("each cell the largest of")
    settle(lasting)
    sizes.clear()
    lasting.get_by_role("button", name="Display").press("Enter")
    lasting.get_by_text("per map", exact=True).click()
    lasting.keyboard.press("Escape")
    click(lasting, Head(0, 0), (3, 4))
    expect(lasting.locator(".heads-select .mantine-Pill-root")).to_have_text(["L0H0"])
    choose_cells(lasting, "Entropy")
    assert max(sizes) < 60_000  # the map of the head chosen, and no thumbnails


@pytest.fixture
def held_at_a_layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have reading wait after its first layer until the event is set, or reading is cancelled."""
    go_on = threading.Event()
    read = Overviews._read

    def held(self: Overviews, reading: Reading, *asked: Any) -> None:
        *what, tell, cancel = asked

        def told(progress: Progress) -> None:
            tell(progress)
            while progress.done == 1 and not go_on.wait(0.05):
                if cancel.is_set() or reading.cancel.is_set():
                    return
                tell(progress)

        read(self, reading, *what, told, cancel)

    monkeypatch.setattr(Overviews, "_read", held)
    yield go_on
    go_on.set()


def open_waiting(page: Page, address: str, prompt: str) -> None:
    asked = View("llama", prompt, heads=(Head(0, 0),), picture="overview")
    page.goto(address + "#" + str(permalink.encode(asked)))
    expect(page.locator("#wait-status")).to_contain_text("layer 1 of 3")


def test_progress_is_shown_and_reading_can_be_cancelled_and_resumed(
    quiet: Page, address: str, held_at_a_layer: threading.Event
) -> None:
    open_waiting(quiet, address, "The first prompt that is read slowly")
    quiet.get_by_role("button", name="Cancel", exact=True).first.click()
    expect(quiet.locator("#overview-note")).to_contain_text("Cancelled after 4 of 12 heads")
    expect(quiet.locator("#wait-strip")).to_be_hidden()
    expect(quiet.locator("#wait-cancelled")).to_be_visible()
    settle(quiet)
    click(quiet, Head(0, 2), (3, 4))  # what was read can be used, and is not read again for it
    expect(quiet.locator(".heads-select .mantine-Pill-root")).to_have_text(["L0H0", "L0H2"])
    numbers = quiet.locator(".prediction-numbers, #prediction-figure .main-svg")
    expect(numbers.first).to_be_visible()
    expect(quiet.locator("#wait-strip")).to_be_hidden()
    expect(quiet.locator("#wait-cancelled")).to_be_hidden()
    held_at_a_layer.set()
    quiet.get_by_role("button", name="Read all heads").click()
    expect(quiet.locator("#overview-note")).to_contain_text("12 heads. Rows")
    expect(quiet.get_by_role("button", name="Read all heads")).to_be_hidden()


def test_going_to_another_picture_stops_the_reading(
    quiet: Page, address: str, held_at_a_layer: threading.Event
) -> None:
    open_waiting(quiet, address, "The second prompt that is read slowly")
    quiet.get_by_text("Matrix", exact=True).click()
    expect(quiet.locator(".map-card .main-svg").first).to_be_visible()
    quiet.get_by_text("Overview", exact=True).click()
    expect(quiet.locator("#wait-status")).to_contain_text("layer 1 of 3")
    held_at_a_layer.set()
    expect(quiet.locator("#overview-note")).to_contain_text("12 heads. Rows")
    expect(quiet.locator("#wait-strip")).to_be_hidden()


def test_another_prompt_takes_the_place_of_the_one_being_read(
    quiet: Page, address: str, held_at_a_layer: threading.Event
) -> None:
    open_waiting(quiet, address, "The third prompt that is read slowly")
    quiet.locator("#prompt-text").fill("The cat sat on the mat. " * 12)
    quiet.get_by_role("button", name="Run", exact=True).click()
    expect(quiet.locator("#token-count")).not_to_have_text("12 tokens")
    held_at_a_layer.set()
    expect(quiet.locator("#overview-note")).to_contain_text("each cell the largest of")
    expect(quiet.locator("#wait-strip")).to_be_hidden()


def test_a_deep_model_stands_in_stacks_that_fit_the_window(lasting: Page, address: str) -> None:
    found = open_overview(lasting, address, model="deep", heads=())
    assert found.values.shape[1:] == (16, 16)
    box = lasting.locator("canvas.overview-grid").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 800
    assert box["width"] > 400


def exported(page: Page, item: str) -> str:
    """Choose an item of the Export menu; return what is in the file."""
    page.get_by_role("button", name="Export", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=item).click()
    return Path(download.value.path()).read_text("utf-8")


def test_the_overview_is_exported_as_a_picture_and_in_numbers(lasting: Page, address: str) -> None:
    found = open_overview(lasting, address, heads=(Head(1, 2),))
    svg = exported(lasting, "Picture as SVG")
    said = "".join(ElementTree.fromstring(svg).itertext())
    assert all(label in said for label in ("L0", "L2", "H3", "Attention of each head"))
    assert svg.count("<image") == 1
    assert svg.count("<path") == 1  # around the chosen head
    choose_cells(lasting, "Entropy")
    assert "Entropy" in exported(lasting, "Picture as SVG")
    table = pd.read_csv(io.StringIO(exported(lasting, "All numbers as CSV")))
    np.testing.assert_allclose(table["entropy"], found.values_of("entropy").reshape(-1), rtol=1e-5)
