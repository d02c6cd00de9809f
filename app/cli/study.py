"""`study`: the ready-made studies of `ablation.studies`."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from app.cli.question import open_model, read_heads
from app.cli.sweep import INTERRUPTED
from app.cli.terminal import Terminal, cancelled_by_interrupt, visible
from models.errors import ErrorKind, UserError
from models.types import Head

if TYPE_CHECKING:
    from ablation.contexts import Context
    from ablation.studies.types import StudyResult
    from models.language_model import LanguageModel


def run(options: Namespace, terminal: Terminal) -> int:
    with terminal.sentences() as say:
        from ablation.heads import check_notation
        from ablation.studies import run_study, study_named

        study_named(options.name)  # before the model is loaded
        check_notation(options.head or "")
        model = open_model(options, options.model, say)
    given = {} if options.head is None else {"head": _one_head(model, options.head)}
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        result = run_study(options.name, model, progress=progress, cancel=cancel, **given)
    terminal.print(f"{model.name}: {options.name}, {result.n_prompts} prompts")
    for sentence in result.answer:
        terminal.print(sentence)
    if result.n_prompts:
        for table in TABLES[options.name](result, options.top_k):
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
                str(Head(row.layer, row.head)),
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
