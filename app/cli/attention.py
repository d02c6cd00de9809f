"""`attention`: where chosen heads look."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from app.cli.question import pose
from app.cli.tables import attention_table
from app.cli.terminal import Terminal


def run(options: Namespace, terminal: Terminal) -> int:
    # A prompt without a mask token can be looked at, if not predicted from.
    if options.position is None:
        options.position = -1
    question = pose(options, terminal)
    ablation = question.ablation(options.ablate)
    run = question.model.run(
        question.prompt,
        position=question.position,
        heads=question.heads(options.heads),
        ablation=ablation,
        top_k=1,
    )
    for maps in run.maps:
        for index in range(len(maps.heads)):
            terminal.print(attention_table(maps, index, options.top_k))
    terminal.write_json(
        {
            **question.to_json(None if ablation is None else question.intervention.spec),
            "ablated_heads": [] if ablation is None else [h.to_json() for h in ablation.heads],
            **_together([maps.to_json() for maps in run.maps]),
        }
    )
    return 0


def _together(maps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return heads and values of all stacks in one list each: maps may differ in their sizes."""
    return {name: [entry for of_stack in maps for entry in of_stack[name]] for name in maps[0]}
