"""`attention`: where chosen heads look."""

from argparse import Namespace

from app.cli.question import pose
from app.cli.tables import attention_table
from app.cli.terminal import Terminal


def run(options: Namespace, terminal: Terminal) -> int:
    # A prompt without a mask token can be looked at, if not predicted from.
    if options.position is None:
        options.position = -1
    question = pose(options, terminal)
    ablation = question.ablation(options.ablate)
    maps = question.model.attention(question.prompt, question.heads(options.heads), ablation)
    for index in range(len(maps.heads)):
        terminal.print(attention_table(maps, index, options.top_k))
    terminal.write_json(
        {
            **question.to_json(None if ablation is None else question.intervention.spec),
            "ablated_heads": [] if ablation is None else [h.to_json() for h in ablation.heads],
            **maps.to_json(),
        }
    )
    return 0
