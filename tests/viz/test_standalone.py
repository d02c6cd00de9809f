"""Attention as one HTML file: what is in it, and what a browser without a network shows of it."""

import base64
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from viz_samples import causal_maps, prompt

from models.types import AttentionMaps, Head
from viz import coding
from viz.combined import combined, combined_extent
from viz.sink import SINKS, without_first
from viz.standalone import SMALLEST, OfAll, attention_html

EVIL = ("</script>", "<img src=x onerror=alert(1)>", "&lt;", "·John", "·John", "<!--", "\u2028")
SIDE, TOP = 264, 6  # px: a map's edge, and what is above it; see viz/standalone/matrix.js


def random_maps(n: int, n_heads: int = 2, seed: int = 0, causal: bool = True) -> AttentionMaps:
    """Maps with weights of many sizes, [n_heads, n, n]."""
    scores = 3 * np.random.default_rng(seed).normal(size=(n_heads, n, n))
    if causal:
        scores[:, *np.triu_indices(n, 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    heads = tuple(Head(3, i) for i in range(n_heads))
    return AttentionMaps(heads, weights.astype(np.float32), prompt(*(f"t{i}" for i in range(n))))


def about(text: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(text.partition('id="about">')[2].partition("</script")[0])
    return found


def unpacked(text: str, head: str, n: int, causal: bool) -> np.ndarray:
    """Return the weights of a head as the file holds them, NaN where there are none."""
    coded = re.search(f'data-head="{re.escape(head)}">([^<]*)<', text)
    assert coded is not None
    planes = np.frombuffer(zlib.decompress(base64.b64decode(coded[1])), np.uint8).reshape(2, -1)
    codes = planes[0].astype(int) + 256 * planes[1].astype(int)
    values = np.full((n, n), np.nan, np.float32)
    reached = np.tri(n, dtype=bool) if causal else np.ones((n, n), bool)
    values[reached] = coding._weights()[codes]
    return values


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sink", list(SINKS))
def test_the_file_holds_the_weights(sink: str, causal: bool) -> None:
    maps = random_maps(30, causal=causal)
    text = attention_html(maps, sink=sink)
    for index, head in enumerate(("3.0", "3.1")):
        expected = without_first(maps.values[index], sink).copy()
        if causal:
            expected[np.triu_indices(30, 1)] = np.nan
        held = unpacked(text, head, 30, causal)
        np.testing.assert_array_equal(np.isnan(held), np.isnan(expected))
        np.testing.assert_allclose(held, expected, rtol=coding.RELATIVE_ERROR, atol=SMALLEST)


def test_nothing_in_it_comes_from_elsewhere_and_no_token_is_markup() -> None:
    text = attention_html(causal_maps(*EVIL), title="A <b>title</b>")
    elements: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            elements.append((tag, dict(attrs)))

    Reader().feed(text)
    assert {tag for tag, _ in elements} == {
        *("html", "head", "meta", "title", "style", "body", "main", "script")
    }
    assert not any({"src", "href"} & attributes.keys() for _, attributes in elements)
    assert about(text)["labels"] == list(EVIL)
    assert "A &lt;b&gt;title" in text


def test_each_map_may_have_a_scale_of_its_own() -> None:
    maps = random_maps(8)
    largest = [float(weights[1:].max()) for weights in maps.values]
    for scale, expected in (("shared", [max(largest)] * 2), ("own", largest)):
        found = about(attention_html(maps, scale=scale))["maps"]
        zmax = [one["scale"]["zmax"] for one in found]  # type: ignore[attr-defined]
        assert zmax == pytest.approx(expected)


def test_it_is_small() -> None:
    assert len(attention_html(random_maps(8))) < 90_000  # scripts and styles


def maps_of_stacks(n_source: int = 9, n: int = 4) -> list[AttentionMaps]:
    """A map of an encoder, one of a decoder, and one of its cross attention."""
    source = prompt(*(f"s{i}" for i in range(n_source)))
    written = replace(prompt(*(f"t{i}" for i in range(n))), source=source)
    random = np.random.default_rng(0)
    shapes = {"encoder": (source, source), "": (written, written), "cross": (written, source)}
    found = []
    for stack, (queries, keys) in shapes.items():
        weights = random.dirichlet(np.ones(len(keys)), size=(1, len(queries))).astype(np.float32)
        if not stack:
            weights = np.tril(weights)
        looked_at = None if queries is keys else keys
        found.append(AttentionMaps((Head(0, 1, stack),), weights, queries, looked_at=looked_at))
    return found


def test_each_map_says_whose_positions_it_joins() -> None:
    encoder, decoder, cross = maps_of_stacks()
    for maps, expected in (
        ([encoder, decoder, cross], ["source source", "prompt prompt", "prompt source"]),
        ([cross], ["prompt source"]),
    ):
        found = about(attention_html(*maps, position=3))
        sides = [" ".join(one["sides"]) for one in found["maps"]]  # type: ignore[attr-defined]
        assert sides == expected
        assert found["labels"] == [f"t{i}" for i in range(4)]
        assert found["sides"]["source"]["labels"] == [f"s{i}" for i in range(9)]  # type: ignore[index]
    alone = about(attention_html(encoder, prompt=decoder.prompt))
    assert alone["maps"][0]["sides"] == ["source", "source"]  # type: ignore[index]
    with pytest.raises(ValueError, match="one prompt"):
        attention_html(cross, random_maps(5))


def test_maps_of_two_prompts_are_no_page() -> None:
    one, other = random_maps(4), random_maps(5)
    with pytest.raises(ValueError, match="one prompt"):
        attention_html(one, other)
    with pytest.raises(ValueError, match="needs a map"):
        attention_html()


# --- in a browser without a network ---


@pytest.fixture
def offline(browser: Browser) -> Iterator[Page]:
    """A page that asks nothing of any host and whose console stays empty."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    local = ("file:", "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(local) else complaints.append(r.url))
    yield page
    context.close()
    assert complaints == []


def open_file(page: Page, folder: Path, text: str) -> None:
    file = folder / "attention.html"
    file.write_text(text, "utf-8")
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")


def hover_cell(page: Page, n: int, query: int, key: int, card: int = 0) -> str:
    """Point at a cell of a map, whose labels stand left of it; return what is said of it."""
    canvas = page.locator(".map-card canvas").nth(card)
    box = canvas.bounding_box()
    assert box is not None
    left = box["width"] - SIDE - 8
    x, y = left + (key + 0.5) * SIDE / n, TOP + (query + 0.5) * SIDE / n
    page.mouse.move(box["x"] + x, box["y"] + y)
    return page.locator(".map-grid .text-tip").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize("n", [12, 600], ids=["short", "more weights than pixels"])
def test_a_map_says_the_weight_that_is_pointed_at(offline: Page, tmp_path: Path, n: int) -> None:
    maps = random_maps(n)
    open_file(offline, tmp_path, attention_html(maps))
    for card, query, key in ((0, n - 3, 1), (1, n // 2, n // 3)):
        said = hover_cell(offline, n, query, key, card)
        found = re.fullmatch(r"query +(\d+) \S+\nkey +(\d+) \S+\nweight (\S+)", said)
        assert found is not None, said
        at = (int(found[1]), int(found[2]))
        assert abs(at[0] - query) <= 1 + n // SIDE
        weight = maps.values[card, *at]
        assert float(found[3]) == pytest.approx(weight, rel=6e-3, abs=SMALLEST)


@pytest.mark.browser
def test_norms_are_said_as_they_are(offline: Page, tmp_path: Path) -> None:
    weights = random_maps(12)
    maps = replace(weights, values=weights.values * np.float32(80), kind="moved")
    open_file(offline, tmp_path, attention_html(maps, token=9, threshold=0.1))
    said = hover_cell(offline, 12, 9, 9)
    norm = maps.values[0, 9, 9]
    best = int(maps.values[0, 9].argmax())
    largest = float(maps.values[:, 1:].max())
    hovered = hover_cell(offline, 12, 9, best)
    assert hovered.endswith(f"norm   {maps.values[0, 9, best]:.3g}")
    assert (said == "") == (norm < 0.1 * largest)
    expect(offline.locator(".map-name").first).to_have_text("L3H0 moved")
    expect(offline.locator(".reading")).to_have_text(f"{0.1 * largest:.3g}")
    expect(offline.locator(".note").first).to_contain_text("norms below")
    offline.get_by_role("radio", name="Lines").click()
    expect(offline.locator(".lines-reading")).to_contain_text(f"L3H0 moved: {best} t{best} ")


def test_maps_of_two_kinds_are_no_page() -> None:
    maps = random_maps(4)
    with pytest.raises(ValueError, match="one kind"):
        attention_html(maps, replace(maps, kind="rollout"))


@pytest.mark.browser
def test_dragging_zooms_and_a_double_click_goes_back(offline: Page, tmp_path: Path) -> None:
    open_file(offline, tmp_path, attention_html(random_maps(100)))
    canvas = offline.locator(".map-card canvas").first
    expect(canvas).to_have_attribute("data-side", "100")
    hover_cell(offline, 100, 50, 10)
    offline.mouse.down()
    hover_cell(offline, 100, 69, 25)
    offline.mouse.up()
    expect(canvas).to_have_attribute("data-side", "20")
    assert "query  50 t50\nkey    10 t10" in hover_cell(offline, 20, 0, 0)
    canvas.dblclick(position={"x": 150, "y": 150})
    expect(canvas).to_have_attribute("data-side", "100")


@pytest.mark.browser
def test_maps_have_a_scale_and_frames_end_at_the_diagonal(offline: Page, tmp_path: Path) -> None:
    maps = random_maps(12)
    both = combined([maps], "mean")
    extra = OfAll("Mean of 2 heads", both, combined_extent(both, causal=True))
    text = attention_html(maps, of_all=[extra], token=3, dark=False)
    open_file(offline, tmp_path, text)
    names = offline.locator(".map-name")
    expect(names).to_have_text(["L3H0", "L3H1", "Mean of 2 heads"])
    largest = float(maps.values[:, 1:].max())
    expect(offline.locator(".map-scale").first).to_have_text(f"0{largest:.3g}")
    said = hover_cell(offline, 12, 9, 4, card=2)
    assert float(said.rpartition(" ")[2]) == pytest.approx(float(both.values[0, 9, 4]), rel=6e-3)
    # The upper edge of the selected row, over the fourth and over the ninth key.
    edges = offline.locator(".map-card canvas").first.evaluate(
        """(canvas, [side, top]) => {
            const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
            const left = box.width - side - 8, copy = document.createElement("canvas");
            [copy.width, copy.height] = [canvas.width, canvas.height];
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            const at = (key) => context.getImageData(
                Math.round((left + (key + 0.5) * side / 12) * ratio),
                Math.round((top + 3 * side / 12) * ratio) - 1, 1, 1).data[3];
            return [at(3), at(8)];
        }""",
        [SIDE, TOP],
    )
    assert edges == [255, 0]
    expect(offline.get_by_role("radio", name="looks at", exact=True)).to_be_hidden()
    offline.get_by_role("radio", name="Text").click()
    expect(offline.get_by_role("radio", name="looks at", exact=True)).to_be_visible()
    expect(offline.locator(".text-row")).to_have_count(2)


@pytest.mark.browser
def test_lines_and_text_show_the_same_weights(offline: Page, tmp_path: Path) -> None:
    maps = random_maps(12)
    open_file(offline, tmp_path, attention_html(maps, token=9, position=11))
    offline.get_by_role("radio", name="Lines").click()
    reading = offline.locator(".lines-reading")
    expect(reading).to_contain_text("9 t9 looks at L3H0: ")
    best = int(maps.values[0, 9].argmax())
    expect(reading).to_contain_text(f"L3H0: {best} t{best} 0.")
    offline.get_by_role("radio", name="Text").click()
    row = offline.locator(".text-row").first
    assert row.locator(".text-flow").text_content() == "".join(maps.prompt.labels)
    named = row.locator(".text-key").first
    expect(named).to_have_text(re.compile(rf"^t{best} 0\.\d+$"))
    said = float((named.text_content() or "").split()[1])
    assert said == pytest.approx(float(maps.values[0, 9].max()), rel=6e-3)
    offline.get_by_role("radio", name="is looked at by").click()
    best = int(np.nanargmax(maps.values[0, 9:, 9])) + 9
    expect(named).to_have_text(re.compile(rf"^t{best} "))


@pytest.mark.browser
def test_a_higher_threshold_takes_weights_away(offline: Page, tmp_path: Path) -> None:
    maps = random_maps(12)
    open_file(offline, tmp_path, attention_html(maps, picture="lines"))
    canvas = offline.locator(".lines canvas")
    before = int(canvas.get_attribute("data-lines") or 0)
    offline.get_by_label("Weights ≥").fill("0.3")
    n_left = int((maps.values >= 0.3).sum())
    expect(canvas).to_have_attribute("data-lines", str(n_left))
    assert 0 < n_left < before


@pytest.mark.browser
@pytest.mark.parametrize("picture", ["matrix", "lines", "text"])
def test_each_picture_is_saved(offline: Page, tmp_path: Path, picture: str) -> None:
    maps = random_maps(12)
    open_file(offline, tmp_path, attention_html(maps, picture=picture, token=9))
    for kind, begins in (("SVG", b"<svg "), ("PNG", b"\x89PNG")):
        with offline.expect_download() as download:
            offline.get_by_role("button", name=kind).click()
        assert download.value.suggested_filename == f"attention-{picture}.{kind.lower()}"
        content = Path(download.value.path()).read_bytes()
        assert content.startswith(begins)
        if kind == "SVG":
            assert b"L3H1" in content
            assert picture == "matrix" or b">t11<" in content


@pytest.mark.browser
def test_cross_attention_stands_alone_too(offline: Page, tmp_path: Path) -> None:
    encoder, decoder, cross = maps_of_stacks()
    open_file(offline, tmp_path, attention_html(encoder, decoder, cross, token=2, position=3))
    for card, maps in ((0, encoder), (2, cross)):
        said = hover_cell(offline, 9, 2, 7, card)
        query = maps.prompt.labels[2]
        weight = float(said.rpartition(" ")[2])
        assert f"query  2 {query}\nkey    7 s7" in said
        assert weight == pytest.approx(float(maps.values[0, 2, 7]), rel=6e-3, abs=SMALLEST)
    best = int(cross.values[0, 2].argmax())
    offline.get_by_role("radio", name="Lines").click()
    offline.locator(".lines").get_by_role("radio", name="cross attention").click()
    expect(offline.locator(".lines-reading")).to_contain_text(
        f"2 t2 looks at cross:L0H1: {best} s{best} 0."
    )
    offline.get_by_role("radio", name="Text").click()
    offline.locator(".text").get_by_role("radio", name="cross attention").click()
    flows = offline.locator(".text-row .text-flow")
    assert [flow.text_content() for flow in flows.all()] == ["t0t1t2t3", "s0s1s2s3s4s5s6s7s8"]
    named = offline.locator(".text-key").first
    expect(named).to_have_text(re.compile(rf"^s{best} 0\.\d+$"))
    flows.nth(1).locator(".text-token").nth(7).click()
    by = int(cross.values[0, :, 7].argmax())
    expect(named).to_have_text(re.compile(rf"^t{by} 0?\.?\d+"))
