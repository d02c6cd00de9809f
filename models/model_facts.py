"""What a model and its tokenizer say of themselves: kind, context, and the texts they take."""

import inspect
from typing import Any

from models.errors import ErrorKind, UserError
from models.types import CLASSIFIER, POLICY

NO_LIMIT = 1_000_000
"""The context of architectures that state none."""


def is_encoder_decoder(model: Any) -> bool:
    """Whether a model has an encoder, a decoder and cross attention between them."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def architecture_of(model: Any) -> str:
    """Return what transformers calls a model, whatever it stands in here."""
    while hasattr(model, "inner"):
        model = model.inner
    return type(model).__name__


def kind_of(model: Any, tokenizer: Any) -> str:
    """Return what `ModelInfo.kind` says of a model."""
    if is_encoder_decoder(model):
        return "encoder-decoder"
    stated = getattr(model, "kind", None)
    if stated in (CLASSIFIER, POLICY):
        return str(stated)
    return "masked" if _predicts_at_mask(model, tokenizer) else "causal"


def tells_pairs_apart(model: Any, tokenizer: Any) -> bool:
    """Whether a model embeds to which sentence of a pair a token belongs, and is told so."""
    accepted = inspect.signature(model.forward).parameters
    if "token_type_ids" not in accepted or getattr(model.config, "type_vocab_size", 0) < 2:
        return False
    given = tokenizer("a", "a", verbose=False, return_token_type_ids=True)
    return 1 in given.get("token_type_ids", ())


def decoder_start(model: Any, tokenizer: Any, name: str) -> int:
    """Return the id of the token that starts an encoder-decoder's decoder.

    Raises:
        UserError: neither the model nor its tokenizer names one.
    """
    generation = getattr(model, "generation_config", None)
    stated = (
        getattr(generation, "decoder_start_token_id", None),
        getattr(model.config, "decoder_start_token_id", None),
        tokenizer.bos_token_id,
        tokenizer.pad_token_id,
    )
    for token_id in stated:
        if isinstance(token_id, int):
            return token_id
    raise UserError(
        ErrorKind.MODEL,
        f"{name} does not say which token starts its decoder; put decoder_start_token_id into its "
        "config.json.",
    )


def _predicts_at_mask(model: Any, tokenizer: Any) -> bool:
    return type(model).__name__.endswith("ForMaskedLM") and tokenizer.mask_token_id is not None


def max_positions_of(model: Any, tokenizer: Any) -> int:
    """Return how many tokens fit the model's context."""
    text = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            limit = value
            break
    else:
        limit = NO_LIMIT
    for name, module in model.named_modules():
        # RoBERTa counts positions from behind its padding index: the rows up to it serve no token.
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            limit = min(limit, module.num_embeddings - padding - 1)
    stated = int(min(tokenizer.model_max_length, NO_LIMIT))
    return min(limit, stated)
