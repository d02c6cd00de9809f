"""The pictures of the attention tab in Chromium: switching them, and what each shows."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from page_fixtures import Shelf, make_page, serving
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from app import permalink
from app.view import View
from models.attention_flow import moved_attention
from models.language_model import LanguageModel
from models.types import Head

HEADS = (Head(0, 0), Head(1, 2), Head(2, 1))
ROW, PAD = 16, 6  # px: see assets/lines.js

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
    quiet.get_by_role("button", name="Display").click()
    expect(quiet.get_by_text("Colours", exact=True)).to_be_visible()
    expect(quiet.get_by_text("Size", exact=True)).to_be_hidden()
    quiet.keyboard.press("Escape")
    expect(quiet.locator(".lines-head")).to_have_text(["L0H0", "L1H2", "L2H1"])
    expect(quiet.locator("#threshold-reading")).to_have_text("0.05")
    quiet.wait_for_function("() => location.hash.length > 10")
    choose(quiet, "Matrix")
    expect(quiet.locator(".map-card .hm image")).to_have_count(3)
    quiet.get_by_role("button", name="Display").press("Enter")
    expect(quiet.get_by_text("Size", exact=True)).to_be_visible()
    # What is opened takes the keys once the focus is in it.
    quiet.wait_for_function(
        "() => document.querySelector('.display-tools').contains(document.activeElement)"
    )
    quiet.keyboard.press("Escape")
    expect(quiet.get_by_text("Size", exact=True)).to_be_hidden()
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


def test_a_token_of_the_lines_is_kept_by_a_click_and_moved_by_the_keyboard(
    quiet: Page, address: str
) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture="lines"))
    reading = quiet.locator(".lines-reading")
    quiet.mouse.click(*point_at(quiet, 3, "right"))
    quiet.mouse.move(5, 5)
    expect(reading).to_contain_text("3 ·and is looked at by")
    quiet.keyboard.press("ArrowDown")
    expect(reading).to_contain_text("4 ·John is looked at by")
    quiet.keyboard.press("ArrowLeft")
    expect(reading).to_contain_text("4 ·John looks at")
    quiet.keyboard.press("Escape")
    expect(reading).to_be_empty()


def n_lines(page: Page) -> int:
    return int(canvas(page).get_attribute("data-lines") or 0)


def visible_lines(weights: np.ndarray, zmax: float) -> int:
    """Count the weights [n_heads, query, key] whose lines are strong enough to be painted."""
    return int((weights / zmax >= 0.04 - 1e-5).sum())


def test_a_head_is_hidden_by_the_legend(quiet: Page, address: str, model: LanguageModel) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture="lines"))
    weights = model.attention(model.tokenize(View().prompt), HEADS).values
    zmax = float(weights[:, 1:].max())
    assert n_lines(quiet) == visible_lines(weights, zmax)
    quiet.get_by_role("button", name="L1H2", exact=True).click()
    expect(canvas(quiet)).to_have_attribute("data-lines", str(visible_lines(weights[[0, 2]], zmax)))


def test_weak_lines_go_with_the_threshold(quiet: Page, address: str, model: LanguageModel) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture="lines", threshold=0.3))
    weights = model.attention(model.tokenize(View().prompt), HEADS).values
    assert 0 < n_lines(quiet) == int((weights >= 0.3).sum())


def lit(page: Page, row: int) -> dict[int, float]:
    """Return the tokens of a row of the text that are lit, and how much, from 0 to 1."""
    shades = (
        page.locator(".text-flow")
        .nth(row)
        .locator(".text-token")
        .evaluate_all("tokens => tokens.map((token) => token.style.background)")
    )
    found = {i: re.search(r"(\d+)%", shade) for i, shade in enumerate(shades)}
    return {i: int(match[1]) / 70 for i, match in found.items() if match}


def expect_lit(page: Page, row: int, weights: np.ndarray, zmax: float) -> None:
    """Check the shades of a row, which have twenty levels, against the weights of one token."""
    largest = float(np.nanmax(weights))
    strength = np.nan_to_num(weights) / min(zmax, max(largest, zmax / 10))
    shades = lit(page, row)
    seen = [shades.get(i, 0.0) for i in range(len(weights))]
    np.testing.assert_allclose(seen, np.minimum(strength, 1), atol=0.035)  # half a level, rounded


def text_token(page: Page, row: int, i: int) -> Locator:
    return page.locator(".text-flow").nth(row).locator(".text-token").nth(i)


def test_text_lights_up_where_a_token_looks_and_who_looks_at_it(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture="text"))
    prompt = model.tokenize(View().prompt)
    weights = model.attention(prompt, HEADS).values
    zmax = float(weights[:, 1:].max())
    expect(quiet.locator(".text-row")).to_have_count(3)
    assert quiet.locator(".text-flow").first.text_content() == "".join(prompt.labels)
    expect(text_token(quiet, 0, len(prompt) - 1)).to_have_class("text-token selected")
    text_token(quiet, 1, 9).hover()
    expect(text_token(quiet, 0, 9)).to_have_class("text-token selected")
    for row in range(3):
        expect_lit(quiet, row, weights[row, 9], zmax)
    # Kept by a click; pointing then says the weight of what is pointed at.
    text_token(quiet, 1, 9).click()
    text_token(quiet, 1, 8).hover()
    tip = quiet.locator(".text-tip")
    expect(tip).to_contain_text(f"8 {prompt.labels[8]}")
    said = [float(w) for w in re.findall(r"L\dH\d (\S+)", tip.inner_text())]
    np.testing.assert_allclose(said, weights[:, 9, 8], rtol=6e-3)
    quiet.get_by_text("is looked at by", exact=True).click()
    expect(quiet.locator(".text-rows")).to_have_attribute("data-token", "9")
    quiet.wait_for_function(
        "() => document.querySelectorAll('.text-token')[0].style.background === ''"
    )
    for row in range(3):
        expect_lit(quiet, row, weights[row, :, 9], zmax)


def test_arrow_keys_move_the_selected_token_of_the_text(quiet: Page, address: str) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture="text", token=5))
    rows = quiet.locator(".text-rows")
    expect(rows).to_have_attribute("data-token", "5")
    rows.focus()
    for key, token in (("ArrowRight", "6"), ("ArrowLeft", "5"), ("End", "17"), ("Home", "0")):
        quiet.keyboard.press(key)
        expect(rows).to_have_attribute("data-token", token)
    quiet.keyboard.press("Escape")
    expect(rows).to_have_attribute("data-token", "17")  # the one whose prediction is read


def test_the_first_token_can_be_left_out_of_all_pictures(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    view = View("long", heads=HEADS, picture="text", token=9, sink="renormalise")
    open_view(quiet, address, view)
    weights = model.attention(model.tokenize(View().prompt), HEADS).values
    rest = weights[:, :, 1:].astype(np.float64)
    without = np.full(weights.shape, np.nan)
    without[:, 1:, 1:] = rest[:, 1:] / rest[:, 1:].sum(axis=-1, keepdims=True)
    zmax = float(np.nanmax(without[:, 2:]))
    expect(quiet.locator(".text-rows")).to_have_attribute("data-lit", "yes")
    for row in range(3):
        expect_lit(quiet, row, without[row, 9], zmax)
    choose(quiet, "Lines")
    assert n_lines(quiet) == visible_lines(np.nan_to_num(without), zmax)
    choose(quiet, "Matrix")
    title = quiet.locator(".map-card .gtitle").first
    expect(title).to_contain_text("renormalised without first token")


def test_weights_of_a_long_prompt_come_for_the_token_that_is_selected(
    quiet: Page, address: str, model: LanguageModel, sizes: list[int]
) -> None:
    text = " ".join(f"The cat number {i} sat on the mat." for i in range(90))
    prompt = model.tokenize(text)
    assert len(prompt) > 1024
    open_view(quiet, address, View("long", text, heads=HEADS, picture="text", token=40))
    rows = quiet.locator(".text-rows")
    expect(rows).to_have_attribute("data-lit", "yes")
    weights = model.attention(prompt, HEADS).values
    zmax = float(weights[:, 1:].max())
    for row in range(3):
        expect_lit(quiet, row, weights[row, 40], zmax)
    sizes.clear()
    rows.focus()
    quiet.keyboard.press("ArrowRight")
    expect(rows).to_have_attribute("data-token", "41")
    expect(rows).to_have_attribute("data-lit", "yes")
    for row in range(3):
        expect_lit(quiet, row, weights[row, 41], zmax)
    assert max(sizes) < 3 * 2.8 * len(prompt) + 3_000  # a row of each head, and the link
    choose(quiet, "Lines")
    expect(quiet.locator(".lines-reading")).to_contain_text("41 ")
    expect_strongest(quiet.locator(".lines-reading").text_content() or "", weights[:, 41])


def test_the_strongest_lines_of_a_long_prompt_are_shown(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    text = " ".join(f"The cat number {i} sat on the mat." for i in range(90))
    prompt = model.tokenize(text)
    assert len(prompt) > 1024
    weights = model.attention(prompt, HEADS).values
    open_view(quiet, address, View("long", text, heads=HEADS, picture="lines", threshold=0.2))
    assert 0 < n_lines(quiet) == int((weights >= 0.2).sum()) < 12_000
    expect(quiet.locator(".lines-note")).to_contain_text("The strongest")
    quiet.get_by_role("button", name="L1H2", exact=True).click()
    expected = int((weights[[0, 2]] >= 0.2).sum())
    expect(canvas(quiet)).to_have_attribute("data-lines", str(expected))


def test_moved_norms_are_said_in_all_pictures(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    view = View("long", heads=HEADS, picture="lines", values="moved", token=9)
    open_view(quiet, address, view)
    norms = moved_attention(model, model.tokenize(View().prompt), HEADS).values
    assert norms.max() > 1
    reading = quiet.locator(".lines-reading")
    expect(reading).to_contain_text("L0H0 moved: ")
    said = (reading.text_content() or "").partition(" looks at ")[2].split(" · ")
    for of_head, words in zip(norms[:, 9], said, strict=True):
        numbers = [float(number) for number in re.findall(r"\S+ \S+ ([\d.]+)(?:,|$)", words)]
        np.testing.assert_allclose(numbers, np.sort(of_head)[:-3:-1], rtol=6e-3)
    choose(quiet, "Text")
    zmax = float(norms[:, 1:].max())
    for row in range(3):
        expect_lit(quiet, row, norms[row, 9], zmax)
    choose(quiet, "Matrix")
    expect(quiet.locator(".map-card .gtitle").first).to_contain_text("L0H0 moved")
    expect(quiet.locator("#threshold-reading")).to_have_text("0 % of max")
    box = quiet.locator(".map-card .nsewdrag").first.bounding_box()
    assert box is not None
    quiet.mouse.move(box["x"] + box["width"] * 4.5 / 18, box["y"] + box["height"] * 9.5 / 18)
    hover = quiet.locator(".map-card .hoverlayer").first
    expect(hover).to_contain_text("norm")
    norm = float((hover.text_content() or "").rpartition(" ")[2])
    assert norm == pytest.approx(float(norms[0, 9, 4]), rel=6e-3)  # three digits


def test_switching_what_is_shown_draws_other_maps(quiet: Page, address: str) -> None:
    open_view(quiet, address, View("long", heads=(*HEADS, Head(2, 3))))
    expect(quiet.locator(".map-card .hm image")).to_have_count(4)
    quiet.get_by_role("textbox", name="Show: attention").click()
    quiet.get_by_role("option", name="rollout").click()
    expect(quiet.locator(".map-card")).to_have_count(3)  # one a layer
    expect(quiet.locator(".map-card .gtitle").last).to_contain_text("rollout to L2")
    expect(quiet.get_by_role("button", name="Take ")).to_have_count(0)
    expect(quiet.locator("#attention-note")).to_contain_text("one map a layer")
    quiet.get_by_role("textbox", name="Show: attention").click()
    quiet.get_by_role("option", name="× moved norm").click()
    expect(quiet.locator(".map-card")).to_have_count(4)
    expect(quiet.locator(".map-card .gtitle").last).to_contain_text("L2H3 moved")
    expect(quiet.get_by_role("button", name="Take ")).to_have_count(4)


def toolbar_rows(page: Page) -> int:
    """Count the rows that the tools of the picture stand in."""
    middles = page.locator(".tab-body > .toolbar > *").evaluate_all(
        """tools => tools.map((tool) => tool.getBoundingClientRect())
            .filter((box) => box.width && box.height > 4).map((box) => box.top + box.height / 2)"""
    )
    rows: list[float] = []
    for middle in sorted(middles):
        if not rows or middle - rows[-1] > 12:  # px; tools of one row are centred
            rows.append(middle)
    return len(rows)


@pytest.mark.parametrize("picture", ["Matrix", "Lines", "Text", "Overview"])
def test_the_tools_of_a_picture_take_two_rows(quiet: Page, address: str, picture: str) -> None:
    open_view(quiet, address, View("long", heads=HEADS, values="moved", threshold=0.25))
    first_is_drawn(quiet, "Matrix")
    choose(quiet, picture)
    assert toolbar_rows(quiet) <= 2


@pytest.mark.parametrize("picture", ["Matrix", "Lines", "Text"])
def test_the_tools_for_a_pair_of_sentences_find_room(
    quiet: Page, address: str, picture: str
) -> None:
    shown = {"heads": HEADS[:1], "values": "moved", "threshold": 0.25}
    open_view(quiet, address, View("bert", "The cat sat", second="Mary gave it", **shown))
    first_is_drawn(quiet, "Matrix")
    sentences = quiet.get_by_text("Sentences", exact=True)
    expect(sentences).to_be_visible()
    choose(quiet, picture)
    expect(sentences).to_be_visible()
    assert toolbar_rows(quiet) <= 2


def exported(page: Page, item: str) -> tuple[str, bytes]:
    """Choose an item of the Export menu; return the file's name and what is in it."""
    page.get_by_role("button", name="Export", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=item).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def first_is_drawn(page: Page, picture: str) -> None:
    drawn = {"Matrix": ".map-card .hm image", "Lines": ".lines canvas", "Text": ".text-key"}
    expect(page.locator(drawn[picture]).first).to_be_visible()


