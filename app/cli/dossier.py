"""`dossier`: the roles of all heads on standard stimuli."""

from argparse import Namespace
from typing import TYPE_CHECKING

from rich.table import Table

from app.cli.question import open_model
from app.cli.sweep import INTERRUPTED
from app.cli.terminal import Terminal, cancelled_by_interrupt

if TYPE_CHECKING:
    from ablation.dossier import Dossier


def run(options: Namespace, terminal: Terminal) -> int:
    with terminal.sentences() as say:
        from ablation.dossier import head_dossier

        model = open_model(options, options.model, say)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        dossier = head_dossier(
            model,
            n_sequences=options.sequences,
            length=options.length,
            seed=options.seed,
            stack=options.stack,
            progress=progress,
            cancel=cancel,
        )
    terminal.print(f"{model.name}: {dossier.describe()}")
    terminal.print(_leaders_table(dossier, options.top_k))
    terminal.write_json(dossier.to_json())
    if dossier.stopped == "cancelled":
        terminal.warn("Stopped by Ctrl-C; the scores are of the sequences measured until then.")
        return INTERRUPTED
    return 0


def _leaders_table(dossier: "Dossier", top: int) -> Table:
    """List for each role, side by side, the heads that play it most."""
    names = (role.info.label.lower() for role in dossier.roles.values())
    table = Table("rank", *names, box=None)
    leaders = [dossier.leaders(role, top) for role in dossier.roles]
    for rank, places in enumerate(zip(*leaders, strict=True), 1):
        table.add_row(str(rank), *(f"{head!s:8s} {score:.3f}" for head, score in places))
    return table
