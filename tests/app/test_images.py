"""The pictures that a view names: kept, found again, and refused in a sentence."""

import base64
import threading
from dataclasses import replace

import numpy as np
import pytest
from page_fixtures import Shelf
from tiny_policy import policy_directory
from tiny_vision import noise_picture

from ablation import Ablation, Zero
from ablation.actions import act, compare_actions
from app import permalink
from app.images import Images, boxes, shown, table_picture, table_text
from app.panels import by_position
from app.panels.action import svg_url
from app.panels.episodes import film_of
from app.panels.prompt import example_options, pictured
from app.services import Services, metrics_of, with_images_settled
from app.view import View
from models.errors import UserError
from models.picture import Cell, Picture
from models.registry import load_model
from models.types import Head
from viz.actions import action_rows, motion_svg

SCENE = "tabletop:7"


@pytest.fixture
def services() -> Services:
    return Services(Shelf())


def test_what_is_given_is_found_again_by_what_the_view_calls_it() -> None:
    images, picture = Images(), noise_picture()
    name = images.keep(picture.png(), "noise.png")
    assert images.get(name) == picture
    url = "data:image/png;base64," + base64.b64encode(picture.png()).decode()
    assert images.keep_url(url, "noise.png") == name
    with pytest.raises(UserError, match=r"'noise\.png' is not here any more"):
        Images().get(name)


@pytest.mark.parametrize("url", ["", "data:image/png;base64,???", "data:text/plain;base64,aGk="])
def test_what_is_no_picture_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"frog\.txt is not a picture"):
        Images().keep_url(url, "frog.txt")


def test_a_scene_is_drawn_from_its_name() -> None:
    assert Images().get(SCENE) == table_picture(SCENE)
    assert table_text(SCENE).startswith("touch the yellow triangle x")
    with pytest.raises(UserError, match="no scene of the table"):
        Images().get("tabletop:nowhere")


def test_the_browser_gets_large_pictures_smaller() -> None:
    small, large = noise_picture((64, 48)), noise_picture((2000, 1000))
    assert shown(small)["src"].startswith("data:image/png;base64,")
    sent = shown(large)
    assert sent["src"].startswith("data:image/jpeg;base64,")
    assert (sent["width"], sent["height"]) == (2000, 1000)
    assert len(sent["src"]) < 600_000


def test_boxes_are_in_pixels_of_the_picture_as_given() -> None:
    assert boxes([None, Cell(1, 0, 2, 3.0, 4.0, 5.128, 6.0)]) == [None, [1, 3.0, 4.0, 5.13, 6.0]]


def test_a_link_holds_the_names_of_pictures() -> None:
    view = View(model="tabletop", images=(SCENE, "given:abc:frog.png"))
    assert permalink.decode(str(permalink.encode(view))) == view
    with pytest.raises(ValueError, match="at most 8"):
        View.from_json({"images": ["x"] * 9})
    assert View.from_json({"images": None}).images == ()


def test_a_policy_opens_with_a_scene_and_a_text_model_without(services: Services) -> None:
    policy, text = services.model("tabletop"), services.model("llama")
    settled = services.settled(View(model="tabletop"), policy)
    assert settled.images == (SCENE,)
    assert settled.picture == "image"
    assert settled.prompt == table_text(SCENE)
    assert settled.metric == next(iter(metrics_of(policy))) == "action"
    assert services.settled(replace(settled, metric="kl"), policy).metric == "kl"  # if so chosen
    kept = with_images_settled(View(prompt="find the red square", images=()), policy)
    assert (kept.prompt, kept.images) == ("find the red square", ())
    plain = services.settled(View(model="llama", images=(SCENE,), picture="image"), text)
    assert (plain.images, plain.picture) == ((), "matrix")


def test_positions_are_asked_about_tokens_where_heads_are_about_the_action(
    services: Services,
) -> None:
    policy = services.model("tabletop")
    view = replace(services.settled(View(model="tabletop"), policy), heads=(Head(1, 2),))
    assert view.metric == "action"
    prompt = services.prompt(view, policy)
    scores = by_position.run(policy, prompt, view, lambda _: None, threading.Event())
    assert scores.metric.name == "kl"


def test_the_prompt_of_a_view_has_its_pictures(services: Services) -> None:
    policy = services.model("tabletop")
    view = services.settled(View(model="tabletop"), policy)
    prompt = services.prompt(view, policy)
    assert prompt.pictures == (table_picture(SCENE),)
    message = pictured(prompt, view.images)
    assert message["names"] == [SCENE]
    assert len(message["cells"]) == len(prompt)
    assert len(message["seen"]) == 64
    other = services.prompt(
        services.settled(View(model="tabletop", images=("tabletop:11",)), policy), policy
    )
    assert other.content != prompt.content
    gone = View(model="tabletop", images=("given:abc:frog.png",), prompt="find")
    with pytest.raises(UserError, match=r"'frog\.png' is not here"):
        services.prompt(gone, policy)


def test_examples_are_scenes_where_the_model_sees(services: Services) -> None:
    of_policy = example_options(services.model("tabletop").info)
    assert of_policy[0]["items"][0] == {"value": SCENE, "label": "touch the yellow triangle"}
    assert example_options(services.model("llama").info) == example_options(None)


def test_the_action_in_words_and_on_the_picture() -> None:
    policy = load_model(policy_directory(), device="cpu")
    prompt = policy.tokenize(table_text(SCENE), pictures=[table_picture(SCENE)])
    before = act(policy, prompt)
    rows = action_rows(before)
    assert [row.name for row in rows] == ["dx", "dy", "gripper"]
    assert rows[0].before.endswith("px")
    assert rows[2].before in ("open", "close")
    assert not any(row.after for row in rows)
    change = compare_actions(policy, prompt, Ablation((Head(0, 1), Head(1, 2)), Zero()))
    compared = action_rows(change.before, change)
    assert all(row.after and row.kl for row in compared)
    assert policy.actions is not None
    origin = policy.actions.origin(prompt)
    assert origin == (32.0, 30.0)
    svg = motion_svg(prompt.pictures[0].png(), (64, 64), origin, [(8, -8), (0, 0)], width=128)
    assert svg.count("<circle") == 1  # no motion
    assert '<line x1="65.0" y1="61.0"' in svg
    assert svg_url(svg).startswith("data:image/svg+xml;base64,")


def test_an_episode_needs_a_scene(services: Services) -> None:
    policy = services.model("tabletop")
    name = services.images.keep(noise_picture().png(), "noise.png")
    view = View(model="tabletop", images=(name,), prompt="find the red square x1 y1 open")
    with pytest.raises(UserError, match="begins in a scene of the table"):
        film_of(services, services.settled(view, policy))


def test_pictures_are_told_apart_by_what_they_show() -> None:
    one, other = noise_picture(seed=1), noise_picture(seed=2)
    assert one == Picture(one.pixels.copy(), "another name")
    assert one != other
    assert len({one, other, Picture(np.array(one.pixels), "x")}) == 2
