"""The pictures of the attention tab in Chromium: switching them, and what each shows."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
from page_fixtures import Shelf, make_page, serving
from playwright.sync_api import Browser, Locator, Page, expect

from app import permalink
from app.view import View
from models.language_model import LanguageModel
from models.types import Head

TIMEOUT = 60_000  # ms
HEADS = (Head(0, 0), Head(1, 2), Head(2, 1))
ROW, PAD = 16, 6  # px: see assets/lines.js

pytestmark = pytest.mark.browser


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


def open_view(page: Page, address: str, view: View) -> None:
    page.goto(address + "#" + str(permalink.encode(view)))


def choose(page: Page, picture: str) -> None:
    page.get_by_role("radiogroup", name="How attention is drawn").get_by_text(
        picture, exact=True
    ).click()


def canvas(page: Page) -> Locator:
    painted = page.locator(".lines canvas[data-painted]")
    expect(painted).to_be_visible()
    return painted


def point_at(page: Page, token: int, side: str) -> tuple[float, float]:
    """Return where a token of the lines stands: a query on the left or a key on the right."""
    box = canvas(page).bounding_box()
    assert box is not None
    x = box["x"] + (0.1 if side == "left" else 0.9) * box["width"]
    return x, box["y"] + PAD + (token + 0.5) * ROW


def test_switching_the_picture_sends_no_map_again_and_keeps_the_choice(
    quiet: Page, address: str, sizes: list[int]
) -> None:
    open_view(quiet, address, View("long", heads=HEADS, threshold=0.05))
    expect(quiet.locator(".map-card .hm image")).to_have_count(3)
    sizes.clear()
    choose(quiet, "Lines")
    canvas(quiet)
    expect(quiet.locator(".map-card").first).to_be_hidden()
    expect(quiet.get_by_text("Size", exact=True)).to_be_hidden()
    expect(quiet.locator(".lines-head")).to_have_text(["L0H0", "L1H2", "L2H1"])
    expect(quiet.locator("#threshold-reading")).to_have_text("0.05")
    quiet.wait_for_function("location.hash.length > 10")
    choose(quiet, "Matrix")
    expect(quiet.locator(".map-card .hm image")).to_have_count(3)
    expect(quiet.get_by_text("Size", exact=True)).to_be_visible()
    assert max(sizes, default=0) < 3_000  # links and the like; a map is more


def test_a_link_opens_with_its_picture(quiet: Page, address: str) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture="lines", token=3))
    expect(quiet.locator(".lines-reading")).to_contain_text("3 ·and looks at")
    expect(quiet.locator(".map-card")).to_have_count(0)  # drawn when they are looked at
    choose(quiet, "Matrix")
    expect(quiet.locator(".map-card .hm image")).to_have_count(3)


def said_weights(said: str) -> dict[str, list[tuple[int, float]]]:
    """Read "17 ·to looks at L0H0: 4 ·John 0.5, 3 ·and 0.2 · L1H2: ..."."""
    found: dict[str, list[tuple[int, float]]] = {}
    for part in re.split(r" · (?=L\d)", re.split(r"looks at |looked at by ", said)[1]):
        head, _, keys = part.partition(": ")
        pairs = re.findall(r"(\d+) \S+ (\d\.\d+|1)(?:, |$)", keys)
        found[head] = [(int(key), float(weight)) for key, weight in pairs]
    return found


def expect_strongest(said: str, weights: np.ndarray) -> None:
    """Check that what is said of each head are its two largest weights, [n_heads, n]."""
    named = said_weights(said)
    assert list(named) == [str(head) for head in HEADS]
    for of_head, pairs in zip(weights, named.values(), strict=True):
        order = np.argsort(-of_head, kind="stable")[:2]
        assert [key for key, _ in pairs] == order.tolist()
        np.testing.assert_allclose([w for _, w in pairs], of_head[order], rtol=6e-3)


def test_pointing_at_a_query_or_a_key_says_its_weights(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture="lines"))
    prompt = model.tokenize(View().prompt)
    weights = model.attention(prompt, HEADS).values
    reading = quiet.locator(".lines-reading")
    quiet.mouse.move(*point_at(quiet, 16, "left"))
    expect(reading).to_contain_text("16 ·drink looks at")
    expect_strongest(reading.text_content() or "", weights[:, 16])
    quiet.mouse.move(*point_at(quiet, 3, "right"))
    expect(reading).to_contain_text("3 ·and is looked at by")
    expect_strongest(reading.text_content() or "", weights[:, :, 3])
    quiet.mouse.move(5, 5)
    expect(reading).to_be_empty()
