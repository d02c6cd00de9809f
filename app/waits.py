"""What pages wait for: how far it is, and that it ends as soon as nobody wants it any more.

A callback that may take long is a *wait* of its browser tab while it runs. What is slow within it
is named as a *step*, wherever that is done; the forward passes in a step are counted layer by
layer (`models.pass_watch`). Work that another thread does already is waited for in a *turn*, which
tells how far that is. A wait that is cancelled, or whose prompt has been replaced, ends there with
`GivenUp`.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TypeVar

from ablation.types import Progress
from app.jobs import Job
from models.pass_watch import LOOK_SECONDS, watching_passes

Thing = TypeVar("Thing")


class GivenUp(Exception):  # noqa: N818 - not an error: somebody wanted it so
    """What was waited for is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a step is."""

    job: Job
    """Of which the step makes a part; it started with the step."""
    progress: Progress

    @property
    def percent(self) -> float:
        return 100 * self.progress.done / max(1, self.progress.total)

    @property
    def sentence(self) -> str:
        return self.job.status(self.progress)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a wait is for."""

    kind: str
    """Which part of the page waits."""
    prompt: Hashable
    """A tab has one prompt: what is about another is given up when the next begins."""
    about: Hashable = None
    """What else of the same kind is given up when the next begins: all that is about other
    things."""


class Wait:
    """One callback of a tab while it runs."""

    def __init__(
        self, tab: str, wanted: Wanted, show: Callable[[Standing], None] | None = None
    ) -> None:
        """Args: show: shows how far it is; None where no page looks on."""
        self.job = Job(tab, wanted.kind, wanted)
        self.wanted = wanted
        self.standing: Standing | None = None
        """Of what this thread does itself."""
        self.seen = show is not None
        self._show = show
        self._step = self.job

    def begin_step(self) -> None:
        self._step = replace(self.job, started=time.monotonic())
        self.standing = None

    def tell(self, progress: Progress) -> None:
        """Show how far the step is; for work that looks at `job.cancel` by itself."""
        self.standing = Standing(self._step, progress)
        if self._show is not None:
            self._show(self.standing)

    def report(self, progress: Progress) -> None:
        """Show how far the step is.

        Raises:
            GivenUp: the wait is not wanted any more.
        """
        self.tell(progress)
        self.look()

    def look(self, standing: Standing | None = None) -> None:
        """Show how far something is that is waited for.

        Raises:
            GivenUp: the wait is not wanted any more.
        """
        if standing is not None and self._show is not None:
            self._show(standing)
        if self.job.cancel.is_set():
            raise GivenUp


_CURRENT: ContextVar[Wait | None] = ContextVar("current_wait", default=None)


class Waits:
    """What all tabs wait for now."""

    def __init__(self) -> None:
        self._running: list[Wait] = []
        self._shown: set[str] = set()
        """Tabs whose page shows that it waits."""
        self._cancelled: set[str] = set()
        """Tabs whose page shows that it did."""
        self._lock = threading.Lock()

    @contextmanager
    def start(self, wait: Wait) -> Iterator[Wait]:
        """Run the body of the `with` as a wait, and give up what its tab does not want any more."""
        with self._lock:
            for other in self._of(wait.job.tab):
                if _replaces(wait.wanted, other.wanted):
                    other.job.cancel.set()
            self._running.append(wait)
        token = _CURRENT.set(wait)
        try:
            yield wait
        finally:
            _CURRENT.reset(token)
            with self._lock:
                self._running.remove(wait)

    def cancel(self, tab: str) -> set[str]:
        """Give up all that a tab waits for; return the kinds of that."""
        with self._lock:
            waits = [wait for wait in self._of(tab) if _goes_on(wait)]
            if waits:
                self._cancelled.add(tab)
        for wait in waits:
            wait.job.cancel.set()
        return {wait.wanted.kind for wait in waits}

    def leave(self, tab: str) -> None:
        """Give up all of a tab that is closed."""
        self.cancel(tab)
        with self._lock:
            self._shown.discard(tab)
            self._cancelled.discard(tab)

    def leads(self, wait: Wait) -> bool:
        """Whether a wait is the one of its tab whose progress is shown: the longest."""
        with self._lock:
            shown = [other for other in self._of(wait.job.tab) if other.seen and _goes_on(other)]
        return bool(shown) and shown[0] is wait

    def shown(self, wait: Wait) -> None:
        """Note down that a page shows that it waits."""
        with self._lock:
            self._shown.add(wait.job.tab)
            self._cancelled.discard(wait.job.tab)

    def hides(self, tab: str) -> bool:
        """Whether a page that shows that it waits waits for nothing any more; ask once."""
        with self._lock:
            ends = tab in self._shown and not any(wait.seen for wait in self._of(tab))
            if ends:
                self._shown.discard(tab)
        return ends

    def was_cancelled(self, tab: str) -> bool:
        """Whether a page shows that something was cancelled; ask once."""
        with self._lock:
            known = tab in self._cancelled
            self._cancelled.discard(tab)
        return known

    def _of(self, tab: str) -> list[Wait]:
        return [wait for wait in self._running if wait.job.tab == tab]


