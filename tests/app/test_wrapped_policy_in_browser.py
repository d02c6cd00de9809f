"""Policies that a person wrapped, in Chromium: cameras, state, action, stacks by their names."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_fixtures import make_page, serving
from playwright.sync_api import Page, expect
from tiny_vision import noise_picture
from tiny_wrapped import flow_file

from app import create_app, permalink
from app.view import View
from models.registry import Registry
from models.types import Head

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_page("flow")) as url:
        yield url


@pytest.fixture
def robot(quiet: Page, address: str) -> Page:
    view = View("flow", heads=(Head(1, 2, "expert"), Head(0, 1, "vision"), Head(0, 1)))
    quiet.goto(address + "#" + str(permalink.encode(view)))
    expect(quiet.locator("#action-body table")).to_be_visible()
    expect(quiet.locator(".on-image-canvas")).to_have_count(3 * 2)
    return quiet


def test_the_action_changes_with_an_ablation(robot: Page) -> None:
    expect(robot.locator("#prediction-panel")).to_be_hidden()
    expect(robot.locator("#action-body")).to_contain_text("a chunk of 4 actions")
    robot.locator("#ablate").dispatch_event("click")
    expect(robot.locator("#action-body")).to_contain_text("parts of range")
    expect(robot.locator("#action-curves")).to_contain_text("ablated")


def test_looks_are_drawn_on_the_pictures(robot: Page) -> None:
    cards = robot.locator(".on-image-card")
    expert, vision, language = (cards.nth(i).locator(".on-image-said") for i in range(3))
    expect(expert).to_contain_text("action 0 looks")
    expect(vision).to_contain_text("▦1:")
    expect(vision).to_contain_text("100 % on the image")
    expect(language).to_contain_text("triangle looks")
    cards.nth(0).locator(".on-image-word", has_text="action 2").click()
    expect(expert).to_contain_text("action 2 looks")
    canvas = cards.nth(1).locator(".on-image-canvas").nth(1)
    canvas.click(position={"x": 5, "y": 5})  # of the second camera
    for said in (vision, language):  # the same part of the picture, for both stacks that see it
        expect(said).to_contain_text("▦2:0,0 looks")
    robot.locator("label", has_text="is looked at by").click()
    expect(expert).to_contain_text("▦2:0,0 is looked at")


def test_its_stacks_are_called_by_their_names(robot: Page) -> None:
    robot.get_by_text("Lines", exact=True).click()
    choice = robot.locator(".stack-choice").first
    for name in ("vision", "language", "expert"):
        expect(choice).to_contain_text(name)
    robot.get_by_role("tab", name="Ablation study").click()
    robot.click("#study-run")
    expect(robot.locator("#sweep-caption")).to_contain_text("12 heads, each ablated alone")
    expect(robot.locator("#sweep-caption")).not_to_contain_text("move nothing")


def test_cameras_are_given_one_by_one(robot: Page, tmp_path: Path) -> None:
    shown = robot.locator("#image-strip img")
    for seed in range(2):
        path = tmp_path / f"camera{seed}.png"
        path.write_bytes(noise_picture((48, 32), seed).png())
        before = robot.locator("#action-body").inner_text()
        robot.set_input_files("#image-upload input", path)
        expect(robot.locator(f"#image-strip img[alt='camera{seed}.png']")).to_have_count(1)
        expect(robot.locator("#action-body")).not_to_have_text(before)
        expect(shown).to_have_count(2)
    assert [one.get_attribute("alt") for one in shown.all()] == ["camera0.png", "camera1.png"]
    robot.locator("#image-strip button").first.click()
    expect(robot.locator("body")).to_contain_text("by 2 cameras, and 1 picture was given")


def test_a_policy_of_which_little_is_said_is_numbered(quiet: Page, address: str) -> None:
    quiet.goto(address + "#" + str(permalink.encode(View("reach"))))
    expect(quiet.locator("#action-body")).to_contain_text("An action, found from one noise.")
    expect(quiet.locator("#action-curves-place")).to_be_hidden()
    expect(quiet.locator("#second-place")).to_be_hidden()
    expect(quiet.locator("#token-strip")).to_contain_text("13")
    quiet.get_by_text("Image", exact=True).first.click()
    expect(quiet.locator(".on-image-note")).to_contain_text("The file of this policy does not say")


def test_neither_picker_nor_link_runs_a_file(quiet: Page, tmp_path: Path) -> None:
    trap, own = tmp_path / "trap.py", str(flow_file())
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    refused = "is run only if it is named on the command line"
    with serving(create_app(Registry(own=own), own)) as url:
        quiet.goto(url + "#" + str(permalink.encode(View(str(trap)))))
        expect(quiet.locator("body")).to_contain_text(refused)
        expect(quiet.locator("#model-picker")).to_have_value(own)
        expect(quiet.locator("#action-body table")).to_be_visible()
        quiet.locator(".mantine-Notification-closeButton").click()
        expect(quiet.locator("body")).not_to_contain_text(refused)
        quiet.fill("#model-picker", str(trap))
        quiet.press("#model-picker", "Enter")
        expect(quiet.locator("body")).to_contain_text(refused)
        expect(quiet.locator("#model-picker")).to_have_value(own)
    assert not (tmp_path / "ran").exists()
