"""`study`: the ready-made studies of `ablation.studies`."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from app.cli import prompt_study
from app.cli.question import open_model, read_heads
from app.cli.sweep import INTERRUPTED
from app.cli.tables import grid_tables, ranking_table
from app.cli.terminal import Terminal, cancelled_by_interrupt, visible
from models.errors import ErrorKind, UserError
from models.types import Head

if TYPE_CHECKING:
    from ablation.contexts import Context
    from ablation.distributions import MetricDistribution
    from ablation.studies.types import StudyResult
    from models.language_model import LanguageModel

BAR_WIDTH = 40
"""Columns of the longest bar of a histogram."""


def run(options: Namespace, terminal: Terminal) -> int:
    from ablation.studies import study_named

    info = study_named(options.name)  # before the model is loaded
    if info.prompt_set is not None:
        return prompt_study.run(options, terminal, info)
    return _run_heads(options, terminal)


def _run_heads(options: Namespace, terminal: Terminal) -> int:
    with terminal.sentences() as say:
        from ablation.distributions import check_statistic
        from ablation.head_metrics import head_metric_named
        from ablation.heads import check_notation
        from ablation.studies import run_study

        check_statistic(options.statistic)
        if options.metric is not None:
            head_metric_named(options.metric)
        check_notation(options.head or "")
        model = open_model(options, options.model, say)
    given: dict[str, Any] = {"stack": options.stack}
    if options.head is not None:
        given["head"] = _one_head(model, options.head)
    _check_metric(model, options, given.get("head"))
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        result = run_study(options.name, model, progress=progress, cancel=cancel, **given)
    terminal.print(f"{model.name}: {options.name}, {result.n_prompts} prompts")
    for sentence in result.answer:
        terminal.print(sentence)
    if result.n_prompts:
        for table in TABLES[options.name](result, options.top_k):
            terminal.print(table)
        if options.metric is not None:
            for table in _metric_tables(result, options, terminal.width):
                terminal.print(table)
    for caveat in result.caveats:
        terminal.print(f"note: {caveat}")
    terminal.write_json({"model": model.name, **result.to_json()})
    if result.stopped == "cancelled":
        terminal.warn("Stopped by Ctrl-C; what was measured until then is given.")
        return INTERRUPTED
    return 0


def _one_head(model: "LanguageModel", text: str) -> Head:
    heads = read_heads(model, text)
    if len(heads) != 1:
        raise UserError(
            ErrorKind.HEADS, f"--head takes one head, and {text!r} names {len(heads)}; name one."
        )
    return heads[0]


def _check_metric(model: "LanguageModel", options: Namespace, head: Head | None) -> None:
    """Refuse a metric that means nothing for the stack, before the corpus is read."""
    from ablation.head_metrics import metrics_of

    stack = model.stacks.named(options.stack).name if head is None else head.stack
    if options.metric is not None and options.metric not in metrics_of(stack):
        raise UserError(
            ErrorKind.OPTION,
            f"The metric {options.metric} means nothing for the stack {stack}; choose one of "
            f"{', '.join(metrics_of(stack))}.",
        )


def _metric_tables(result: "StudyResult", options: Namespace, width: int) -> Iterator[Table]:
    """Show a statistic of one metric for all heads, and how one head's is distributed."""
    details = result.details
    scores = details.over_passages(options.metric, options.statistic)
    yield ranking_table(scores, options.top_k)
    yield from grid_tables(scores, width)
    if details.head is not None:
        yield _histogram_table(details.distribution(details.head, options.metric))


def _histogram_table(distribution: "MetricDistribution") -> Table:
    unit = distribution.metric.unit
    title = f"{distribution.head}: {distribution.metric.label}, {distribution.describe()}"
    table = Table("from", "to", "passages", "", box=None, title=title, title_justify="left")
    counts, edges = distribution.histogram()
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        bar = "█" * round(BAR_WIDTH * int(count) / int(counts.max()))
        table.add_row(f"{low:.3g}", f"{high:.3g} {unit}", str(count), bar)
    return table


def _heads_tables(result: "StudyResult", top: int) -> Iterator[Table]:
    """Show who leads in each metric, or the metrics of one head and where it looks most."""
    table, head = result.table, result.details.head
    if head is None:
        chosen = table[table["rank"] <= top]
    else:
        chosen = table[(table["layer"] == head.layer) & (table["head"] == head.head)]
    units = result.details.to_json()["metrics"]
    shown = Table("metric", "rank", "head", "mean", "10 %", "median", "90 %", "unit", box=None)
    for name in units:
        for row in chosen[chosen["metric"] == name].sort_values("rank").itertuples():
            figures = (row.mean, row.low, row.median, row.high)
            shown.add_row(
                units[name]["label"],
                str(row.rank),
                str(Head(row.layer, row.head, result.details.stack)),
                *(f"{figure:.3f}" for figure in figures),
                units[name]["unit"],
            )
    yield shown
    if head is not None:
        yield _contexts_table(result.details.contexts(head))


def _contexts_table(contexts: "Sequence[Context]") -> Table:
    table = Table("weight", "passage", "from ‹query› to [key]", box=None)
    for context in contexts:
        table.add_row(f"{context.weight:.3f}", context.passage, visible(context.excerpt()))
    return table


TABLES: dict[str, Callable[["StudyResult", int], Iterator[Table]]] = {"heads": _heads_tables}
"""Study -> how the terminal shows what was measured."""
