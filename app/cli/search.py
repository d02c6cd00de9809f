"""`search`: the heads that matter together, step by step."""

from argparse import Namespace
from collections.abc import Callable

from ablation.types import STOP_REASONS, Progress, SearchResult
from app.cli.question import pose, read_target
from app.cli.sweep import INTERRUPTED
from app.cli.tables import necessity_table, percent, step_line
from app.cli.terminal import Terminal, cancelled_by_interrupt, visible


def run(options: Namespace, terminal: Terminal) -> int:
    question = pose(options, terminal)
    from ablation import search_heads

    candidates = None if options.heads is None else question.heads(options.heads)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        printer = _StepPrinter(terminal, progress, question.describe())
        result = search_heads(
            question.model,
            question.prompt,
            read_target(options.target),
            question.intervention,
            options.max_heads,
            position=question.position,
            positions=question.positions,
            candidates=candidates,
            progress=printer,
            cancel=cancel,
        )
        printer.show(result)
    _print_outcome(terminal, result)
    terminal.write_json({**question.to_json(question.intervention.spec), **result.to_json()})
    return INTERRUPTED if result.stopped == "cancelled" else 0


class _StepPrinter:
    """Prints each step when it is found, and hands progress on."""

    def __init__(
        self, terminal: Terminal, progress: Callable[[Progress], None], heading: str
    ) -> None:
        self._terminal, self._progress, self._heading = terminal, progress, heading
        self._shown = 0

    def __call__(self, at: Progress) -> None:
        if isinstance(at.partial, SearchResult):
            self.show(at.partial)
        self._progress(at)

    def show(self, result: SearchResult) -> None:
        """Print the steps that were not printed yet."""
        if not self._shown and result.steps:
            self._terminal.print(self._heading)
        for number in range(self._shown, len(result.steps)):
            self._terminal.print(step_line(number + 1, result.steps[number]))
        self._shown = len(result.steps)


def _print_outcome(terminal: Terminal, result: SearchResult) -> None:
    terminal.print(STOP_REASONS[result.stopped])
    if result.dropped:
        terminal.print(f"not needed after all: {', '.join(map(str, result.dropped))}")
    terminal.print(f"heads: {', '.join(map(str, result.heads)) or 'none'}")
    if result.final is not None:
        top = result.final.top[0]
        before = result.baseline.top[0]
        terminal.print(
            f"most likely token: {visible(before.label)} {percent(before.prob)} before, "
            f"{visible(top.label)} {percent(top.prob)} with these heads ablated"
        )
    if result.necessity and result.target is not None:
        terminal.print("Minimal: with any one of these heads left intact the target is not on top.")
        terminal.print(necessity_table(result))
