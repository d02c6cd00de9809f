"""Residual streams that were read, kept while a person looks around in them.

Reading one takes as long as a forward pass; what is asked of it then takes moments.
"""

import threading
from typing import TYPE_CHECKING

from app.runs import Memory
from models.types import TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel
    from models.residual_stream import ResidualStream

MAX_BYTES = 256 * 2**20


class Streams:
    """Streams of the model that was asked last: they hold on to its weights."""

    def __init__(self) -> None:
        self._model: LanguageModel | None = None
        self._memory = Memory(MAX_BYTES)
        self._lock = threading.Lock()

    def get(self, model: "LanguageModel", prompt: TokenizedPrompt) -> "ResidualStream":
        """Return a prompt's stream, reading it if it is not known.

        Raises:
            UserError: the parts of this model cannot be told apart, or memory ran out.
        """
        with self._lock:
            if self._model is not model:
                self._model, self._memory = model, Memory(MAX_BYTES)
            stream: ResidualStream | None = self._memory.get(prompt.content)
            if stream is None:
                stream = model.residual.read(prompt)
                self._memory.put(prompt.content, stream, stream.n_bytes)
            return stream
