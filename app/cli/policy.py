"""`policy`: what a policy does, and which heads it needs for that."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from app import words
from app.cli import policy_chunk
from app.cli.policy_recording import check_film, follow, record
from app.cli.question import given_beside, open_model, read_heads
from app.cli.sweep import INTERRUPTED
from app.cli.tables import grid_tables, ranking_table, step_line
from app.cli.terminal import Terminal, cancelled_by_interrupt
from models.errors import ErrorKind, UserError
from models.types import POLICY

if TYPE_CHECKING:
    from ablation.types import Ablation
    from models.language_model import LanguageModel
    from models.types import TokenizedPrompt


def run(options: Namespace, terminal: Terminal) -> int:
    _check_fit(options)
    check_film(options)
    with terminal.sentences() as say:
        from ablation import parse_intervention
        from ablation.heads import check_notation

        check_notation(options.ablate or "")
        options.intervention = parse_intervention(options.intervention)
        model = open_model(options, options.model, say)
    if model.kind == POLICY:
        policy_chunk.refuse_other_modes(model, options)
    else:
        _refuse_numbers_of_chunks(options)
    if options.episodes is not None:
        return _episodes(model, options, terminal)
    if options.recording is not None:
        return follow(model, _ablation(model, options), options, terminal)
    if options.record is not None:
        return record(model, _ablation(model, options), options, terminal)
    prompt = _prompt(model, options, terminal)
    if model.kind == POLICY:
        return policy_chunk.run(model, prompt, _ablation(model, options), options, terminal)
    if options.modalities:
        return _modalities(model, prompt, terminal)
    if options.sweep:
        return _sweep(model, prompt, options, terminal)
    if options.search:
        return _search(model, prompt, options, terminal)
    if options.goal is not None:
        return _goal(model, prompt, options, terminal)
    return _act(model, prompt, options, terminal)


GOAL_REASONS = {
    "target_reached": "The goal is reached.",
    "no_improvement": "No remaining head makes what is wanted more likely.",
}
MODES = ("sweep", "modalities", "search", "goal", "episodes", "recording", "record")


def _check_fit(options: Namespace) -> None:
    """Raise `UserError` for options that do not go together."""
    mode = next((f"--{name}" for name in MODES if getattr(options, name)), "")
    hides = mode == "--modalities"
    plays = mode == "--episodes"
    follows = mode == "--recording"
    takes = plays or follows or mode == "--record"
    clashes = (
        ("--positions", options.positions and mode and not takes, mode, "of all positions"),
        ("--ablate", options.ablate and mode and not takes, mode, "which ablates by itself"),
        ("--intervention", options.intervention != "zero" and hides, mode, "a knockout"),
        ("--image", options.image and plays, mode, "which draws its own scenes"),
        ("--image", options.image and follows, mode, "which has its own pictures"),
        ("--prompt", options.prompt and takes, mode, "which has its own instructions"),
        ("--stack", options.stack and mode != "--sweep", mode or "an action", "of all stacks"),
    )
    for option, given, other, why in clashes:
        if given:
            raise UserError(
                ErrorKind.OPTION, f"{option} does not go with {other} ({why}); leave it out."
            )


def _refuse_numbers_of_chunks(options: Namespace) -> None:
    """Raise `UserError` for what means nothing to a policy whose actions are tokens."""
    if _numbered(options.positions):
        raise UserError(
            ErrorKind.OPTION,
            "--positions does not go with policy by number (its prompt grows as it answers); name "
            "them by words, or leave it out.",
        )
    if options.draws > 1:
        raise UserError(
            ErrorKind.OPTION,
            "--draws is for policies that answer with numbers, found from noise; leave it out.",
        )


def _prompt(model: "LanguageModel", options: Namespace, terminal: Terminal) -> "TokenizedPrompt":
    """Return the prompt; that of a scene of the table says itself what the policy is told."""
    from app.images import TABLE
    from app.services import scene_text

    text = options.prompt
    if text is None and len(options.image or ()) == 1 and options.image[0].startswith(TABLE):
        text = scene_text(options.image[0], model)
    if text is None and model.takes is not None and not model.takes.instructed:
        text = ""  # it reads none
    if text is None:
        raise UserError(
            ErrorKind.PROMPT,
            "Nothing is said of what the policy is told; give --prompt, or a scene of the table "
            "with --image tabletop:7.",
        )
    prompt = model.tokenize(text, options.bos, **given_beside(options))
    if model.actions is not None:
        for sentence in _not_told(model, prompt):
            terminal.warn(sentence)
    return prompt


def _not_told(model: "LanguageModel", prompt: "TokenizedPrompt") -> list[str]:
    """Return what a policy whose actions are tokens is not told, in sentences."""
    said = []
    if not prompt.pictures:
        said.append("No picture is given (--image), so the policy acts blindly.")
    if model.actions is not None and model.actions.state_pattern and "state" not in prompt.kinds:
        said.append("The prompt tells no state of the robot, as the policy's own prompts do.")
    return said


def _numbered(positions: str | None) -> bool:
    """Whether positions are named by numbers, which mean another thing as a prompt grows."""
    from ablation.interventions.notation import read_positions

    places = () if positions is None else read_positions(positions) or ()
    return any(isinstance(place, int) for place in places)


def _ablation(model: "LanguageModel", options: Namespace) -> "Ablation | None":
    from ablation import Ablation
    from ablation.interventions.notation import read_positions

    if options.ablate is None:
        return None
    places = None if options.positions is None else read_positions(options.positions)
    return Ablation(read_heads(model, options.ablate), options.intervention, places)


def _act(
    model: "LanguageModel", prompt: "TokenizedPrompt", options: Namespace, terminal: Terminal
) -> int:
    from ablation.actions import act, compare_actions
    from viz.actions import action_rows, flips_said

    ablation = _ablation(model, options)
    change = None if ablation is None else compare_actions(model, prompt, ablation)
    before = act(model, prompt) if change is None else change.before
    table = Table()
    names = ("action", "before", "prob.") if change is None else ("action", "before", "after", "KL")
    for name in names:
        table.add_column(name, justify="left" if name == "action" else "right")
    for row in action_rows(before, change):
        cells = (row.before, row.confidence) if change is None else (row.before, row.after, row.kl)
        table.add_row(row.name, *cells)
    terminal.print(f"{model.name}: {prompt.text}")
    terminal.print(table)
    if change is not None:
        terminal.print(f"moved by {change.l2:.3g} of its reach")
        for sentence in flips_said(change):
            terminal.print(sentence)
    terminal.write_json({**_about(model, prompt), **_change_json(before, change)})
    return 0


def _modalities(model: "LanguageModel", prompt: "TokenizedPrompt", terminal: Terminal) -> int:
    from ablation.modalities import knock_out_modalities

    found = knock_out_modalities(model, prompt)
    clean = found[0].change.before
    table = Table(
        "hidden", "action then", "moved", *(f"KL {d.name}" for d in clean.space.dimensions)
    )
    for one in found:
        change = one.change
        table.add_row(
            f"{one.name} ({one.n_positions} positions)",
            _said(clean, change.after.values),
            f"{change.l2:.3g}",
            *(f"{nats:.3g}" for nats in change.kl),
        )
    terminal.print(f"{model.name}: {prompt.text}; the action is {_said(clean, clean.values)}")
    terminal.print(table)
    terminal.print(words.HIDDEN_FROM_OTHERS)
    changes = {one.name: one.change.to_json() for one in found}
    terminal.write_json({**_about(model, prompt), "modalities": changes})
    return 0


def _about(model: "LanguageModel", prompt: "TokenizedPrompt") -> dict[str, Any]:
    return {"model": model.name, **prompt.to_json()}


def _change_json(before: Any, change: Any) -> dict[str, Any]:
    return {"before": before.to_json()} if change is None else change.to_json()


def _sweep(
    model: "LanguageModel", prompt: "TokenizedPrompt", options: Namespace, terminal: Terminal
) -> int:
    from ablation.actions import sweep_actions

    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        scores = sweep_actions(
            model,
            prompt,
            options.intervention,
            stack=options.stack,
            progress=progress,
            cancel=cancel,
        )
    terminal.print(f"{model.name}: {prompt.text}, {options.intervention.label}")
    terminal.print(ranking_table(scores, options.top_k))
    for table in grid_tables(scores, terminal.width):
        terminal.print(table)
    terminal.write_json({**_about(model, prompt), **scores.to_json()})
    return INTERRUPTED if scores.stopped == "cancelled" else 0


def _search(
    model: "LanguageModel", prompt: "TokenizedPrompt", options: Namespace, terminal: Terminal
) -> int:
    from ablation.actions import act, search_most_change

    clean = act(model, prompt)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        steps, stopped = search_most_change(
            model,
            prompt,
            options.intervention,
            options.max_heads,
            progress=progress,
            cancel=cancel,
        )
    terminal.print(f"{model.name}: {prompt.text}; the action is {_said(clean, clean.values)}")
    for number, step in enumerate(steps, 1):
        said = _said(clean, step.values)
        terminal.print(f"{number}. {step.head}: moved by {step.l2:.3g} of its reach: {said}")
    if steps:
        far = max(range(len(steps)), key=lambda i: steps[i].l2)
        terminal.print(f"farthest with the first {far + 1}: {steps[far].l2:.3g} of its reach")
    found = [{"head": s.head.to_json(), "l2": s.l2, "action": s.values.tolist()} for s in steps]
    terminal.write_json({**_about(model, prompt), "before": clean.to_json(), "steps": found})
    return INTERRUPTED if stopped == "cancelled" else 0


def _said(action: Any, values: Any) -> str:
    pairs = zip(action.space.dimensions, values.tolist(), strict=True)
    return ", ".join(f"{dimension.name} {dimension.said(value)}" for dimension, value in pairs)


def _goal(
    model: "LanguageModel", prompt: "TokenizedPrompt", options: Namespace, terminal: Terminal
) -> int:
    from ablation.actions import search_action
    from ablation.types import STOP_REASONS
    from models.tabletop.scenes import goal_in_numbers

    goal = goal_in_numbers(options.goal, next(iter(options.image or ()), ""))

    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        found = search_action(
            model,
            prompt,
            goal,
            options.intervention,
            options.max_heads,
            progress=progress,
            cancel=cancel,
        )
    as_number = "" if goal == options.goal else f" ({goal})"
    terminal.print(f"{model.name}: {prompt.text}; wanted: {options.goal}{as_number}")
    for number, step in enumerate(found.steps, 1):
        terminal.print(step_line(number, step))
    terminal.print(GOAL_REASONS.get(found.stopped, STOP_REASONS[found.stopped]))
    terminal.print(f"heads: {', '.join(map(str, found.heads)) or 'none'}")
    terminal.write_json({**_about(model, prompt), "goal": options.goal, **found.to_json()})
    return INTERRUPTED if found.stopped == "cancelled" else 0


def _episodes(model: "LanguageModel", options: Namespace, terminal: Terminal) -> int:
    from ablation.closed_loop import closed_loop
    from ablation.evaluation import Cancelled

    heads = () if options.ablate is None else read_heads(model, options.ablate)
    try:
        with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
            found = closed_loop(
                model,
                heads,
                options.intervention,
                pairs=options.pairs,
                n_episodes=options.episodes,
                progress=progress,
                cancel=cancel,
            )
    except Cancelled:
        terminal.warn("Stopped by Ctrl-C before all episodes had ended; nothing is told of them.")
        return INTERRUPTED
    terminal.print(f"{model.name}: targets of pairs {found.pairs}, {options.episodes} episodes")
    terminal.print(f"whole: {found.clean.said()} reach their target")
    if found.ablated is not None:
        terminal.print(f"with {options.ablate} ablated: {found.ablated.said()}")
    if found.ablated is not None:
        terminal.print(f"with as many random heads of the same layers: {found.said_of_random()}")
    terminal.write_json({"model": model.name, **found.to_json()})
    return 0
