"""A long wait in Chromium: the strip shows how far it is, and Cancel ends it."""

import threading
from collections.abc import Iterator

import pytest
from page_fixtures import make_page, serving
from playwright.sync_api import Page, expect

from app import ids, permalink
from app.view import View
from models import attention_tap
from models.pass_watch import LOOK_SECONDS, reached
from models.types import Head

SHORT, SLOW = "The key to the cabinets", "The cat sat on the mat"

pytestmark = pytest.mark.browser


@pytest.fixture
def address() -> Iterator[str]:
    with serving(make_page("llama")) as url:
        yield url


@pytest.fixture
def blocked_layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While the event is not set, the second layer of a pass waits until it ends."""
    open_again = threading.Event()
    open_again.set()

    def slowly(layer: int) -> None:
        reached(layer)
        while layer == 1 and not open_again.wait(LOOK_SECONDS):
            reached(layer)

    monkeypatch.setattr(attention_tap, "reached", slowly)
    yield open_again
    open_again.set()


@pytest.mark.parametrize("button", ["Compute again", "Run"])
def test_a_long_wait_is_shown_and_can_be_cancelled(
    quiet: Page, address: str, blocked_layer: threading.Event, button: str
) -> None:
    view = View("llama", SHORT, heads=(Head(0, 1), Head(2, 3)))
    quiet.goto(address + "#" + str(permalink.encode(view)))
    maps = quiet.locator(".map-card .main-svg")
    expect(maps.first).to_be_visible()
    strip, cancelled = quiet.locator(f"#{ids.WAIT_STRIP}"), quiet.locator(f"#{ids.WAIT_CANCELLED}")
    expect(strip).to_be_hidden()
    first_token = quiet.locator(".map-card .ytick text").first
    before = str(first_token.text_content())

    blocked_layer.clear()
    quiet.locator("#prompt-text").fill(SLOW)
    quiet.keyboard.press("Enter")
    expect(quiet.locator(f"#{ids.WAIT_STATUS}")).to_contain_text(
        "Running the prompt, layer 2 of 3, "
    )
    strip.get_by_role("button", name="Cancel").click()
    expect(quiet.locator(f"#{ids.ATTENTION_NOTE}")).to_contain_text("still the earlier maps")
    expect(quiet.locator(f"#{ids.PREDICTION_CAPTION}")).to_contain_text("still the earlier")
    expect(cancelled).to_contain_text("Cancelled.")
    expect(strip).to_be_hidden()
    expect(first_token).to_have_text(before)

    blocked_layer.set()
    quiet.get_by_role("button", name=button, exact=True).click()
    expect(quiet.locator(f"#{ids.ATTENTION_NOTE}")).to_contain_text("rows are queries")
    expect(quiet.locator(f"#{ids.PREDICTION_CAPTION}")).to_contain_text("(position")
    expect(cancelled).to_be_hidden()
    expect(strip).to_be_hidden()
