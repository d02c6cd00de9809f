"""How long this machine takes for one forward pass: what plans are reckoned in."""

import time

from models.language_model import LanguageModel
from models.types import TokenizedPrompt

TIMED = 4
"""Passes that are timed; the fastest counts: the first may have to warm up, and others may run
beside something else."""


def pass_seconds(model: LanguageModel, prompt: TokenizedPrompt) -> float:
    """Return how long one forward pass of a prompt takes, measured just now."""

    def once() -> float:
        started = time.perf_counter()
        model.predict(prompt, top_k=1)
        return time.perf_counter() - started

    return min(once() for _ in range(TIMED))
