"""`policy`, of a policy that answers with a chunk of numbers (PI0, or one of a person's own)."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from app import words
from app.cli.sweep import INTERRUPTED
from app.cli.tables import grid_tables, ranking_table
from app.cli.terminal import Terminal, cancelled_by_interrupt
from models.errors import ErrorKind, UserError
from viz.actions import flips_said
from viz.chunk_search import REASONS, action_said
from viz.chunks import chunk_rows, moved_line, moved_said

if TYPE_CHECKING:
    from ablation.types import Ablation
    from models.language_model import LanguageModel
    from models.types import TokenizedPrompt

TABLE_ONLY = ("episodes", "record")


def refuse_other_modes(model: "LanguageModel", options: Namespace) -> None:
    """Raise `UserError` for what such a policy cannot be asked yet."""
    asked = next((f"--{name}" for name in TABLE_ONLY if getattr(options, name) is not None), None)
    if asked is not None:
        raise UserError(
            ErrorKind.OPTION,
            f"{asked} is for policies whose actions are tokens, and {model.name} answers with "
            "numbers; ask for its action, --sweep, --search, --goal, --modalities or --recording.",
        )


def run(
    model: "LanguageModel",
    prompt: "TokenizedPrompt",
    ablation: "Ablation | None",
    options: Namespace,
    terminal: Terminal,
) -> int:
    terminal.print(f"{model.name}: {prompt.text} ({_told(model, prompt)})")
    if options.modalities:
        return _modalities(model, prompt, options, terminal)
    if options.sweep:
        return _sweep(model, prompt, options, terminal)
    if options.search or options.goal is not None:
        return _search(model, prompt, options, terminal)
    return _act(model, prompt, ablation, options, terminal)


def _told(model: "LanguageModel", prompt: "TokenizedPrompt") -> str:
    """Say what the policy is told beside pictures and instruction."""
    said = "" if prompt.robot is None else prompt.robot.said()
    knows = model.takes is None or model.takes.n_state
    return said if knows else said.removeprefix("state mean, ")


def _about(model: "LanguageModel", prompt: "TokenizedPrompt", options: Namespace) -> dict[str, Any]:
    intervention = options.intervention.spec
    shared = {"intervention": intervention, "draws": options.draws}
    return {"model": model.name, **prompt.to_json(), **shared}


def _act(
    model: "LanguageModel",
    prompt: "TokenizedPrompt",
    ablation: "Ablation | None",
    options: Namespace,
    terminal: Terminal,
) -> int:
    from ablation.chunk_actions import act_chunk, compare_chunks

    change = None
    if ablation is not None:
        change = compare_chunks(model, prompt, ablation, options.draws)
    before = act_chunk(model, prompt, None, options.draws) if change is None else change.before
    table = Table()
    single = before.space.n_steps == 1
    names = ("action", "value") if single else ("action", "first", "mean", "last")
    if change is not None:
        own = ("value", "ablated", "change") if single else ("mean", "mean, ablated", "RMS change")
        names = ("action", *own)
    for name in names:
        table.add_column(name, justify="left" if name == "action" else "right")
    for row in chunk_rows(before, change):
        alone = (row.first, row.mean, row.last)[: len(names) - 1]
        table.add_row(row.name, *(alone if change is None else (row.mean, row.after, row.change)))
    terminal.print(table)
    if change is None:
        chunk = "an action" if single else f"a chunk of {before.space.n_steps} actions"
        terminal.print(f"{chunk}, {_draws(options)}")
        terminal.write_json({**_about(model, prompt, options), "before": before.to_json()})
        return 0
    terminal.print(moved_line(change))
    for sentence in flips_said(change):
        terminal.print(sentence)
    ablated = [] if ablation is None else [head.to_json() for head in ablation.heads]
    about = _about(model, prompt, options)
    terminal.write_json({**about, "ablated_heads": ablated, **change.to_json()})
    return 0


def _draws(options: Namespace) -> str:
    return "from one noise" if options.draws == 1 else f"the mean over {options.draws} noises"


def _modalities(
    model: "LanguageModel", prompt: "TokenizedPrompt", options: Namespace, terminal: Terminal
) -> int:
    from ablation.chunk_actions import hide_modalities

    found = hide_modalities(model, prompt, options.draws)
    table = Table("hidden", "moved", "action then")
    for one in found:
        table.add_row(
            f"{one.name} ({words.count(one.n_positions, 'position')})",
            moved_said(one.change),
            action_said(one.change.after),
        )
    terminal.print(f"the action is {action_said(found[0].change.before)}")
    terminal.print(table)
    terminal.print(words.HIDDEN_FROM_OTHERS)
    changes = {one.name: one.change.to_json() for one in found}
    terminal.write_json({**_about(model, prompt, options), "modalities": changes})
    return 0


def _sweep(
    model: "LanguageModel", prompt: "TokenizedPrompt", options: Namespace, terminal: Terminal
) -> int:
    from ablation.chunk_actions import sweep_chunk

    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        scores = sweep_chunk(
            model,
            prompt,
            options.intervention,
            stack=options.stack,
            n_draws=options.draws,
            progress=progress,
            cancel=cancel,
        )
    terminal.print(f"{options.intervention.label}, {_draws(options)}")
    terminal.print(ranking_table(scores, options.top_k))
    for table in grid_tables(scores, terminal.width):
        terminal.print(table)
    if not scores.stack and model.last_layer_is_idle:
        terminal.print(
            f"Heads of layer {model.n_layers - 1} move nothing: the action expert reads that "
            "layer's keys and values alone."
        )
    terminal.write_json({**_about(model, prompt, options), **scores.to_json()})
    return INTERRUPTED if scores.stopped == "cancelled" else 0


def _search(
    model: "LanguageModel", prompt: "TokenizedPrompt", options: Namespace, terminal: Terminal
) -> int:
    from ablation.chunk_actions import search_chunk

    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        found = search_chunk(
            model,
            prompt,
            options.goal,
            options.intervention,
            options.max_heads,
            n_draws=options.draws,
            progress=progress,
            cancel=cancel,
        )
    unit = found.clean.space.unit
    wanted = "" if options.goal is None else f"; wanted: {options.goal}"
    terminal.print(f"the action is {action_said(found.clean)}{wanted}")
    for number, step in enumerate(found.steps, 1):
        terminal.print(
            f"{number}. {step.head}: moved by {step.moved:.3g} {unit}: {action_said(step.action)}"
        )
    terminal.print(REASONS[found.stopped])
    terminal.print(f"heads: {', '.join(map(str, found.heads)) or 'none'}")
    if found.dropped:
        terminal.print(f"then: {action_said(found.final)}, moved by {found.moved:.3g} {unit}")
    steps = [
        {"head": s.head.to_json(), "moved": s.moved, "action": s.action.summary.tolist()}
        for s in found.steps
    ]
    terminal.write_json(
        {
            **_about(model, prompt, options),
            "goal": options.goal,
            "before": found.clean.to_json(),
            "after": found.final.to_json(),
            "moved": found.moved,
            "steps": steps,
            "heads": [head.to_json() for head in found.heads],
            "dropped": [head.to_json() for head in found.dropped],
            "stopped": found.stopped,
        }
    )
    return INTERRUPTED if found.stopped == "cancelled" else 0
