"""A model that compares pictures with texts, on the page: the heads of its text tower."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_fixtures import Shelf, make_page, serving
from playwright.sync_api import Page, expect
from tiny_vision import noise_picture

from ablation import sweep_positions
from app.panels import by_position, drawn_maps, heads, prompt
from app.services import Services, most_positions, prompt_of
from app.view import View
from models.language_model import LanguageModel
from models.tabletop.scenes import EXAMPLES as SCENES
from models.types import Head, TokenizedPrompt
from viz.extent import extent_of

OF_TEXT, OF_PICTURE = Head(1, 2, "text"), Head(2, 0)
VIEW = View("clip", images=(SCENES[0],), heads=(OF_TEXT, OF_PICTURE))


@pytest.fixture
def services() -> Services:
    return Services(Shelf(), "clip")


@pytest.fixture
def model() -> LanguageModel:
    return Shelf().get("clip")


@pytest.fixture
def tokens(services: Services, model: LanguageModel) -> TokenizedPrompt:
    return prompt_of(VIEW, model, services.images)


def test_a_view_settles_with_heads_of_both_towers(
    services: Services, model: LanguageModel, tokens: TokenizedPrompt
) -> None:
    view = services.settled(replace(VIEW, heads=None, stack="text"), model)
    assert view.stack == "text"
    assert {head.stack for head in view.heads or ()} == {"", "text"}
    assert most_positions(tokens) == 18
    choices = heads.stack_choices(model.info.stacks)
    assert [choice["label"] for choice in choices] == ["vision", "text"]
    assert "behind the model's name" in str(prompt.not_read(model.info, tokens))
    classifier = Shelf().get("vit")
    alone = classifier.tokenize("", pictures=[noise_picture()])
    assert prompt.not_read(classifier.info, alone) == prompt.NOT_READ


def test_maps_of_both_towers_stand_beside_each_other(
    services: Services, model: LanguageModel, tokens: TokenizedPrompt
) -> None:
    outcome = services.outcome(VIEW)
    assert tokens.compared is not None
    for head, maps in zip((OF_TEXT, OF_PICTURE), outcome.maps, strict=True):
        expected = model.attention(tokens, [head])
        np.testing.assert_allclose(maps.values, expected.values, atol=1e-6)
    extents = services.extents(VIEW, outcome)
    how = drawn_maps.look(VIEW, outcome, extents, False)
    sent = drawn_maps.message(VIEW, outcome, extents, how, "serial", None)
    assert sent is not None
    assert list(sent["sides"]) == ["compared"]
    assert sent["sides"]["compared"]["labels"] == list(tokens.compared.labels)
    sides = [sent["maps"][key]["figure"]["sides"] for key in sent["order"]]
    assert sides == [["compared", "compared"], ["prompt", "prompt"]]


def test_the_first_token_of_each_text_can_be_hidden(
    services: Services, tokens: TokenizedPrompt
) -> None:
    outcome = services.outcome(VIEW)
    maps = outcome.maps[0]
    starts = [0, 6, 12]
    assert list(maps.keys.starts) == starts
    weights = maps.values[0]
    shown = np.delete(np.delete(weights, starts, axis=0), [], axis=1)
    assert extent_of(maps, 0).largest == pytest.approx(float(shown.max()))
    assert extent_of(maps, 0).largest < 1  # which is all that the first tokens can look at
    hidden = np.delete(weights, starts, axis=1)
    assert extent_of(maps, 0, "hide").largest == pytest.approx(float(hidden.max()))
    assert len(tokens) == 17


def test_positions_are_said_to_be_those_of_the_texts(
    model: LanguageModel, tokens: TokenizedPrompt
) -> None:
    scores = sweep_positions(model, tokens, [OF_TEXT])
    said = by_position.caption(scores, {"intervention": "zero", "acted": ""})
    assert "1 head × 18 positions" in said
    assert "read from the picture, these being positions of the texts" in said


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_page("clip")) as url:
        yield url


@pytest.fixture
def page(quiet: Page, address: str) -> Page:
    """The page of a model that compares pictures with texts."""
    quiet.goto(address)
    return quiet


@pytest.mark.browser
def test_heads_of_the_text_tower_are_looked_at_ablated_and_swept(
    page: Page, tmp_path: Path
) -> None:
    path = tmp_path / "noise.png"
    path.write_bytes(noise_picture((60, 40)).png())
    page.set_input_files("#image-upload input", str(path))
    expect(page.locator("#image-strip img")).to_have_attribute("alt", "noise.png")
    page.locator("#heads-clear").click()
    page.locator("#heads-text").fill("text:0.1, 1.0")
    page.locator("#heads-text").press("Enter")
    page.locator("label", has_text="Matrix").first.click()
    expect(page.locator(".map-card .gtitle").first).to_contain_text("text:L0H1")
    expect(page.locator(".map-card").first).to_contain_text("first rows apart")
    page.locator("label", has_text="Image").first.click()
    expect(page.locator(".on-image-said").first).to_contain_text("</s>/2 looks")
    expect(page.locator(".on-image-card canvas")).to_have_count(1)
    page.locator("label", has_text="Lines").first.click()
    expect(page.locator("[data-place=lines] .stack-choice")).to_contain_text("vision tower")
    page.locator("label", has_text="Text").first.click()
    choice = page.locator("[data-place=text] .stack-choice")
    choice.get_by_text("text tower").click()
    expect(page.locator("[data-place=text] .text-flow br")).to_have_count(2)
    page.locator("#stack").click()
    page.get_by_role("option", name="text").last.click()
    page.locator("label", has_text="Overview").first.click()
    expect(page.locator("#overview-note")).to_contain_text("8 heads")
    page.get_by_role("tab", name="Ablation study").click()
    page.locator("#study-run").click()
    expect(page.locator("#sweep-caption")).to_contain_text("8 heads of the stack text")
