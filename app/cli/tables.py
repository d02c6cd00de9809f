"""The tables of the command line."""

from collections.abc import Callable, Iterator

import numpy as np
from rich.table import Table

from ablation.types import Comparison, HeadScores, SearchResult, SearchStep
from app.cli.terminal import visible
from models.types import AttentionMaps, Prediction, TokenProbability

CELL_WIDTH = 8
"""Columns that one head takes in the layers x heads table."""


def percent(prob: float) -> str:
    return f"{100 * prob:.2f}%"


def prediction_table(
    before: Prediction,
    after: Prediction | None,
    describe: Callable[[int], TokenProbability],
) -> Table:
    """List the leading tokens of either prediction with their probability in both."""
    table = Table("rank", "token", "id", "probability", box=None)
    if after is None:
        for rank, token in enumerate(before.top, 1):
            table.add_row(str(rank), visible(token.label), str(token.id), percent(token.prob))
        return table
    table.add_column("ablated")
    table.add_column("ablated rank")
    leading = dict.fromkeys(token.id for token in (*before.top, *after.top))
    for token_id in sorted(leading, key=before.rank):
        probs = (percent(before.prob(token_id)), percent(after.prob(token_id)))
        label = visible(describe(token_id).label)
        ranks = (str(before.rank(token_id)), str(after.rank(token_id)))
        table.add_row(ranks[0], label, str(token_id), *probs, ranks[1])
    return table


def comparison_lines(comparison: Comparison | None, before: Prediction) -> Iterator[str]:
    """Say in numbers how far two predictions are apart."""
    if comparison is None:
        yield f"entropy {before.entropy:.4f} nats"
        return
    yield f"KL(before || after) {comparison.kl:.4f} nats"
    yield f"total variation {comparison.total_variation:.4f}"
    yield f"change of the top probability {comparison.top_prob_change:+.4f}"
    yield f"entropy {comparison.entropy_before:.4f} -> {comparison.entropy_after:.4f} nats"


def attention_table(maps: AttentionMaps, index: int, top: int) -> Table:
    """Show for each query of one head the keys with most weight."""
    labels = maps.prompt.unique_labels
    ablated = " (ablated run)" if maps.ablated else ""
    table = Table("", "query", "looks at", box=None, title=f"{maps.heads[index]}{ablated}")
    table.title_justify = "left"
    for query, row in enumerate(maps.values[index]):
        keys = np.argsort(-row, kind="stable")[:top]
        looks = ", ".join(f"{visible(labels[k])} {row[k]:.3f}" for k in keys if row[k] > 0)
        table.add_row(str(query), visible(labels[query]), looks)
    return table


def ranking_table(scores: HeadScores, top: int) -> Table:
    """List the heads that matter most."""
    info = scores.metric
    table = Table("rank", "head", f"{info.label} ({info.unit})", box=None)
    for rank, (head, value) in enumerate(scores.ranked()[:top], 1):
        table.add_row(str(rank), str(head), f"{value:+.4g}" if info.diverging else f"{value:.4g}")
    return table


def grid_tables(scores: HeadScores, width: int) -> Iterator[Table]:
    """Show all scores, layers x heads, as many heads to a table as fit the terminal."""
    fitting = max(1, (width - CELL_WIDTH) // CELL_WIDTH)
    n_heads = scores.values.shape[1]
    for first in range(0, n_heads, fitting):
        heads = range(first, min(first + fitting, n_heads))
        table = Table("layer", box=None, title=f"{scores.metric.label} ({scores.metric.unit})")
        table.title_justify = "left"
        for head in heads:
            table.add_column(f"H{head}", justify="right", no_wrap=True)
        for layer, row in enumerate(scores.values):
            table.add_row(str(layer), *(_cell(float(row[head])) for head in heads))
        yield table


def step_line(number: int, step: SearchStep) -> str:
    """Say what one step of a search found."""
    target = "" if step.target_logprob is None else f"  log p(target) {step.target_logprob:.4f}"
    top = f"{visible(step.top.label)} {percent(step.top.prob)}"
    return f"{number:3d}. {step.head!s:8s} KL {step.kl:.4f} nats{target}  top token {top}"


def necessity_table(result: SearchResult) -> Table:
    """Show for each head of a minimal set what happens without it."""
    table = Table("left intact", "most likely token", "log p(target)", box=None)
    for entry in result.necessity:
        top = f"{visible(entry.top.label)} {percent(entry.top.prob)}"
        table.add_row(str(entry.head), top, f"{entry.target_logprob:.4f}")
    return table


def _cell(value: float) -> str:
    """A score in at most seven characters; nothing for one that is not there."""
    return "" if np.isnan(value) else f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.3f}"
