"""`sweep`: every head ablated alone."""

from argparse import Namespace

from app.cli.question import pose, read_target
from app.cli.tables import grid_tables, ranking_table
from app.cli.terminal import Terminal, cancelled_by_interrupt

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def run(options: Namespace, terminal: Terminal) -> int:
    with terminal.sentences():
        from ablation import sweep_heads
        from ablation.metrics import metric_named

        metric_named(options.metric)  # before the model is loaded
    question = pose(options, terminal)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        scores = sweep_heads(
            question.model,
            question.prompt,
            question.intervention,
            options.metric,
            question.position,
            target=read_target(options.target),
            positions=question.positions,
            progress=progress,
            cancel=cancel,
        )
    terminal.print(f"{question.describe()}, {question.intervention.label}")
    terminal.print(ranking_table(scores, options.top_k))
    for table in grid_tables(scores, terminal.width):
        terminal.print(table)
    target = scores.target
    terminal.write_json(
        {
            **question.to_json(question.intervention.spec),
            **scores.to_json(),
            "target": None if target is None else {"id": target.id, "text": target.text},
            "baseline": scores.baseline.to_json(),
        }
    )
    if scores.stopped != "cancelled":
        return 0
    terminal.warn("Stopped by Ctrl-C; the heads scored until then are given.")
    return INTERRUPTED
