"""The page in Chromium, on tiny models: what a person does, and what they then see.

Every test ends with an empty console and without a request to another host.
"""

import re
import time
from collections.abc import Callable, Iterator

import pytest
from dash import Dash
from page_fixtures import TIMEOUT, Heard, close, hear, make_page, serving, show
from playwright.sync_api import BrowserContext, Page, expect

from app.permalink import encode
from app.view import View

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def app() -> Dash:
    return make_page()


@pytest.fixture(scope="module")
def address(app: Dash) -> Iterator[str]:
    with serving(app) as url:
        yield url


@pytest.fixture
def open_page(profile: BrowserContext, address: str) -> Iterator[Callable[..., Page]]:
    """A function that loads the page and waits until it is drawn."""
    opened: list[Heard] = []

    def open_one(fragment: str = "", drawn: bool = True) -> Page:
        opened.append(hear(profile.new_page()))
        page = opened[-1].page
        page.goto(address + fragment)
        if drawn:
            wait_until_drawn(page)
        return page

    yield open_one
    for heard in opened:
        close(heard.page)
    assert [complaint for heard in opened for complaint in heard.complaints] == []


@pytest.fixture
def page_open(lasting: Page, address: str) -> Page:
    """The page as it opens without a link."""
    show(lasting, address)
    wait_until_drawn(lasting)
    return lasting


def wait_until_drawn(page: Page) -> None:
    expect(page.locator("#prediction-figure .main-svg").first).to_be_visible()
    expect(page.locator("#attention-grid .map-card .main-svg").first).to_be_visible()


def maps(page: Page) -> list[str]:
    """Return the heads whose maps stand on the page."""
    labels = page.locator(".map-card [role=img]").evaluate_all(
        "cards => cards.map((card) => card.getAttribute('aria-label'))"
    )
    return [label.removeprefix("Attention of head ") for label in labels]


def expect_maps(page: Page, n: int) -> None:
    expect(page.locator(".map-card")).to_have_count(n)


def switch(page: Page, name: str) -> None:
    """Press a switch by the keyboard, as its input is hidden behind its track."""
    page.get_by_role("switch", name=name).focus()
    page.keyboard.press("Space")


def run_prompt(page: Page, text: str) -> None:
    page.locator("#prompt-text").fill(text)
    page.keyboard.press("Enter")


def open_study(page: Page, kind: str = "Every head") -> None:
    page.get_by_role("tab", name="Ablation study").click()
    page.get_by_text(kind, exact=True).click()


def use_deep_model(page: Page) -> None:
    page.get_by_role("textbox", name="Model").fill("deep")
    page.keyboard.press("Enter")
    expect(page.locator("#model-facts")).to_contain_text("16 layers × 16 heads")


# --- first look, prompt, tokens ---


def test_the_page_opens_with_the_example_run_and_heads_drawn(page_open: Page) -> None:
    expect(page_open.locator("#prompt-text")).to_have_value(
        "When Mary and John went to the store, John gave a drink to"
    )
    assert len(maps(page_open)) == 3
    expect(page_open.locator("#prediction-caption")).to_contain_text("after")
    expect(page_open.get_by_role("button", name="self-check passed")).to_be_visible()


def test_nothing_essential_is_below_the_fold(page_open: Page) -> None:
    for place in ("#ablate", "#intervention-kind", "#heads-map", "#watched-picker", "#study-run"):
        if place == "#study-run":
            open_study(page_open)
        box = page_open.locator(place).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800
    overflow = page_open.evaluate("document.documentElement.scrollHeight > window.innerHeight")
    assert not overflow


def test_enter_runs_a_prompt_and_shift_enter_starts_a_line(page_open: Page) -> None:
    run_prompt(page_open, "The key to the cabinets")
    expect(page_open.locator("#token-strip")).to_have_text(re.compile("cabinets$"))
    box = page_open.locator("#prompt-text")
    box.fill("one")
    page_open.keyboard.press("Shift+Enter")
    page_open.keyboard.type("two")
    expect(box).to_have_value("one\ntwo")


def test_an_example_is_run(page_open: Page) -> None:
    page_open.get_by_role("textbox", name="Example prompts").click()
    page_open.get_by_role("option", name="Capital of France").click()
    expect(page_open.locator("#prompt-text")).to_have_value("The capital of France is")
    expect(page_open.locator("#token-strip")).to_have_text(re.compile("is$"))


