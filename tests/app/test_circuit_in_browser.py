"""The circuit tab in Chromium: discover, draw, thin out, point, click, save."""

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from page_fixtures import TIMEOUT, make_page, serving
from PIL import Image
from playwright.sync_api import Page, expect

from app import permalink
from app.view import View
from models.builtin import CACHE_VARIABLE
from models.types import Head

PROMPT = "When Mary and John went to the store, John gave a drink to"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        # The roles of heads are kept on disk.
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        with serving(make_page()) as url:
            yield url


@pytest.fixture
def tab(quiet: Page, address: str) -> Page:
    """The circuit tab of a page whose console stays empty."""
    view = View("llama", prompt=PROMPT, heads=(Head(2, 2),), tab="circuit")
    quiet.goto(f"{address}#{permalink.encode(view)}")
    expect(quiet.locator("#circuit-tokens .differs")).to_have_count(1)
    return quiet


def discover(page: Page) -> None:
    page.fill("#circuit-answer", " Mary")
    page.keyboard.press("Tab")
    page.fill("#circuit-distractor", " John")
    page.keyboard.press("Tab")
    page.click("#circuit-run")
    expect(page.locator("#circuit-headline")).to_contain_text("asked", timeout=TIMEOUT)
    expect(page.locator("#circuit-run")).to_be_enabled(timeout=TIMEOUT)
    # The proof comes with the picture of the result: until then what was found so far is drawn.
    expect(page.locator("#circuit-sentences")).to_contain_text("with the circuit alone")
    expect(page.locator("#circuit-picture svg")).to_be_visible()


def n_visible(page: Page, what: str) -> int:
    shown = "elements => elements.filter(element => element.style.display !== 'none').length"
    return int(page.locator(what).evaluate_all(shown))


