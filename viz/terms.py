"""Terms of a sum as a ranked list of bars around zero, small enough for a side panel."""

from collections.abc import Sequence
from dataclasses import dataclass

from ablation.attribution_types import LogitLens, largest_first
from models.types import Component
from viz.labels import short_probability

MINUS = "−"


@dataclass(frozen=True, slots=True)
class TermBar:
    """One line: a name, a number, and a bar from the middle to the left or to the right."""

    label: str
    value: str
    """With its sign."""
    start: float
    """Where the bar begins, from 0 at the left to 1 at the right of the line; the middle is 0."""
    width: float
    positive: bool
    head: str = ""
    """The head it is about, "16.0"; empty for other terms."""
    rest: tuple["TermBar", ...] = ()
    """The terms that are not listed, if it stands for them; its bar is left out then."""


def term_bars(terms: Sequence[tuple[Component, float]], n: int) -> list[TermBar]:
    """Return the n largest terms by absolute value, and the sum of what is left as a last line."""
    return _bars([(component_name(c), value, _head_of(c)) for c, value in largest_first(terms)], n)


def dimension_bars(ranked: Sequence[tuple[int, float]], n: int) -> list[TermBar]:
    """Return the n first of (dimension, what it adds), and the sum of the others."""
    return _bars([(f"dim {dimension}", value, "") for dimension, value in ranked], n)


def component_name(component: Component) -> str:
    """Return what a component is called on the page."""
    names = {"embed": "embedding", "constant": "constant", "bias": f"bias L{component.layer}"}
    return names.get(component.kind, str(component))


def signed(value: float) -> str:
    """Return a term with its sign, in two digits after the point."""
    return f"{value:+.2f}".replace("-", MINUS)


@dataclass(frozen=True, slots=True)
class LensRow:
    """One layer of a logit lens, as text."""

    after: str
    top: str
    """The most likely token's label."""
    prob: str
    share: float
    """The same probability, as the length of a bar from 0 to 1."""
    log_prob: str
    """Of the watched token."""
    rank: str
    is_watched: bool
    """Whether the most likely token is the watched one."""


def lens_rows(lens: LogitLens) -> list[LensRow]:
    """Return a row for the embedding and each layer, the last layer first."""
    rows = []
    for name, prediction in zip(lens.names, lens.predictions, strict=True):
        top, watched = prediction.top[0], lens.watched.id
        log_prob = float(prediction.log_probs[watched])
        rows.append(
            LensRow(
                after="embedding" if name == "embed" else name,
                top=top.label,
                prob=short_probability(top.prob),
                share=top.prob,
                log_prob=f"{log_prob:.2f}".replace("-", MINUS),
                rank=f"{prediction.rank(watched):,}",
                is_watched=top.id == watched,
            )
        )
    return rows[::-1]


def _head_of(component: Component) -> str:
    return f"{component.layer}.{component.head}" if component.kind == "head" else ""


def _bars(named: Sequence[tuple[str, float, str]], n: int) -> list[TermBar]:
    """Return the first n of (label, value, head), and one for the others, on the scale of the
    largest."""
    largest = max((abs(value) for _, value, _ in named), default=0.0) or 1.0
    bars = []
    for label, value, head in named:
        width = abs(value) / largest / 2
        start = 0.5 if value >= 0 else 0.5 - width
        bars.append(TermBar(label, signed(value), start, width, value >= 0, head))
    if len(bars) <= n + 1:
        return bars
    total = sum(value for _, value, _ in named[n:])
    what = f"{len(bars) - n} others"
    others = TermBar(what, signed(total), 0.5, 0.0, total >= 0, rest=tuple(bars[n:]))
    return [*bars[:n], others]
