"""`predict`: the most likely next tokens, before and after ablating heads."""

from argparse import Namespace
from typing import Any

from rich.table import Table

from app.cli.question import Question, pose, read_target
from app.cli.tables import comparison_lines, prediction_table
from app.cli.terminal import Terminal
from models.errors import ErrorKind, UserError
from models.types import POLICY, Prediction


def run(options: Namespace, terminal: Terminal) -> int:
    question = pose(options, terminal)
    model, prompt, position = question.model, question.prompt, question.position
    if model.kind == POLICY:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name} answers with an action, not with a token; ask for that: main.py policy.",
        )
    target = read_target(options.target)
    target_id = None if target is None else model.resolve_token(target)
    ablation = question.ablation(options.ablate)
    before = model.predict(prompt, position, top_k=options.top_k)
    after, comparison = None, None
    if ablation is not None:
        after = model.predict(prompt, position, ablation, top_k=options.top_k)
        from ablation import compare

        comparison = compare(before, after)
    terminal.print(question.describe())
    terminal.print(_table(question, before, after))
    for line in comparison_lines(comparison, before):
        terminal.print(line)
    about = None if target_id is None else _about(question, target_id, before, after)
    if about is not None:
        terminal.print(_target_line(about))
    terminal.write_json(
        {
            **question.to_json(None if ablation is None else question.intervention.spec),
            "ablated_heads": [] if ablation is None else [h.to_json() for h in ablation.heads],
            "baseline": before.to_json(),
            "ablated": None if after is None else after.to_json(),
            "metrics": None if comparison is None else comparison.to_json(),
            "target": about,
        }
    )
    return 0


def _table(question: Question, before: Prediction, after: Prediction | None) -> Table:
    return prediction_table(before, after, question.model.describe_token)


def _about(
    question: Question, target_id: int, before: Prediction, after: Prediction | None
) -> dict[str, Any]:
    """Return what the predictions say of one token."""
    return {
        "id": target_id,
        "text": question.model.describe_token(target_id).text,
        "prob": before.prob(target_id),
        "rank": before.rank(target_id),
        "ablated_prob": None if after is None else after.prob(target_id),
        "ablated_rank": None if after is None else after.rank(target_id),
    }


def _target_line(about: dict[str, Any]) -> str:
    line = f"target {about['text']!r}: probability {about['prob']:.4g}, rank {about['rank']}"
    if about["ablated_prob"] is None:
        return line
    return f"{line}; ablated {about['ablated_prob']:.4g}, rank {about['ablated_rank']}"
