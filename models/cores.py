"""Parts of a pass on several CPU cores, each on one of its own.

torch shares each operation out among the cores and waits for all of them at its end, and while
Python is between two operations all of them wait. Where the rows of a pass are independent, each
core can take some of them through the whole pass instead: nobody waits but once, at the end.
"""

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import nn

Part = TypeVar("Part")
Found = TypeVar("Found")

LONGEST_WAIT = 10.0
"""For a thread to begin, seconds."""


def on_cores(work: Callable[[Part], Found], parts: Sequence[Part]) -> list[Found]:
    """Return what work makes of each part, done side by side without gradients, each on one core.

    The first error that a part raises is raised here, when all are done.
    """

    def alone(part: Part) -> Found:
        with torch.inference_mode():
            return work(part)

    pool = prepared(torch.get_num_threads())
    if pool is None:
        return [alone(part) for part in parts]
    # What is active in this thread (a request, a watcher) is active in those.
    running = [pool.submit(contextvars.copy_context().run, alone, part) for part in parts]
    for one in running:
        one.exception()
    return [one.result() for one in running]


def prepared(n: int) -> ThreadPoolExecutor | None:
    """Return as many threads as torch uses, each of which runs torch's operations alone; None where
    the system has no room for them. They are made once a process, best before others are."""
    with _MAKING:
        return _pool(n)


_MAKING = threading.Lock()
"""Held while threads are made: until they are, new ones of others would run alone too."""


@cache
def _pool(n: int) -> ThreadPoolExecutor | None:
    all_there = threading.Barrier(n + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes the number for all when it first asks for its own
        torch.set_num_threads(1)  # of this thread, and of those that have not asked yet
        all_there.wait(LONGEST_WAIT)

    pool = ThreadPoolExecutor(n, thread_name_prefix="core", initializer=begin)
    try:
        for _ in range(n):
            pool.submit(int)  # a thread is started when there is something to do
        all_there.wait(LONGEST_WAIT)
    except (RuntimeError, threading.BrokenBarrierError):
        all_there.abort()
        pool.shutdown(wait=False)
        return None
    finally:
        torch.set_num_threads(n)
    return pool


def n_cores() -> int:
    """Return how many cores torch computes on."""
    return torch.get_num_threads()


def computes_on_cores(model: nn.Module) -> bool:
    """Whether all of a model's weights lie in main memory, and none comes and goes."""
    at_hand = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return at_hand and not any(hasattr(module, "_hf_hook") for module in model.modules())
