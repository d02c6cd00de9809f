"""The ablation study of a policy: what it runs where an action is what heads are judged by."""

import threading
from collections.abc import Callable
from typing import Any

from ablation.types import HeadScores, Progress, SearchResult
from app.panels.study import figures_column
from app.services import ACTION, intervention_of
from app.view import View
from models.errors import ErrorKind, UserError
from models.tabletop.scenes import goal_in_numbers
from models.types import POLICY

Report = Callable[[Progress], None]


def is_about_action(view: View, model: Any) -> bool:
    """Whether a study of a view judges heads by the action."""
    if model.kind == POLICY:
        return True
    if model.actions is None:
        return False
    if view.study == "sweep":
        return view.metric == ACTION
    return view.study == "targeted" and bool(view.goal.strip())


def run(
    model: Any, prompt: Any, view: View, report: Report, cancel: threading.Event
) -> HeadScores | SearchResult | Any:
    """Do what the study tab asks for of a policy; a `ChunkSearch` where a search is one of numbers.

    Raises:
        UserError: a choice that does not fit the policy or the prompt.
    """
    from ablation.actions import search_action, sweep_actions
    from ablation.chunk_actions import search_chunk, sweep_chunk

    if view.study == "positions":
        raise UserError(
            ErrorKind.OPTION,
            f"By position is about tokens, and {model.name} answers with numbers; choose another "
            "study.",
        )
    intervention, positions = intervention_of(view, prompt)
    goal = view.goal.strip() if view.study == "targeted" else None
    in_numbers = model.kind == POLICY
    common: dict[str, Any] = {"positions": positions, "progress": report, "cancel": cancel}
    if view.study == "sweep":
        sweep = sweep_chunk if in_numbers else sweep_actions
        return sweep(model, prompt, intervention, stack=view.stack_name, **common)
    if goal == "":
        raise UserError(
            ErrorKind.TARGET, "Say what the action shall be: an action, a sign and a value (dx<0)."
        )
    if not in_numbers:
        goal = goal_in_numbers(goal or "", next(iter(view.images), ""))
        return search_action(
            model,
            prompt,
            goal or "",
            intervention,
            view.max_heads,
            strategy=view.strategy,
            **common,
        )
    if view.strategy != "exact":
        raise UserError(
            ErrorKind.OPTION,
            "A search for heads that move an action tries every head; choose the exact strategy.",
        )
    return search_chunk(model, prompt, goal, intervention, view.max_heads, **common)


def search_columns(unit: str) -> list[dict[str, Any]]:
    """Return the columns of the steps of a search for heads that move a chunk of actions.

    Args:
        unit: what distances between actions are measured in.
    """
    return [
        {"field": "step", "headerName": "#", "width": 56},
        {"field": "head", "headerName": "Head", "width": 116},
        figures_column("moved", f"moved, {unit}", ".3~g", width=92 if len(unit) < 4 else 160),
        {"field": "action", "headerName": "Action then", "flex": 1},
        {"field": "kept", "headerName": "Kept", "width": 76},
    ]