def test_a_token_is_chosen_by_mouse_and_keyboard(page_open: Page) -> None:
    page_open.locator(".token").nth(3).click()
    expect(page_open.locator("#prediction-caption")).to_contain_text("position 3")
    expect(page_open.locator("#token-panel")).to_contain_text("embedding norm")
    expect(page_open.locator(".token").nth(3)).to_have_attribute("aria-pressed", "true")
    page_open.locator(".token").nth(3).focus()
    page_open.keyboard.press("ArrowRight")
    page_open.keyboard.press("Enter")
    expect(page_open.locator("#prediction-caption")).to_contain_text("position 4")
    expect(page_open.locator(".token.read")).to_have_count(1)
    page_open.get_by_role("button", name="Close the token panel").click()
    expect(page_open.locator("#token-panel")).to_be_hidden()


def test_the_start_token_is_a_visible_switch(page_open: Page) -> None:
    n_tokens = page_open.locator(".token").count()
    switch(page_open, "beginning-of-sequence")
    expect(page_open.locator(".token")).to_have_count(n_tokens + 1)
    expect(page_open.locator(".token").first).to_have_class(re.compile("special"))


def test_prompt_text_is_never_read_as_html(page_open: Page) -> None:
    attack = "<img src=x onerror=alert(1)><b>bold</b> $\\alpha$"
    page_open.on("dialog", lambda dialog: pytest.fail("the prompt was run as code"))
    run_prompt(page_open, attack)
    expect(page_open.locator("#token-strip")).to_contain_text(">")
    shown = "".join(page_open.locator(".token").all_text_contents()).replace("·", " ")
    assert shown == attack
    page_open.locator(".token").first.click()
    expect(page_open.locator("#token-panel")).to_be_visible()
    assert page_open.locator("img[src=x], .token b").count() == 0


def test_an_empty_prompt_is_refused_beside_it_and_the_old_one_stays(page_open: Page) -> None:
    run_prompt(page_open, "")
    expect(page_open.locator(".left")).to_contain_text("empty")
    expect(page_open.locator(".token").first).to_have_text("Whe")
    run_prompt(page_open, "The key")
    expect(page_open.locator(".left")).not_to_contain_text("empty")


@pytest.mark.parametrize("text", ["word " * 5_000, "x" * 1_000_000], ids=["tokens", "megabyte"])
def test_a_prompt_that_is_too_long_is_refused_quickly(page_open: Page, text: str) -> None:
    page_open.wait_for_url(re.compile("#"))  # the view's link is written once it stands
    before = page_open.url
    page_open.locator("#prompt-text").evaluate(
        """(box, text) => {
            const set = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set;
            set.call(box, text);
            box.dispatchEvent(new Event('input', { bubbles: true }));
        }""",
        text,
    )
    page_open.get_by_role("button", name="Run", exact=True).click()
    expect(page_open.locator(".left")).to_contain_text(re.compile("at most|context|long"))
    assert page_open.url == before


# --- heads ---

OUTLINED = """(id) => {
    // How many heads are outlined on a layers x heads map.
    const shapes = document.querySelector(`#${id} .js-plotly-plot`).layout.shapes || [];
    return shapes.length ? shapes[shapes.length - 1].path.split("M").length - 1 : 0;
}"""


def test_heads_are_chosen_in_three_ways(page_open: Page) -> None:
    page_open.get_by_role("button", name="Clear").click()
    expect(page_open.locator("#attention-empty")).to_be_visible()
    expect_maps(page_open, 0)

    page_open.get_by_role("textbox", name="Chosen heads").fill("1.2")
    page_open.get_by_role("option", name="L1H2").click()
    page_open.keyboard.press("Escape")
    expect_maps(page_open, 1)

    page_open.get_by_role("textbox", name="Add heads").fill("0.3, 2.*")
    page_open.keyboard.press("Enter")
    expect_maps(page_open, 6)

    plot = page_open.locator("#heads-map .nsewdrag").bounding_box()
    assert plot is not None
    page_open.mouse.click(plot["x"] + plot["width"] / 8, plot["y"] + plot["height"] * 5 / 6)
    expect_maps(page_open, 7)
    assert maps(page_open) == ["L1H2", "L0H3", "L2H0", "L2H1", "L2H2", "L2H3", "L0H0"]
    page_open.wait_for_function(f"() => ({OUTLINED})('heads-map') === 7")
    page_open.mouse.click(plot["x"] + plot["width"] / 8, plot["y"] + plot["height"] * 5 / 6)
    expect_maps(page_open, 6)
    page_open.wait_for_function(f"() => ({OUTLINED})('heads-map') === 6")
    page_open.get_by_role("button", name="Clear").click()
    page_open.wait_for_function(f"() => ({OUTLINED})('heads-map') === 0")


