"""The overview's panel without a browser: what is read, when, and what is said of it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from page_fixtures import Shelf

from ablation import Ablation, Head, HeadSummaries, Zero, summaries, summarise_heads
from ablation.types import Progress
from app.jobs import Job
from app.panels.overview import KIND, note, summarise, wanted
from app.runs import TOP_TOKENS, Outcome
from app.services import Services
from app.view import InterventionForm, View
from models.errors import UserError
from models.forward_pass import ForwardPass

TAB = "tab"
LOG_PROBS = 1e-5  # two correct float32 passes differ by about 1e-6 here


@pytest.fixture
def services() -> Services:
    return Services(Shelf(), "llama")


@pytest.fixture
def view(services: Services) -> View:
    opened = View(model="llama", picture="overview", heads=(Head(1, 0),))
    return services.settled(opened, services.model("llama"))


def ignore(progress: Progress) -> None:
    pass


def read(services: Services, view: View) -> HeadSummaries:
    return summarise(services, view, Job(TAB, KIND), ignore)[0]


def text_of(said: list[object]) -> str:
    return "".join(getattr(part, "children", part) for part in said)


def test_the_overview_is_of_the_views_prompt_and_model(services: Services, view: View) -> None:
    found = read(services, view)
    expected = summarise_heads(services.model("llama"), view.prompt)
    np.testing.assert_array_equal(found.values, expected.values)
    assert "Heads of the clean run 12 heads. Rows are queries" in text_of(note(found, None))


def test_with_heads_ablated_it_is_of_the_ablated_run(services: Services, view: View) -> None:
    found = read(services, replace(view, ablate=True))
    ablation = Ablation((Head(1, 0),), Zero())
    expected = summarise_heads(services.model("llama"), view.prompt, ablation)
    np.testing.assert_array_equal(found.values, expected.values)
    assert "Heads of the ablated run" in text_of(note(found, None))


@pytest.mark.parametrize(
    "form",
    [InterventionForm("resample"), InterventionForm("resample", (("text", "short"),))],
    ids=["unfinished", "does not fit"],
)
def test_an_ablation_that_cannot_be_done_leaves_the_clean_run_and_says_why(
    services: Services, view: View, form: InterventionForm
) -> None:
    asked = replace(view, ablate=True, intervention=form)
    found, problem = summarise(services, asked, Job(TAB, KIND), ignore)
    assert isinstance(problem, UserError)
    assert not found.ablated
    said = text_of(note(found, problem))
    assert "Not ablated: heads of the clean run" in said
    assert str(problem) in said


def test_what_was_read_is_not_read_again(
    services: Services, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(services, view)
    monkeypatch.setattr(summaries, "summarise_heads", None)
    assert read(services, replace(view, heads=(), scale="own")) is found


def test_what_was_cancelled_is_read_again(services: Services, view: View) -> None:
    job = Job(TAB, KIND)
    job.cancel.set()
    partial, _ = summarise(services, view, job, ignore)
    assert "Cancelled after 0 of 12 heads" in text_of(note(partial, None))
    assert read(services, view).stopped == "complete"


def test_what_a_cell_stands_for_is_said_of_a_long_prompt(services: Services, view: View) -> None:
    found = read(services, replace(view, prompt="The cat sat on the mat. " * 10))
    assert found.step > 1
    assert f"each cell the largest of {found.step}×{found.step}" in text_of(note(found, None))


def test_what_is_done_about_the_first_token_is_said(services: Services, view: View) -> None:
    shown, renormalised = read(services, view), read(services, replace(view, sink="renormalise"))
    assert renormalised.sink == "renormalise"
    assert not np.array_equal(renormalised.thumbnails, shown.thumbnails)
    assert "Renormalised without first token." in text_of(note(renormalised, None))
    assert "The first token counts in these numbers" in text_of(note(renormalised, None))
    assert "irst token" not in text_of(note(shown, None))


def test_only_what_is_not_there_yet_is_wanted(services: Services, view: View) -> None:
    key = wanted(services, view, TAB, None)
    assert key is not None
    assert wanted(services, view, TAB, key) is None
    others = ({"heads": (Head(0, 0),)}, {"cells": "entropy"}, {"position": 0}, {"log": True})
    for other in others:
        assert wanted(services, replace(view, **other), TAB, key) is None
    for other in ({"prompt": "The cat"}, {"model": "gpt2"}, {"ablate": True}, {"sink": "hide"}):
        assert wanted(services, replace(view, **other), TAB, key) not in (None, key)
    for hidden in ({"picture": "matrix"}, {"tab": "study"}):
        assert wanted(services, replace(view, **hidden), TAB, None) is None
    assert wanted(services, None, TAB, None) is None


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [({"scale": "own"}, True), ({"picture": "matrix"}, False), ({"prompt": "The cat"}, False)],
    ids=["colours", "another picture", "another prompt"],
)
def test_reading_goes_on_as_long_as_it_is_wanted(
    services: Services, view: View, change: dict[str, str], goes_on: bool
) -> None:
    key = wanted(services, view, TAB, None)
    with services.jobs.replace(TAB, KIND, key) as job:
        assert wanted(services, view, TAB, None) is None  # it is being read
        wanted(services, replace(view, **change), TAB, None)
        assert job.cancel.is_set() != goes_on


def test_a_cancelled_job_ends_and_keeps_what_it_read(services: Services, view: View) -> None:
    job = Job(TAB, KIND)
    found = summarise(services, view, job, lambda _: job.cancel.set())[0]
    assert found.stopped == "cancelled"
    assert not np.isnan(found.values[:, 0]).any()
    assert np.isnan(found.values[:, 1:]).all()


def test_reading_in_one_tab_hinders_no_other(services: Services, view: View) -> None:
    done = threading.Event()

    def other() -> None:
        read(services, replace(view, prompt="Another prompt"))
        done.set()

    with services.jobs.replace(TAB, KIND, "key"), services.jobs.start(TAB):
        threading.Thread(target=other).start()
        assert done.wait(30)


# --- one pass for the prediction and the overview ---


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each forward pass, in the order in which they end."""
    found: list[int] = []
    run = ForwardPass.logits_at

    def counted(self: ForwardPass, ids: list[list[int]], *args: object) -> object:
        logits = run(self, ids, *args)
        found.append(len(ids[0]))
        return logits

    monkeypatch.setattr(ForwardPass, "logits_at", counted)
    return found


