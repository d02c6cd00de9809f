"""Load a model, run it, read its attention, apply edits. Knows torch and transformers.

The names of the Python contract are re-exported lazily, so that a room which needs only the
values (`viz`) does not pull in torch.
"""

from typing import TYPE_CHECKING, Any

from models.errors import ErrorKind, UserError
from models.types import AttentionMaps, Head, Prediction, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel
    from models.registry import load_model

__all__ = [
    "AttentionMaps",
    "ErrorKind",
    "Head",
    "LanguageModel",
    "Prediction",
    "TokenizedPrompt",
    "UserError",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name == "load_model":
        from models.registry import load_model

        return load_model
    if name == "LanguageModel":
        from models.language_model import LanguageModel

        return LanguageModel
    raise AttributeError(f"module 'models' has no attribute {name!r}")
