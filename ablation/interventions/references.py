"""Other prompts that an intervention takes z from: made like the one it acts on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ablation.interventions.notation import quoted
from models.errors import ErrorKind, UserError
from models.tokens import PAIR_MARK
from models.types import CLASSIFIER, Head, TokenizedPrompt

if TYPE_CHECKING:
    from torch import Tensor

    from models.language_model import LanguageModel


def tokenize_like(
    prompt: TokenizedPrompt, text: str, model: LanguageModel, role: str
) -> TokenizedPrompt:
    """Tokenise `text` with a beginning-of-sequence token exactly when `prompt` has one.

    For an encoder-decoder the text takes the place of the source; the decoder text stays. For a
    pair of sentences the text may be one too, with its mark between them. Pictures stay.

    Raises:
        UserError: the model does not take the text; or its prompts are pictures alone.
    """
    if model.kind == CLASSIFIER:
        raise UserError(
            ErrorKind.INTERVENTION,
            f"The {role} is text, and {model.name} is given pictures, not text; choose an "
            "intervention that takes nothing from another prompt, such as zero or mean.",
        )
    wanted = model.has_bos(prompt)
    first, mark, second = text.partition(PAIR_MARK)
    paired = prompt.segments is not None and bool(mark)
    own: tuple[str, str | None] = (first, second) if paired else (text, None)
    beside: dict[str, Any] = {"pair": own[1], "pictures": prompt.pictures, "robot": prompt.robot}
    try:
        tokenized = model.tokenize(own[0], **beside)
        if model.has_bos(tokenized) != wanted:
            tokenized = model.tokenize(own[0], bos=wanted, **beside)
    except UserError as error:
        raise UserError(
            ErrorKind.INTERVENTION, f"The {role} {quoted(text)} cannot be used: {error}"
        ) from error
    return tokenized if tokenized.source is None else replace(prompt, source=tokenized.source)


def mean_outputs(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], heads: Sequence[Head]
) -> dict[int, Tensor]:
    """Return layer -> [1, n_heads, d_head]: the mean over all positions of all prompts."""
    layers = model.layers_of(heads)
    sums: dict[int, Tensor] = {}
    for prompt in prompts:
        for layer, z in model.head_outputs(prompt, layers).items():
            total = z.float().sum(dim=0, keepdim=True)  # [1, n_heads, d_head]
            sums[layer] = sums[layer] + total if layer in sums else total
    count = sum(len(model.axes_of(prompt, heads).queries) for prompt in prompts)
    return {layer: total / count for layer, total in sums.items()}


def token_list(prompt: TokenizedPrompt, limit: int = 30) -> str:
    shown = " ".join(prompt.labels[:limit])
    return shown if len(prompt) <= limit else f"{shown} …"
