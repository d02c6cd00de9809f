"""Watching the forward passes of a thread from outside: how far they are, and ending them early.

Who waits for a long pass need not be known to all that lies between: the watch of a thread lives in
a ContextVar, as its request does (`models.attention_tap`), so that no thread sees another's.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watch = Callable[[int | None], None]
"""Called with the attention layer that a pass is at, counted in the order they run, at least once a
layer and more often where much is read of it; with None while the pass waits for another to end.
What tells the parts of a pass apart afterwards counts layers likewise. What it raises ends both."""

LOOK_SECONDS = 0.1
"""How often who waits for another's pass looks whether it shall go on waiting."""

_WATCH: ContextVar[Watch | None] = ContextVar("pass_watch", default=None)


@contextmanager
def watching_passes(watch: Watch) -> Iterator[None]:
    """Let the passes of this thread be watched while the block runs."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


def reached(layer: int | None) -> None:
    """Tell who watches this thread's pass where it is."""
    watch = _WATCH.get()
    if watch is not None:
        watch(layer)


@contextmanager
def held(lock: threading.RLock) -> Iterator[None]:
    """Hold a lock while the block runs; who watches may end the wait for it."""
    watch = _WATCH.get()
    while not lock.acquire(timeout=-1 if watch is None else LOOK_SECONDS):
        reached(None)
    try:
        yield
    finally:
        lock.release()
