"""Parts of a pass on several CPU cores, each on one of its own.

torch shares each operation out among the cores and waits for all of them at its end, and while
Python is between two operations all of them wait. Where the rows of a pass are independent, each
core can take some of them through the whole pass instead: nobody waits but once, at the end.
"""

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

Part = TypeVar("Part")
Found = TypeVar("Found")


class Cores:
    """As many threads as torch uses, each of which runs torch's operations alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._n = 0

    def map(self, work: Callable[[Part], Found], parts: Sequence[Part]) -> list[Found]:
        """Return what work makes of each part, done side by side without gradients.

        The first error that a part raises is raised here, when all are done.
        """
        pool = self._pool_of(torch.get_num_threads())

        def alone(part: Part) -> Found:
            with torch.inference_mode():
                return work(part)

        # What is active in this thread (a request, a watcher) is active in these.
        running = [pool.submit(contextvars.copy_context().run, alone, part) for part in parts]
        for one in running:
            one.exception()
        return [one.result() for one in running]

    def _pool_of(self, n: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._n != n:
                self._pool, self._n = _pool(n), n
            return self._pool


def _pool(n: int) -> ThreadPoolExecutor:
    all_there = threading.Barrier(n + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes the number for all when it first asks for its own
        torch.set_num_threads(1)  # of this thread, and of those that have not asked yet
        all_there.wait()

    pool = ThreadPoolExecutor(n, thread_name_prefix="core", initializer=begin)
    for _ in range(n):
        pool.submit(int)  # a thread is started when there is something to do
    all_there.wait()
    torch.set_num_threads(n)
    return pool


def n_cores() -> int:
    """Return how many cores torch computes on."""
    return torch.get_num_threads()


def computes_on_cores(model: nn.Module) -> bool:
    """Whether all of a model's weights lie in main memory, and none comes and goes."""
    at_hand = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return at_hand and not any(hasattr(module, "_hf_hook") for module in model.modules())
