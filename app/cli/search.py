"""`search`: the heads that matter together, step by step."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from ablation.types import STOP_REASONS, Progress, SearchResult
from app.cli.question import pose, read_targets
from app.cli.sweep import INTERRUPTED
from app.cli.tables import change_line, necessity_table, step_line
from app.cli.terminal import Terminal, cancelled_by_interrupt
from models.errors import ErrorKind, UserError


def run(options: Namespace, terminal: Terminal) -> int:
    with terminal.sentences():
        screen = _screen(options)  # before the model is loaded
    question = pose(options, terminal)
    from ablation import search_heads

    candidates = None if options.heads is None else question.heads(options.heads)
    targets = read_targets(options.target)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        printer = _StepPrinter(terminal, progress, question.describe())
        result = search_heads(
            question.model,
            question.prompts,
            targets,
            question.intervention,
            options.max_heads,
            position=question.read_at,
            positions=question.acted_on,
            candidates=candidates,
            strategy=options.strategy,
            screen=screen,
            progress=printer,
            cancel=cancel,
        )
        printer.show(result)
    _print_outcome(terminal, result, screen)
    terminal.write_json(
        {
            **question.to_json(question.intervention.spec),
            **result.to_json(),
            **_several_json(result),
            **question.targets_json(targets),
        }
    )
    return INTERRUPTED if result.stopped == "cancelled" else 0


def _screen(options: Namespace) -> int:
    """Return how many heads a screened step evaluates; raise `UserError` if none are screened."""
    from ablation.screening import SCREENED, check_strategy

    screen = SCREENED if options.screen is None else options.screen
    check_strategy(options.strategy, screen)
    if options.screen is not None and options.strategy != "screened":
        raise UserError(
            ErrorKind.OPTION,
            "--screen goes with --strategy screened alone, as an exact search evaluates every "
            "head; leave one of them out.",
        )
    return screen


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


def _print_outcome(terminal: Terminal, result: SearchResult, screen: int) -> None:
    terminal.print(STOP_REASONS[result.stopped])
    if result.strategy == "screened":
        first = "" if result.target is not None else " after the first"
        terminal.print(
            f"Screened: each step{first} evaluated only the {screen} most promising heads; "
            f"{result.evaluated:,} head sets were evaluated exactly."
        )
    if result.dropped:
        terminal.print(f"not needed after all: {', '.join(map(str, result.dropped))}")
    terminal.print(f"heads: {', '.join(map(str, result.heads)) or 'none'}")
    _print_predictions(terminal, result)
    if result.necessity and result.target is not None:
        every = " of every prompt" if result.baselines else ""
        terminal.print(
            f"Minimal: with any one of these heads left intact the target is not on top{every}."
        )
        terminal.print(necessity_table(result))


def _print_predictions(terminal: Terminal, result: SearchResult) -> None:
    if result.finals:
        pairs = zip(result.baselines, result.finals, strict=True)
        for number, (before, after) in enumerate(pairs, 1):
            terminal.print(f"prompt {number}: {change_line(before, after)}")
    elif result.final is not None:
        terminal.print(change_line(result.baseline, result.final))


def _several_json(result: SearchResult) -> dict[str, Any]:
    """Return what a result says of each prompt, where there are several."""
    if not result.baselines:
        return {}
    return {
        "baselines": [prediction.to_json() for prediction in result.baselines],
        "finals": [prediction.to_json() for prediction in result.finals],
    }
