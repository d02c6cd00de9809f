"""`sweep`: every head ablated alone, or chosen heads at one position at a time."""

from argparse import Namespace
from typing import Any

from ablation.types import HeadScores, PositionScores
from app.cli.question import Question, pose, read_target, read_targets
from app.cli.tables import cell_ranking_table, grid_tables, position_tables, ranking_table
from app.cli.terminal import Terminal, cancelled_by_interrupt
from models.errors import ErrorKind, UserError

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def run(options: Namespace, terminal: Terminal) -> int:
    _check_fit(options)
    with terminal.sentences():
        from ablation.metrics import metric_named

        metric_named(options.metric)  # before the model is loaded
    question = pose(options, terminal)
    if options.by_position:
        return _by_position(question, options, terminal)
    return _every_head(question, options, terminal)


def _check_fit(options: Namespace) -> None:
    """Raise `UserError` for options that do not go together."""
    if options.by_position and options.stack:
        raise UserError(
            ErrorKind.OPTION,
            "--stack does not go with --by-position, whose heads say which stack they are of; "
            "leave one of them out.",
        )
    if not options.by_position:
        if options.heads is None:
            return
        raise UserError(
            ErrorKind.OPTION,
            "--heads goes with --by-position alone, as a sweep ablates every head; leave it out, "
            "or add --by-position.",
        )
    if options.heads is None:
        raise UserError(
            ErrorKind.OPTION,
            '--by-position needs heads; name them with --heads, such as --heads "5.3, 9.*".',
        )
    if options.positions is not None:
        raise UserError(
            ErrorKind.OPTION,
            "--positions does not go with --by-position, which acts at every position in turn; "
            "leave one of them out.",
        )
    for option in ("prompt", "target"):
        if len(getattr(options, option) or ()) > 1:
            raise UserError(
                ErrorKind.OPTION,
                f"--by-position is about one prompt, whose positions it shows; give --{option} "
                "once.",
            )


def _every_head(question: Question, options: Namespace, terminal: Terminal) -> int:
    from ablation import sweep_heads

    targets = read_targets(options.target)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        scores = sweep_heads(
            question.model,
            question.prompts,
            question.intervention,
            options.metric,
            question.read_at,
            target=targets,
            positions=question.acted_on,
            stack=options.stack,
            progress=progress,
            cancel=cancel,
        )
    terminal.print(f"{question.describe()}, {question.intervention.label}")
    terminal.print(ranking_table(scores, options.top_k))
    for table in grid_tables(scores, terminal.width):
        terminal.print(table)
    several = {} if scores.by_prompt is None else {"scores_by_prompt": scores.by_prompt.tolist()}
    terminal.write_json({**_json(question, scores), **several, **question.targets_json(targets)})
    return _status(scores, "heads", terminal)


def _by_position(question: Question, options: Namespace, terminal: Terminal) -> int:
    from ablation import sweep_positions

    heads = question.heads(options.heads)
    target = read_target(options.target[0] if options.target else None)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        scores = sweep_positions(
            question.model,
            question.prompt,
            heads,
            question.intervention,
            options.metric,
            question.read_at,
            target=target,
            progress=progress,
            cancel=cancel,
        )
    label = question.intervention.label
    terminal.print(f"{question.describe()}, {label} at one position at a time")
    terminal.print(cell_ranking_table(scores, options.top_k))
    for table in position_tables(scores, terminal.width):
        terminal.print(table)
    terminal.write_json(_json(question, scores))
    return _status(scores, "cells", terminal)


def _json(question: Question, scores: HeadScores | PositionScores) -> dict[str, Any]:
    target = scores.target
    return {
        **question.to_json(question.intervention.spec),
        **scores.to_json(),
        "target": None if target is None else {"id": target.id, "text": target.text},
        "baseline": scores.baseline.to_json(),
    }


def _status(scores: HeadScores | PositionScores, what: str, terminal: Terminal) -> int:
    if scores.stopped != "cancelled":
        return 0
    terminal.warn(f"Stopped by Ctrl-C; the {what} scored until then are given.")
    return INTERRUPTED
