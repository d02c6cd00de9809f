"""How OpenMP's threads wait for each other. To be said before torch is imported."""

import os

SPINS = "10000"
"""How often a waiting thread looks again before it sleeps: some tens of microseconds."""


def let_waiting_threads_sleep() -> None:
    """Keep threads that wait from holding their cores; what the user has set is left as it is.

    By default they spin on for milliseconds. Beside any other busy program (a browser that draws on
    the same cores is enough) every one of many small steps then waits for a thread that waits for
    a core, and the work takes several times as long; on a quiet machine it makes no difference.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
