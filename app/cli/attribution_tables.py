"""Attributions as text: terms, layers, tokens."""

from collections.abc import Sequence

from rich.table import Table

from ablation.attribution_types import HeadTokens, LogitLens, QueryKeyDetail, largest_first
from app.cli.tables import percent
from app.cli.terminal import visible
from models.types import Component, TokenProbability

MEANINGS = {
    "embed": "embedding",
    "head": "head",
    "bias": "attention bias",
    "mlp": "MLP",
    "constant": "biases behind",
}
"""What a component of a kind is called in a table."""


def terms_table(
    terms: Sequence[tuple[Component, float]], heading: str, top: int, title: str | None = None
) -> Table:
    """List the largest terms of a sum, and what is left of it."""
    table = Table("rank", "part", "kind", heading, box=None, title=title)
    table.title_justify = "left"
    ranked = largest_first(terms)
    for rank, (component, value) in enumerate(ranked[:top], 1):
        table.add_row(str(rank), str(component), MEANINGS[component.kind], f"{value:+.4f}")
    rest = ranked[top:]
    if rest:
        table.add_row("", f"{len(rest)} others", "", f"{sum(v for _, v in rest):+.4f}")
    return table


def lens_table(lens: LogitLens) -> Table:
    """Show what would be predicted after each layer, and where the watched token stands."""
    watched = visible(lens.watched.label)
    table = Table("after", "most likely", "probability", f"log p({watched})", "rank", box=None)
    for name, prediction in zip(lens.names, lens.predictions, strict=True):
        top = prediction.top[0]
        log_prob = float(prediction.log_probs[lens.watched.id])
        rank = prediction.rank(lens.watched.id)
        table.add_row(name, visible(top.label), percent(top.prob), f"{log_prob:.3f}", f"{rank:,}")
    return table


def head_tokens_table(found: Sequence[HeadTokens]) -> Table:
    """Show the tokens whose logits heads raise and lower most."""
    table = Table("head", "raises", "lowers", box=None)
    for entry in found:
        table.add_row(str(entry.head), _tokens(entry.raised), _tokens(entry.lowered))
    return table


def dimensions_table(detail: QueryKeyDetail, top: int) -> Table:
    """List the dimensions of query and key that add most to the score."""
    table = Table("rank", "dimension", "q·k scaled", box=None, title="by dimension")
    table.title_justify = "left"
    ranked = detail.ranked_dimensions()
    for rank, (dimension, value) in enumerate(ranked[:top], 1):
        table.add_row(str(rank), str(dimension), f"{value:+.4f}")
    rest = ranked[top:]
    if rest:
        table.add_row("", f"{len(rest)} others", f"{sum(v for _, v in rest):+.4f}")
    return table


def _tokens(side: Sequence[tuple[TokenProbability, float]]) -> str:
    return ", ".join(f"{visible(token.label)} {value:+.2f}" for token, value in side)
