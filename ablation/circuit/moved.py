"""What moves along an edge: the tokens that its source speaks for, or where its target looks.

What a source puts out differently on the corrupted prompt is all that an edge can carry. It is read
through the final norm, its scale frozen, and the unembedding, as `ablation.attribution` reads a
head. For an edge into the logits that is what it does to them; for one into a value or an MLP the
target reads other directions, and the tokens are what the same output would say directly. A query
or a key is read by none of them: what changes is where the head looks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ablation.circuit.pairs import check_pair
from ablation.circuit.types import PromptPair
from models.edge_graph import Edge
from models.language_model import LanguageModel
from models.residual_stream import ResidualStream
from models.types import Component, Head, TokenizedPrompt

TOP_TOKENS, TOP_KEYS = 5, 3

MOST_HEADS = 4
"""Heads that share a key: of so many it is told where they look."""

Told = tuple[tuple[str, float], ...]
"""(a token's label, a number), most first."""


@dataclass(frozen=True, slots=True)
class MovedTokens:
    """The tokens whose logits a source's output, clean less corrupted, raises and lowers most."""

    source: Component
    position: int
    """Where it is read, counted from 0."""
    label: str
    """The clean prompt's token there."""
    at_read: bool
    """Whether that is the position that is explained; else it is where the source's outputs on the
    two prompts differ most."""
    raised: Told
    """Logits, less what is added to all on average; none where the outputs do not differ."""
    lowered: Told
    asked: Told
    """The answer and, if the pair names one, the distractor."""


@dataclass(frozen=True, slots=True)
class Look:
    """Where a head looks from the position that is explained, on both prompts."""

    head: Head
    clean: Told
    """The keys of largest weight."""
    corrupt: Told


def moved_tokens(
    model: LanguageModel,
    pair: PromptPair,
    edge: Edge,
    bos: bool | None = None,
    top_k: int = TOP_TOKENS,
) -> MovedTokens:
    """Tell what an edge's source puts out differently on the two prompts, in tokens.

    Raises:
        UserError: a pair that does not fit, or a model whose parts cannot be told apart.
    """
    posed = check_pair(model, pair, bos)
    clean, corrupt = (model.residual.read(prompt) for prompt in (posed.clean, posed.corrupt))
    at_read = edge.target.component.kind == "logits"
    wanted = [posed.position] if at_read else list(range(len(posed.clean)))
    difference = _output(clean, edge.source, wanted) - _output(corrupt, edge.source, wanted)
    row = int(difference.norm(dim=-1).argmax())
    asked = [token for token in (posed.answer_id, posed.distractor_id) if token is not None]
    told = _tokens(model, clean, wanted[row], difference[row], asked, top_k)
    return MovedTokens(edge.source, wanted[row], posed.clean.labels[wanted[row]], at_read, *told)


def looks(
    model: LanguageModel,
    pair: PromptPair,
    heads: Sequence[Head],
    bos: bool | None = None,
    top_k: int = TOP_KEYS,
) -> tuple[Look, ...]:
    """Tell where heads look from the position that is explained, on both prompts.

    Raises:
        UserError: a pair that does not fit, or a head that does not exist.
    """
    posed = check_pair(model, pair, bos)
    clean, corrupt = (
        _strongest(model, prompt, heads, posed.position, top_k)
        for prompt in (posed.clean, posed.corrupt)
    )
    return tuple(map(Look, heads, clean, corrupt))


def _output(stream: ResidualStream, source: Component, at: list[int]) -> Tensor:
    """Return what a source puts out at some positions, float32 [position, d_model]."""
    if source.kind == "embed":
        return stream.embedding[at]
    terms = stream.layers[source.layer]
    return terms.mlp(at) if source.kind == "mlp" else terms.heads(at, [source.head])[0]


def _tokens(
    model: LanguageModel,
    stream: ResidualStream,
    position: int,
    term: Tensor,
    asked: Sequence[int],
    top_k: int,
) -> tuple[Told, Told, Told]:
    """Return what a part [d_model] of the stream at a position raises and lowers most, and what it
    does to the tokens that are asked about."""
    if not bool(term.any()):
        return (), (), ()
    last = stream.before(model.n_layers)[position]
    added = model.residual.ending.readout(last).of_terms(term.to(last.device)[None])[0]
    added = added - added.mean()  # what is added to all logits alike changes nothing
    most, least = (added.topk(top_k, largest=largest).indices for largest in (True, False))
    raised, lowered, named = (
        tuple((model.describe_token(token).label, float(added[token])) for token in tokens)
        for tokens in (most.tolist(), least.tolist(), asked)
    )
    return raised, lowered, named


def _strongest(
    model: LanguageModel, prompt: TokenizedPrompt, heads: Sequence[Head], read: int, top_k: int
) -> Iterator[Told]:
    """Yield for each head the keys that it looks at most from a position, and their weights."""
    maps = model.attention(prompt, heads, queries=[read])
    labels = maps.keys.unique_labels
    for weights in maps.values[:, 0]:
        keys = np.argsort(-weights, kind="stable")[:top_k].tolist()
        yield tuple((labels[key], float(weights[key])) for key in keys)
