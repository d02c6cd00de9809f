"""Why a head looks from one position at another: its score, dimension by dimension and by source.

A score is a product of query and key. Written out, it is a sum over their dimensions; and with the
key held fixed it is linear in the query, which, with norm scales frozen, is linear in the residual
stream that enters the layer: a sum over the parts of the model that wrote into it. The same holds
for the key with the query fixed.
"""

import numpy as np
import torch
from torch import Tensor

from ablation.attribution_types import CONSTANT, QueryKeyDetail, ScoreSources
from models.attention_inputs import Inputs, allowed_keys, read_inputs, score_bias
from models.attention_reading import MapWriter, entries_of_heads
from models.attention_tap import Call, TapRequest
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.residual_stream import ResidualStream
from models.types import Head, TokenizedPrompt


def explain_attention(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    head: Head,
    query: int,
    key: int,
    *,
    relative: bool = False,
    stream: ResidualStream | None = None,
) -> QueryKeyDetail:
    """Tell apart what makes up one head's score of one key for one query.

    Args:
        query, key: positions; negative ones count from the end.
        relative: tell apart by how much the score is above the mean score of all keys that the
            query can see: what all keys share does not matter to where a head looks.
        stream: the prompt's residual stream, where it has been read before.

    Raises:
        UserError: a head or position that does not exist, or a model that shows no queries and
            keys or is an encoder-decoder.
    """
    model.check_one_stack("A score in parts")
    model.check_heads([head])
    tokenized = model.tokenize(prompt) if isinstance(prompt, str) else prompt
    query, key = (model.resolve_position(tokenized, at) for at in (query, key))
    if not model.dispatches:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.info.architecture} computes attention where its queries and keys cannot be "
            "seen, so that a score cannot be told apart; its attention weights can.",
        )
    try:
        stream = stream or model.residual.read(tokenized)
    except UserError as error:
        pair = _Pair(_inputs(model, tokenized, head), head.head, query, key, relative)
        return _detail(tokenized, head, pair, (), str(error))
    inputs, entered, scales = model.residual.attention_inputs(stream, head.layer)
    pair = _Pair(inputs, head.head, query, key, relative)
    empty = model.residual.constant_inputs(stream, head.layer, scales)
    sources = tuple(_sources(side, pair, entered, empty, stream, head) for side in SIDES)
    return _detail(tokenized, head, pair, sources)


SIDES = ("query", "key")


class _Pair:
    """One query and one key of one head, as they are multiplied.

    Relative to other keys, the key is the one asked for less the mean of all that are seen.
    """

    def __init__(self, inputs: Inputs, head: int, query: int, key: int, relative: bool) -> None:
        self.inputs, self.head, self.query, self.key = inputs, head, query, key
        self.relative = relative
        self.key_head = head // (inputs.query.shape[1] // inputs.key.shape[1])
        scaling = inputs.options.get("scaling")
        self.scaling = inputs.query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        self.seen = self._seen()
        self.shares = torch.zeros(len(self.seen), device=self.seen.device)
        self.shares[key] = 1.0
        if relative:
            self.shares -= self.seen / self.seen.sum()
        self.vectors = self.of(inputs)

    def of(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the two vectors, [d] each."""
        keys = inputs.key[0, self.key_head].float()  # [n_key, d]
        return {
            "query": inputs.query[0, self.head, self.query].float(),
            "key": self.shares @ keys,
        }

    def positions(self, side: str) -> list[int]:
        """Return where the residual stream makes up a side's vector."""
        if side == "query":
            return [self.query]
        return [int(at) for at in self.shares.nonzero()[:, 0]]

    def score_of(self, side: str, vector: Tensor) -> Tensor:
        """Return the score of a vector on one side with the other side held fixed."""
        other = self.vectors["key" if side == "query" else "query"].detach()
        return (vector @ other) * self.scaling

    def dimensions(self) -> Tensor:
        return (self.vectors["query"] * self.vectors["key"]).detach() * self.scaling

    def _seen(self) -> Tensor:
        """Return which keys the query can see, bool [n_key]."""
        allowed, n = allowed_keys(self.inputs), self.inputs.key.shape[2]
        if allowed is None:
            return torch.ones(n, dtype=torch.bool, device=self.inputs.key.device)
        return _row(allowed, self.head, self.query)


def _sources(
    side: str,
    pair: _Pair,
    entered: Tensor,
    empty: Inputs,
    stream: ResidualStream,
    head: Head,
) -> ScoreSources:
    """Return what the parts of the stream add to the score by way of one side.

    Args:
        entered: [1, position, d_model], the stream that entered the layer: the leaf that the
            pair's vectors have gradients to.
        empty: what the layer's attention is given by biases alone.
    """
    score = pair.score_of(side, pair.vectors[side])
    gradient = torch.autograd.grad(score, entered, retain_graph=True)[0][0]
    at = pair.positions(side)
    parts = stream.project(gradient[at], at, up_to=head.layer)
    constant = float(pair.score_of(side, pair.of(empty)[side]).detach())
    terms = (*parts, (CONSTANT, constant))
    error = abs(sum(value for _, value in terms) - float(score.detach()))
    return ScoreSources(side, pair.query if side == "query" else pair.key, terms, error)


def _inputs(model: LanguageModel, prompt: TokenizedPrompt, head: Head) -> Inputs:
    """Return what the head's layer is given in a clean run."""
    found: list[Inputs] = []

    def remember(layer: int, call: Call) -> None:
        if layer == head.layer and call.inputs is not None:
            found.append(call.inputs)

    model.watch(prompt, TapRequest(on_call=remember))
    return found[0]


def _detail(
    prompt: TokenizedPrompt,
    head: Head,
    pair: _Pair,
    sources: tuple[ScoreSources, ...],
    problem: str = "",
) -> QueryKeyDetail:
    inputs, query, key = pair.inputs, pair.query, pair.key
    dimensions = pair.dimensions()
    cap = inputs.options.get("softcap")
    sinks = inputs.options.get("s_aux")
    bias, visible = score_bias(inputs), bool(pair.seen[key])
    weights = np.empty((1, len(prompt)), dtype=np.float32)
    with torch.no_grad():
        writer = MapWriter({head.layer: [weights]})
        read_inputs(inputs, head.layer, [head.head], writer, [query])
    return QueryKeyDetail(
        prompt=prompt,
        head=head,
        key_head=pair.key_head,
        query=query,
        key=key,
        weight=float(weights[0, key]),
        visible=visible,
        relative=pair.relative,
        score=float(dimensions.sum()),
        bias=float(_row(bias, head.head, query)[key]) if visible and bias is not None else 0.0,
        softcap=None if cap is None else float(cap),
        sink=None if sinks is None else float(sinks.reshape(-1)[head.head]),
        dimensions=dimensions.cpu().numpy(),
        sources=sources,
        problem=problem,
    )


def _row(tensor: Tensor, head: int, query: int) -> Tensor:
    """Return one query's [n_key] of [batch or 1, n_heads or 1, n_query or 1, n_key]."""
    at = (torch.tensor([index], device=tensor.device) for index in (head, query))
    return entries_of_heads(tensor, *at)[0, 0]