def test_a_map_is_closed_by_its_button(page_open: Page) -> None:
    first = maps(page_open)[0]
    page_open.get_by_role("button", name=f"Take {first} out of the choice").click()
    expect_maps(page_open, 2)
    assert first not in maps(page_open)


def test_notation_that_cannot_be_read_is_refused_beside_it(page_open: Page) -> None:
    page_open.get_by_role("textbox", name="Add heads").fill("77.1")
    page_open.keyboard.press("Enter")
    expect(page_open.locator(".left")).to_contain_text("77.1")
    assert len(maps(page_open)) == 3


def test_a_cell_says_why_the_head_looks_there(page_open: Page) -> None:
    n = page_open.locator(".token-strip .token").count()
    plot = page_open.locator(".map-card .nsewdrag").nth(1).bounding_box()
    assert plot is not None
    page_open.mouse.click(plot["x"] + plot["width"] * 1.5 / n, plot["y"] + plot["height"] * 4.5 / n)
    panel = page_open.locator("#explain-panel")
    expect(panel).to_contain_text(f"Why does {maps(page_open)[1]} look there?")
    pair = panel.locator(".pair-line .token")
    labels = page_open.locator(".token-strip .token").all_inner_texts()
    assert pair.all_inner_texts() == [labels[4], labels[1]]
    expect(panel).to_contain_text("from the mean of all keys it can see")
    for name in ("query", "key"):
        expect(panel.get_by_role("list", name=f"Sources of the {name}")).to_contain_text("MLP")
    switch(page_open, "against the other keys it can see")
    expect(panel).not_to_contain_text("from the mean")
    expect(panel).not_to_contain_text("Of the clean run")
    page_open.locator("#ablate").focus()
    page_open.keyboard.press("Space")
    expect(page_open.locator("#attention-note")).to_contain_text("ablated run")
    switch(page_open, "against the other keys it can see")
    expect(panel).to_contain_text("Of the clean run")
    pair.first.click()
    expect(page_open.locator("#token-panel")).to_contain_text("position4")
    expect(panel).to_be_hidden()


def test_a_head_among_the_sources_joins_the_choice(page_open: Page) -> None:
    before = maps(page_open)
    later = next(i for i, name in enumerate(before) if not name.startswith("L0"))
    plot = page_open.locator(".map-card .nsewdrag").nth(later).bounding_box()
    assert plot is not None
    page_open.mouse.click(plot["x"] + plot["width"] * 0.02, plot["y"] + plot["height"] * 0.98)
    sources = page_open.locator("#explain-panel button.term-label")
    expect(sources.first).to_be_visible()
    names = [name for name in sources.all_inner_texts() if name not in before]
    sources.filter(has_text=names[0]).first.click()
    expect_maps(page_open, len(before) + 1)
    assert maps(page_open) == [*before, names[0]]
    page_open.get_by_role("button", name="Close the explanation").click()
    expect(page_open.locator("#explain-panel")).to_be_hidden()


