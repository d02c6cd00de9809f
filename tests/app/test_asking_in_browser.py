"""Questions about what is shown, in Chromium: why a head looks there, and what its parts add."""

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from page_fixtures import Shelf, make_page, serving
from playwright.sync_api import Page, expect

from app import permalink
from app.streams import Streams
from app.view import View
from models.types import Head

TIMEOUT = 60_000  # ms
HEADS = (Head(1, 2), Head(2, 1))
LONG = " ".join(f"The cat number {i} sat on the mat." for i in range(30))

pytestmark = [pytest.mark.browser, pytest.mark.thorough]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_page("long")) as url:
        yield url


def open_view(page: Page, address: str, view: View) -> None:
    page.goto(address + "#" + str(permalink.encode(view)))


def test_a_dot_of_several_weights_is_asked_about_by_its_largest(quiet: Page, address: str) -> None:
    open_view(quiet, address, View("long", LONG, heads=HEADS))
    expect(quiet.locator(".map-card .hm image")).to_have_count(2)
    model = Shelf().get("long")
    prompt = model.tokenize(LONG)
    weights = model.attention(prompt, HEADS[:1]).values[0]
    box = quiet.locator(".map-card .nsewdrag").first.bounding_box()
    assert box is not None
    x, y = box["x"] + 0.3 * box["width"], box["y"] + 0.7 * box["height"]
    quiet.mouse.move(x, y)
    hover = quiet.locator(".map-card .hoverlayer").first
    expect(hover).to_contain_text("largest")
    said = hover.text_content() or ""
    ranges = [[int(n) for n in found] for found in re.findall(r"(\d+)–(\d+)", said)]
    quiet.mouse.click(x, y)
    panel = quiet.locator("#explain-body")
    (first, end), (left, right) = ranges[:2]
    expect(panel).to_contain_text(f"The largest of the {end - first + 1}×{end - first + 1} weights")
    cell = weights[first : end + 1, left : right + 1]
    query, key = divmod(int(cell.argmax()), cell.shape[1])
    expect(panel.locator(".pair-line .token")).to_have_text(
        [prompt.unique_labels[first + query], prompt.unique_labels[left + key]]
    )
    expect(panel).to_contain_text("the strongest key")
    expect(quiet.locator("#token-panel")).to_be_hidden()
    quiet.get_by_role("radiogroup", name="How attention is drawn").get_by_text("Text").click()
    rows = quiet.locator(".text-rows")
    expect(rows).to_have_attribute("data-token", str(first + query))


def test_the_attribution_says_that_it_computes_and_asks_for_what_counts(
    quiet: Page, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    read = Streams.get

    def slow(*arguments: Any) -> Any:
        may_go_on.wait(TIMEOUT / 1000)
        return read(*arguments)

    monkeypatch.setattr(Streams, "get", slow)
    open_view(quiet, address, View("long", heads=HEADS, tab="attribution"))
    waiting = quiet.get_by_text("Reading what each part of the model adds")
    expect(waiting).to_be_visible()
    may_go_on.set()
    expect(quiet.locator("#attribution-terms li").first).to_be_visible()
    expect(waiting).to_be_hidden()
    target = quiet.get_by_role("textbox", name="Target: one token")
    versus = quiet.get_by_role("textbox", name="less: one token")
    expect(versus).to_be_visible()
    quiet.get_by_text("Logit lens", exact=True).click()
    expect(target).to_be_visible()
    expect(versus).to_be_hidden()
    quiet.get_by_text("Tokens by head", exact=True).click()
    expect(target).to_be_hidden()
    effects = quiet.locator(".token-effect small")
    expect(effects).to_have_count(2 * 2 * 5)
    assert re.fullmatch(r"\+\d+\.\d\d", effects.first.inner_text())
