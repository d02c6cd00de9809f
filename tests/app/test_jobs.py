"""Long work: one job a tab, cancelling, and the words for time."""

import threading

import pytest

from app.jobs import Job, Jobs, Pace, duration
from models.errors import ErrorKind, UserError


def test_a_second_job_of_a_tab_is_refused_with_a_sentence() -> None:
    jobs = Jobs()
    with (
        jobs.start("tab"),
        pytest.raises(UserError, match="running in this page") as caught,
        jobs.start("tab"),
    ):
        pass
    assert caught.value.kind == ErrorKind.BUSY


def test_tabs_do_not_hinder_each_other() -> None:
    jobs = Jobs()
    with jobs.start("one"), jobs.start("two") as other:
        jobs.cancel("one")
        assert not other.cancel.is_set()


def test_a_failed_job_makes_room_for_the_next() -> None:
    jobs = Jobs()
    with pytest.raises(ZeroDivisionError), jobs.start("tab"):
        raise ZeroDivisionError
    assert jobs.n_running == 0
    with jobs.start("tab"):
        assert jobs.n_running == 1


def test_a_job_takes_the_place_of_one_of_its_kind() -> None:
    jobs = Jobs()
    with jobs.start("tab") as study, jobs.replace("tab", "overview", "first") as first:
        with jobs.replace("tab", "overview", "second") as second:
            assert first.cancel.is_set()
            assert jobs.current("tab", "overview") is second
        assert jobs.current("tab", "overview") is None
        assert not study.cancel.is_set()
        assert not second.cancel.is_set()
    assert jobs.n_running == 0


def test_a_dropped_job_is_cancelled_and_forgotten() -> None:
    jobs = Jobs()
    with jobs.replace("tab", "overview", "about") as job:
        jobs.drop("tab", "overview")
        assert job.cancel.is_set()
        assert jobs.current("tab", "overview") is None
    jobs.drop("tab", "overview")


def test_one_kind_is_cancelled_or_all_of_a_tab() -> None:
    jobs = Jobs()
    with jobs.start("tab") as study, jobs.replace("tab", "overview", "about") as overview:
        assert jobs.cancel("tab", "overview")
        assert (study.cancel.is_set(), overview.cancel.is_set()) == (False, True)
        assert jobs.cancel("tab")
        assert study.cancel.is_set()
    assert not jobs.cancel("tab")


def test_cancelling_reaches_the_job_in_its_thread() -> None:
    jobs, started, seen = Jobs(), threading.Event(), []

    def work() -> None:
        with jobs.start("tab") as job:
            started.set()
            seen.append(job.cancel.wait(10))

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    assert jobs.cancel("tab")
    thread.join(10)
    assert seen == [True]


def test_cancelling_nothing_says_so() -> None:
    assert not Jobs().cancel("tab")


def test_time_left_follows_from_the_pace_so_far() -> None:
    job = Job("tab", started=100.0)
    assert job.seconds_left(0, 10, now=105) is None
    assert job.seconds_left(5, 20, now=110) == pytest.approx(30)
    assert job.seconds_left(20, 20, now=110) == 0


def test_reports_come_at_most_so_often() -> None:
    times = iter([0.0, 0.1, 0.3, 0.35, 0.6])
    pace = Pace(0.25, clock=lambda: next(times))
    assert [pace.ready() for _ in range(5)] == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (8, "8 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (4320, "1 h 12 min"),
    ],
)
def test_time_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
