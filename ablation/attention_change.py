"""How much each head's attention differs between two runs of as many tokens.

The runs are of two prompts, of two models with the same tokenizer, or clean and ablated.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ablation.reading import parts_of
from ablation.types import Ablation, HeadValues, MetricInfo, Progress
from models.errors import ErrorKind, UserError
from models.tokens import PAIR_MARK
from models.types import AttentionMaps, FloatArray, Head, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

CHANGE = MetricInfo(
    name="js",
    label="Change of attention",
    unit="nats",
    diverging=False,
    needs_target=False,
    description="Jensen-Shannon divergence between a query's weights in the two runs, mean over "
    "all queries; 0 where nothing changed, at most ln 2 = 0.693",
)

SIDE_BYTES = 256 * 2**20
"""Maps of so much memory are read at a time of each run. More than for one run alone: each part of
the heads costs two forward passes."""

BLOCK_WEIGHTS = 2**19
"""How many weights are compared at a time: in float64 some arrays of 4 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionRun:
    """One side of a comparison: what runs on what."""

    model: "LanguageModel"
    prompt: TokenizedPrompt
    ablation: Ablation | None = None

    def attention(self, heads: Sequence[Head]) -> AttentionMaps:
        return self.model.attention(self.prompt, heads, self.ablation)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two runs whose heads and positions correspond."""

    before: AttentionRun
    after: AttentionRun
    label: str
    """What differs, in a few words: "clean against ablated (zero)"."""

    def __post_init__(self) -> None:
        """Refuse runs that do not correspond.

        Raises:
            UserError: other layers or heads, or another number of tokens; or an encoder-decoder.
        """
        one, other = self.before, self.after
        for model in (one.model, other.model):
            model.check_one_stack("A comparison of attention")
        shapes = [(r.model.n_layers, r.model.n_heads) for r in (one, other)]
        if shapes[0] != shapes[1]:
            raise UserError(
                ErrorKind.MODEL,
                f"{one.model.name} has {shapes[0][0]} layers of {shapes[0][1]} heads and "
                f"{other.model.name} {shapes[1][0]} of {shapes[1][1]}; compare models of the same "
                "shape, so that each head has its counterpart.",
            )
        lengths = [len(r.prompt) for r in (one, other)]
        if lengths[0] != lengths[1]:
            raise UserError(
                ErrorKind.PROMPT,
                f"The prompts have {lengths[0]} and {lengths[1]} tokens; compare two of as many "
                "tokens, so that each position has its counterpart.",
            )


def with_ablation(model: "LanguageModel", prompt: TokenizedPrompt, ablation: Ablation) -> Pair:
    """Return the clean run and the one with heads ablated."""
    return Pair(
        AttentionRun(model, prompt),
        AttentionRun(model, prompt, ablation),
        f"clean against ablated ({ablation.intervention.label})",
    )


def with_prompt(model: "LanguageModel", prompt: TokenizedPrompt, other: TokenizedPrompt) -> Pair:
    """Return the runs of two prompts, compared position by position.

    Raises:
        UserError: they have not as many tokens.
    """
    pair = "this prompt against another"
    return Pair(AttentionRun(model, prompt), AttentionRun(model, other), pair)


def with_model(model: "LanguageModel", prompt: TokenizedPrompt, other: "LanguageModel") -> Pair:
    """Return the runs of two models on the same prompt, head by head.

    Raises:
        UserError: the other model splits the prompt into other tokens, or is of another shape.
    """
    other.check_one_stack("A comparison of attention")
    texts = prompt.text.split(PAIR_MARK, 1) if prompt.segments is not None else [prompt.text]
    second = texts[1] if len(texts) == 2 else None
    theirs = other.tokenize(texts[0], bos=model.has_bos(prompt), pair=second)
    if (theirs.ids, theirs.labels) != (prompt.ids, prompt.labels):
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name} and {other.name} split this prompt into different tokens; compare "
            "models with the same tokenizer.",
        )
    names = f"{model.name} against {other.name}"
    return Pair(AttentionRun(model, prompt), AttentionRun(other, prompt), names)


def compare_attention(
    model: "LanguageModel",
    prompt: TokenizedPrompt | str,
    *,
    other_prompt: TokenizedPrompt | str | None = None,
    other_model: "LanguageModel | None" = None,
    ablation: Ablation | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> HeadValues:
    """Return how much each head's attention differs from another run, in nats.

    Args:
        other_prompt, other_model, ablation: what the other run has instead; one of the three.
        progress, cancel: see `attention_change`.

    Raises:
        UserError: not exactly one is given, or the runs do not correspond.
    """
    tokenized = model.tokenize(prompt) if isinstance(prompt, str) else prompt
    pairs = []
    if other_prompt is not None:
        other = model.tokenize(other_prompt) if isinstance(other_prompt, str) else other_prompt
        pairs.append(with_prompt(model, tokenized, other))
    if other_model is not None:
        pairs.append(with_model(model, tokenized, other_model))
    if ablation is not None:
        pairs.append(with_ablation(model, tokenized, ablation))
    if len(pairs) != 1:
        raise UserError(
            ErrorKind.OPTION,
            "A comparison takes exactly one of another prompt, another model and an ablation; "
            f"{len(pairs)} were given.",
        )
    return attention_change(pairs[0], progress=progress, cancel=cancel)


def attention_change(
    pair: Pair,
    *,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> HeadValues:
    """Return how much each head's attention differs between two runs, in nats.

    The Jensen-Shannon divergence (Lin 1991) of the two rows of each query, mean over all queries.
    Heads are read as many at a time as memory allows, in both runs.

    Args:
        progress: called after each part of the heads, with the values found so far.
        cancel: looked at before each part; once set, the values found so far are returned.

    Raises:
        UserError: the ablation does not fit, or numbers are not finite.
    """
    model = pair.before.model
    values = np.full((model.n_layers, model.n_heads), np.nan, dtype=np.float32)
    heads = model.all_heads()
    done = 0
    for before, after in _read(pair, heads, cancel):
        for i, head in enumerate(before.heads):
            rows = row_divergences(before.values[i], after.values[i])
            values[head.layer, head.head] = rows.mean()
        done += len(before.heads)
        if progress is not None:
            found = HeadValues(CHANGE, values.copy(), "running")
            progress(Progress(done, len(heads), f"{done} of {len(heads)} heads", found))
    return HeadValues(CHANGE, values, "complete" if done == len(heads) else "cancelled")


def _read(
    pair: Pair, heads: Sequence[Head], cancel: threading.Event | None
) -> Iterator[tuple[AttentionMaps, AttentionMaps]]:
    """Yield the maps of both runs, as many heads at a time as memory allows."""
    for part in parts_of(heads, len(pair.before.prompt), SIDE_BYTES):
        if cancel is not None and cancel.is_set():
            return
        yield pair.before.attention(part), pair.after.attention(part)


def row_divergences(before: FloatArray, after: FloatArray) -> FloatArray:
    """Return the Jensen-Shannon divergence of each query's weights, in nats.

    What a row lacks to 1, because attention sinks took it, counts as the weight on one more key.

    Args:
        before, after: float32 [n_query, n_key], rows that sum to at most 1.

    Returns:
        float64 [n_query], from 0 to ln 2.
    """
    size = max(1, BLOCK_WEIGHTS // before.shape[1])
    blocks = [
        _divergences(_whole(before[start : start + size]), _whole(after[start : start + size]))
        for start in range(0, len(before), size)
    ]
    return np.concatenate(blocks)


def _whole(rows: FloatArray) -> FloatArray:
    """Return rows in float64 that sum to 1, with the weight that sinks took at their end."""
    weights: FloatArray = rows.astype(np.float64)
    sunk = np.maximum(1 - weights.sum(axis=1, keepdims=True), 0)
    whole = np.concatenate([weights, sunk], axis=1)
    return whole / whole.sum(axis=1, keepdims=True)


def _divergences(p: FloatArray, q: FloatArray) -> FloatArray:
    middle = (p + q) / 2
    return np.maximum((_information(p, middle) + _information(q, middle)) / 2, 0)


def _information(p: FloatArray, q: FloatArray) -> FloatArray:
    """Return KL(p || q) of each row, in nats; q is not 0 where p is not."""
    reached = p > 0
    quotient = np.divide(p, q, out=np.ones_like(p), where=reached)
    return (p * np.log(quotient)).sum(axis=1)


def to_json(pair: Pair, change: HeadValues) -> dict[str, Any]:
    """Return a comparison as plain data."""
    return {
        "comparison": pair.label,
        "other": {
            "model": pair.after.model.name,
            **pair.after.prompt.to_json(),
            "ablated_heads": (
                []
                if pair.after.ablation is None
                else [head.to_json() for head in pair.after.ablation.heads]
            ),
        },
        **change.to_json(),
        "unit": change.metric.unit,
    }
