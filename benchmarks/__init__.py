"""How fast and lean the program is, against what people write otherwise and the machine's limit.

`python -m benchmarks` is the front door; `benchmarks.screened`, `benchmarks.gpu` and
`benchmarks.profile_sweep` ask narrower questions. Only `requirements.txt` here names the peers:
nothing of the program needs them.
"""

from app.cli.threads import let_waiting_threads_sleep

let_waiting_threads_sleep()  # as `main.py` does, before torch is imported; it holds for everybody
