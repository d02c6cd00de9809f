"""`compare`: how much each head's attention differs between two runs."""

from argparse import Namespace
from typing import TYPE_CHECKING

from app.cli.question import Question, given_beside, open_model, pose
from app.cli.sweep import INTERRUPTED
from app.cli.tables import grid_tables, ranking_table
from app.cli.terminal import Terminal, cancelled_by_interrupt
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from ablation.attention_change import Pair

WAYS = {"with_prompt": "--with-prompt", "with_model": "--with-model", "ablate": "--ablate"}
"""Option -> how it is typed. One of them says what is compared; `--with-decoder`, which goes with
the first, says it too."""


def run(options: Namespace, terminal: Terminal) -> int:
    asked = {name: getattr(options, name) is not None for name in WAYS}
    asked["with_prompt"] |= options.with_decoder is not None
    given = [typed for name, typed in WAYS.items() if asked[name]]
    if len(given) != 1:
        raise UserError(
            ErrorKind.OPTION,
            f"A comparison takes exactly one of {', '.join(WAYS.values())}; "
            f"{len(given)} were given.",
        )
    options.position = -1  # nothing is predicted, so no mask token is needed
    question = pose(options, terminal)
    pair = _pair(question, options, terminal)
    from ablation.attention_change import attention_change, to_json

    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        change = attention_change(pair, progress=progress, cancel=cancel)
    whose = f", heads of the stack {pair.stack}" if pair.stack else ""
    terminal.print(f"{question.model.name}: {pair.label}{whose}")
    terminal.print(ranking_table(change, options.top_k))
    for table in grid_tables(change, terminal.width):
        terminal.print(table)
    intervention = question.intervention.spec if options.ablate is not None else None
    terminal.write_json({**question.to_json(intervention), **to_json(pair, change)})
    if change.stopped == "cancelled":
        terminal.warn("Stopped by Ctrl-C; the heads compared until then are given.")
        return INTERRUPTED
    return 0


def _pair(question: Question, options: Namespace, terminal: Terminal) -> "Pair":
    from ablation import Ablation
    from ablation.attention_change import with_ablation, with_model, with_prompt

    model, prompt, stack = question.model, question.prompt, options.stack
    if options.with_prompt is not None or options.with_decoder is not None:
        text = options.prompt if options.with_prompt is None else options.with_prompt
        written = options.decoder if options.with_decoder is None else options.with_decoder
        given = {**given_beside(options), "decoder": written}
        changed = model.tokenize(text, options.bos, **given)
        return with_prompt(model, prompt, changed, stack)
    if options.with_model is not None:
        with terminal.sentences() as say:
            other = open_model(options, options.with_model, say)
        return with_model(model, prompt, other, stack)
    heads = question.heads(options.ablate)
    ablation = Ablation(heads, question.intervention, question.positions)
    return with_ablation(model, prompt, ablation, stack)
