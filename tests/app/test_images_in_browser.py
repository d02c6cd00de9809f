"""Models that see, in Chromium: attention on the picture, giving pictures, actions and episodes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_fixtures import make_page, serving, show
from playwright.sync_api import Page, expect
from recorded import expert_recording
from tiny_vision import noise_picture

from app import permalink
from app.images import table_text
from app.view import View
from models.recordings.folder import write_folder
from models.types import Head

HEADS = (Head(1, 2), Head(0, 1, "vision"))

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_page("tabletop")) as url:
        yield url


@pytest.fixture
def policy(lasting: Page, address: str) -> Page:
    show(lasting, address, permalink.encode(View("tabletop", heads=HEADS)))
    expect(lasting.locator(".on-image-canvas")).to_have_count(2)
    expect(lasting.locator("#action-body table")).to_be_visible()
    return lasting


def painted(page: Page, index: int) -> str:
    return str(page.locator(".on-image-canvas").nth(index).evaluate("(c) => c.toDataURL()"))


def test_attention_is_drawn_on_the_picture_and_follows_the_selected_token(policy: Page) -> None:
    said = policy.locator(".on-image-said").first
    expect(said).to_contain_text("open looks")
    before = painted(policy, 0)
    policy.locator(".on-image-word", has_text="yellow").first.click()
    expect(said).to_contain_text("yellow looks")
    assert painted(policy, 0) != before
    canvas = policy.locator(".on-image-canvas").first
    box = canvas.bounding_box()
    assert box is not None
    cell = box["width"] / 8
    canvas.hover(position={"x": 2.5 * cell, "y": 1.5 * cell})
    expect(policy.locator(".on-image-tip")).to_contain_text("▦1,2 · ")
    canvas.click(position={"x": 2.5 * cell, "y": 1.5 * cell})
    expect(said).to_contain_text("▦1,2 looks")
    # The same patch is the tower's.
    expect(policy.locator(".on-image-said").nth(1)).to_contain_text("▦1,2 looks, 100 % on")
    policy.locator("label", has_text="is looked at by").click()
    expect(said).to_contain_text("is looked at")


@pytest.mark.thorough
def test_the_weights_shown_are_those_of_the_model(policy: Page) -> None:
    from page_fixtures import Shelf

    from app.services import Services

    services = Services(Shelf())
    model = services.model("tabletop")
    view = services.settled(View("tabletop", heads=HEADS), model)
    prompt = services.prompt(view, model)
    row = model.attention(prompt, [HEADS[0]]).values[0, -1]
    cells = prompt.cells or ()
    at = max((i for i, cell in enumerate(cells) if cell), key=lambda i: row[i])
    cell = cells[at]
    assert cell is not None
    canvas = policy.locator(".on-image-canvas").first
    box = canvas.bounding_box()
    assert box is not None
    zoom = box["width"] / 64
    canvas.hover(
        position={
            "x": zoom * (cell.left + cell.right) / 2,
            "y": zoom * (cell.top + cell.bottom) / 2,
        }
    )
    expect(policy.locator(".on-image-tip")).to_contain_text(f"▦{cell.row},{cell.column} · ")
    said = str(policy.locator(".on-image-tip").text_content()).rsplit(" ", 1)[1]
    assert float(said) == pytest.approx(float(row[at]), rel=0.01)


def test_a_picture_is_given_and_taken_out(policy: Page, tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    path.write_bytes(noise_picture((48, 32)).png())
    before = painted(policy, 0)
    policy.set_input_files("#image-upload input", str(path))
    expect(policy.locator("#image-strip img")).to_have_attribute("alt", "noise.png")
    expect(policy.locator(".on-image-canvas").first).to_have_attribute(
        "aria-label", "Attention of L1H2 on noise.png"
    )
    assert painted(policy, 0) != before
    wrong = tmp_path / "notes.png"
    wrong.write_text("not a picture")
    policy.set_input_files("#image-upload input", str(wrong))
    expect(policy.locator(".mantine-Notification-root")).to_contain_text(
        "notes.png is not a picture that can be read"
    )
    expect(policy.locator("#image-strip img")).to_have_attribute("alt", "noise.png")
    policy.locator("#image-strip button").click()
    expect(policy.locator("#image-strip img")).to_have_count(0)
    expect(policy.locator(".on-image-note")).to_contain_text("no picture in this prompt")
    policy.locator("label", has_text="Matrix").first.click()
    expect(policy.locator(".map-card")).to_have_count(1)  # the tower's head sees nothing


def test_attention_is_drawn_as_contours(policy: Page) -> None:
    """The thick line goes around the parts that hold half of the attention on the picture."""
    filled = painted(policy, 0)
    policy.get_by_role("checkbox", name="as contours").check()
    assert painted(policy, 0) != filled
    weights = policy.evaluate(
        """() => {
            const card = document.querySelector(".on-image-card");
            const canvas = card.querySelector("canvas");
            const hue = getComputedStyle(card).getPropertyValue("--hue").trim();
            const wanted = [1, 3, 5].map((i) => parseInt(hue.slice(i, i + 2), 16));
            const pen = canvas.getContext("2d");
            const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
            let coloured = 0;
            for (let i = 0; i < data.length; i += 4) {
                coloured += wanted.every((part, k) => Math.abs(data[i + k] - part) < 8);
            }
            return coloured / (data.length / 4);
        }"""
    )
    assert 0.003 < weights < 0.4  # lines, no areas


def test_all_heads_are_seen_over_the_picture_and_chosen(policy: Page) -> None:
    expect(policy.locator("#over-picture-place")).to_be_hidden()
    policy.locator("#over-picture").click(force=True)
    expect(policy.locator("#over-picture-map .main-svg").first).to_be_visible()
    expect(policy.locator("#over-picture-note")).to_contain_text("Where open looks")
    expect(policy.locator("#over-picture-map .layer-above image")).to_have_count(1)
    policy.locator("#over-picture-map").scroll_into_view_if_needed()
    box = policy.locator("#over-picture-map .nsewdrag").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 0.5 / 4
    policy.mouse.click(x, y)
    expect(policy.locator("#heads-count")).to_have_text("3 of 50")
    expect(policy.locator(".on-image-title", has_text="L3H3")).to_have_count(1)


@pytest.mark.thorough
def test_an_example_brings_its_scene(policy: Page) -> None:
    policy.locator("#examples").click()
    policy.get_by_role("option", name="(pair never seen)").first.click()
    expect(policy.locator("#image-strip img")).to_have_attribute("alt", "tabletop:held-out:3")
    expect(policy.locator("#prompt-text")).not_to_have_value(table_text("tabletop:7"))
    expect(policy.locator(".on-image-canvas").first).to_have_attribute(
        "aria-label", "Attention of L1H2 on tabletop:held-out:3"
    )


def test_an_ablation_shows_in_the_action_and_in_episodes(policy: Page) -> None:
    table = policy.locator("#action-body table")
    expect(table).not_to_contain_text("after")
    policy.locator("#ablate").click(force=True)
    expect(table).to_contain_text("after")
    expect(policy.locator("#action-body")).to_contain_text("of its reach")
    expect(policy.locator("#action-body img")).to_be_visible()
    policy.locator("#episode-play").click()
    expect(policy.locator(".film")).to_be_visible()
    policy.locator("#episodes-run").click()
    expect(policy.locator("#episodes-status")).to_contain_text("episodes")
    policy.locator("#episodes-cancel").click()
    expect(policy.locator("#episodes-result")).to_contain_text("Cancelled")


@pytest.mark.thorough
def test_other_pictures_of_attention_work_on_what_is_seen(policy: Page) -> None:
    policy.locator("label", has_text="Matrix").first.click()
    expect(policy.locator(".map-card .main-svg").first).to_be_visible()
    expect(policy.locator(".map-card .gtitle").nth(1)).to_contain_text("vision:L0H1")
    policy.locator("label", has_text="Text").first.click()
    expect(policy.locator(".stack-choice")).to_contain_text("vision tower")
    policy.locator("label", has_text="Overview").first.click()
    expect(policy.locator("#overview-note")).to_contain_text("32 heads")


def test_a_classifier_says_what_a_picture_shows(policy: Page, tmp_path: Path) -> None:
    field = policy.locator("#model-picker")
    field.fill("vit")
    field.press("Enter")
    expect(policy.locator("#prediction-caption")).to_have_text("which class the picture shows")
    expect(policy.locator("#prompt-text")).to_be_disabled()
    expect(policy.get_by_text("text is not read")).to_be_visible()
    expect(policy.locator("#action-panel")).to_be_hidden()
    expect(policy.locator("#prediction-figure")).to_contain_text("Egyptian cat")
    path = tmp_path / "noise.png"
    path.write_bytes(noise_picture((60, 40)).png())
    policy.set_input_files("#image-upload input", str(path))
    expect(policy.locator("#image-strip img")).to_have_count(1)
    expect(policy.locator("#image-strip img")).to_have_attribute("alt", "noise.png")
    policy.locator("label", has_text="Image").first.click()
    said = policy.locator(".on-image-said").first
    expect(said).to_contain_text("class looks")
    policy.get_by_role("tab", name="Ablation study").click()
    policy.locator("#study-run").click()
    expect(policy.locator("#sweep-caption")).to_contain_text("12 heads")
    policy.get_by_role("tab", name="Attribution").click()
    expect(policy.get_by_text("needs a model that reads text alone").first).to_be_visible()
    field.fill("llama")
    field.press("Enter")
    expect(policy.locator("#prompt-text")).to_be_enabled()


def test_a_model_of_text_has_no_place_for_pictures(policy: Page) -> None:
    field = policy.locator("#model-picker")
    field.fill("llama")
    field.press("Enter")
    expect(policy.locator("#image-place")).to_be_hidden()
    expect(policy.locator("#action-panel")).to_be_hidden()
    expect(policy.locator("#episodes-place")).to_be_hidden()
    expect(policy.locator("label", has_text="Image")).to_have_count(0)
    expect(policy.locator(".map-card .main-svg").first).to_be_visible()


def test_a_recording_is_opened_gone_through_followed_and_saved(
    policy: Page, tmp_path: Path
) -> None:
    recording = expert_recording("tabletop:11")
    write_folder(recording, tmp_path / "episode")
    path = policy.locator("#recording-path")
    path.fill(str(tmp_path / "nowhere"))
    path.press("Enter")
    policy.locator("#recording-open").click()
    expect(policy.locator("#recording-error")).to_contain_text("There is no recording in")
    path.fill(str(tmp_path / "episode"))
    path.press("Enter")
    policy.locator("#recording-open").click()
    expect(policy.locator("#recording-caption")).to_contain_text("frame 1 of 7")
    expect(policy.locator("#recording-error")).to_be_empty()
    policy.locator("#recording-on").click()
    expect(policy.locator("#recording-caption")).to_contain_text("frame 2 of 7")
    told = f"{recording.instruction} {recording.frames[1].state}"
    expect(policy.locator("#prompt-text")).to_have_value(told)
    expect(policy.locator("#image-strip img")).to_have_attribute("alt", "00001.png")
    expect(policy.locator(".on-image-canvas").first).to_have_attribute(
        "aria-label", "Attention of L1H2 on 00001.png"
    )
    policy.locator("#ablate").click(force=True)
    expect(policy.locator("#action-body table")).to_contain_text("after")
    policy.locator("#trace-run").click()
    expect(policy.locator("#trace .main-svg").first).to_be_visible()
    expect(policy.locator("#trace-caption")).to_contain_text("blat")
    drawn = policy.evaluate(
        """() => {
            const { _fullData, layout } = document.querySelector("#trace .js-plotly-plot");
            const names = _fullData.map((line) => line.name);
            return [names, layout.shapes[0].x0, _fullData[0].x.length];
        }"""
    )
    assert {"done", "whole", "ablated", "picture", "red cross"} <= set(drawn[0])
    assert drawn[1] == pytest.approx(recording.frames[1].time)
    assert drawn[2] == len(recording)
    expect(policy.locator("#recording-away")).to_be_empty()
    for kind, start in (("gif", b"GIF89a"), ("mp4", b"\0\0\0")):
        with policy.expect_download() as saving:
            policy.locator(f"#film-{kind}").click()
        assert Path(saving.value.path()).read_bytes().startswith(start)
    policy.locator("#acted-text").fill("3")  # numbers mean other things in other frames
    policy.locator("#acted-text").press("Enter")
    policy.locator("#trace-run").click()
    expect(policy.locator("#trace-caption")).to_contain_text("positions are named by words")
    expect(policy.locator("#trace-place")).to_be_hidden()
    path = tmp_path / "noise.png"
    path.write_bytes(noise_picture((60, 40)).png())
    policy.set_input_files("#image-upload input", str(path))
    expect(policy.locator("#image-strip img")).to_have_attribute("alt", "noise.png")
    expect(policy.locator("#recording-away")).to_contain_text("not this frame any more")
    field = policy.locator("#model-picker")
    field.fill("llama")
    field.press("Enter")
    expect(policy.locator("#recording-place")).to_be_hidden()
    field.fill("tabletop")
    field.press("Enter")
    expect(policy.locator("#recording-place")).to_be_visible()
    expect(policy.locator("#recording-body")).to_be_hidden()


def test_a_policy_acts_from_the_scene_on(policy: Page) -> None:
    policy.locator("#recording-play").click()
    expect(policy.locator("#recording-caption")).to_contain_text("touch the yellow triangle")
    expect(policy.locator("#recording-body")).to_be_visible()
    policy.wait_for_function("() => location.hash.length > 10")
    policy.locator("#recording-play").click()  # a frame is no scene by its name
    expect(policy.locator("#recording-error")).to_contain_text("begins in a scene of the table")