@pytest.mark.parametrize("picture", ["Matrix", "Lines", "Text"])
def test_each_picture_is_exported(quiet: Page, address: str, picture: str) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture=picture.lower()))
    first_is_drawn(quiet, picture)
    name, svg = exported(quiet, "Picture as SVG")
    assert name == f"attention-{picture.lower()}.svg"
    assert svg.startswith(b"<svg ")
    tree = ElementTree.fromstring(svg)  # is well-formed, nested maps included
    said = "".join(tree.itertext())
    assert all(str(head) in said for head in HEADS)
    assert "·drink" in said
    name, png = exported(quiet, "Picture as PNG")
    assert name == f"attention-{picture.lower()}.png"
    with Image.open(io.BytesIO(png)) as image:
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(10**6) or ()) > 10


def test_data_and_a_page_of_its_own_are_exported(
    quiet: Page, address: str, model: LanguageModel
) -> None:
    open_view(quiet, address, View("long", heads=HEADS, picture="lines"))
    canvas(quiet)
    maps = model.attention(model.tokenize(View().prompt), HEADS)
    name, data = exported(quiet, "All numbers as JSON")
    assert (name, json.loads(data)["values"]) == ("attention.json", maps.to_json()["values"])
    name, data = exported(quiet, "All numbers as CSV")
    assert (name, data.count(b"\n")) == ("attention.csv", 1 + maps.values.size)
    name, data = exported(quiet, "Page as one HTML file")
    assert name == "attention.html"
    assert b'"picture": "lines"' in data