def test_attribution_follows_target_and_prompt(page_open: Page) -> None:
    page_open.get_by_role("tab", name="Attribution").click()
    note = page_open.locator("#attribution-note")
    top = page_open.locator("#prediction-figure .ytick text").first.text_content()
    expect(note).to_contain_text(f"logit of {top} =")
    expect(page_open.locator("#attribution-map .main-svg").first).to_be_visible()
    page_open.get_by_label("Target: one token").fill(" Mary")
    page_open.get_by_label("less: one token").fill(" John")
    page_open.keyboard.press("Enter")
    expect(note).to_contain_text("logit of ·Mary less ·John =")
    expect(page_open.locator("#attribution-map")).to_contain_text("for ·Mary less ·John")
    page_open.get_by_text("Logit lens").click()
    rows = page_open.locator(".lens tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.last).to_contain_text("embedding")
    run_prompt(page_open, "The key to the cabinets")
    expect(note).to_contain_text("·Mary is followed")
    page_open.get_by_text("Tokens by head").click()
    chosen = page_open.locator(".head-tokens tbody th")
    expect(chosen).to_have_count(len(maps(page_open)))
    page_open.get_by_text("Logit lens").click()
    expect(rows).to_have_count(4)
    page_open.get_by_label("Target: one token").fill("no such token")
    page_open.keyboard.press("Enter")
    expect(note).to_contain_text("Not shown")
    expect(rows).to_have_count(4)
    expect(page_open.locator(".lens")).to_be_hidden()


def test_a_model_whose_parts_cannot_be_told_apart_says_so(open_page: Callable[..., Page]) -> None:
    page = open_page(f"#{encode(View(model='bert', tab='attribution'))}", drawn=False)
    expect(page.locator("#attribution-note")).to_contain_text("cannot be told apart")
    page.get_by_role("tab", name="Attention").click()
    wait_until_drawn(page)
    plot = page.locator(".map-card .nsewdrag").first.bounding_box()
    assert plot is not None
    page.mouse.click(plot["x"] + plot["width"] * 0.5, plot["y"] + plot["height"] * 0.5)
    panel = page.locator("#explain-panel")
    expect(panel).to_contain_text("cannot be told apart")
    expect(panel.get_by_role("list", name="Dimensions")).to_contain_text("dim")


def test_many_heads_are_drawn_on_demand(page_open: Page) -> None:
    use_deep_model(page_open)
    page_open.get_by_role("textbox", name="Add heads").fill("0-1.*")
    page_open.keyboard.press("Enter")
    expect(page_open.locator("#show-more")).to_be_visible()
    expect_maps(page_open, 24)
    page_open.locator("#show-more").click()
    expect(page_open.locator("#show-more")).to_be_hidden()
    assert len(maps(page_open)) > 24


# --- intervention ---


def _prediction(page: Page) -> str:
    return page.locator("#prediction-numbers").inner_text()


def test_ablating_moves_the_prediction_and_back(page_open: Page) -> None:
    clean = _prediction(page_open)
    switch(page_open, "Ablate the chosen heads")
    expect(page_open.locator("#prediction-numbers")).to_contain_text("KL")
    expect(page_open.locator("#attention-note")).to_contain_text("ablated run")
    zero = _prediction(page_open)
    page_open.get_by_role("textbox", name="Intervention", exact=True).click()
    page_open.get_by_role("option", name="Scale").click()
    expect(page_open.get_by_label("Factor")).to_have_value("0.5")
    expect(page_open.locator("#attention-note")).to_contain_text("scale by 0.5")
    expect(page_open.locator("#prediction-numbers")).not_to_have_text(zero)
    switch(page_open, "Ablate the chosen heads")
    expect(page_open.locator("#attention-note")).to_contain_text("clean run")
    expect(page_open.locator("#prediction-numbers")).to_have_text(
        re.compile(r"\s*".join(map(re.escape, clean.split())))
    )


def test_an_intervention_that_does_not_fit_says_so(page_open: Page) -> None:
    switch(page_open, "Ablate the chosen heads")
    page_open.get_by_role("textbox", name="Intervention", exact=True).click()
    page_open.get_by_role("option", name="Resample").click()
    page_open.get_by_label("Source prompt").fill("short")
    page_open.keyboard.press("Enter")
    expect(page_open.locator("#intervention-error")).to_contain_text("equal length")
    expect(page_open.locator("#attention-note")).to_contain_text("Not ablated")
    page_open.get_by_role("textbox", name="Intervention", exact=True).click()
    page_open.get_by_role("option", name="Zero").click()
    expect(page_open.locator("#intervention-error")).to_be_empty()


def test_a_watched_token_shows_its_rank(page_open: Page) -> None:
    page_open.get_by_role("textbox", name="Watched token: type").fill(" Mary and")
    page_open.keyboard.press("Enter")
    expect(page_open.locator(".right")).to_contain_text("tokens")
    page_open.get_by_role("textbox", name="Watched token: type").fill(" Mary")
    page_open.keyboard.press("Enter")
    expect(page_open.locator("#prediction-numbers")).to_contain_text("rank of")


# --- studies ---


def test_a_sweep_ranks_heads_that_can_be_added(page_open: Page) -> None:
    page_open.get_by_role("button", name="Clear").click()
    open_study(page_open)
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.locator("#sweep-caption")).to_contain_text("12 heads")
    cell = page_open.locator("#sweep-table .ag-row[row-index='0'] .ag-cell[col-id=head]")
    best = cell.inner_text()
    cell.click()
    expect(page_open.locator("#heads-count")).to_have_text("1 of 12")
    expect(page_open.get_by_role("button", name="Run study")).to_be_enabled()
    page_open.get_by_role("tab", name="Attention").click()
    expect_maps(page_open, 1)
    assert maps(page_open) == [best]


