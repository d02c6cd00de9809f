"""The difference maps of a comparison: which heads they are of, and how they are drawn.

Which heads are looked at is no part of the comparison: looking must not change what is ablated.
"""

from collections.abc import Sequence

from dash import dcc, html

from ablation.attention_change import AttentionRun, Pair
from ablation.types import HeadValues
from app.panels.pieces import GRAPH_CONFIG
from app.services import Services
from app.view import head_from_text
from models.types import AttentionMaps, Head
from viz.difference import difference_figure, largest_difference

MAX_MAPS = 6


def looked_at(
    looked: Sequence[str], chosen: Sequence[str], change: HeadValues
) -> tuple[list[Head], int]:
    """Return the heads whose maps are drawn, and of how many.

    Args:
        looked: those that were clicked in the comparison, the last one last.
        chosen: the page's chosen heads, which come after them.
    """
    n_layers, n_heads = change.values.shape
    texts = dict.fromkeys([*reversed(looked), *reversed(chosen)])
    heads = [head_from_text(text) for text in texts]
    heads = [
        h for h in heads if h.stack == change.stack and h.layer < n_layers and h.head < n_heads
    ]
    return heads[:MAX_MAPS], len(heads)


def hint(n: int) -> str:
    """Say how to read the difference maps of n heads, and whether there are more."""
    if not n:
        return "Click heads to see where their attention grew and where it shrank."
    more = f" The newest {MAX_MAPS} of {n} heads." if n > MAX_MAPS else ""
    return f"Rows are queries, columns are keys: green grew, purple shrank.{more}"


def difference_maps(
    services: Services, pair: Pair, change: HeadValues, heads: list[Head], size: int, dark: bool
) -> list[html.Div]:
    """Return a difference map for each head; their colours can be compared."""
    before, after = (_maps(services, run, heads) for run in (pair.before, pair.after))
    both = list(zip(before, after, strict=True))
    zmax = max((largest_difference(b, a, 0) for b, a in both), default=0.0)
    return [_card(b, a, change, zmax, size, dark) for b, a in both]


def _maps(services: Services, run: AttentionRun, heads: list[Head]) -> tuple[AttentionMaps, ...]:
    """Return the map of each head, from the runs that the page keeps where it can."""
    outcome = services.runs.outcome(run.model, run.prompt, -1, heads, run.ablation)
    if outcome.problem is not None:
        raise outcome.problem
    return outcome.maps


def _card(
    before: AttentionMaps,
    after: AttentionMaps,
    change: HeadValues,
    zmax: float,
    size: int,
    dark: bool,
) -> html.Div:
    (head,) = before.heads
    note = f"{change.values[head.layer, head.head]:.3g} nats · after − before"
    figure = difference_figure(before, after, 0, zmax=zmax, note=note, dark=dark, size=size)
    label = f"Difference of the attention of head {head}"
    picture = dcc.Graph(figure=figure, config=GRAPH_CONFIG)
    return html.Div(html.Div(picture, role="img", **{"aria-label": label}), className="map-card")