def test_one_map_is_exported_by_its_own_menu(quiet: Page, address: str) -> None:
    open_view(quiet, address, View("long", heads=HEADS))
    first_is_drawn(quiet, "Matrix")
    for kind, n_lines in (("CSV", 1 + 18 * 18), ("SVG", None)):
        quiet.get_by_role("button", name="Export L1H2").click()
        with quiet.expect_download() as download:
            quiet.get_by_role("menuitem", name=kind, exact=True).click()
        assert download.value.suggested_filename == f"attention-1.2.{kind.lower()}"
        content = Path(download.value.path()).read_text("utf-8")
        if n_lines is None:
            assert "L1H2" in content
            assert "L0H0" not in content
        else:
            assert content.count("\n") == n_lines


@pytest.mark.parametrize("picture", ["lines", "text"])
def test_without_heads_a_picture_gives_way_to_what_to_do(
    quiet: Page, address: str, picture: str
) -> None:
    open_view(quiet, address, View("long", heads=(), picture=picture))
    expect(quiet.locator("#attention-empty")).to_be_visible()
    place = quiet.locator(f"[data-place={picture}]")
    expect(place).to_be_hidden()
    quiet.get_by_role("textbox", name="Add heads").fill("1.2")
    quiet.keyboard.press("Enter")
    expect(place).to_be_visible()
    expect(place).to_contain_text("L1H2")
