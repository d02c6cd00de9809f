"""What a discovery will take, before it starts."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablation.circuit.acdc import MOST_EDGES
from ablation.circuit.attribution import n_passes
from ablation.circuit.discovery import MOST_BISECTIONS, MOST_DROPS, RANDOM_ORDERS
from ablation.circuit.proof import SHARES, WEAKEST_TRIED

if TYPE_CHECKING:
    from models.language_model import LanguageModel
    from models.types import TokenizedPrompt

POSE_COST, PASS_COST, RUN_COST = 5.0, 5.0, 2.6
"""What getting a pair ready, a pass with gradients and an exact run take, in forward passes of one
prompt: measured on the built-in model, 1 to 20 pairs of 16 tokens, on one core."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a discovery takes, at most."""

    n_pairs: int
    """Held-out ones included."""
    n_passes: int
    """Passes with gradients, each over all pairs."""
    n_runs: int
    """Exact runs with edges patched, each over all pairs."""
    seconds: float
    """An estimate: from the time of one forward pass, measured just now."""


def plan_discovery(
    model: "LanguageModel", prompt: str, n_pairs: int, method: str, steps: int
) -> Plan:
    """Say what a discovery takes, running the model twice.

    The tests of roles come on top where a model's heads have never been measured.

    Args:
        prompt: about as long as the prompts of the pairs.
        n_pairs: how many pairs, held-out ones included.

    Raises:
        UserError: the prompt cannot be used.
    """
    passes = n_passes("eap-ig" if method == "acdc" else method, steps)
    tried = MOST_EDGES if method == "acdc" else MOST_BISECTIONS + MOST_DROPS
    runs = len(SHARES) * (1 + RANDOM_ORDERS) + tried + WEAKEST_TRIED + 1
    tokens = model.tokenize(prompt)
    forward = min(_seconds(model, tokens) for _ in range(2))
    cost = POSE_COST + PASS_COST * passes + RUN_COST * runs
    return Plan(n_pairs, passes, runs, n_pairs * forward * cost)


def _seconds(model: "LanguageModel", tokens: "TokenizedPrompt") -> float:
    """Return how long one forward pass takes."""
    started = time.perf_counter()
    model.predict(tokens, position=model.resolve_position(tokens), top_k=1)
    return time.perf_counter() - started