def test_a_row_is_added_by_the_keyboard(page_open: Page) -> None:
    page_open.get_by_role("button", name="Clear").click()
    open_study(page_open)
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.locator("#sweep-caption")).to_contain_text("12 heads")
    page_open.locator("#sweep-table .ag-header-cell").first.focus()
    page_open.keyboard.press("ArrowDown")
    page_open.keyboard.press("Enter")
    expect(page_open.locator("#heads-count")).to_have_text("1 of 12")


def test_a_search_shows_progress_and_is_cancelled_with_what_it_found(page_open: Page) -> None:
    use_deep_model(page_open)
    open_study(page_open, "Generic")
    page_open.get_by_label("Heads, at most").fill("200")
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.locator("#study-status")).to_contain_text("left")
    expect(page_open.locator("#search-table .ag-row").first).to_be_visible()
    expect(page_open.get_by_role("button", name="Run study")).to_be_disabled()
    page_open.get_by_role("button", name="Cancel").click()
    expect(page_open.locator("#search-sentences")).to_contain_text("Cancelled")
    expect(page_open.get_by_role("button", name="Run study")).to_be_enabled()
    expect(page_open.locator("#study-progress")).to_be_hidden()


def test_heads_are_studied_by_position(page_open: Page) -> None:
    open_study(page_open, "By position")
    expect(page_open.locator("#by-position-hint")).to_contain_text("Run the study")
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.locator("#by-position-caption")).to_contain_text("3 heads × 18 positions")
    expect(page_open.locator("#by-position-map .main-svg").first).to_be_visible()
    expect(page_open.locator("#study-progress")).to_be_hidden()
    # A figure drawn in a hidden place is fitted to it once that is shown.
    page_open.wait_for_function(
        """() => document.querySelector("#by-position-map .main-svg").clientWidth <=
            document.getElementById("by-position-frame").clientWidth"""
    )
    plot = page_open.locator("#by-position-map .nsewdrag").bounding_box()
    assert plot is not None
    page_open.mouse.click(plot["x"] + plot["width"] * 4.5 / 18, plot["y"] + plot["height"] / 2)
    expect(page_open.locator("#token-panel")).to_contain_text("position4")
    run_prompt(page_open, "The key to the cabinets")
    expect(page_open.locator("#study-outdated")).to_contain_text("earlier prompt: “When Mary")


def test_a_study_by_position_without_heads_says_what_to_do(page_open: Page) -> None:
    page_open.get_by_role("button", name="Clear").click()
    open_study(page_open, "By position")
    expect(page_open.locator("#by-position-hint")).to_contain_text("Choose heads on the left")
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.locator(".left")).to_contain_text("No heads are chosen")
    page_open.get_by_role("textbox", name="Add heads").fill("0.1, 2.3")
    page_open.keyboard.press("Enter")
    expect(page_open.locator(".left")).not_to_contain_text("No heads are chosen")
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.locator("#by-position-caption")).to_contain_text("2 heads × 18 positions")


def test_a_study_by_position_is_cancelled_with_what_it_found(page_open: Page) -> None:
    use_deep_model(page_open)
    page_open.get_by_role("textbox", name="Add heads").fill("all")
    page_open.keyboard.press("Enter")
    expect(page_open.locator("#heads-count")).to_have_text("256 of 256")
    open_study(page_open, "By position")
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.locator("#by-position-map .main-svg").first).to_be_visible()
    expect(page_open.locator("#study-status")).to_contain_text("cells")
    page_open.get_by_role("button", name="Cancel").click()
    expect(page_open.locator("#by-position-caption")).to_contain_text("Cancelled after")
    expect(page_open.get_by_role("button", name="Run study")).to_be_enabled()


