"""Residual streams that were read, kept while a person looks around in them.

Reading one takes as long as a forward pass; what is asked of it then takes moments.
"""

from typing import TYPE_CHECKING

from app.runs import Memory, Runs
from app.waits import Turn, step
from models.types import TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel
    from models.residual_stream import ResidualStream

MAX_BYTES = 256 * 2**20


class Streams:
    """Streams of the model that was asked last: they hold on to its weights."""

    def __init__(self, runs: Runs) -> None:
        """Args: runs: what its passes take turns with."""
        self._runs = runs
        self._model: LanguageModel | None = None
        self._memory = Memory(MAX_BYTES)
        self._turn = Turn()

    def get(self, model: "LanguageModel", prompt: TokenizedPrompt) -> "ResidualStream":
        """Return a prompt's stream, reading it if it is not known.

        Raises:
            UserError: the parts of this model cannot be told apart, or memory ran out.
        """
        with self._turn.taken():
            if self._model is not model:
                self._model, self._memory = model, Memory(MAX_BYTES)
            stream: ResidualStream | None = self._memory.get(prompt.content)
            if stream is None:
                stream = self._read(model, prompt)
                self._memory.put(prompt.content, stream, stream.n_bytes)
            return stream

    def _read(self, model: "LanguageModel", prompt: TokenizedPrompt) -> "ResidualStream":
        reader = model.residual  # which makes itself first by passes of a few tokens
        with self._runs.awaited(model), step("Reading what each part adds", len(model.sites)):
            return reader.read(prompt)
