"""The overview's panel without a browser: what is read, when, and what is said of it."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from page_fixtures import Shelf

from ablation import Ablation, Head, HeadSummaries, Zero, summaries, summarise_heads
from ablation.types import Progress
from app.jobs import Job
from app.panels.overview import KIND, note, summarise, wanted
from app.services import Services
from app.view import InterventionForm, View
from models.errors import UserError

TAB = "tab"


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
    assert "Heads of the clean run 12 heads; rows are queries" in text_of(note(found, None))


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


def test_only_what_is_not_there_yet_is_wanted(services: Services, view: View) -> None:
    key = wanted(services, view, TAB, None)
    assert key is not None
    assert wanted(services, view, TAB, key) is None
    others = ({"heads": (Head(0, 0),)}, {"cells": "entropy"}, {"position": 0}, {"log": True})
    for other in others:
        assert wanted(services, replace(view, **other), TAB, key) is None
    for other in ({"prompt": "The cat"}, {"model": "gpt2"}, {"ablate": True}):
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
