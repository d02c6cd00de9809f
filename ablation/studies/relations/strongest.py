"""At which key every head of a model looks most, from the later word of each marked pair."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ablation.studies.phrases import counted
from ablation.studies.relations import PlacedMark, Sentence, place_marks
from ablation.studies.relations.types import ReadMarks
from models.attention_reading import AttentionBlock
from models.language_model import LanguageModel

FARTHEST = 16
"""Tokens up to which fixed offsets and fixed positions are tried as baselines."""


def rule_name(index: int) -> str:
    """Return a fixed key in words: "2 tokens back" or "position 3"."""
    where = index % FARTHEST + 1
    if index >= FARTHEST:
        return f"position {where}"
    return f"{counted(where, 'tokens')} back"


def read_marks(
    model: LanguageModel,
    sentences: Sequence[Sentence],
    report: Callable[[str], None],
    cancel: threading.Event | None,
) -> ReadMarks:
    """Read every head on sentences, one pass each, until done or cancelled.

    Args:
        report: told after each sentence.

    Raises:
        UserError: a sentence does not fit the model's context, or its numbers are not finite.
    """
    marks: list[tuple[Sentence, PlacedMark]] = []
    hits: list[NDArray[np.bool_]] = []
    n_done = n_lost = 0
    for sentence in sentences:
        if cancel is not None and cancel.is_set():
            break
        prompt = model.tokenize(sentence.text)
        placed = place_marks(prompt, sentence)
        strongest = _Strongest(model, len(prompt))
        if placed:
            model.read_attention(prompt, strongest, top_k=1)
        for mark in placed:
            looked_at = strongest.keys[..., mark.query].ravel()
            hits.append(np.isin(looked_at, mark.keys))
            marks.append((sentence, mark))
        n_done += 1
        n_lost += len(sentence.marks) - len(placed)
        report(f"Reading all heads: sentence {n_done} of {len(sentences)}")
    n_heads = model.n_layers * model.n_heads
    return ReadMarks(
        np.array([mark.relation for _, mark in marks], dtype=np.str_),
        np.array([sentence.structure for sentence, _ in marks], dtype=np.str_),
        np.array([sentence.held_out for sentence, _ in marks], dtype=np.bool_),
        np.array([mark.query - mark.keys[-1] for _, mark in marks], dtype=np.int64),
        np.array(hits, dtype=np.bool_).reshape(len(marks), n_heads),
        np.array([_rules(mark) for _, mark in marks], dtype=np.bool_).reshape(-1, 2 * FARTHEST),
        n_done,
        sum(mark.split for _, mark in marks),
        n_lost,
    )


def _rules(mark: PlacedMark) -> list[bool]:
    near = range(1, FARTHEST + 1)
    back = [mark.query - offset in mark.keys for offset in near]
    return back + [position in mark.keys for position in near]


class _Strongest:
    """The reader that keeps where each row's largest weight is, the first key aside."""

    def __init__(self, model: LanguageModel, n_tokens: int) -> None:
        self.keys = np.full((model.n_layers, model.n_heads, n_tokens), -1, dtype=np.int64)
        """int64 [n_layers, n_heads, query]; -1 where there is no head or no key."""

    def take(self, block: AttentionBlock) -> None:
        rest = block.probabilities[..., 1:]
        if rest.shape[-1] == 0:
            return
        # A row without weight behind the first key looks nowhere else.
        found = (rest.argmax(dim=-1) + 1).masked_fill(rest.amax(dim=-1) <= 0, -1)
        self.keys[block.layer, block.heads, block.rows] = found.cpu().numpy()
