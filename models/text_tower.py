"""The texts that a picture is compared with, as the tower that reads them is given them; and which
of a model's attention layers are that tower's.

Each text is a row of its own, padded; the tower's positions are those of all texts, one behind the
other. Texts are padded to the longest of them where that gives what full length does (CLIP, which
reads a text off its last token), and to full length where it does not (SigLIP).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.attention_hooks import AttentionSite
from models.attention_inputs import allowed_keys
from models.attention_tap import Call, TapRequest, active
from models.discovery import Forward, dispatching_calls
from models.errors import ErrorKind, UserError
from models.self_check import same_numbers
from models.tokens import TokenReader
from models.types import TokenizedPrompt

PADDING = "padding"
"""The label of what fills a text up."""

Given = dict[str, Tensor]
"""What the tower is given: keyword -> int64 [text, position]."""


def given_of(model: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[Given, TokenizedPrompt]:
    """Return texts as their tower is given them, and its positions.

    Raises:
        UserError: a text has more tokens than the tower reads.
    """
    longest = int(model.config.text_config.max_position_embeddings)
    lengths = [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
    for text, length in zip(texts, lengths, strict=True):
        if length > longest:
            raise UserError(
                ErrorKind.MODEL,
                f"The text {text[:40]!r} has {length} tokens, and {longest} are read of each; "
                "shorten it.",
            )
    # The shortest is the one that padding is most of.
    shortest = [texts[int(np.argmin(lengths))]]
    full = {"padding": "max_length", "max_length": longest}
    tried = [
        embedded(model, _tokens(model, tokenizer, shortest, **padded))
        for padded in ({"padding": "longest"}, full)
    ]
    padded = {"padding": "longest"} if same_numbers(*tried) else full
    given = _tokens(model, tokenizer, texts, **padded)
    # The mask is for the labels: some towers are trained without being told of it.
    masked = tokenizer(
        list(texts), return_attention_mask=True, return_tensors="np", verbose=False, **padded
    )
    return given, _positions(TokenReader.of(tokenizer), texts, given, masked["attention_mask"])


def embedded(model: Any, given: Mapping[str, Tensor]) -> Tensor:
    """Return the texts' unit vectors as the model itself makes them, float [text, d]."""
    first, side = next(model.parameters()), model.config.vision_config.image_size
    nothing = torch.zeros(1, 3, side, side, device=first.device, dtype=first.dtype)
    with torch.inference_mode():
        embeds = model(**given, pixel_values=nothing).text_embeds
    own: Tensor = embeds.clone()
    return own


def _tokens(model: Any, tokenizer: Any, texts: Sequence[str], **padded: Any) -> Given:
    made = tokenizer(list(texts), return_tensors="pt", verbose=False, **padded)
    return {name: ids.to(next(model.parameters()).device) for name, ids in made.items()}


def _positions(
    reader: TokenReader, texts: Sequence[str], given: Given, mask: np.ndarray
) -> TokenizedPrompt:
    """Return the positions of the tower: the tokens of each text, with its number, and what fills
    it up.

    Args:
        mask: int [text, position], 0 where there is padding.
    """
    rows = given["input_ids"].tolist()
    found = [
        (token, bool(is_own), text)
        for text, (ids, own) in enumerate(zip(rows, mask, strict=True))
        for token, is_own in zip(ids, own, strict=True)
    ]
    return TokenizedPrompt(
        text="\n".join(texts),
        ids=tuple(token for token, _, _ in found),
        labels=tuple(
            f"{reader.label(token) if own else PADDING}/{text}" for token, own, text in found
        ),
        texts=tuple(reader.text(token) if own else "" for token, own, _ in found),
        kinds=tuple(reader.kind(token) if own else "special" for token, own, _ in found),
        starts=tuple(range(0, len(found), len(rows[0]))),
        given={name: ids.cpu().numpy() for name, ids in given.items()},
    )


def concerns(request: object, first: int, n_layers: int) -> bool:
    """Whether anything is read or changed in the layers of the tower.

    Args:
        request: what serves attention now.
        first: the number of the tower's first layer, in the order they run.
    """
    if not isinstance(request, TapRequest):
        return False
    watches = request.on_call is not None and (request.watched is None or request.watched > first)
    return watches or any(
        layer in request.read or layer in request.keep_z or request.plan_of(layer) is not None
        for layer in range(first, first + n_layers)
    )


def find_tower(
    model: nn.Module, forward: Forward, n_before: int, n_layers: int, n_texts: int
) -> tuple[list[AttentionSite], bool]:
    """Return the tower's attention layers, and whether no position of a text sees a later one; no
    layers where they are no stack of their own: one that cannot be read, or that runs otherwise
    than once on all texts.

    Args:
        forward: runs the model once, the tower that reads behind the one that sees.
        n_before: how many layers that one has.
        n_layers: how many the tower is said to have.
    """
    calls = dispatching_calls(model, forward)[n_before:]
    sites = [site for site in calls if site is not None and site.n_parts == n_texts]
    once = len({site.module for site in sites}) == len(sites)
    alike = len({site.extent for site in sites}) == 1
    if len(sites) != len(calls) or len(sites) != n_layers or not (once and alike):
        return [], False
    ahead = False

    def watch(layer: int, call: Call) -> None:
        nonlocal ahead
        if layer >= n_before and call.inputs is not None:
            allowed = allowed_keys(call.inputs)
            ahead = ahead or allowed is None or bool(allowed.triu(1).any())

    with active(TapRequest(on_call=watch)):
        forward()
    return sites, not ahead
