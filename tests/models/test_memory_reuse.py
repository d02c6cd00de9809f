"""Memory that was freed is kept: page faults are counted, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

COUNTS = """
import resource, sys
import torch
from models.memory_reuse import keep_freed_memory

torch.set_num_threads(1)
set_ = keep_freed_memory() if sys.argv[1] == "keep" else None
def work():
    for _ in range(5):
        kept = [torch.empty(6 * 2**20).fill_(1.0) for _ in range(8)]  # 24 MB each
        del kept
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(set_, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def counted(mode: str, **environment: str) -> tuple[str, int]:
    told = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", COUNTS, mode],
        cwd=ROOT,
        env={**told, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    was_set, faults = done.stdout.split()
    return was_set, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_tensors_take_the_place_of_those_that_were_freed() -> None:
    was_set, faults = counted("keep")
    # By itself glibc may keep them or not, as the heap happens to lie; told so, it never does.
    _, plain = counted("leave", MALLOC_MMAP_THRESHOLD_="131072")
    assert was_set == "True"
    assert plain > 10_000  # 6,144 pages a tensor, or fewer large ones
    assert faults < plain / 20


def test_settings_of_ones_own_are_left_alone() -> None:
    was_set, _ = counted("keep", MALLOC_TOP_PAD_="131072")
    assert was_set == "False"
