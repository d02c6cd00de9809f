"""What the machine can do: the rate of a large matrix product."""

import time
from collections.abc import Callable

import torch

LEAST_SECONDS = 0.5
"""Products are repeated for at least as long, so that one hiccup does not count."""


def matrix_rate(
    size: int = 2048,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    least_seconds: float = LEAST_SECONDS,
) -> float:
    """Return floating-point operations a second of a square matrix product."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)  # the first call sets up threads and kernels
    wait_for(device)
    n, start = 0, time.perf_counter()
    while n == 0 or time.perf_counter() - start < least_seconds:
        for _ in range(1 if torch.device(device).type == "cpu" else 20):
            torch.mm(a, b, out=out)
            n += 1
        wait_for(device)
    return n * 2 * size**3 / (time.perf_counter() - start)


def seconds(work: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Return how long something takes, what it put on the device included."""
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device | str) -> None:
    """Wait until the device has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
