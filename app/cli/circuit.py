"""`circuit`: the edges that carry a prediction, and the proof that they do."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from app import words
from app.cli import circuit_patching
from app.cli.circuit_patching import first_asked
from app.cli.question import open_model
from app.cli.sweep import INTERRUPTED
from app.cli.terminal import Terminal, cancelled_by_interrupt, check_writable, visible
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from ablation.circuit.types import Circuit, EdgesByPosition, Origin, PromptPair
    from models.language_model import LanguageModel

SOURCES = {"prompt": "--prompt", "task": "--task", "pairs": "--pairs"}
"""Option -> how it is typed. One of them says which prompts are explained."""

PICTURE_WIDTH = 1200  # px


def run(options: Namespace, terminal: Terminal) -> int:
    given = [typed for name, typed in SOURCES.items() if getattr(options, name) is not None]
    if len(given) != 1:
        raise UserError(
            ErrorKind.OPTION,
            f"A circuit takes exactly one of {', '.join(SOURCES.values())}; {len(given)} were "
            "given.",
        )
    _check_fit(options)
    for option in ("graphml", "svg"):
        if getattr(options, option) is not None:
            check_writable(getattr(options, option), f"--{option}")
    with terminal.sentences() as say:
        from ablation.circuit.discovery import discover_circuit

        model = open_model(options, options.model, say)
    model.check_one_stack("A circuit")
    pairs, held_out = _pairs(options, model, terminal)
    _warn_of_spaces(model, (*pairs, *held_out), terminal)
    if options.patch_heads is not None:
        return circuit_patching.run(model, pairs, options, terminal)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        circuit = discover_circuit(
            model,
            pairs,
            method=options.method,
            metric=options.metric,
            baseline=options.baseline,
            faithfulness=options.faithfulness,
            held_out=held_out,
            steps=options.steps,
            by_position=options.by_position,
            bos=options.bos,
            progress=progress,
            cancel=cancel,
        )
    circuit = replace(circuit, origin=_origin(options, held_out))
    _show(circuit, terminal, options.top_k)
    _write_files(circuit, options)
    asked = first_asked(model, circuit.pairs[0], options.bos)
    terminal.write_json({**asked, **circuit.to_json()})
    if circuit.stopped == "cancelled":
        terminal.warn("Stopped by Ctrl-C; what was measured until then is given.")
        return INTERRUPTED
    return 0


def _write_files(circuit: "Circuit", options: Namespace) -> None:
    """Write the files that are asked for beside the JSON."""
    if options.graphml is not None:
        from viz.circuit_graphml import circuit_graphml

        Path(options.graphml).write_text(circuit_graphml(circuit), encoding="utf-8")
    if options.svg is not None:
        from viz.circuit import circuit_svg

        svg = circuit_svg(circuit, width=PICTURE_WIDTH, by_token=options.by_position, headed=True)
        Path(options.svg).write_text(svg, encoding="utf-8")


def _check_fit(options: Namespace) -> None:
    """Raise `UserError` for options that do not go together."""
    if options.patch_heads is None:
        return
    for option in ("graphml", "svg", "held_out"):
        if getattr(options, option) is not None:
            typed = f"--{option.replace('_', '-')}"
            raise UserError(
                ErrorKind.OPTION,
                f"{typed} is about a circuit, and --patch-heads finds none; leave one of them out.",
            )


def _pairs(
    options: Namespace, model: "LanguageModel", terminal: Terminal
) -> "tuple[tuple[PromptPair, ...], tuple[PromptPair, ...]]":
    """Return the pairs that are explained, and those that the circuit is tried on in the end."""
    from ablation.circuit.pair_files import read_pairs, without_last
    from ablation.circuit.tasks import make_pairs

    if options.task is not None:
        n, more = options.n_pairs, options.held_out or 0
        pairs = make_pairs(model, options.task, n + more, options.seed)
        return pairs[:n], pairs[n:]
    if options.pairs is not None:
        return without_last(read_pairs(options.pairs), options.held_out or 0)
    if options.held_out is not None:
        raise UserError(
            ErrorKind.OPTION,
            "--held-out takes pairs of a task set or of a file; name one with --task or --pairs.",
        )
    return (_one_pair(options, model, terminal),), ()


def _origin(options: Namespace, held_out: "tuple[PromptPair, ...]") -> "Origin":
    from ablation.circuit.methods import METHODS
    from ablation.circuit.types import Origin

    steps = options.steps if METHODS[options.method].takes_steps else None
    if options.task is not None:
        return Origin("task", options.task, options.seed, steps, held_out)
    if options.pairs is not None:
        return Origin("file", Path(options.pairs).name, None, steps, held_out)
    return Origin("prompt", steps=steps)


def _warn_of_spaces(
    model: "LanguageModel", pairs: "tuple[PromptPair, ...]", terminal: Terminal
) -> None:
    """Say which answers were probably meant with a space in front."""
    from ablation.circuit.pairs import lacking_spaces

    warning = words.space_warning(lacking_spaces(model, pairs))
    if warning:
        terminal.warn(warning)


def _one_pair(options: Namespace, model: "LanguageModel", terminal: Terminal) -> "PromptPair":
    from ablation.circuit.corruption import propose_corruption
    from ablation.circuit.types import PromptPair

    clean, corrupt = options.prompt, options.corrupt
    if corrupt is None:
        proposals = propose_corruption(model, clean, options.bos)
        if not proposals:
            raise UserError(
                ErrorKind.PROMPT,
                "No corrupted prompt could be proposed for this one; write it with --corrupt, one "
                "token for one token.",
            )
        corrupt = proposals[0].corrupt
        terminal.print(f"Corrupted prompt proposed: {visible(corrupt)} ({proposals[0].words})")
    answer = options.answer or _likeliest(model, clean, options.bos)
    distractor = options.distractor or _likeliest(model, corrupt, options.bos)
    if distractor == answer and options.distractor is None:
        if options.metric == "logit_diff":
            raise UserError(
                ErrorKind.TARGET,
                f"After both prompts {answer!r} is the likeliest token, so there is nothing to "
                "weigh it against; name a --distractor, or choose --metric logprob.",
            )
        distractor = ""
    return PromptPair(clean, corrupt, answer, distractor)


def _likeliest(model: "LanguageModel", text: str, bos: bool | None) -> str:
    prompt = model.tokenize(text, bos)
    return model.predict(prompt, model.resolve_position(prompt, None), top_k=1).top[0].text


def _show(circuit: "Circuit", terminal: Terminal, top: int) -> None:
    from viz.circuit_caption import caption
    from viz.circuit_text import summary_sentences

    terminal.print(visible(caption(circuit)))
    for sentence in summary_sentences(circuit):
        terminal.print(sentence)
    terminal.print(_curve_table(circuit))
    if circuit.n_edges:
        terminal.print(_edge_table(circuit, top))
    if circuit.by_position is not None:
        terminal.print(_place_table(circuit, circuit.by_position, top))
    if circuit.roles:
        terminal.print(_role_table(circuit))
    if circuit.repairs:
        terminal.print(_repair_table(circuit))


def _curve_table(circuit: "Circuit") -> Table:
    table = Table("edges", "share", "faithfulness", "random edges", box=None)
    for point in circuit.curve:
        share = point.n_edges / circuit.graph.n_edges
        chance = "" if point.random is None else f"{point.random:.3f}"
        table.add_row(f"{point.n_edges:,}", f"{share:.1%}", f"{point.faithfulness:.3f}", chance)
    return table


def _edge_table(circuit: "Circuit", top: int) -> Table:
    table = Table("from", "to", "input", "score", box=None)
    for row in circuit.edge_rows()[:top]:
        table.add_row(row["from"], row["to"], row["input"] or "", f"{row['score']:+.3f}")
    return table


def _place_table(circuit: "Circuit", places: "EdgesByPosition", top: int) -> Table:
    table = Table("at", "from", "to", "input", "score", box=None)
    for row in places.rows(circuit.graph)[:top]:
        token = f"{row['position']} {visible(places.tokens[row['position']])}"
        table.add_row(token, row["from"], row["to"], row["input"] or "", f"{row['score']:+.3f}")
    return table


def _role_table(circuit: "Circuit") -> Table:
    table = Table("head", "role", "score", "test", box=None)
    for role in circuit.roles:
        table.add_row(str(role.head), role.role, f"{role.score:+.2f}", role.test)
    return table


def _repair_table(circuit: "Circuit") -> Table:
    table = Table("without", "direct effect of", "changes by", box=None)
    for ablated, component, change in circuit.repairs:
        table.add_row(ablated, component, f"{change:+.3f}")
    return table