def test_a_screened_search_is_chosen_and_is_in_the_link(
    open_page: Callable[..., Page],
) -> None:
    page = open_page()
    use_deep_model(page)
    open_study(page, "Generic")
    expect(page.locator("#study-help")).to_contain_text("Exact: every remaining head")
    page.get_by_text("screened", exact=True).click()
    expect(page.locator("#study-help")).to_contain_text("Screened: only the most promising heads")
    page.get_by_label("Heads, at most").fill("2")
    page.get_by_role("button", name="Run study").click()
    expect(page.get_by_role("button", name="Use these heads")).to_be_enabled()
    expect(page.locator("#search-sentences")).to_contain_text(
        "288 head sets were evaluated exactly"
    )
    again = open_page("#" + page.url.split("#")[1], drawn=False)
    expect(again.locator("#study-help")).to_contain_text("Screened: only the most promising heads")


def test_a_targeted_search_is_put_to_use(page_open: Page) -> None:
    open_study(page_open, "Targeted")
    page_open.get_by_role("textbox", name="or type any token").fill("more than one")
    page_open.keyboard.press("Enter")
    expect(page_open.locator("#target-options")).to_contain_text("tokens")
    page_open.get_by_role("textbox", name="Target token").click()
    page_open.locator("[role=option]:visible").nth(2).click()
    page_open.get_by_role("button", name="Run study").click()
    use = page_open.get_by_role("button", name="Use these heads")
    expect(use).to_be_enabled()
    expect(page_open.locator("#search-trace .main-svg").first).to_be_visible()
    use.click()
    expect(page_open.get_by_role("switch", name="Ablate the chosen heads")).to_be_checked()
    page_open.get_by_role("tab", name="Attention").click()
    expect(page_open.locator("#attention-note")).to_contain_text("ablated run")


def test_an_option_typed_just_before_the_study_runs_counts(page_open: Page) -> None:
    open_study(page_open, "Generic")
    page_open.get_by_label("Heads, at most").fill("1")
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.get_by_role("button", name="Use these heads")).to_be_enabled()
    expect(page_open.locator("#search-sentences")).to_contain_text("limit")
    expect(page_open.locator("#search-table .ag-center-cols-container .ag-row")).to_have_count(1)


def test_a_target_must_be_chosen(page_open: Page) -> None:
    open_study(page_open, "Targeted")
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.locator("#target-options")).to_contain_text("Choose")
    expect(page_open.get_by_role("button", name="Run study")).to_be_enabled()


def test_two_tabs_study_at_once_and_closing_one_leaves_the_other(
    open_page: Callable[..., Page],
) -> None:
    first, second = open_page(), open_page()
    for page in (first, second):
        use_deep_model(page)
        open_study(page, "Generic")
        page.get_by_label("Heads, at most").fill("200")
        page.get_by_role("button", name="Run study").click()
    for page in (first, second):
        expect(page.locator("#search-table .ag-row").first).to_be_visible()
    first.close()
    n_rows = second.locator("#search-table .ag-row").count()
    expect(second.locator("#search-table .ag-row").nth(n_rows)).to_be_visible()
    second.get_by_role("button", name="Cancel").click()
    expect(second.locator("#search-sentences")).to_contain_text("Cancelled")


def test_a_closed_page_ends_its_study_though_another_is_open(
    open_page: Callable[..., Page], app: Dash
) -> None:
    page, other = open_page(), open_page()
    use_deep_model(page)
    open_study(page, "Generic")
    page.get_by_label("Heads, at most").fill("200")
    page.get_by_role("button", name="Run study").click()
    expect(page.locator("#search-table .ag-row").first).to_be_visible()
    jobs = app.server.state.services.jobs
    assert jobs.n_running == 1
    page.close()
    deadline = time.monotonic() + TIMEOUT / 1000
    while jobs.n_running and time.monotonic() < deadline:
        other.wait_for_timeout(50)
    assert jobs.n_running == 0


def test_a_result_of_an_earlier_prompt_says_so(page_open: Page) -> None:
    open_study(page_open)
    page_open.get_by_role("button", name="Run study").click()
    expect(page_open.locator("#sweep-caption")).to_contain_text("12 heads")
    expect(page_open.locator("#study-outdated")).to_be_empty()
    run_prompt(page_open, "The key to the cabinets")
    expect(page_open.locator("#study-outdated")).to_contain_text("earlier prompt: “When Mary")


# --- model, link, theme ---


