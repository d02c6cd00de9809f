"""The circuit tab, a clicked edge: its numbers, and what moves along it."""

from typing import TYPE_CHECKING, Any

from dash import html

from ablation.circuit.types import Circuit
from app import words
from models.types import Head
from viz.circuit_layout import Line
from viz.circuit_text import INPUT_NAMES, edge_sentence, signed

if TYPE_CHECKING:
    from ablation.circuit.moved import Look, MovedTokens, Told
    from models.language_model import LanguageModel


def about_edge(circuit: Circuit, line: Line, model: "LanguageModel", bos: bool | None) -> list[Any]:
    """Return what is shown of an edge.

    Args:
        bos: whether a beginning-of-sequence token stood in front of the circuit's prompts.

    Raises:
        UserError: the model's parts cannot be told apart.
    """
    from ablation.circuit.moved import MOST_HEADS, looks, moved_tokens

    pair, target = circuit.pairs[0], line.edge.target
    told: list[Any] = [html.P(edge_sentence(line, circuit.n_edges))]
    if target.input in ("q", "k"):
        heads = [Head(part.layer, part.head) for part in circuit.graph.heads_of(target)]
        found = looks(model, pair, heads[:MOST_HEADS], bos)
        told += _about_looks(found, target.input, len(heads))
    else:
        told += _about_tokens(moved_tokens(model, pair, line.edge, bos), target.input)
    if len(circuit.pairs) > 1:
        told.append(html.P(f"On the first of {words.count(len(circuit.pairs), 'pair')}."))
    return told


def _about_tokens(moved: "MovedTokens", into: str | None) -> list[Any]:
    at = f"{moved.label} (position {moved.position})"
    if not moved.raised:
        return [html.P(f"{moved.source} puts out the same on both prompts at {at}.")]
    if moved.at_read:
        said = (
            f"What {moved.source} puts out at {at}, where the prediction is read, on the clean "
            "prompt less on the corrupted one, moves these logits directly most:"
        )
    else:
        reader = "The value" if into == "v" else "The MLP"
        said = (
            f"What {moved.source} puts out on the clean prompt less on the corrupted one, at {at}, "
            "where the two differ most, read through the final norm and the unembedding. "
            f"{reader} itself reads other directions of it."
        )
    return [
        html.P(said),
        _row(
            "answer, distractor" if len(moved.asked) > 1 else "answer",
            [(label, signed(value)) for label, value in moved.asked],
        ),
        _row("raises", [(label, signed(value)) for label, value in moved.raised]),
        _row("lowers", [(label, signed(value)) for label, value in moved.lowered]),
    ]


def _about_looks(found: "tuple[Look, ...]", into: str, n_heads: int) -> list[Any]:
    names = ", ".join(str(look.head) for look in found)
    more = f" and {n_heads - len(found)} more" if n_heads > len(found) else ""
    one = n_heads == 1
    said = (
        f"It enters {'the' if one else 'a shared'} {INPUT_NAMES[into]}, and so changes where "
        f"{names}{more} {'looks' if one else 'look'}, not what is moved. From where the prediction "
        "is read, by weight:"
    )
    rows = []
    for look in found:
        for name, keys in (("clean", look.clean), ("corrupted", look.corrupt)):
            rows.append(_row(name if one else f"{look.head}, {name}", _weights(keys)))
    return [html.P(said), *rows]


def _weights(keys: "Told") -> list[tuple[str, str]]:
    return [(label, f"{weight:.2f}") for label, weight in keys]


def _row(name: str, tokens: list[tuple[str, str]]) -> html.Div:
    cells = [
        html.Span(
            [
                html.Span(label, className="token-inline"),
                html.Span(f" {value}", className="bar-value"),
            ],
            className="edge-token",
        )
        for label, value in tokens
    ]
    return html.Div([html.Span(name, className="field-label"), *cells], className="edge-row")
