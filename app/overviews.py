"""Summaries of all heads, computed at most once as long as they are remembered."""

import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from ablation.types import Ablation, HeadSummaries, Progress
from app.runs import Memory, content
from models.types import TokenizedPrompt
from viz.overview import thumbnail_side

if TYPE_CHECKING:
    from models.language_model import LanguageModel

MEMORY_BYTES = 64 * 2**20


class Overviews:
    """Asks models what is not known yet."""

    def __init__(self) -> None:
        self._memory = Memory(MEMORY_BYTES)

    def of(
        self,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        ablation: Ablation | None,
        stack: str,
        progress: Callable[[Progress], None],
        cancel: threading.Event,
    ) -> HeadSummaries:
        """Return the summaries of a stack's heads, with thumbnails as large as the page shows them.

        What was cancelled is not remembered.

        Raises:
            UserError: the ablation does not fit, the model's numbers are not finite, or there are
                no overviews of this stack.
        """
        key = question(model, prompt, ablation, stack)
        known: HeadSummaries | None = self._memory.get(key)
        if known is not None:
            return known
        from ablation.summaries import summarise_heads  # torch comes with it

        causal = model.stacks.named(stack).causal
        side = thumbnail_side(len(model.all_heads(stack)), causal)
        found = summarise_heads(
            model, prompt, ablation, stack=stack, side=side, progress=progress, cancel=cancel
        )
        if found.stopped == "complete":
            self._memory.put(key, found, found.thumbnails.nbytes + found.values.nbytes)
        return found


def question(
    model: "LanguageModel", prompt: TokenizedPrompt, ablation: Ablation | None, stack: str
) -> Hashable:
    """Return what tells one summary from another."""
    return (model.name, prompt.content, content(ablation), stack)
