"""Summaries of all heads, computed at most once as long as they are remembered.

The pass that reads all heads gives the prediction too. While it runs, who waits for the prediction
of a run waits for it, so that a long prompt goes through the model once.
"""

import threading
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

from ablation.types import Ablation, HeadSummaries, Progress
from app.jobs import Job
from app.runs import TOP_TOKENS, Memory, Runs, run_of
from app.view import View
from app.waits import Standing, wait_for
from models.errors import UserError
from models.types import TokenizedPrompt
from viz.overview import thumbnail_side
from viz.sink import SINKS

if TYPE_CHECKING:
    from models.language_model import LanguageModel

MEMORY_BYTES = 64 * 2**20
LOOK_SECONDS = 0.1
"""How often who waits for a reading looks whether to cancel it."""


class Reading:
    """A pass over all heads, which several may wait for."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self.begun = threading.Event()
        """Set once the pass has its turn, or needs none any more."""
        self.ended = threading.Event()
        self._job = Job("", "overview")
        self._found: HeadSummaries | UserError | None = None
        self._latest: Progress | None = None

    def report(self, progress: Progress) -> None:
        self._latest = progress

    def standing(self) -> Standing | None:
        """Return how far it is, for who waits for its end only."""
        return None if self._latest is None else Standing(self._job, named(self._latest))

    def end(self, found: HeadSummaries | UserError | None) -> None:
        """Args: found: None if something went wrong that is told elsewhere."""
        self._found = found
        self.begun.set()
        self.ended.set()

    def wait(self, progress: Callable[[Progress], None], cancel: threading.Event) -> None:
        """Wait until it ended, and say meanwhile how far it is; end it once `cancel` is set."""
        while not self.ended.wait(LOOK_SECONDS):
            if self._latest is not None:
                progress(self._latest)
            if cancel.is_set():
                self.cancel.set()

    def result(self) -> HeadSummaries | None:
        """Return what was found; raise `UserError` if that is what came of it."""
        if isinstance(self._found, UserError):
            raise self._found
        return self._found


class Overviews:
    """Asks models what is not known yet."""

    def __init__(self, runs: Runs) -> None:
        """Args: runs: gets the predictions that come with the summaries."""
        self._runs = runs
        self._memory = Memory(MEMORY_BYTES)
        self._readings: dict[Hashable, Reading] = {}
        self._lock = threading.Lock()

    def of(
        self,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        ablation: Ablation | None,
        stack: str,
        position: int | None,
        progress: Callable[[Progress], None],
        cancel: threading.Event,
        sink: str = "show",
    ) -> HeadSummaries:
        """Return the summaries of a stack's heads, with thumbnails as large as the page shows them.

        What was cancelled is not remembered.

        Args:
            position: where the prediction that comes with them is read.
            sink: what thumbnails do about the first token.

        Raises:
            UserError: the ablation does not fit, the model's numbers are not finite, or there are
                no overviews of this stack.
        """
        key = summary_of(model, prompt, ablation, stack, sink)
        while True:
            known: HeadSummaries | None = self._memory.get(key)
            if known is not None:
                return known
            reading, is_new = self._reading(key)
            if is_new:
                self._read(
                    reading, model, prompt, ablation, stack, sink, position, progress, cancel
                )
            else:
                reading.wait(progress, cancel)
            found = reading.result()
            # Somebody else may have cancelled what is still wanted here.
            if found is not None and (found.stopped == "complete" or cancel.is_set()):
                return found

    def known(
        self,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        ablation: Ablation | None,
        stack: str,
    ) -> HeadSummaries | None:
        """Return the summaries of a stack's heads if they are remembered; nothing is run.

        Their thumbnails may be without the first token.
        """
        keys = (summary_of(model, prompt, ablation, stack, sink) for sink in SINKS)
        return next((found for key in keys if (found := self._memory.get(key)) is not None), None)

    def begin(
        self,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        ablation: Ablation | None,
        stack: str,
        position: int | None,
        even_if_cancelled: bool = False,
        sink: str = "show",
    ) -> None:
        """Have all heads read if they were not; return as soon as that has its turn.

        What goes wrong is said to who asks for the summaries.

        Args:
            even_if_cancelled: whether that is done also if it was cancelled before.
        """
        key = summary_of(model, prompt, ablation, stack, sink)
        was_cancelled = self._memory.get((key, "cancelled")) and not even_if_cancelled
        if was_cancelled or self._memory.get(key) is not None:
            return
        reading, is_new = self._reading(key)

        if is_new:
            nobody = threading.Event()
            asked = (reading, model, prompt, ablation, stack, sink, position, _ignore, nobody)
            threading.Thread(target=self._read, args=asked, daemon=True).start()
        wait_for(reading.begun)

    def _reading(self, key: Hashable) -> tuple[Reading, bool]:
        """Return the reading that goes on, or a new one, and whether it is new."""
        with self._lock:
            is_new = key not in self._readings
            return self._readings.setdefault(key, Reading()), is_new

    def _read(
        self,
        reading: Reading,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        ablation: Ablation | None,
        stack: str,
        sink: str,
        position: int | None,
        progress: Callable[[Progress], None],
        cancel: threading.Event,
    ) -> None:
        """Carry a reading out, and keep what it gives."""
        from ablation.summaries import summarise_heads  # torch comes with it

        def report(at: Progress) -> None:
            reading.report(at)
            progress(at)
            if cancel.is_set():
                reading.cancel.set()

        key = summary_of(model, prompt, ablation, stack, sink)
        found: HeadSummaries | UserError | None = None
        try:
            with self._runs.awaited(model, reading.standing):
                reading.begun.set()
                if cancel.is_set():
                    reading.cancel.set()
                found = summarise_heads(
                    model,
                    prompt,
                    ablation,
                    stack=stack,
                    side=thumbnail_side(
                        len(model.all_heads(stack)), model.stacks.named(stack).causal
                    ),
                    sink=sink,
                    position=_position(model, prompt, position),
                    top_k=TOP_TOKENS,
                    progress=report,
                    cancel=reading.cancel,
                )
                self._keep(key, model, prompt, found, ablation)
        except UserError as error:
            found = error
        finally:
            with self._lock:
                del self._readings[key]
            reading.end(found)

    def _keep(
        self,
        key: Hashable,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        found: HeadSummaries,
        ablation: Ablation | None,
    ) -> None:
        if found.prediction is None:
            self._memory.put((key, "cancelled"), True, 1)
            return
        self._memory.put(key, found, found.thumbnails.nbytes + found.values.nbytes)
        self._runs.keep(model, prompt, ablation, found.prediction)


def shows_overview(view: View) -> bool:
    return view.tab == "attention" and view.picture == "overview"


def _position(model: "LanguageModel", prompt: TokenizedPrompt, position: int | None) -> int:
    """Return where to predict; the last position where that is not possible."""
    try:
        return model.resolve_position(prompt, position)
    except UserError:  # said by the panel that shows the prediction
        return len(prompt) - 1


def named(progress: Progress) -> Progress:
    """Return where reading stands, with what is done."""
    return replace(progress, message=f"Reading all heads, {progress.message}")


def _ignore(progress: Progress) -> None:
    """Nobody looks yet."""


def summary_of(
    model: "LanguageModel",
    prompt: TokenizedPrompt,
    ablation: Ablation | None,
    stack: str,
    sink: str = "show",
) -> Hashable:
    """Return what tells one summary from another."""
    return (run_of(model, prompt, ablation), stack, sink)
