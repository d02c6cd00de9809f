"""How much memory a sweep needs at its peak, beside the loaded model.

    python -m benchmarks.memory WHO MODEL TOKENS [--threads 2]

Each is measured in a process of its own: the model is loaded and run once on a short prompt, the
kernel's record of the largest resident set is reset, the work is done, and the record is read.
Linux only. Loops need at every head what they need at the first, so they run no more than that.
What the program takes depends on its memory budget, and so on how much memory is free.
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ablation import search_heads, sweep_heads
from benchmarks.loops import LensLoop, PlainLoop
from benchmarks.subjects import BUILTIN, Subject, prompt_of_length, subject_named
from models import Head

MIB = 2**20

Work = Callable[[int], object]
"""Does the work on a prompt of so many tokens."""


def _sweep(subject: Subject) -> Work:
    model = subject.load()
    return lambda n: sweep_heads(model, prompt_of_length(model, n))


def _screened(subject: Subject) -> Work:
    model = subject.load()
    # The first step evaluates every head, the second is the first that is screened.
    return lambda n: search_heads(
        model, prompt_of_length(model, n), max_heads=2, strategy="screened"
    )


def _plain(subject: Subject) -> Work:
    loop = PlainLoop(subject)
    return lambda n: loop.logits(range(n), Head(0, 0))


def _lens(subject: Subject) -> Work:
    loop = LensLoop(subject)
    return lambda n: loop.logits(range(n), Head(0, 0))


def _lens_layer(subject: Subject) -> Work:
    loop = LensLoop(subject)
    return lambda n: loop.layer_logits(range(n), 0)


WORKS: dict[str, Callable[[Subject], Work]] = {
    "sweep": _sweep,
    "screened": _screened,
    "plain": _plain,
    "lens": _lens,
    "lens-layer": _lens_layer,
}
"""Who -> loads the model, and returns the work to be measured."""

WARM_UP_TOKENS = 4


def peak_mib(who: str, subject: Subject, n_tokens: int, threads: int) -> float:
    """Return the peak of the resident set above its level before, in MiB; runs a process for it."""
    model = subject.name if subject.name == BUILTIN else str(subject.directory)
    command = [sys.executable, "-m", "benchmarks.memory", who, model, str(n_tokens)]
    done = subprocess.run(
        [*command, "--threads", str(threads)],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def _resident_bytes(record: str) -> int:
    """Return a line of the kernel's account of this process: "VmRSS" now, "VmHWM" at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(record))


def peak_bytes(work: Callable[[], object]) -> int:
    """Return how far this process's resident set rises above its level before, at most."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept would hide what is taken anew
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = _resident_bytes("VmRSS")
    work()
    return _resident_bytes("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=WORKS)
    parser.add_argument("model", help="builtin, gpt2-shape or a checkpoint directory")
    parser.add_argument("tokens", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = WORKS[options.who](subject_named(options.model))
    work(WARM_UP_TOKENS)
    print(peak_bytes(lambda: work(options.tokens)) / MIB)


if __name__ == "__main__":
    main()
