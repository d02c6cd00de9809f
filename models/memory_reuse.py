"""Keeps memory that was freed, instead of handing it back and asking for it again.

A pass over many rows makes tensors of some megabytes by the thousand. glibc hands each back to the
system when it is freed, and the next one costs a page fault for every 4 KB: 1.2 million of them in
a sweep of the built-in model at 64 tokens, 3 of its 22 seconds of CPU time. With the settings made
here the same sweep has none.
"""

import ctypes
import os
import sys
from functools import cache

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2
"""glibc's names for what `mallopt` sets (malloc.h)."""
LARGEST_KEPT = 32 * 2**20
"""Larger pieces go back to the system at once, bytes; glibc allows no more."""
MOST_KEPT = 2**30
"""Free memory at the end of the heap that is kept, bytes."""
PAD = 64 * 2**20
"""The heap grows by so much at a time, bytes; what is not touched is not taken."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees; once, and only where somebody has not set it otherwise.

    Returns:
        Whether it was set: not on systems without glibc, and not where the environment tells glibc
        how to allocate (`MALLOC_…`, `GLIBC_TUNABLES`).
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if not sys.platform.startswith("linux") or told:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((MMAP_THRESHOLD, LARGEST_KEPT), (TRIM_THRESHOLD, MOST_KEPT), (TOP_PAD, PAD))
    return all(mallopt(name, value) == 1 for name, value in settings)