def test_a_model_that_is_not_there_leaves_the_old_one(page_open: Page) -> None:
    picker = page_open.get_by_role("textbox", name="Model")
    picker.fill("no/such-model")
    page_open.keyboard.press("Enter")
    expect(page_open.get_by_role("alert").first).to_contain_text("no/such-model")
    expect(page_open.locator("#model-facts")).to_contain_text("3 layers")
    expect(picker).to_be_enabled()
    expect(picker).to_have_value("llama")
    run_prompt(page_open, "The key to the cabinets")
    expect(page_open.locator("#token-strip")).to_have_text(re.compile("cabinets$"))


def test_a_model_is_picked_from_the_list(page_open: Page) -> None:
    page_open.get_by_role("textbox", name="Model").click()
    page_open.get_by_role("option", name="gpt2").click()
    page_open.keyboard.press("Enter")
    expect(page_open.locator("#model-picker")).to_have_value("gpt2")
    expect(page_open).to_have_url(re.compile("#1"))
    wait_until_drawn(page_open)


def test_reloading_keeps_the_view(page_open: Page) -> None:
    run_prompt(page_open, "The key to the cabinets")
    expect(page_open.locator("#token-strip")).to_have_text(re.compile("cabinets$"))
    page_open.locator(".token").nth(1).click()
    switch(page_open, "Ablate the chosen heads")
    expect(page_open.locator("#attention-note")).to_contain_text("ablated run")
    link = page_open.url
    expect(page_open).not_to_have_url(re.compile("#$"))
    page_open.wait_for_function("() => document.readyState === 'complete'")
    page_open.reload()
    wait_until_drawn(page_open)
    expect(page_open.locator("#attention-note")).to_contain_text("ablated run")
    expect(page_open.locator("#prediction-caption")).to_contain_text("position 1")
    expect(page_open.locator("#prompt-text")).to_have_value("The key to the cabinets")
    assert "#1." in link


def test_a_shared_link_opens_the_same_view(open_page: Callable[..., Page]) -> None:
    first = open_page()
    run_prompt(first, "The key to the cabinets")
    expect(first.locator("#token-strip")).to_have_text(re.compile("cabinets$"))
    first.wait_for_function("() => document.title && location.hash.length > 10")
    before = first.url
    first.get_by_role("button", name="Copy a link").click()
    expect(first.get_by_text("The link to this view is copied.")).to_be_visible()
    link = first.evaluate("navigator.clipboard.readText()")
    assert link.startswith(before.split("#")[0])
    second = open_page("#" + link.split("#")[1])
    expect(second.locator("#prompt-text")).to_have_value("The key to the cabinets")


def test_a_damaged_link_opens_a_new_page_with_one_notice(open_page: Callable[..., Page]) -> None:
    page = open_page("#1.damaged")
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text("damaged")
    expect(page.locator(".token").first).to_have_text("Whe")


def test_dark_reaches_page_figures_and_tables(page_open: Page) -> None:
    def surface(place: str) -> str:
        return page_open.locator(place).first.evaluate("e => getComputedStyle(e).backgroundColor")

    light = [surface(place) for place in (".column", ".map-card", "body")]
    page_open.get_by_role("button", name="Switch between light and dark").click()
    expect(page_open.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    assert all(
        a != b for a, b in zip(light, map(surface, (".column", ".map-card", "body")), strict=True)
    )
    title = page_open.locator(".map-card .gtitle").first
    expect(title).to_have_css("fill", "rgb(231, 235, 239)")
    page_open.reload()
    wait_until_drawn(page_open)
    expect(page_open.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")


def test_the_self_check_opens_to_its_numbers(page_open: Page) -> None:
    page_open.get_by_role("button", name="self-check passed").focus()
    page_open.keyboard.press("Enter")
    expect(page_open.get_by_text("Proved at load")).to_be_visible()


def test_all_controls_are_reached_by_the_tab_key(page_open: Page) -> None:
    reached = set()
    page_open.locator("body").press("Tab")
    for _ in range(80):
        reached.add(
            page_open.evaluate("document.activeElement.id || document.activeElement.className")
        )
        page_open.keyboard.press("Tab")
    controls = (
        "model-picker share dark-toggle prompt-text prompt-run bos heads heads-text heads-clear "
        "ablate intervention-kind acted-text watched-picker watched-text"
    )
    assert set(controls.split()) <= reached


def test_a_server_that_was_stopped_is_told_of(profile: BrowserContext) -> None:
    page = profile.new_page()
    with serving(make_page()) as url:
        page.goto(url)
        wait_until_drawn(page)
    page.locator(".token").first.click()
    expect(page.get_by_text("The server does not answer")).to_be_visible()
    close(page)
