"""The heads tab in Chromium: roles are measured, kept and used; two runs are compared."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from page_fixtures import TIMEOUT, make_page, serving
from playwright.sync_api import Page, expect
from tiny import CORPUS, tiny_model

from ablation import Ablation, Zero, head_dossier, run_study
from ablation.attention_change import attention_change, with_ablation, with_prompt
from ablation.corpus import Passage
from ablation.dossier import Dossier
from ablation.stimuli import ROLES
from app import permalink
from app.panels.dossier import N_LEADERS
from app.view import View
from models.builtin import CACHE_VARIABLE
from models.types import Head

OTHER = "When John and Mary went to the store, Mary gave a drink to"
HEADS = (Head(0, 1), Head(2, 3))

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_page()) as url:
        yield url


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache directory of the test's own, with nothing in it: the page looks in it too."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))


@pytest.fixture
def measured(cache: None) -> Dossier:
    """The roles, kept from an earlier time."""
    return head_dossier(tiny_model("llama"))


@pytest.fixture
def tab(quiet: Page, address: str) -> Page:
    """The heads tab of a page whose console stays empty."""
    view = View("llama", heads=HEADS, tab="heads")
    quiet.goto(f"{address}#{permalink.encode(view)}")
    expect(quiet.locator("#roles-place")).to_be_visible()
    expect(quiet.locator("#heads-count")).to_have_text("2 of 12")
    return quiet


def drawn(page: Page, place: str) -> np.ndarray:
    """Return the values that the coloured cells of a map hold."""
    z = page.evaluate(
        """(place) => {
            const plot = document.querySelector(place + " .js-plotly-plot");
            const { z } = plot._fullData[plot._fullData.length - 1];
            return Array.from(z, (row) => Array.from(row, (v) => (v === v ? v : null)));
        }""",
        place,
    )
    return np.array(z, dtype=np.float64)


def test_roles_are_measured_shown_used_and_found_again(tab: Page) -> None:
    expect(tab.locator("#dossier-empty")).to_be_visible()
    tab.get_by_role("button", name="Measure roles").click()
    expect(tab.locator("#dossier-map .heatmaplayer image").first).to_be_visible(timeout=TIMEOUT)
    dossier = head_dossier(tiny_model("llama"))
    np.testing.assert_allclose(drawn(tab, "#dossier-map"), dossier.of("induction").values)
    expect(tab.locator(".leaders .leader")).to_have_count(len(ROLES) * N_LEADERS)
    tab.locator("#dossier-role").get_by_text("First").click()
    expect(tab.locator("#dossier-caption")).to_contain_text("First token:")
    np.testing.assert_allclose(drawn(tab, "#dossier-map"), dossier.of("first_token").values)
    tab.get_by_role("button", name="Choose these heads: Duplicate token").click()
    expect(tab.locator("#heads-count")).to_have_text(f"{N_LEADERS} of 12")
    leaders = [str(head) for head, _ in dossier.leaders("duplicate_token", N_LEADERS)]
    assert tab.locator(".heads-select .mantine-Pill-label").all_inner_texts() == leaders
    tab.reload()
    expect(tab.locator("#dossier-body")).to_be_visible(timeout=TIMEOUT)
    expect(tab.locator(".leaders .leader")).to_have_count(len(ROLES) * N_LEADERS)


def test_roles_of_an_earlier_time_are_there_at_once(measured: Dossier, tab: Page) -> None:
    expect(tab.locator("#dossier-body")).to_be_visible()
    expect(tab.get_by_role("button", name="Measure roles")).to_be_hidden()
    leaders = measured.leaders("induction", N_LEADERS)
    head = next(head for head, _ in leaders if head not in HEADS)
    tab.locator(".leaders", has_text="Induction").get_by_role("button", name=str(head)).click()
    expect(tab.locator("#heads-count")).to_have_text("3 of 12")


def test_the_corpus_is_read_and_one_head_told_about(
    tab: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = tuple(Passage(f"tiny-{i}", "tiny", text) for i, text in enumerate(CORPUS))
    monkeypatch.setattr("ablation.studies.heads.load_corpus", lambda: passages)
    tab.get_by_text("Corpus", exact=True).click()
    tab.get_by_role("button", name="Read the corpus").click()
    expect(tab.locator("#corpus-map .heatmaplayer image").first).to_be_visible(timeout=TIMEOUT)
    result = run_study("heads", tiny_model("llama"), passages)
    mean = result.details.mean("previous_weight").values
    np.testing.assert_allclose(drawn(tab, "#corpus-map"), mean, atol=1e-6)
    expect(tab.locator("#corpus-head")).to_have_value("L2H3")
    shown = tab.locator("#corpus-contexts li")
    expect(shown).to_have_count(1 + len(passages))
    for i, context in enumerate(result.details.contexts(HEADS[1])):
        expect(shown.nth(1 + i)).to_contain_text(f"{context.weight:.3f}")
        expect(shown.nth(1 + i)).to_contain_text(context.passage)
    entropy = result.table.query("layer == 2 and head == 3 and metric == 'entropy'")["mean"].item()
    expect(tab.locator("#corpus-numbers")).to_contain_text(f"{entropy:.3g}")
    expect(tab.locator("#corpus-histogram .gtitle")).to_contain_text("5 passages")
    tab.locator("#corpus-statistic").get_by_text("median").click()
    expect(tab.locator("#corpus-map .gtitle")).to_contain_text("median")
    median = result.details.over_passages("previous_weight", "median").values
    np.testing.assert_allclose(drawn(tab, "#corpus-map"), median, atol=1e-6)


def test_clean_is_compared_with_ablated(tab: Page) -> None:
    tab.get_by_text("Compare", exact=True).first.click()
    tab.get_by_role("button", name="Compare", exact=True).click()
    expect(tab.locator("#compare-map .heatmaplayer image").first).to_be_visible(timeout=TIMEOUT)
    model = tiny_model("llama")
    prompt = model.tokenize(View().prompt)
    ablation = Ablation(HEADS, Zero())
    change = attention_change(with_ablation(model, prompt, ablation))
    np.testing.assert_allclose(drawn(tab, "#compare-map"), change.values, atol=1e-7)
    expect(tab.locator("#compare-maps .map-card")).to_have_count(2)
    expect(tab.locator("#compare-maps .heatmaplayer image").nth(1)).to_be_visible()
    maps = [model.attention(prompt, [Head(2, 3)], a).values[0] for a in (None, ablation)]
    shown = drawn(tab, "#compare-maps .map-card:nth-child(1)")  # the head chosen last
    np.testing.assert_allclose(np.nan_to_num(shown), maps[1] - maps[0], atol=1e-6)
    # Both weights are in the hover box.
    plot = tab.locator("#compare-maps .map-card:nth-child(1) .nsewdrag")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.95 * box["height"])
    hover = tab.locator("#compare-maps .hoverlayer .hovertext").first
    expect(hover).to_contain_text("before")
    weights = [maps[i][-1, 1] for i in (0, 1)]
    for weight in weights:
        expect(hover).to_contain_text(f"{weight:.3g}")
    # Looking at another head, in the list or on the map, changes nothing of what is ablated.
    leader = next(head for head, _ in change.ranked() if head not in HEADS)
    tab.locator("#compare-leaders").get_by_role("button", name=str(leader), exact=True).click()
    expect(tab.locator("#compare-maps .map-card")).to_have_count(3)
    expect(tab.locator("#compare-maps .map-card").first).to_contain_text(str(leader))
    box = tab.locator("#compare-map .nsewdrag").bounding_box()
    assert box is not None
    tab.mouse.click(box["x"] + box["width"] / 8, box["y"] + 0.95 * box["height"])
    expect(tab.locator("#compare-maps .map-card").first).to_contain_text("L0H0")
    expect(tab.locator("#heads-count")).to_have_text("2 of 12")
    expect(tab.locator("#compare-caption")).to_contain_text("(zero): L0H1, L2H3.")
    for kind, part in (("Figures as SVG", "L2H3"), ("Table as CSV", "layer,head,js")):
        tab.locator("#compare-place").get_by_role("button", name="Export").click()
        with tab.expect_download() as download:
            tab.get_by_role("menuitem", name=kind).click()
        assert part in Path(download.value.path()).read_text("utf-8")


def test_two_prompts_are_compared_if_they_have_as_many_tokens(tab: Page) -> None:
    tab.get_by_text("Compare", exact=True).first.click()
    tab.get_by_text("Another prompt", exact=True).click()
    tab.get_by_role("textbox", name="The other prompt").fill("Too short")
    tab.get_by_role("button", name="Compare", exact=True).click()
    expect(tab.locator("#compare-problem")).to_contain_text("compare two of as many tokens")
    expect(tab.locator("#compare-empty")).to_be_visible()
    tab.get_by_role("textbox", name="The other prompt").fill(OTHER)
    tab.get_by_role("button", name="Compare", exact=True).click()
    expect(tab.locator("#compare-map .heatmaplayer image").first).to_be_visible(timeout=TIMEOUT)
    expect(tab.locator("#compare-problem")).to_be_empty()
    model = tiny_model("llama")
    pair = with_prompt(model, model.tokenize(View().prompt), model.tokenize(OTHER))
    change = attention_change(pair)
    np.testing.assert_allclose(drawn(tab, "#compare-map"), change.values, atol=1e-7)
    expect(tab.locator("#compare-maps .map-card").first).to_contain_text("→")


def test_two_models_are_compared(tab: Page) -> None:
    tab.get_by_text("Compare", exact=True).first.click()
    tab.get_by_text("Another model").click()
    tab.get_by_role("textbox", name="The other model").fill("gpt2")
    tab.get_by_role("button", name="Compare", exact=True).click()
    expect(tab.locator("#compare-caption")).to_contain_text("Llama against gpt2", ignore_case=True)
    expect(tab.locator("#compare-maps .map-card")).to_have_count(2)
