"""What draws the page's components is told once of many changes of Dash's store, not of each."""

from collections.abc import Iterator

import pytest
from page_fixtures import make_page, serving
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_page()) as url:
        yield url


def test_a_burst_of_actions_is_drawn_once(quiet: Page, address: str) -> None:
    quiet.goto(address)
    expect(quiet.locator(".map-card .main-svg").first).to_be_visible()
    counted = quiet.evaluate(
        """async () => {
            const [store] = window.dash_stores;
            let told = 0;
            store.subscribe(() => (told += 1));  // as what draws components does
            for (let i = 0; i < 50; i++) store.dispatch({ type: "nothing" });
            const during = told;
            await new Promise((resolve) => setTimeout(resolve, 50));
            return [during, told];
        }"""
    )
    assert counted == [0, 1]
