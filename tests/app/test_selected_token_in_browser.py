"""One selected token for all pictures, in Chromium: it stays when the picture is switched."""

from collections.abc import Iterator

import pytest
from page_fixtures import make_page, serving
from playwright.sync_api import Page, expect

from app import permalink
from app.view import View
from models.types import Head

HEADS = tuple(Head(layer, head) for layer in range(3) for head in range(4))
ACCENTED = """() => [...document.querySelectorAll('.map-card .js-plotly-plot')].map(
    (plot) => (plot.layout.shapes || []).filter((shape) => shape.line.width === 2)
        .map((shape) => shape.y0 + 0.5))"""
"""Of each map, the rows with a frame of the selected token."""
LONG = " ".join(f"The cat number {i} sat on the mat." for i in range(30))

pytestmark = [pytest.mark.browser, pytest.mark.thorough]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_page("long")) as url:
        yield url


def choose(page: Page, picture: str) -> None:
    page.get_by_role("radiogroup", name="How attention is drawn").get_by_text(
        picture, exact=True
    ).click()


def open_view(page: Page, address: str, view: View) -> None:
    page.goto(address + "#" + str(permalink.encode(view)))


def test_all_pictures_show_the_token_that_was_selected_last(quiet: Page, address: str) -> None:
    open_view(quiet, address, View("long", heads=HEADS[:2], token=3))
    expect(quiet.locator(".map-card .hm image")).to_have_count(2)
    quiet.wait_for_function(f"() => JSON.stringify(({ACCENTED})()) === '[[3],[3]]'")
    choose(quiet, "Lines")
    reading = quiet.locator(".lines-reading")
    expect(reading).to_contain_text("3 ·and looks at")
    choose(quiet, "Text")
    quiet.locator(".text-flow").first.locator(".text-token").nth(4).click()
    quiet.locator(".text-rows").press("ArrowRight")
    expect(quiet.locator(".text-rows")).to_have_attribute("data-token", "5")
    # A click in the text selects a token; only those in lists of tokens open the token's panel.
    expect(quiet.locator("#token-panel")).to_be_hidden()
    quiet.locator(".text-title").first.click()
    expect(quiet.locator("#token-panel")).to_be_hidden()
    choose(quiet, "Lines")
    expect(reading).to_contain_text("5 ")
    choose(quiet, "Matrix")
    quiet.wait_for_function(f"() => JSON.stringify(({ACCENTED})()) === '[[5],[5]]'")


def test_lines_scroll_to_the_kept_token_and_say_all_that_is_shown(
    quiet: Page, address: str
) -> None:
    view = View("long", LONG, heads=HEADS[:9], picture="lines", token=150)
    open_view(quiet, address, view)
    expect(quiet.locator(".lines-reading")).to_contain_text("150 ")
    quiet.wait_for_function(
        """() => {
            const { scrollTop, clientHeight } = document.querySelector('.lines-scroller');
            const y = 6 + 150.5 * 16;
            return scrollTop < y && y < scrollTop + clientHeight;
        }"""
    )
    said = quiet.locator(".lines-reading")
    assert said.evaluate("place => place.scrollHeight <= place.clientHeight")
    assert all(str(head) in (said.text_content() or "") for head in HEADS[:7])
    # Two heads beyond the seven hues: each takes the place of the one of its hue.
    expect(quiet.locator(".lines-swap")).to_contain_text("7 at once")
    quiet.get_by_role("button", name="L1H3", exact=True).click()
    pressed = quiet.locator(".lines-head[aria-pressed=true]")
    expect(pressed).to_have_text([str(head) for head in HEADS[1:8]])


def test_text_shows_all_heads_of_a_short_prompt_and_more_of_a_long_one_when_asked(
    quiet: Page, address: str
) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture="text"))
    expect(quiet.locator(".text-row")).to_have_count(12)
    expect(quiet.locator(".text-note")).to_be_empty()
    many = " ".join(f"The cat number {i} sat on the mat." for i in range(210))
    open_view(quiet, address, View("long", many, heads=HEADS[:6], picture="text"))
    quiet.reload()
    more = quiet.get_by_role("button", name="Show more", exact=True)
    expect(more).to_be_visible()
    before = quiet.locator(".text-row").count()
    assert before < 6
    more.click()
    expect(quiet.locator(".text-row")).to_have_count(6)
    expect(more).to_be_hidden()
