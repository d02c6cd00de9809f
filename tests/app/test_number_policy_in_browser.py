"""A policy that answers with numbers, in Chromium: cameras, state, action, its expert's heads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_fixtures import make_page, serving
from playwright.sync_api import Page, expect
from tiny_vision import noise_picture

from app import permalink
from app.view import View
from models.picture import Picture
from models.recordings import Frame, Recording
from models.recordings.folder import write_folder
from models.types import Head

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_page("pi0")) as url:
        yield url


@pytest.fixture
def robot(quiet: Page, address: str) -> Page:
    view = View("pi0", heads=(Head(1, 2, "expert"), Head(0, 1)))
    quiet.goto(address + "#" + str(permalink.encode(view)))
    expect(quiet.locator("#action-body table")).to_be_visible()
    expect(quiet.locator(".on-image-canvas")).to_have_count(2)
    return quiet


def test_the_action_stands_in_the_place_of_the_prediction(robot: Page) -> None:
    expect(robot.locator("#prediction-panel")).to_be_hidden()
    expect(robot.locator("#action-curves")).to_contain_text("step of the chunk")
    expect(robot.locator("#action-body")).to_contain_text("a chunk of 4 actions")
    robot.locator("#ablate").dispatch_event("click")
    expect(robot.locator("#action-body")).to_contain_text("moved by")
    expect(robot.locator("#action-curves")).to_contain_text("ablated")


def test_cameras_and_state_are_given(robot: Page, tmp_path: Path) -> None:
    paths = []
    for seed in range(2):
        path = tmp_path / f"camera{seed}.png"
        path.write_bytes(noise_picture((48, 32), seed).png())
        paths.append(path)
    robot.set_input_files("#image-upload input", paths)
    expect(robot.locator("#image-strip img")).to_have_count(2)
    expect(robot.locator(".on-image-canvas")).to_have_count(4)
    before = robot.locator("#action-body").inner_text()
    robot.fill("#second-text", "1.5, -1")
    robot.press("#second-text", "Enter")
    expect(robot.locator("#action-body")).not_to_have_text(before)
    robot.fill("#second-text", "left")
    robot.press("#second-text", "Enter")
    expect(robot.locator("#second-text-error")).to_contain_text("no list of numbers")
    before = robot.locator("#action-body").inner_text()
    robot.fill("#second-text", "2.5, -1")
    robot.press("#second-text", "Enter")
    expect(robot.locator("#action-body")).not_to_have_text(before)
    expect(robot.locator("#second-text-error")).to_have_count(0)


def test_an_actions_look_is_drawn_on_the_picture(robot: Page) -> None:
    card = robot.locator(".on-image-card").first
    expect(card.locator(".on-image-said")).to_contain_text("action 0 looks")
    card.locator(".on-image-word", has_text="action 2").click()
    expect(card.locator(".on-image-said")).to_contain_text("action 2 looks")
    robot.locator("label", has_text="is looked at by").click()
    # Nothing of the picture looks at an action: its words and the other actions do.
    expect(card.locator(".on-image-said")).to_contain_text("action 2 is looked at")
    expect(card.locator(".on-image-said")).not_to_contain_text("on the image")
    first = card.locator(".on-image-word", has_text="action 0")
    assert float(str(first.get_attribute("title")).rpartition(": ")[2]) > 0
    the = card.locator(".on-image-word", has_text="the").first
    assert str(the.get_attribute("title")) == "the"
    robot.get_by_text("Lines", exact=True).click()
    choice = robot.locator(".stack-choice").first
    expect(choice).to_contain_text("action expert")
    expect(choice).to_contain_text("language model")


def test_studies_are_of_the_action(robot: Page) -> None:
    robot.get_by_role("tab", name="Ablation study").click()
    robot.click("#study-run")
    expect(robot.locator("#sweep-caption")).to_contain_text("move nothing")
    expect(robot.locator("#sweep-table")).to_contain_text("Change of the action, σ")
    robot.locator("#study").get_by_text("Targeted", exact=True).click()
    expect(robot.locator("#target-options")).to_be_hidden()
    expect(robot.locator("#study-outdated")).to_be_empty()
    robot.fill("#goal", "dz<0")
    robot.press("#goal", "Tab")
    robot.click("#study-run")
    expect(robot.locator("#goal-options")).to_contain_text("no action 'dz'; its actions are dx, dy")
    robot.fill("#goal", "dx<-9")
    robot.press("#goal", "Tab")
    robot.click("#study-run")
    expect(robot.locator("#search-sentences")).to_contain_text("Wanted: dx<-9")
    expect(robot.locator("#search-table")).to_contain_text("moved, σ")
    expect(robot.locator("#goal-options")).not_to_contain_text("no action")
    robot.fill("#goal", "dx<-8")
    robot.press("#goal", "Tab")
    expect(robot.locator("#study-outdated")).to_have_text(
        "This result is of an earlier goal: dx<-9"
    )
    robot.locator("#study").get_by_text("Generic", exact=True).click()
    expect(robot.locator("#study-outdated")).to_have_text("This result is of the targeted study.")


def test_a_recording_is_gone_through_with_its_states(robot: Page, tmp_path: Path) -> None:
    frames = tuple(Frame(i / 2, (1.5 + i, -1.0), (0.1, 0.2)) for i in range(3))

    def pictures(index: int) -> tuple[Picture, ...]:
        return (noise_picture((32, 32), index), noise_picture((32, 32), 10 + index))

    recording = Recording("r", "push it", frames, ("front", "wrist"), ("dx", "dy"), pictures)
    write_folder(recording, tmp_path / "episode", 2.0)
    robot.fill("#recording-path", str(tmp_path / "episode"))
    robot.click("#recording-open")
    expect(robot.locator("#recording-caption")).to_contain_text("frame 1 of 3")
    expect(robot.locator("#second-text")).to_have_value("1.5, -1")
    expect(robot.locator("#image-strip img")).to_have_count(2)
    robot.click("#recording-on")
    expect(robot.locator("#second-text")).to_have_value("2.5, -1")
    expect(robot.locator("#prompt-text")).to_have_value("push it")
    robot.locator("#ablate").dispatch_event("click")
    robot.click("#trace-run")
    expect(robot.locator("#trace-caption")).to_contain_text("σ on average")
    expect(robot.locator("#trace-place")).to_contain_text("attention of expert:L1H2")
