"""Long work: at most one job a browser tab, each of which can be cancelled.

A job is known by the tab that started it. The work looks at its event between batches, so a
cancelled job ends by itself and keeps what it found.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from models.errors import ErrorKind, UserError


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One piece of long work while it runs."""

    tab: str
    cancel: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)

    def seconds_left(self, done: int, total: int, now: float | None = None) -> float | None:
        """Estimate the time left from the time it took so far; None before anything is done."""
        if done <= 0:
            return None
        elapsed = (time.monotonic() if now is None else now) - self.started
        return max(0.0, elapsed * (total - done) / done)


class Jobs:
    """The jobs that run now, by tab."""

    def __init__(self) -> None:
        self._running: dict[str, Job] = {}
        self._lock = threading.Lock()

    @contextmanager
    def start(self, tab: str) -> Iterator[Job]:
        """Run the body of the `with` as the job of a tab.

        Raises:
            UserError: a job of this tab runs already.
        """
        with self._lock:
            if tab in self._running:
                raise UserError(
                    ErrorKind.BUSY,
                    "A study is running in this page already; wait for it or cancel it first.",
                )
            job = self._running[tab] = Job(tab)
        try:
            yield job
        finally:
            with self._lock:
                del self._running[tab]

    def cancel(self, tab: str) -> bool:
        """Ask the job of a tab to stop soon. Return whether there was one."""
        with self._lock:
            job = self._running.get(tab)
        if job is not None:
            job.cancel.set()
        return job is not None

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
