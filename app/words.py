"""Numbers and tokens as the page writes them."""

import math
from collections.abc import Sequence

NAMED = 3
"""Of tokens that lack a space so many are named."""


def number(value: float, digits: int = 3) -> str:
    """Write a number with so many digits after the point; infinity as a sign."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "∞" if value > 0 else "−∞"


def count(n: int, noun: str) -> str:
    """Write a number of things: "1 head", "6 heads"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def parameters(n: int) -> str:
    """Write a model's size: 135M, 7.2B."""
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= limit:
            value = n / limit
            return f"{value:.1f}{letter}" if value < 10 else f"{value:.0f}{letter}"
    return str(n)


def space_warning(texts: tuple[str, ...]) -> str:
    """Say that tokens were probably meant with a space in front; nothing if there are none."""
    if not texts:
        return ""
    shown = ", ".join(repr(text) for text in texts[:NAMED])
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    spaced = f" {texts[0]}"
    return (
        f"{shown}{more}: no space in front, but {spaced!r} is a token too, and the likelier one "
        "after a prompt that does not end in a space; write the space if you mean it."
    )


HIDDEN_FROM_OTHERS = (
    "Hidden means that no other position looks at it; what stands there itself goes on, so hiding "
    "what nobody but itself reads changes nothing."
)
"""What is said beside what a policy does with a modality hidden."""


def some_of(names: Sequence[object], most: int = 4) -> str:
    """Return the first few of several names."""
    return ", ".join(map(str, names[:most])) + (" and others" if len(names) > most else "")
