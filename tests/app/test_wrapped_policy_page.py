"""The page's values for policies that a person wrapped, without a browser."""

from dataclasses import replace

import pytest
from page_fixtures import Shelf
from tiny_vision import noise_picture

from app.panels.action import chunk_body
from app.panels.drawn_maps import shown_maps
from app.panels.heads import shape, stack_choices
from app.panels.over_picture import figure_of
from app.panels.page import filled
from app.panels.policy_study import run, search_columns
from app.panels.prompt import NO_INSTRUCTION, as_many, pictured, token_count
from app.services import ACTION, Services, metrics_of
from app.view import View
from models.errors import UserError
from viz.sides import other_sides


@pytest.fixture
def services() -> Services:
    return Services(Shelf(), "flow")


def settled(services: Services, model: str = "flow", **changes: object) -> View:
    view = services.settled(View(model=model), services.model(model))
    return replace(view, **changes)  # type: ignore[arg-type]


def test_the_page_opens_with_as_many_pictures_as_there_are_cameras(services: Services) -> None:
    view = settled(services)
    assert view.images == ("tabletop:7", "tabletop:11")
    assert (view.picture, view.prompt) == ("image", "touch the yellow triangle")
    assert {head.stack for head in view.heads or ()} == {"", "vision", "expert"}
    one = services.images.keep_picture(noise_picture((32, 32)))
    lost = services.settled(replace(view, images=(one,)), services.model("flow"))
    assert lost.images == (one, "tabletop:7")
    assert settled(services, "reach").picture == "matrix"  # nobody says what its positions show
    blind = settled(services, "blind")
    assert (blind.images, blind.prompt) == ((), "pick up the cup")


def test_pictures_take_the_place_of_examples_one_by_one() -> None:
    examples = ["tabletop:7", "tabletop:11"]
    assert as_many(["given:a"], examples, 2) == ["given:a", "tabletop:11"]
    assert as_many(["given:a", "given:b"], ["given:a", "tabletop:11"], 2) == ["given:a", "given:b"]
    assert as_many(["given:a", "given:b", "given:c"], [], 2) == ["given:b", "given:c"]
    assert as_many(["given:a"], examples, 1) == ["given:a"]


def test_what_a_policy_is_not_told_has_no_field(services: Services) -> None:
    from app.panels.page import EXTRA_OUTPUTS

    names = [f"{component}.{prop}" for component, prop in EXTRA_OUTPUTS]

    def field(model: str, name: str) -> object:
        view = settled(services, model)
        everything = filled(services, view, services.model(model))
        return everything[len(everything) - len(names) + names.index(name)]

    hidden = {
        model: [field(model, name) for name in ("second-place.hidden", "image-place.hidden")]
        for model in ("flow", "reach", "blind")
    }
    assert hidden == {"flow": [False, False], "reach": [True, False], "blind": [True, True]}
    assert field("blind", "prompt-text.description") == NO_INSTRUCTION
    assert field("flow", "prompt-text.description") is None
    assert [field(model, "prompt-text.disabled") for model in ("flow", "blind")] == [False, True]
    assert field("flow", "bos.disabled") is True


def test_its_stacks_have_the_names_that_the_person_gave(services: Services) -> None:
    model = services.model("flow")
    assert [one["label"] for one in stack_choices(model.info.stacks)] == [
        "vision",
        "language",
        "expert",
    ]
    assert shape(model)["acts"] == "numbers"
    metric = metrics_of(model)[ACTION]
    assert metric.unit == "parts of range"
    assert "each as a part of its range" in metric.description


def test_maps_are_of_sides_of_their_own(services: Services) -> None:
    view = settled(services, ablate=True)
    outcome = services.outcome(view)
    assert outcome.problem is None
    sides = {one.key: one.sides for one in shown_maps(outcome, services.extents(view, outcome))}
    by_stack = {key.partition(":")[0] if ":" in key else "": pair for key, pair in sides.items()}
    assert by_stack == {
        "vision": ("of-vision", "of-vision"),
        "": ("prompt", "prompt"),
        "expert": ("of-expert", "keys-of-expert"),
    }
    assert set(other_sides(outcome.prompt)) == {"of-vision", "of-expert", "keys-of-expert"}
    shown = pictured(outcome.prompt, view.images)
    assert [len(boxes or []) for boxes in shown["sides"].values()] == [32, 0, 41]
    assert token_count(outcome.prompt) == "36 positions"


def test_the_action_is_told_in_its_own_units(services: Services) -> None:
    parts, figure = chunk_body(services, settled(services, ablate=True), False)
    assert figure is not None
    assert "parts of range" in str(parts)
    assert "cannot move it" not in str(parts)
    parts, figure = chunk_body(services, settled(services, "reach"), False)
    assert figure is None  # one action has no curve
    assert "An action, found from one noise." in str(parts)
    assert "value" in str(parts)
    assert chunk_body(services, settled(services, "blind"), False)[1] is None


def test_all_heads_over_the_picture_say_whose_look_it_is(services: Services) -> None:
    _, said, n_pictures = figure_of(services, settled(services, stack="expert"), 1, False)
    assert n_pictures == 2
    assert said.startswith("Where the actions look, on average on picture 2 of 2")
    with pytest.raises(UserError, match="is not known for this model"):
        figure_of(services, settled(services, "reach"), 0, False)


def test_studies_are_of_the_action(services: Services) -> None:
    from threading import Event

    model = services.model("flow")
    for view in (settled(services, stack="expert"), settled(services, stack="vision")):
        scores = run(model, services.prompt(view, model), view, lambda _: None, Event())
        assert scores.metric.unit == "parts of range"
        assert scores.stack == view.stack
    view = settled(services, study="generic", max_heads=2)
    found = run(model, services.prompt(view, model), view, lambda _: None, Event())
    assert len(found.heads) == 2
    assert search_columns(found.clean.space.unit)[2]["headerName"] == "moved, parts of range"
