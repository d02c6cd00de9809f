"""`heads`: what every head attends to, in numbers."""

from argparse import Namespace

from app.cli.question import pose
from app.cli.sweep import INTERRUPTED
from app.cli.tables import summaries_table
from app.cli.terminal import Terminal, cancelled_by_interrupt


def run(options: Namespace, terminal: Terminal) -> int:
    with terminal.sentences():
        from ablation import summarise_heads
        from ablation.head_metrics import head_metric_named

        head_metric_named(options.sort)  # before the model is loaded
    options.position = -1  # nothing is predicted, so no mask token is needed either
    question = pose(options, terminal)
    ablation = question.ablation(options.ablate)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        summaries = summarise_heads(
            question.model,
            question.prompt,
            ablation,
            stack=options.stack,
            progress=progress,
            cancel=cancel,
        )
    n_tokens = len(summaries.prompt)
    ablated = "" if ablation is None else f", {len(ablation.heads)} of them ablated"
    terminal.print(f"{question.model.name}: all heads on {n_tokens:,} tokens{ablated}")
    terminal.print(summaries_table(summaries, options.sort, options.top_k, options.smallest))
    terminal.write_json(
        {
            **question.to_json(None if ablation is None else question.intervention.spec),
            "ablated_heads": [] if ablation is None else [h.to_json() for h in ablation.heads],
            **summaries.to_json(),
        }
    )
    if summaries.stopped != "cancelled":
        return 0
    terminal.warn("Stopped by Ctrl-C; the layers read until then are given.")
    return INTERRUPTED
