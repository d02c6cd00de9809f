"""The page with a policy that answers with numbers, below the browser."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from page_fixtures import Shelf
from tiny_pi0 import CHUNK

from ablation import Ablation, Zero
from ablation.chunk_actions import compare_chunks, sweep_chunk
from ablation.chunk_types import ChunkSearch
from ablation.types import HeadScores, SearchResult
from app import ids
from app.jobs import Job
from app.notices import PLACES
from app.panels.action import chunk_body
from app.panels.drawn_maps import shown_maps
from app.panels.header import self_check_badge
from app.panels.page import open_first
from app.panels.policy_study import is_about_action
from app.panels.prompt import example_options, second_kind
from app.panels.study_run import finished, run_study, search_shown, sweep_caption
from app.services import ACTION, Services, metrics_of, scene_text
from app.view import View
from models.errors import UserError
from models.types import Head, RobotInput
from viz.chunk_search import chunk_sentences
from viz.chunks import chunk_rows, moved_line
from viz.sides import other_sides, sides_of


@pytest.fixture
def services() -> Services:
    return Services(Shelf())


def settled(services: Services, **asked: object) -> View:
    model = services.model("pi0")
    view = replace(services.settled(View(model="pi0"), model), **asked)  # type: ignore[arg-type]
    return services.settled(view, model)


def studied(services: Services, view: View) -> object:
    return run_study(services, view, lambda _: None, Job("tab", threading.Event()))


def test_it_opens_with_a_picture_an_instruction_and_what_moves_its_action(
    services: Services,
) -> None:
    view, model = settled(services), services.model("pi0")
    assert view.images == ("tabletop:7",)
    assert view.prompt == "touch the yellow triangle" == scene_text("tabletop:7", model)
    assert (view.metric, view.bos, view.picture) == (ACTION, True, "image")
    assert list(metrics_of(model)) == [ACTION]
    assert second_kind(model.info) == "policy"
    assert "simulated table" in str(example_options(model.info))
    assert "answers with the numbers of an action" in str(self_check_badge(model.info))
    stacks = {head.stack for head in view.heads or ()}
    assert stacks == {"", "vision", "expert"}
    other = services.settled(replace(view, model="llama"), services.model("llama"))
    assert other.metric == "kl"


def test_a_link_whose_pictures_are_gone_keeps_all_else(services: Services) -> None:
    gone = View(model="pi0", prompt="push it", second="1, 2", images=("given:0:cam.png",))
    view, model, said = open_first(services, gone, View(model="llama"))
    assert model.name == "pi0"
    assert (view.prompt, view.second, view.images) == ("push it", "1, 2", ("tabletop:7",))
    assert said is not None
    assert "'cam.png' is not here any more" in said


def test_the_state_is_typed_beside_the_instruction(services: Services) -> None:
    view = settled(services, second="1.5, -1")
    prompt = services.prompt(view, services.model("pi0"))
    assert prompt.robot == RobotInput((1.5, -1.0))
    with pytest.raises(UserError, match="no list of numbers"):
        services.prompt(replace(view, second="left"), services.model("pi0"))
    with pytest.raises(UserError, match="a state of 2 numbers, and 1 were") as refusal:
        services.prompt(replace(view, second="1"), services.model("pi0"))
    assert PLACES[refusal.value.kind] == (ids.SECOND_TEXT, "error")


def test_the_action_is_told_in_numbers_and_curves(services: Services) -> None:
    view = settled(services)
    parts, figure = chunk_body(services, view, dark=False)
    assert "first" in str(parts[0])
    assert "found from one noise" in str(parts)
    assert [trace.name for trace in figure.data] == ["whole"] * 3
    assert not figure.layout.showlegend  # one line a strip needs no name
    assert len(figure.data[0].x) == CHUNK
    heads = (Head(1, 2, "expert"), Head(2, 0))
    ablated = replace(view, heads=heads, ablate=True)
    parts, figure = chunk_body(services, ablated, dark=True)
    assert {trace.name for trace in figure.data} == {"whole", "ablated"}
    assert "moved by" in str(parts)
    assert "L2H0 cannot move it" in str(parts)
    model = services.model("pi0")
    change = compare_chunks(model, services.prompt(view, model), Ablation(heads, Zero()))
    assert moved_line(change) in str(parts)
    row = chunk_rows(change.before, change)[0]
    assert (row.name, row.after) == ("dx", f"{change.after.summary[0]:+.3g} m")


def test_a_mean_over_noises_is_drawn_before_each(services: Services) -> None:
    from viz.chunks import chunk_figure

    model = services.model("pi0")
    prompt = services.prompt(settled(services), model)
    change = compare_chunks(model, prompt, Ablation((Head(0, 1, "expert"),), Zero()), n_draws=3)
    figure = chunk_figure(change.before, change)
    assert len(figure.data) == 3 * (2 + 2 * 3)
    assert figure.layout.showlegend
    np.testing.assert_allclose(figure.data[0].y, change.before.values[:, :, 0].mean(0))
    assert figure.data[2].hoverinfo == "skip"
    assert "mean over 3 noises" in moved_line(change)


def test_the_outcome_has_no_distribution_to_compare(services: Services) -> None:
    view = settled(services, ablate=True)
    outcome = services.outcome(view)
    assert outcome.comparison is None
    assert outcome.after is not None
    assert outcome.before.top == ()
    sides = {one.key: one.sides for one in shown_maps(outcome, services.extents(view, outcome))}
    assert {sides[key] for key in sides if key.startswith("expert")} == {("acting", "all")}
    assert set(other_sides(outcome.prompt)) == {"source", "acting", "all"}
    other = services.outcome(settled(services, prompt="push it"))
    of_language = next(maps for maps in outcome.maps if not maps.heads[0].stack)
    with pytest.raises(ValueError, match="of one prompt"):
        sides_of(of_language, other.prompt)


def test_a_sweep_is_of_the_action(services: Services) -> None:
    view = settled(services, stack="expert")
    scores = studied(services, view)
    assert isinstance(scores, HeadScores)
    model = services.model("pi0")
    expected = sweep_chunk(model, services.prompt(view, model), stack="expert")
    np.testing.assert_allclose(scores.values, expected.values, atol=1e-6)
    main = studied(services, settled(services))
    assert isinstance(main, HeadScores)
    caption = sweep_caption(main, finished(view, "k", main))
    assert "Heads of layer 2 move nothing" in caption
    assert "move nothing" not in sweep_caption(scores, finished(view, "k", scores))


def test_searches_are_of_the_action_and_told_in_sentences(services: Services) -> None:
    found = studied(services, settled(services, study="generic", max_heads=2))
    assert isinstance(found, ChunkSearch)
    figure, rows, columns, told = search_shown(found, False)
    assert [row["head"] for row in rows] == [str(step.head) for step in found.steps]
    assert list(figure.data[0].y) == [0.0, *(step.moved for step in found.steps)]
    assert {column["field"] for column in columns} >= {"head", "moved", "action"}
    assert "The limit of heads was reached." in str(told)
    assert finished(settled(services), "k", found)["heads"] == [h.short for h in found.heads]
    model = services.model("pi0")
    prompt = services.prompt(settled(services), model)
    best = found.steps[0]
    aim = (found.clean.summary[0] + best.action.summary[0]) / 2
    sign = "<" if best.action.summary[0] < found.clean.summary[0] else ">"
    goal = studied(services, settled(services, study="targeted", goal=f"dx{sign}{aim}"))
    assert isinstance(goal, ChunkSearch)
    assert goal.stopped == "target_reached"
    told = chunk_sentences(goal)
    final = compare_chunks(model, prompt, Ablation(goal.heads, Zero()))
    assert f"moved by {final.moved:.3g} σ" in told[0]
    assert f"Wanted: dx{sign}{aim}" in told[0]
    assert told[-1] == "The goal is reached."


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"study": "targeted"}, "Say what the action shall be"),
        ({"study": "targeted", "goal": "arm>0"}, "no action 'arm'"),
        ({"study": "generic", "strategy": "screened"}, "choose the exact strategy"),
        ({"study": "positions"}, "is about tokens"),
    ],
)
def test_what_cannot_be_asked_is_said(services: Services, asked: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        studied(services, settled(services, **asked))


def test_policies_of_tokens_have_the_action_among_their_metrics(services: Services) -> None:
    model = services.model("tabletop")
    view = replace(services.settled(View(model="tabletop"), model), metric=ACTION)
    assert is_about_action(view, model)
    assert not is_about_action(replace(view, metric="kl"), model)
    scores = studied(services, view)
    assert isinstance(scores, HeadScores)
    assert scores.metric.name == "action_l2"
    targeted = replace(view, study="targeted", goal="gripper=close", max_heads=2)
    try:
        found = studied(services, targeted)
    except UserError as problem:
        assert "fulfilled already" in str(problem)  # noqa: PT017 - a random policy may do it
    else:
        assert isinstance(found, SearchResult)
    assert not is_about_action(replace(targeted, goal=""), model)
    assert not is_about_action(targeted, services.model("llama"))
