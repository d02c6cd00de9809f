"""Long work: at most one job of a kind a browser tab, each of which can be cancelled.

A job is known by the tab that started it. The work looks at its event between batches, so a
cancelled job ends by itself and keeps what it found.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ablation.types import Progress
from models.errors import ErrorKind, UserError

STUDY = "study"
"""The kind of a job that a person starts and waits for."""
LEAST_DONE = 0.06
"""The share of a job from which its beginning, which is slow, says little wrong about the rest."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One piece of long work while it runs."""

    tab: str
    kind: str = STUDY
    about: Hashable = None
    """What is worked on, for kinds that are replaced by the next."""
    cancel: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)

    def seconds_left(self, done: int, total: int, now: float | None = None) -> float | None:
        """Estimate the time left from the time it took so far; None before `LEAST_DONE` is done."""
        if done <= 0 or done < LEAST_DONE * total:
            return None
        elapsed = (time.monotonic() if now is None else now) - self.started
        return max(0.0, elapsed * (total - done) / done)

    def status(self, progress: Progress) -> str:
        """Say where the work stands, and how long it will go on."""
        left = self.seconds_left(progress.done, progress.total)
        return progress.message if left is None else f"{progress.message}, {time_left(left)}"


class Jobs:
    """The jobs that run now, by tab and kind."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], Job] = {}
        self._lock = threading.Lock()

    @contextmanager
    def start(self, tab: str, kind: str = STUDY) -> Iterator[Job]:
        """Run the body of the `with` as the job of a tab.

        Raises:
            UserError: a job of this tab and kind runs already.
        """
        with self._lock:
            if (tab, kind) in self._running:
                raise UserError(
                    ErrorKind.BUSY,
                    "A study is running in this page already; wait for it or cancel it first.",
                )
            job = self._running[tab, kind] = Job(tab, kind)
        with self._until_its_end(job):
            yield job

    @contextmanager
    def replace(
        self, tab: str, kind: str, about: Hashable, cancel: threading.Event | None = None
    ) -> Iterator[Job]:
        """Run the body of the `with` as the job of a tab, in the place of one that runs.

        Args:
            cancel: ends the job, if something else does so too.
        """
        job = Job(tab, kind, about, cancel or threading.Event())
        with self._lock:
            replaced = self._running.get((tab, kind))
            self._running[tab, kind] = job
        if replaced is not None:
            replaced.cancel.set()
        with self._until_its_end(job):
            yield job

    @contextmanager
    def _until_its_end(self, job: Job) -> Iterator[None]:
        try:
            yield
        finally:
            with self._lock:
                if self._running.get((job.tab, job.kind)) is job:
                    del self._running[job.tab, job.kind]

    def current(self, tab: str, kind: str) -> Job | None:
        """Return the job of a tab that runs and was neither replaced nor dropped."""
        with self._lock:
            return self._running.get((tab, kind))

    def drop(self, tab: str, kind: str) -> None:
        """Cancel the job of a tab, if there is one, and forget it: nobody waits for it."""
        with self._lock:
            job = self._running.pop((tab, kind), None)
        if job is not None:
            job.cancel.set()

    def cancel(self, tab: str, kind: str | None = None) -> bool:
        """Ask a tab's job of one kind, or of any, to stop soon. Return whether there was one."""
        with self._lock:
            jobs = [j for j in self._running.values() if j.tab == tab and kind in (None, j.kind)]
        for job in jobs:
            job.cancel.set()
        return bool(jobs)

    @property
    def n_running(self) -> int:
        with self._lock:
            return len(self._running)


class Pace:
    """Lets a report through at most every so many seconds: a page can draw only so fast."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._next = -float("inf")

    def ready(self) -> bool:
        """Return whether it is time for a report; if so, the next one must wait again."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


def time_left(seconds: float) -> str:
    return f"about {duration(seconds)} left" if seconds >= 1 else "nearly done"


def duration(seconds: float) -> str:
    """Return a length of time in words: "8 s", "2 min 5 s", "1 h 12 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
