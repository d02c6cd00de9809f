"""`explain`: why a head looks from one position at another."""

from argparse import Namespace

from ablation.attribution_types import QueryKeyDetail
from app.cli.attribution_tables import dimensions_table, terms_table
from app.cli.question import pose
from app.cli.terminal import Terminal, visible
from models.errors import ErrorKind, UserError


def run(options: Namespace, terminal: Terminal) -> int:
    # A prompt without a mask token can be looked at, if not predicted from.
    if options.position is None:
        options.position = -1
    question = pose(options, terminal)
    from ablation.query_key import explain_attention

    heads = question.heads(options.head)
    if len(heads) != 1:
        raise UserError(
            ErrorKind.HEADS,
            f"--head names {len(heads)} heads, and one score belongs to one; name one head.",
        )
    detail = explain_attention(
        question.model,
        question.prompt,
        heads[0],
        options.query,
        options.key,
        relative=options.relative,
    )
    for line in score_lines(detail):
        terminal.print(line)
    terminal.print(dimensions_table(detail, options.top_k))
    for side in detail.sources:
        token = visible(detail.prompt.unique_labels[side.position])
        title = f"where the {side.side} {token} came from (error {side.error:.1g})"
        terminal.print(terms_table(side.terms, "score", options.top_k, title))
    terminal.write_json({**question.to_json(None), **detail.to_json()})
    return 0


def score_lines(detail: QueryKeyDetail) -> list[str]:
    """Say in sentences what the head does with this query and key."""
    labels = detail.prompt.unique_labels
    query, key = (visible(labels[at]) for at in (detail.query, detail.key))
    score = f"the score q.k is {detail.score:.4f}"
    if detail.relative:
        score = f"the score q.k is {detail.score:+.4f} from the mean of all keys it can see"
    lines = [
        f"{detail.head} looks from {query} (position {detail.query}) at {key} (position "
        f"{detail.key}) with weight {detail.weight:.4f}; {score}"
    ]
    if detail.key_head != detail.head.head:
        lines.append(f"it shares key head {detail.key_head} with other heads")
    if not detail.visible:
        lines.append("the mask keeps this query from this key")
    if detail.bias:
        lines.append(f"a position bias adds {detail.bias:+.4f}")
    if detail.softcap is not None:
        lines.append(
            f"the score then goes through {detail.softcap:g} tanh(score / {detail.softcap:g})"
        )
    if detail.sink is not None:
        lines.append(
            f"it competes with the head's attention sink, whose logit is {detail.sink:.4f}"
        )
    if detail.problem:
        lines.append(detail.problem)
    return lines
