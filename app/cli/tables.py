"""The tables of the command line."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rich.table import Table

from ablation.types import (
    Comparison,
    HeadScores,
    HeadSummaries,
    HeadValues,
    MetricInfo,
    PositionScores,
    SearchResult,
    SearchStep,
)
from app.cli.terminal import visible
from models.types import AttentionMaps, Prediction, TokenProbability

CELL_WIDTH = 8
"""Columns that one head takes in the layers x heads table."""

POSITION_CELL_WIDTH, TOKEN_WIDTH = 10, 24
"""Columns that one head, and a position with its token, take in the positions x heads table."""

TOPS_SHOWN = 3
"""Of how many prompts a step of a search tells the most likely token."""


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
    queries, labels = maps.prompt.unique_labels, maps.keys.unique_labels
    ablated = " (ablated run)" if maps.ablated else ""
    table = Table("", "query", "looks at", box=None, title=f"{maps.title(index)}{ablated}")
    table.title_justify = "left"
    for query, row in enumerate(maps.values[index]):
        keys = np.argsort(-row, kind="stable")[:top]
        looks = ", ".join(f"{visible(labels[k])} {row[k]:.3f}" for k in keys if row[k] > 0)
        table.add_row(str(query), visible(queries[query]), looks)
    return table


def ranking_table(scores: HeadScores | HeadValues, top: int) -> Table:
    """List the heads that matter most."""
    table = Table("rank", "head", _heading(scores), box=None)
    for rank, (head, value) in enumerate(scores.ranked()[:top], 1):
        table.add_row(str(rank), str(head), _figure(value, scores.metric))
    return table


def summaries_table(summaries: HeadSummaries, sort: str, top: int, smallest: bool) -> Table:
    """List the heads with the largest values of a metric, or the smallest, and all metrics."""
    order = "smallest" if smallest else "largest"
    labels = {info.name: info.label for info in summaries.metrics}
    table = Table(
        "rank", "head", box=None, padding=(0, 1, 0, 0), title=f"{labels[sort]}, {order} first"
    )
    table.title_justify = "left"
    for info in summaries.metrics:
        unit = "" if info.unit == "probability" else f"\n{info.unit}"
        table.add_column(f"{info.label}{unit}", justify="right")
    ranked = summaries.ranked(sort)
    heads = [head for head, _ in (reversed(ranked) if smallest else ranked)][:top]
    for rank, head in enumerate(heads, 1):
        values = summaries.values[:, head.layer, head.head].tolist()
        table.add_row(str(rank), str(head), *(f"{value:.3f}" for value in values))
    return table


def cell_ranking_table(scores: PositionScores, top: int) -> Table:
    """List the heads and positions that matter most, ties by head and then by position."""
    table = Table("rank", "head", "position", "token", _heading(scores), box=None)
    flat = np.nan_to_num(np.abs(scores.values), nan=-1.0).reshape(-1)  # -1: not evaluated
    strongest = np.argsort(-flat, kind="stable")[:top]
    labels = scores.prompt.unique_labels
    for rank, index in enumerate(strongest[flat[strongest] >= 0].tolist(), 1):
        row, at = divmod(index, len(scores.prompt))
        value = _figure(float(scores.values[row, at]), scores.metric)
        table.add_row(str(rank), str(scores.heads[row]), str(at), visible(labels[at]), value)
    return table


def grid_tables(scores: HeadScores | HeadValues, width: int) -> Iterator[Table]:
    """Show all scores, layers x heads, as many heads to a table as fit the terminal."""
    names = [f"H{head}" for head in range(scores.values.shape[1])]
    for heads in _parts(len(names), (width - CELL_WIDTH) // CELL_WIDTH):
        table = _score_table(["layer"], [names[head] for head in heads], _heading(scores))
        for layer, row in enumerate(scores.values):
            table.add_row(str(layer), *(_cell(float(row[head])) for head in heads))
        yield table


def position_tables(scores: PositionScores, width: int) -> Iterator[Table]:
    """Show all scores, positions x heads, as many heads to a table as fit the terminal."""
    labels = scores.prompt.unique_labels
    fitting = (width - TOKEN_WIDTH) // POSITION_CELL_WIDTH
    for heads in _parts(len(scores.heads), fitting):
        names = [str(scores.heads[head]) for head in heads]
        table = _score_table(["", "token"], names, _heading(scores))
        for at, column in enumerate(scores.values.T):
            cells = (_cell(float(column[head])) for head in heads)
            table.add_row(str(at), visible(labels[at]), *cells)
        yield table


def _parts(n: int, fitting: int) -> Iterator[range]:
    """Part n columns of scores into tables of as many as fit, at least one."""
    fitting = max(1, fitting)
    for first in range(0, n, fitting):
        yield range(first, min(first + fitting, n))


def _score_table(leading: Sequence[str], names: Sequence[str], title: str) -> Table:
    table = Table(*leading, box=None, title=title)
    table.title_justify = "left"
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _heading(scores: HeadScores | HeadValues | PositionScores) -> str:
    """Name the metric, its unit, and of how many prompts the scores are the mean."""
    several = scores.by_prompt if isinstance(scores, HeadScores) else None
    mean = "" if several is None else f", mean over {len(several)} prompts"
    unit = f" ({scores.metric.unit})" if scores.metric.unit else ""
    return f"{scores.metric.label}{unit}{mean}"


def _figure(value: float, metric: MetricInfo) -> str:
    return f"{value:+.4g}" if metric.diverging else f"{value:.4g}"


def step_line(number: int, step: SearchStep) -> str:
    """Say what one step of a search found."""
    target = "" if step.target_logprob is None else f"  log p(target) {step.target_logprob:.4f}"
    tops = step.tops or (step.top,)
    named = ", ".join(map(_with_percent, tops[:TOPS_SHOWN]))
    more = f" and {len(tops) - TOPS_SHOWN} more" if len(tops) > TOPS_SHOWN else ""
    plural = "s" if len(tops) > 1 else ""
    found = f"{number:3d}. {step.head!s:8s} KL {step.kl:.4f} nats{target}"
    return f"{found}  top token{plural} {named}{more}"


def change_line(before: Prediction, after: Prediction) -> str:
    """Say what the most likely token was, and what it is with heads ablated."""
    then, now = _with_percent(before.top[0]), _with_percent(after.top[0])
    return f"most likely token: {then} before, {now} with these heads ablated"


def necessity_table(result: SearchResult) -> Table:
    """Show for each head of a minimal set what happens without it."""
    table = Table("left intact", "most likely token", "log p(target)", box=None)
    for entry in result.necessity:
        top = _with_percent(entry.top)
        table.add_row(str(entry.head), top, f"{entry.target_logprob:.4f}")
    return table


def _with_percent(token: TokenProbability) -> str:
    return f"{visible(token.label)} {percent(token.prob)}"


def _cell(value: float) -> str:
    """A score in six characters, if it can be written so; nothing for one that is not there."""
    if np.isnan(value):
        return ""
    if 0 < abs(value) < 1e-3:
        forms = (f"{value:.{digits}e}".replace("e-0", "e-") for digits in (1, 0))
    else:
        forms = (f"{value:.{digits}f}" for digits in (3, 2, 1, 0))
    *shorter, last = forms
    return next((form for form in shorter if len(form) <= CELL_WIDTH - 2), last)
