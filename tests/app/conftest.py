"""Fixtures of the tests of the page."""

from collections.abc import Iterator

import pytest
from page_fixtures import TIMEOUT, Heard, close, hear
from playwright.sync_api import Browser, BrowserContext, Page, expect


@pytest.fixture(scope="session")
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """The browser profile that pages are opened in."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    yield context
    context.close()


@pytest.fixture
def quiet(profile: BrowserContext) -> Iterator[Page]:
    """A page of its own whose console stays empty, and which asks no other host for anything."""
    heard = hear(profile.new_page())
    yield heard.page
    close(heard.page)
    assert heard.complaints == []


@pytest.fixture(scope="module")
def kept(profile: BrowserContext) -> Iterator[Heard]:
    heard = hear(profile.new_page())
    yield heard
    close(heard.page)
    assert heard.complaints == []  # since the last test


@pytest.fixture
def lasting(kept: Heard) -> Iterator[Page]:
    """A page that the tests of a module share, each opening a view of its own
    (`page_fixtures.show`); nothing is wrong with it (`Heard`)."""
    yield kept.page
    complaints = list(kept.complaints)
    kept.complaints.clear()
    assert complaints == []
