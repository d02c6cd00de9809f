"""`attention`: where chosen heads look."""

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.cli.question import Question, pose
from app.cli.tables import attention_table
from app.cli.terminal import Terminal, check_writable, write_text
from models.errors import ErrorKind, UserError
from models.types import AttentionMaps
from viz.standalone import attention_html

if TYPE_CHECKING:
    from ablation.types import Ablation


def run(options: Namespace, terminal: Terminal) -> int:
    if options.html is not None:
        check_writable(options.html, "--html")  # better known before the work than after
    # A prompt without a mask token can be looked at, if not predicted from.
    if options.position is None:
        options.position = -1
    question = pose(options, terminal)
    ablation = question.ablation(options.ablate)
    if ablation is not None and options.show != "attention":
        raise UserError(
            ErrorKind.OPTION,
            f"--show {options.show} is of the clean run; leave --ablate out, or --show.",
        )
    of_stacks = _maps(question, options, ablation)
    for maps in of_stacks:
        for index in range(len(maps.heads)):
            terminal.print(attention_table(maps, index, options.top_k))
    terminal.write_json(
        {
            **question.to_json(None if ablation is None else question.intervention.spec),
            "ablated_heads": [] if ablation is None else [h.to_json() for h in ablation.heads],
            **_together([maps.to_json() for maps in of_stacks]),
        }
    )
    if options.html is not None:
        title = f"Attention of {question.model.name}"
        at = question.position
        page = attention_html(
            *of_stacks,
            prompt=question.prompt,
            position=at,
            sink=options.first_token,
            title=title,
        )
        write_text(options.html, page, "--html")
    return 0


def _maps(
    question: Question, options: Namespace, ablation: "Ablation | None"
) -> tuple[AttentionMaps, ...]:
    """Return the maps of each stack that the heads are of."""
    from models.attention_flow import attention_rollout, moved_attention

    model, prompt, heads = question.model, question.prompt, question.heads(options.heads)
    if options.show == "moved":
        return (moved_attention(model, prompt, heads),)
    if options.show == "rollout":
        return (attention_rollout(model, prompt, sorted({head.layer for head in heads})),)
    at = question.position
    return model.run(prompt, position=at, heads=heads, ablation=ablation, top_k=1).maps


def _together(maps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return heads and values of all stacks in one list each: maps may differ in their sizes."""
    lists = {
        name: [entry for of_stack in maps for entry in of_stack[name]]
        for name in ("heads", "values")
    }
    return {**maps[0], **lists}
