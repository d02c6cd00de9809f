"""What a discovery will take, before it starts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablation.circuit.acdc import MOST_EDGES
from ablation.circuit.attribution import n_passes
from ablation.circuit.memory import bytes_needed
from ablation.circuit.proof import ALL_TRIED_UP_TO, SHARES
from ablation.timing import pass_seconds

if TYPE_CHECKING:
    from models.language_model import LanguageModel

RANDOM_ORDERS = 2
"""Random sets of edges that the curve is held against."""

MOST_BISECTIONS = 14
MOST_DROPS = 120
"""Exact runs that finding the smallest circuit takes at most."""

POSE_COST, PASS_COST, RUN_COST = 5.0, 5.0, 2.6
"""What getting a pair ready, a pass with gradients and an exact run take, in forward passes of one
prompt: measured on the built-in model, 1 to 20 pairs of 16 tokens, on one core."""

RUNS_TAKEN = 0.5
"""Of the runs that may be left out, the share taken as a rule: on the built-in model a third where
a few edges are enough, nine tenths where thousands are needed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a discovery takes."""

    n_pairs: int
    """Held-out ones included."""
    n_passes: int
    """Passes with gradients, each over all pairs."""
    n_runs: int
    """Exact runs with edges patched, each over all pairs: at most so many."""
    seconds: float
    """What it takes as a rule, not at most: from the time of one forward pass, measured just now,
    and `RUNS_TAKEN` of the runs that may be left out."""
    n_bytes: float
    """About how much memory the pairs take."""


def plan_discovery(
    model: "LanguageModel",
    prompt: str,
    n_pairs: int,
    method: str,
    steps: int,
    bos: bool | None = None,
) -> Plan:
    """Say what a discovery takes, running the model twice.

    The tests of roles come on top where a model's heads have never been measured.

    Args:
        prompt: about as long as the prompts of the pairs.
        n_pairs: how many pairs, held-out ones included.

    Raises:
        UserError: the prompt cannot be used, or edges of this model cannot be patched.
    """
    passes = n_passes(method, steps)
    always, maybe = exact_runs(method)
    tokens = model.tokenize(prompt, bos)
    forward = pass_seconds(model, tokens)
    cost = POSE_COST + PASS_COST * passes + RUN_COST * (always + RUNS_TAKEN * maybe)
    n_bytes = bytes_needed(model, [len(tokens)] * n_pairs)
    return Plan(n_pairs, passes, always + maybe, n_pairs * forward * cost, n_bytes)


def exact_runs(method: str) -> tuple[int, int]:
    """Return how many exact runs a discovery always takes, and how many more at most."""
    tried = MOST_EDGES if method == "acdc" else MOST_BISECTIONS + MOST_DROPS
    return len(SHARES) * (1 + RANDOM_ORDERS) + RANDOM_ORDERS + 1, tried + ALL_TRIED_UP_TO
