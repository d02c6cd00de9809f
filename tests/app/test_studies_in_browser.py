"""The studies tab in Chromium: choose, plan, run, read, save."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_fixtures import make_page, serving
from playwright.sync_api import Page, expect

from app import permalink
from app.view import View

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_page()) as url:
        yield url


def test_a_study_is_planned_run_and_saved(quiet: Page, address: str, tmp_path: Path) -> None:
    view = View("llama", prompt="The cat sat on the mat.", tab="studies")
    quiet.goto(address + "#" + str(permalink.encode(view)))
    expect(quiet.locator("#studies-question")).to_contain_text("critical for predicting")
    expect(quiet.locator("#studies-plan")).to_contain_text("12 heads alone on 12 prompts")
    # What is wrong is said before anything runs.
    quiet.click("#studies-set")
    quiet.locator("[role=option]", has_text="A file of prompts").click()
    expect(quiet.locator("#studies-problem")).to_contain_text("No file of prompts is chosen")
    own = tmp_path / "own.txt"
    own.write_text("The cat sat on the mat.\nA dog ran\n", encoding="utf-8")
    quiet.set_input_files("#studies-upload input", own)
    expect(quiet.locator("#studies-file-note")).to_contain_text("2 prompts in own.txt")
    expect(quiet.locator("#studies-problem")).to_be_empty()
    quiet.click("#studies-run")
    expect(quiet.locator("#studies-headline")).to_contain_text(
        "Critical heads, 2 prompts (own.txt; intervention: zero; "
    )
    expect(quiet.locator("#studies-answer p").first).to_contain_text("of 12 heads")
    expect(quiet.locator("#studies-figures .js-plotly-plot")).to_have_count(5)
    expect(quiet.locator("#studies-table .ag-center-cols-container .ag-row").first).to_be_visible()
    with quiet.expect_download() as page_saved:
        quiet.locator(".tabs [role=tabpanel]:visible button.export").click()
        quiet.locator("[role=menuitem]:visible", has_text="All of it as HTML").click()
    assert page_saved.value.suggested_filename == "critical-heads.html"
    page = Path(page_saved.value.path()).read_text(encoding="utf-8")
    assert "2 prompts (own.txt; intervention: zero; " in page
    with quiet.expect_download() as saving:
        quiet.locator(".tabs [role=tabpanel]:visible button.export").click()
        quiet.locator("[role=menuitem]:visible", has_text="Table as CSV").click()
    saved = Path(saving.value.path()).read_text(encoding="utf-8")
    assert saved.startswith("rank,head,layer,index,kl,kl_low,kl_high")
    assert saved.count("\n") == 13
