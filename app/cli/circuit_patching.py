"""`circuit --patch-heads`: heads' outputs replaced by the other prompt's, one head at a time."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from app.cli.sweep import INTERRUPTED
from app.cli.tables import cell_ranking_table, grid_tables, position_tables, ranking_table
from app.cli.terminal import Terminal, cancelled_by_interrupt, visible

if TYPE_CHECKING:
    from ablation.circuit.patching import HeadPatching
    from ablation.circuit.types import PromptPair
    from models.language_model import LanguageModel

SHOWN_HEADS = 8
"""By position so many heads have a column: those of the largest effects."""


def run(
    model: "LanguageModel",
    pairs: "tuple[PromptPair, ...]",
    options: Namespace,
    terminal: Terminal,
) -> int:
    from ablation.circuit.patching import patch_heads

    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        found = patch_heads(
            model,
            pairs,
            options.patch_heads,
            options.metric,
            by_position=options.by_position,
            bos=options.bos,
            progress=progress,
            cancel=cancel,
        )
    _show(found, pairs, options, terminal)
    terminal.write_json({**_pair(model, pairs[0], options.bos), **found.to_json()})
    if found.stopped == "cancelled":
        terminal.warn("Stopped by Ctrl-C; the heads patched until then are given.")
        return INTERRUPTED
    return 0


def first_asked(model: "LanguageModel", pair: "PromptPair", bos: bool | None) -> dict[str, Any]:
    """Return the keys that every command's JSON has beside the prompt, of a pair."""
    prompt = model.tokenize(pair.clean, bos)
    return {
        "ids": list(prompt.ids),
        "position": model.resolve_position(prompt, None),
        "intervention": None,
    }


def _pair(model: "LanguageModel", pair: "PromptPair", bos: bool | None) -> dict[str, Any]:
    return {
        "model": model.name,
        "prompt": pair.clean,
        "tokens": list(model.tokenize(pair.clean, bos).labels),
        **first_asked(model, pair, bos),
        "corrupt": pair.corrupt,
        "answer": pair.answer,
        "distractor": pair.distractor,
    }


def _show(
    found: "HeadPatching", pairs: "tuple[PromptPair, ...]", options: Namespace, terminal: Terminal
) -> None:
    from ablation.circuit.methods import DIRECTIONS

    if len(pairs) == 1:
        terminal.print(f"clean      {visible(pairs[0].clean)}")
        terminal.print(f"corrupted  {visible(pairs[0].corrupt)}")
    terminal.print(DIRECTIONS[found.direction].description)
    several = "" if found.n_pairs == 1 else f", mean over {found.n_pairs} pairs"
    terminal.print(
        f"{found.metric}: {found.clean:.4f} on the clean prompt, {found.corrupt:.4f} on the "
        f"corrupted one{several}; 1 is all of the way between them"
    )
    terminal.print(ranking_table(found.scores, options.top_k))
    for table in grid_tables(found.scores, terminal.width):
        terminal.print(table)
    strongest = [head for head, _ in found.scores.ranked()]
    everywhere = found.position_scores(strongest)
    if everywhere is None or not strongest:
        return
    terminal.print(cell_ranking_table(everywhere, options.top_k))
    columns = found.position_scores(strongest[:SHOWN_HEADS])
    assert columns is not None
    for table in position_tables(columns, terminal.width):
        terminal.print(table)
