"""Direct logit attribution and the logit lens: what a model's parts say about the next token.

The logits are a linear function of the last layer's residual stream once the final norm's scale is
held at what it is, and the stream is a sum of what the parts of the model added. So each part has
its own share of a logit (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
A share is direct: what a part does by way of later parts is theirs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ablation.attribution_types import CONSTANT, HeadTokens, LogitAttribution, LogitLens
from models.errors import ErrorKind, UserError
from models.forward_pass import log_softmax64
from models.language_model import LanguageModel
from models.residual_stream import ResidualStream
from models.types import Head, Prediction, TokenizedPrompt, TokenProbability


def attribute_logits(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    target: int | str | None = None,
    versus: int | str | None = None,
    position: int | None = None,
    *,
    stream: ResidualStream | None = None,
) -> LogitAttribution:
    """Tell apart what each part of the model adds to a token's logit.

    Args:
        target: token id or text of one token; None: the most likely one.
        versus: a token whose logit is subtracted; None for the logit itself.
        position: where the prediction is read; None: the model's own choice.
        stream: the prompt's residual stream, where it has been read before.

    Raises:
        UserError: a token or position that does not exist, or a model whose parts cannot be told
            apart.
    """
    stream, position = _stream(model, prompt, position, stream)
    readout = model.residual.ending.readout(_last(model, stream, position))
    baseline = _predictions(model, _last(model, stream, position)[None], position)[0]
    target_id = baseline.top[0].id if target is None else model.resolve_token(target)
    versus_id = None if versus is None else model.resolve_token(versus)
    weights = {target_id: 1.0} if versus_id is None else {target_id: 1.0, versus_id: -1.0}
    if versus_id == target_id:
        label = model.describe_token(target_id).label
        raise UserError(
            ErrorKind.TARGET,
            f"The target {label} cannot be held against itself; name another token, or none.",
        )
    constants, logits = readout.constant(), readout.logits
    constant = sum(weight * float(constants[token]) for token, weight in weights.items())
    parts = stream.project(readout.direction(weights)[None], [position])
    return LogitAttribution(
        prompt=stream.prompt,
        target=_token(model, baseline, target_id),
        versus=None if versus_id is None else _token(model, baseline, versus_id),
        baseline=baseline,
        shape=(model.n_layers, model.n_heads),
        terms=(*parts, (CONSTANT, constant)),
        logit=sum(weight * float(logits[token]) for token, weight in weights.items()),
        capped=readout.capped,
    )


def logit_lens(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    position: int | None = None,
    watched: int | str | None = None,
    top_k: int = 5,
    *,
    stream: ResidualStream | None = None,
) -> LogitLens:
    """Read a prediction off the residual stream after each layer, as if the model stopped there.

    Args:
        watched: token id or text of the token to follow; None: the most likely one at the end.

    The other arguments, and what is raised, are those of `attribute_logits`.
    """
    stream, position = _stream(model, prompt, position, stream)
    layers = range(model.n_layers + 1)
    hidden = torch.stack([stream.before(layer)[position].to(model.device) for layer in layers])
    predictions = _predictions(model, hidden, position, top_k)
    last = predictions[-1]
    token_id = last.top[0].id if watched is None else model.resolve_token(watched)
    return LogitLens(stream.prompt, tuple(predictions), _token(model, last, token_id))


def tokens_by_head(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    heads: Sequence[Head],
    position: int | None = None,
    top_k: int = 5,
    *,
    stream: ResidualStream | None = None,
) -> list[HeadTokens]:
    """Return the tokens whose logits each head itself raises and lowers most.

    Arguments, and what is raised, are those of `attribute_logits`.
    """
    model.check_heads(heads)
    stream, position = _stream(model, prompt, position, stream)
    last = _last(model, stream, position)
    readout = model.residual.ending.readout(last)
    baseline = _predictions(model, last[None], position)[0]
    found = []
    for head in heads:
        term = stream.layers[head.layer].heads([position], [head.head])[0]  # [1, d_model]
        added = readout.of_terms(term.to(last.device))[0]
        added = added - added.mean()  # what is added to all logits alike changes nothing
        best, worst = added.topk(top_k), added.topk(top_k, largest=False)
        found.append(
            HeadTokens(
                head,
                position,
                *(
                    tuple(
                        (_token(model, baseline, token), value)
                        for token, value in zip(
                            side.indices.tolist(), side.values.tolist(), strict=True
                        )
                    )
                    for side in (best, worst)
                ),
            )
        )
    return found


def _stream(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    position: int | None,
    stream: ResidualStream | None,
) -> tuple[ResidualStream, int]:
    """Return the prompt's stream, read if need be, and the position counted from 0."""
    tokenized = model.tokenize(prompt) if isinstance(prompt, str) else prompt
    read = model.resolve_position(tokenized, position)
    return stream or model.residual.read(tokenized), read


def _last(model: LanguageModel, stream: ResidualStream, position: int) -> Tensor:
    """Return the stream behind the last layer at a position, [d_model]."""
    return stream.before(model.n_layers)[position]


def _predictions(
    model: LanguageModel, hidden: Tensor, position: int, top_k: int = 10
) -> list[Prediction]:
    """Return what the model predicts from residual streams [n, d_model]."""
    rows = log_softmax64(model.residual.ending.logits(hidden))
    return [model.prediction_from(row, position, top_k) for row in rows]


def _token(model: LanguageModel, prediction: Prediction, token_id: int) -> TokenProbability:
    return model.describe_token(token_id, float(prediction.log_probs[token_id]))