def test_a_circuit_is_discovered_drawn_and_used(tab: Page) -> None:
    expect(tab.locator("#circuit-plan")).to_contain_text("Plan: 1 pair")
    expect(tab.locator("#circuit-proposed")).to_contain_text("proposal 1 of")
    discover(tab)
    assert tab.input_value("#circuit-answer") == " Mary"
    n_edges = n_visible(tab, ".circuit-edge")
    assert n_edges > 0
    expect(tab.locator("#circuit-shown")).to_have_text(f"{n_edges} of {n_edges} edges")
    # The proof stands beside it: the curve is a line, and the table lists the edges.
    expect(tab.locator("#circuit-curve .js-line").first).to_be_visible()
    expect(tab.locator("#circuit-sentences")).to_contain_text("with the circuit alone")
    expect(tab.locator("#circuit-edges .ag-center-cols-container .ag-row")).to_have_count(n_edges)

    # A hover tells numbers and brings out what it touches.
    head = tab.locator(".circuit-part.head").first
    name = head.get_attribute("data-name")
    head.hover()
    expect(tab.locator("#circuit-tip")).to_contain_text(str(name))
    assert tab.locator("svg.pointing .circuit-edge.near").count() > 0
    tab.mouse.move(1, 1)
    expect(tab.locator("#circuit-tip")).to_be_hidden()
    assert tab.locator("svg.pointing").count() == 0

    # A row of the table opens the edge.
    tab.locator("#circuit-edges .ag-row").first.locator(".ag-cell").nth(1).click()
    expect(tab.locator("#circuit-edge")).to_contain_text("number 1 of")
    expect(tab.locator("#circuit-edge-place")).to_be_in_viewport()
    assert tab.locator(".circuit-edge.opened").count() == 1
    tab.click("#circuit-edge-close")
    expect(tab.locator("#circuit-edge-place")).to_be_hidden()

    # Another question is said to be another, until it is the same again.
    tab.fill("#circuit-answer", " her")
    tab.keyboard.press("Tab")
    expect(tab.locator("#circuit-outdated")).to_contain_text("changed since: answer.")
    tab.fill("#circuit-answer", " Mary")
    tab.keyboard.press("Tab")
    expect(tab.locator("#circuit-outdated")).to_have_text("")

    # Nothing lies outside of what scrolls, in any tab.
    for name in ("Attention", "Attribution", "Ablation study", "Heads", "Circuit"):
        tab.get_by_role("tab", name=name).click()
        expect(tab.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        heights = tab.evaluate("[document.documentElement.scrollHeight, window.innerHeight]")
        assert heights[0] == heights[1], name

    # By token, the same edges stand where they carry what they carry.
    tab.locator("#circuit-layout label", has_text="By token").click()
    expect(tab.locator("#circuit-shown")).to_contain_text("places")
    expect(tab.locator("#circuit-headline")).to_contain_text("By token: each edge at the tokens")
    # The middle of a curve's box need not be on it.
    tab.locator(".circuit-look .hit").first.dispatch_event("pointermove", {"bubbles": True})
    expect(tab.locator("#circuit-tip")).to_contain_text("looks from")
    tab.locator("#circuit-layout label", has_text="By layer").click()
    expect(tab.locator("#circuit-shown")).to_have_text(f"{n_edges} of {n_edges} edges")

    # A click on a head adds it and shows its attention.
    head.click()
    expect(tab.locator("#attention-pictures")).to_be_visible()
    expect(tab.locator("#heads-count")).to_have_text("2 of 12")


@pytest.mark.thorough
def test_heads_are_patched_and_chosen_by_their_rows(tab: Page) -> None:
    tab.click("#circuit-method")
    tab.locator("[role=option]", has_text="Denoising").click()
    expect(tab.locator("#circuit-run")).to_have_text("Patch heads")
    expect(tab.locator("#circuit-found")).to_be_hidden()
    expect(tab.locator("#circuit-plan")).to_contain_text("1 chosen head at each position")
    tab.click("#circuit-run")
    expect(tab.locator("#patching-caption")).to_contain_text("Denoising, 1 pair", timeout=TIMEOUT)
    expect(tab.locator("#patching-map .js-plotly-plot .heatmaplayer").first).to_be_visible()
    expect(tab.locator("#patching-positions .js-plotly-plot")).to_be_visible()
    rows = tab.locator("#patching-table .ag-center-cols-container .ag-row")
    other = rows.filter(has_not_text="L2H2").first
    other.locator(".ag-cell").nth(1).click()
    expect(tab.locator("#heads-count")).to_have_text("2 of 12")
    # The circuit's own place is where it was.
    tab.click("#circuit-method")
    tab.locator("[role=option]", has_text="ACDC").click()
    expect(tab.locator("#circuit-found")).to_be_visible()
    expect(tab.locator("#patching-place")).to_be_hidden()


@pytest.mark.thorough
def test_the_threshold_hides_weak_edges_without_the_server(tab: Page) -> None:
    discover(tab)
    strengths = tab.locator(".circuit-edge").evaluate_all(
        "elements => elements.map(element => Number(element.dataset.strength))"
    )
    tab.locator("#circuit-threshold [role=slider]").focus()
    tab.keyboard.press("Home")
    expect(tab.locator("#circuit-shown")).to_have_text(f"1 of {len(strengths)} edges")
    [left] = tab.locator(".circuit-edge:visible").all()
    assert float(str(left.get_attribute("data-strength"))) == max(strengths)
    assert n_visible(tab, ".circuit-part") == 2
    tab.keyboard.press("End")
    expect(tab.locator("#circuit-shown")).to_contain_text(f"{len(strengths)} of {len(strengths)}")


def test_files_are_saved_as_the_picture_stands(tab: Page, tmp_path: Path) -> None:
    discover(tab)
    n_edges = n_visible(tab, ".circuit-edge")
    for kind in ("svg", "png", "json", "graphml"):
        tab.locator(".circuit-tools button", has_text="Export").click()
        with tab.expect_download() as saving:
            tab.click(f"#circuit-{kind}")
        path = tmp_path / saving.value.suggested_filename
        saving.value.save_as(path)
        assert path.name == f"circuit.{kind}"
    svg = ElementTree.parse(tmp_path / "circuit.svg").getroot()
    edges = [element for element in svg.iter() if element.get("class") == "circuit-edge"]
    assert len(edges) == n_edges
    drawn = (tmp_path / "circuit.svg").read_text()
    assert "data-told" not in drawn
    assert "' Mary' against ' John'" in drawn
    assert f"All {n_edges} edges are drawn." in drawn
    with Image.open(tmp_path / "circuit.png") as picture:
        assert picture.size == (2 * float(svg.get("width", 0)), 2 * float(svg.get("height", 0)))
    assert len(json.loads((tmp_path / "circuit.json").read_text())["edges"]) == n_edges
    assert "<graphml" in (tmp_path / "circuit.graphml").read_text()


def test_wrong_questions_are_answered_beside_the_form(tab: Page) -> None:
    tab.fill("#circuit-corrupt", "Shorter")
    tab.keyboard.press("Tab")
    expect(tab.locator("#circuit-problem")).to_contain_text("has 18 tokens and the corrupted one")
    tab.click("#circuit-pairs label:has-text('File of pairs')")
    expect(tab.locator("#circuit-corrupt")).to_be_hidden()
    expect(tab.locator("#circuit-problem")).to_have_text("")
    tab.click("#circuit-run")
    expect(tab.locator("#circuit-problem")).to_contain_text("No file of pairs is chosen")
    expect(tab.locator("#circuit-run")).to_be_enabled()


def test_the_picture_zooms_moves_and_goes_back(tab: Page) -> None:
    discover(tab)
    svg = tab.locator("#circuit-picture svg")
    whole = svg.get_attribute("viewBox")
    svg.hover()
    tab.keyboard.down("Control")
    tab.mouse.wheel(0, -400)
    tab.keyboard.up("Control")
    expect(svg).not_to_have_attribute("viewBox", str(whole))
    svg.dblclick(position={"x": 3, "y": 3})
    expect(svg).to_have_attribute("viewBox", str(whole))


def test_a_dark_page_has_a_dark_picture(tab: Page) -> None:
    discover(tab)
    background = tab.locator("#circuit-picture svg > rect").first
    light = background.get_attribute("fill")
    tab.click("#dark-toggle")
    expect(background).not_to_have_attribute("fill", str(light))
    tab.click("#dark-toggle")
    expect(background).to_have_attribute("fill", str(light))


def test_another_size_of_the_window_lays_the_picture_out_anew(tab: Page) -> None:
    discover(tab)
    svg = tab.locator("#circuit-picture svg")
    narrow = float(str(svg.get_attribute("width")))
    tab.set_viewport_size({"width": 1600, "height": 900})
    expect(svg).to_have_attribute("width", f"{narrow + 320:g}")