def _goes_on(wait: Wait) -> bool:
    return not wait.job.cancel.is_set()


def _replaces(new: Wanted, old: Wanted) -> bool:
    return new.prompt != old.prompt or (new.kind == old.kind and new.about != old.about)


class Turn:
    """What one thread does at a time; the others wait, and are told how far that is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._standing: Callable[[], Standing | None] = _unknown

    @contextmanager
    def taken(self, standing: Callable[[], Standing | None] | None = None) -> Iterator[None]:
        """Wait for the turn, and run the body of the `with` in it.

        Args:
            standing: tells how far the body is; None: by its thread's wait.

        Raises:
            GivenUp: this thread's wait ended before its turn came.
        """
        wait = _CURRENT.get()
        while not self._lock.acquire(timeout=-1 if wait is None else LOOK_SECONDS):
            assert wait is not None  # or it waits for ever
            wait.look(self._standing())
        try:
            self._standing = standing or _standing_of(wait)
            yield
        finally:
            self._standing = _unknown
            self._lock.release()


def _unknown() -> None:
    """Tell nothing."""


def _standing_of(wait: Wait | None) -> Callable[[], Standing | None]:
    return _unknown if wait is None else lambda: wait.standing


@contextmanager
def step(message: str, n_layers: int) -> Iterator[None]:
    """Let the forward pass in the body of the `with` be what this thread's wait is at.

    Args:
        message: what is done, as a person calls it.
        n_layers: how many attention layers the pass runs.

    Raises:
        GivenUp: the wait is not wanted any more.
    """
    wait = _CURRENT.get()
    if wait is None:
        yield
        return
    wait.begin_step()

    def reached(layer: int | None) -> None:
        if layer is None:
            wait.look()
        else:
            said = f"{message}, layer {layer + 1} of {n_layers}"
            wait.report(Progress(min(layer, n_layers), n_layers, said))

    with watching_passes(reached):
        yield


def one_by_one(message: str, things: Sequence[Thing]) -> Iterator[Thing]:
    """Yield things, as a step in which each is worked on before the next.

    Raises:
        GivenUp: this thread's wait is not wanted any more.
    """
    wait = _CURRENT.get()
    if wait is not None:
        wait.begin_step()
    for i, thing in enumerate(things):
        if wait is not None:
            wait.report(Progress(i, len(things), f"{message}, {i + 1} of {len(things)}"))
        yield thing


def wait_for(event: threading.Event) -> None:
    """Wait for an event as long as this thread's wait is wanted.

    Raises:
        GivenUp: it is not any more.
    """
    wait = _CURRENT.get()
    while not event.wait(None if wait is None else LOOK_SECONDS):
        assert wait is not None  # or it waits for ever
        wait.look()
