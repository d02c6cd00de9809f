"""Fixtures of the tests of the page."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

TIMEOUT = 60_000  # ms


@pytest.fixture
def quiet(browser: Browser) -> Iterator[Page]:
    """A page of its own whose console stays empty."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    page.close()
    assert said == []
