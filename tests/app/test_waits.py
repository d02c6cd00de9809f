"""What a page waits for: told layer by layer, ended by Cancel or by another prompt."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from page_fixtures import Shelf

from ablation.types import Progress
from app.services import Services, wanted
from app.view import View
from app.waits import GivenUp, Standing, Turn, Wait, Waits, Wanted, one_by_one, step, wait_for
from models.pass_watch import watching_passes
from models.types import Head

TAB = "tab"
PATIENCE = 30  # s


@pytest.fixture
def services() -> Services:
    return Services(Shelf(), "llama")


@pytest.fixture
def view(services: Services) -> View:
    asked = View(model="llama", heads=(Head(1, 0), Head(2, 3)))
    return services.settled(asked, services.model("llama"))


def of(kind: str, prompt: str = "prompt", about: object = None, tab: str = TAB) -> Wait:
    return Wait(tab, Wanted(kind, prompt, about), lambda standing: None)


@pytest.mark.parametrize("values", ["attention", "moved", "rollout"])
def test_each_layer_of_a_pass_is_told(services: Services, view: View, values: str) -> None:
    told: list[Standing] = []
    wait = Wait(TAB, wanted(view, "maps"), told.append)
    with services.waits.start(wait):
        outcome = services.outcome(replace(view, values=values))
    assert len(outcome.maps) == 2
    name = {"attention": "Running the prompt", "moved": "Weighing", "rollout": "Rolling"}[values]
    steps = [one.progress for one in told if one.progress.message.startswith(name)]
    layers = [progress.done for progress in steps]
    assert layers == sorted(layers)
    assert set(layers) == {0, 1, 2}
    assert {progress.total for progress in steps} == {3}


def test_what_is_explained_is_told(services: Services, view: View) -> None:
    told: list[Standing] = []
    model = services.model("llama")
    with services.waits.start(Wait(TAB, wanted(view, "explanation"), told.append)):
        services.streams.get(model, services.prompt(view, model))
    assert "Reading what each part adds, layer 3 of 3" in told[-1].sentence


@pytest.mark.parametrize("layer", [0, 2])
def test_a_cancelled_pass_ends_before_its_next_layer(
    services: Services, view: View, layer: int
) -> None:
    reached: list[int] = []

    def show(standing: Standing) -> None:
        reached.append(standing.progress.done)
        if standing.progress.done == layer:
            services.waits.cancel(TAB)

    wait = Wait(TAB, wanted(view, "maps"), show)
    with pytest.raises(GivenUp), services.waits.start(wait):
        services.outcome(view)
    assert max(reached) == layer
    assert len(services.outcome(view).maps) == 2  # nothing is left locked or half kept


def test_who_waits_for_anothers_pass_is_told_of_it_and_can_leave(
    services: Services, view: View
) -> None:
    at_work, goes_on, told = threading.Event(), threading.Event(), []

    def hold(standing: Standing) -> None:
        at_work.set()
        assert goes_on.wait(PATIENCE)

    def watch(standing: Standing) -> None:
        told.append(standing.sentence)
        services.waits.cancel("another tab")

    def ask(tab: str, show: object) -> int:
        with services.waits.start(Wait(tab, wanted(view, "maps"), show)):  # type: ignore[arg-type]
            return len(services.outcome(view).maps)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, TAB, hold)
        assert at_work.wait(PATIENCE)
        second = pool.submit(ask, "another tab", watch)
        with pytest.raises(GivenUp):
            second.result(PATIENCE)
        goes_on.set()
        assert first.result(PATIENCE) == 2  # who cancels ends no other tab's work
    assert told == ["Running the prompt, layer 1 of 3"]


def test_a_wait_for_a_model_that_another_page_uses_can_be_left(
    services: Services, view: View
) -> None:
    model = services.model("llama")
    wait = Wait(TAB, wanted(view, "maps"))

    def ask() -> None:
        with services.waits.start(wait):
            services.outcome(replace(view, prompt="A prompt that nobody knows"))

    with ThreadPoolExecutor(1) as pool, model.lock:
        asked = pool.submit(ask)
        wait.job.cancel.set()
        with pytest.raises(GivenUp):
            asked.result(PATIENCE)


def test_another_prompt_ends_all_that_is_about_the_last() -> None:
    waits = Waits()
    maps, explanation, elsewhere = of("maps"), of("explanation"), of("maps", tab="other")
    new = of("maps", "another")
    with waits.start(maps), waits.start(explanation), waits.start(elsewhere), waits.start(new):
        ended = [wait.job.cancel.is_set() for wait in (maps, explanation, elsewhere, new)]
    assert ended == [True, True, False, False]


def test_the_same_prompt_ends_what_its_kind_shows_no_more() -> None:
    waits = Waits()
    attention, prediction = of("maps", about="attention"), of("prediction", about="clean")
    with (
        waits.start(attention),
        waits.start(prediction),
        waits.start(of("maps", about="attention")),
    ):
        assert not attention.job.cancel.is_set()
        with waits.start(of("maps", about="rollout")):
            assert attention.job.cancel.is_set()
            assert not prediction.job.cancel.is_set()


def test_one_wait_of_a_page_is_shown_the_longest() -> None:
    waits = Waits()
    ahead, maps, prediction = Wait(TAB, Wanted("ahead", "prompt")), of("maps"), of("prediction")
    with waits.start(ahead), waits.start(maps), waits.start(prediction):
        assert [waits.leads(wait) for wait in (ahead, maps, prediction)] == [False, True, False]
        maps.job.cancel.set()
        assert waits.leads(prediction)


def test_what_a_page_shows_is_hidden_once_it_waits_for_nothing() -> None:
    waits = Waits()
    maps, prediction = of("maps"), of("prediction")
    with waits.start(prediction):
        with waits.start(maps):
            pass
        assert not waits.hides(TAB)  # nothing was shown
        waits.shown(prediction)
        assert not waits.hides(TAB)  # that is still awaited
    assert waits.hides(TAB)
    assert not waits.hides(TAB)


def test_a_tab_says_that_it_was_cancelled_until_it_waits_again() -> None:
    waits = Waits()
    assert waits.cancel(TAB) == set()
    assert not waits.was_cancelled(TAB)
    with waits.start(of("maps")), waits.start(of("prediction")):
        assert waits.cancel(TAB) == {"maps", "prediction"}
    assert waits.was_cancelled(TAB)
    assert not waits.was_cancelled(TAB)


def test_things_done_one_by_one_are_told_and_can_be_left() -> None:
    told: list[Progress] = []
    wait = Wait(TAB, Wanted("maps", "prompt"), lambda standing: told.append(standing.progress))
    with Waits().start(wait):
        things = one_by_one("Drawing the maps", "abc")
        assert [next(things), next(things)] == ["a", "b"]
        wait.job.cancel.set()
        with pytest.raises(GivenUp):
            next(things)
    assert [(at.done, at.message[-6:]) for at in told[:2]] == [(0, "1 of 3"), (1, "2 of 3")]
    assert list(one_by_one("Drawing the maps", "abc")) == ["a", "b", "c"]  # nobody waits


def test_an_event_is_awaited_as_long_as_it_is_wanted() -> None:
    wait = of("prediction")
    wait.job.cancel.set()
    with pytest.raises(GivenUp), Waits().start(wait):
        wait_for(threading.Event())
    come = threading.Event()
    come.set()
    wait_for(come)


def test_a_turn_is_free_again_after_an_error() -> None:
    turn = Turn()
    with pytest.raises(ZeroDivisionError), turn.taken():
        raise ZeroDivisionError
    with turn.taken():
        pass


def test_a_pass_of_another_thread_is_not_watched(services: Services, view: View) -> None:
    model = services.model("llama")
    prompt = services.prompt(view, model)
    seen: list[int | None] = []
    with watching_passes(seen.append), ThreadPoolExecutor(1) as pool:
        pool.submit(model.predict, prompt).result(PATIENCE)
        assert seen == []
        with step("Running", 3):  # no wait here: what watches stays
            model.predict(prompt)
    assert seen == [0, 1, 2]