def ask_at_once(*questions: Callable[[], object]) -> list[object]:
    """Return the answers to questions that are all asked at the same time."""
    together = threading.Barrier(len(questions))

    def ask(question: Callable[[], object]) -> object:
        together.wait()
        return question()

    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(ask, questions))


@pytest.mark.parametrize("begun", [True, False], ids=["begun ahead", "asked by the panels alone"])
@pytest.mark.parametrize("ablate", [False, True], ids=["clean", "ablated"])
def test_a_new_prompt_goes_through_the_model_once_a_run(
    services: Services, view: View, passes: list[int], begun: bool, ablate: bool
) -> None:
    asked = replace(view, prompt="Another prompt, which nobody knows", position=None, ablate=ablate)
    if begun:
        services.begin(asked, TAB)
    outcome, found, again = ask_at_once(
        lambda: services.outcome(asked, maps=False),
        lambda: read(services, asked),
        lambda: read(services, asked),
    )
    assert len(passes) == (2 if ablate else 1)
    assert isinstance(outcome, Outcome)
    assert isinstance(found, HeadSummaries)
    assert again is found
    model = services.model("llama")
    expected = model.run(
        outcome.prompt, ablation=Ablation((Head(1, 0),), Zero()) if ablate else None
    ).prediction
    shown = outcome.after if ablate else outcome.before
    assert shown is found.prediction
    np.testing.assert_allclose(shown.log_probs, expected.log_probs, atol=LOG_PROBS, rtol=0)
    assert len(shown.top) == TOP_TOKENS


def test_maps_are_read_in_one_pass_for_panels_that_ask_at_once(
    services: Services, view: View, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.runs, "_read_all_bytes", 0)
    heads = tuple(Head(layer, head) for layer in range(2) for head in range(3))
    asked = replace(view, picture="matrix", heads=heads, prompt="Another prompt, quite unknown")
    services.begin(asked, TAB)
    answers = ask_at_once(
        *[lambda: services.outcome(asked, maps=False)] * 2, *[lambda: services.outcome(asked)] * 2
    )
    assert len(passes) == 1
    assert [len(answer.maps) for answer in answers] == [0, 0, 6, 6]  # type: ignore[attr-defined]


def test_who_waits_is_told_how_far_reading_is_and_can_cancel_it(
    services: Services, view: View
) -> None:
    model = services.model("llama")
    prompt = model.tokenize(view.prompt)
    going, goes_on = threading.Event(), threading.Event()

    def held(progress: Progress) -> None:
        going.set()
        assert goes_on.wait(30)

    first, second = Job(TAB, KIND), Job("another tab", KIND)
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        second.cancel.set()
        goes_on.set()

    def start() -> HeadSummaries:
        return services.overviews.of(model, prompt, None, "", -1, held, first.cancel)

    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(start)
        assert going.wait(30)
        partial = services.overviews.of(model, prompt, None, "", -1, tell, second.cancel)
        assert (told[0].done, told[0].total) == (1, 3)
        assert whole.result(30).stopped == "complete"  # the first did not cancel
    assert partial.stopped in ("cancelled", "complete")


def test_after_cancelling_the_prediction_comes_from_a_pass_of_its_own(
    services: Services, view: View, passes: list[int]
) -> None:
    job = Job(TAB, KIND)
    job.cancel.set()
    assert summarise(services, view, job, ignore)[0].prediction is None
    assert services.outcome(view, maps=False).before.position == view.position
    assert len(passes) == 1
    assert summarise(services, view, Job(TAB, KIND), ignore)[0].stopped == "complete"
    assert len(passes) == 2


def test_what_is_known_waits_for_no_pass(services: Services, view: View) -> None:
    known = services.outcome(replace(view, picture="matrix"))
    with services.runs.awaited(services.model("llama")), ThreadPoolExecutor(1) as pool:
        again = pool.submit(services.outcome, replace(view, picture="matrix"))
        assert again.result(30).before is known.before
