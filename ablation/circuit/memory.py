"""What the pairs of a discovery take in memory, said and held against what is free beforehand.

Everything that parts put out on every pair stays until the end: on the clean prompt and on what
edges outside of a circuit carry.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.budget import GIGABYTE
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from models.language_model import LanguageModel

BATCH_POSITIONS = 512
"""About how many positions run as one batch: more is no faster on a CPU, and takes memory."""

HELD = 2.8
"""What a pair keeps, in outputs of all parts: the clean prompt's, the reference's, and what each
layer is given in the reference (measured on the built-in model)."""

WORKING = 4.5
"""What the batch under way takes beside that, likewise: differences, and what gradients need."""

NUMBER_BYTES = 4
"""Outputs are kept as float32, whatever the model computes in."""


def batch_size(length: int) -> int:
    """Return how many pairs of so many tokens run as one batch."""
    return max(1, BATCH_POSITIONS // length)


def bytes_needed(model: "LanguageModel", lengths: Sequence[int]) -> float:
    """Return about how many bytes pairs take, the model itself not counted.

    Args:
        lengths: how many tokens the clean prompt of each pair has.

    Raises:
        UserError: edges of this model cannot be patched.
    """
    of_position = len(model.edges.graph.sources) * model.head_sets.budget.d_model * NUMBER_BYTES
    batches = (
        length * min(count, batch_size(length)) for length, count in Counter(lengths).items()
    )
    return of_position * (HELD * sum(lengths) + WORKING * max(batches, default=0))


def refuse_beyond_memory(model: "LanguageModel", lengths: Sequence[int]) -> None:
    """Refuse pairs that do not fit what is free now.

    Args:
        lengths: as of `bytes_needed`.

    Raises:
        UserError: they do not fit; or edges of this model cannot be patched.
    """
    free = model.head_sets.budget.free()
    needed = bytes_needed(model, lengths)
    if needed <= free:
        return
    n = len(lengths)
    fitting = sum(bytes_needed(model, lengths[:count]) <= free for count in range(1, n))
    pairs = "One pair of prompts" if n == 1 else f"{n:,} pairs of prompts"
    what = f"give fewer, about {fitting:,}" if fitting else "shorten the prompts"
    raise UserError(
        ErrorKind.DEVICE,
        f"{pairs} of up to {max(lengths):,} tokens would take about {in_gigabytes(needed)} of "
        f"memory, and {in_gigabytes(free)} are free; {what}, or take a smaller model.",
    )


def in_gigabytes(n_bytes: float) -> str:
    """Return an amount of memory in words: "0.6 GB", "12 GB"."""
    amount = n_bytes / GIGABYTE
    return f"{amount:.0f} GB" if amount >= 10 else f"{max(amount, 0.1):.1f} GB"
