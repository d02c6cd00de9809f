"""Where a model lies on this machine, and turning what goes wrong with its files into sentences.

A name is a hub id, a directory or a GGUF file. Hub models are brought into the local cache first
(`models.hub`), so that everything is loaded from a local directory.
"""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.errors import ErrorKind, UserError
from models.hub import fetch_model

LONGEST_NAME = 1000
"""Characters of a name or path; more is a mistake, and would make messages unreadable."""

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""What prepares pictures for a model, in newer and in older checkpoints; what the first says counts
before what the second does."""

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model lies on this machine."""

    name: str
    """What the user called it, for messages."""
    directory: Path
    gguf_file: str | None = None
    """The file's name when the weights, configuration and tokenizer are in one GGUF file."""


def locate(name: str | Path, notify: Notify, label: str | None = None) -> Checkpoint:
    """Find a model on this machine, fetching it from the hub where needed.

    Raises:
        UserError: nothing of that name, or a path that holds no model or cannot be read.
    """
    text = str(name).strip()
    if not text or "\0" in text:
        raise UserError(
            ErrorKind.MODEL, "No model was named; give builtin, a hub id or a directory."
        )
    if len(text) > LONGEST_NAME:
        raise UserError(
            ErrorKind.MODEL, f"{text[:40]!r}… is too long to be the name of a model or a path."
        )
    try:
        path = Path(text).expanduser()
        is_directory, is_file = path.is_dir(), path.is_file()
        if is_directory:
            os.listdir(path)  # a directory that may not be listed is reported as such
    except RuntimeError:  # a home directory that cannot be found
        raise _no_such_path(text) from None
    except OSError as error:
        raise unreadable(text, error) from error
    if is_directory:
        return _check_directory(Checkpoint(label or text, path))
    if is_file:
        return _check_file(text, path)
    if isinstance(name, Path) or _looks_like_path(text):
        raise _no_such_path(text)
    return Checkpoint(text, fetch_model(text, notify))


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~", "\\")) or text.endswith(".gguf") or text.count("/") > 1


def _check_directory(checkpoint: Checkpoint) -> Checkpoint:
    if (checkpoint.directory / "config.json").exists():
        return checkpoint
    names = sorted(entry.name for entry in checkpoint.directory.glob("*.gguf"))
    hint = f"; to load a GGUF file, name it: {checkpoint.directory / names[0]}" if names else ""
    raise UserError(
        ErrorKind.MODEL,
        f"The directory {checkpoint.name!r} holds no model: it has no config.json{hint}.",
    )


def _check_file(text: str, path: Path) -> Checkpoint:
    if path.suffix.lower() != ".gguf":
        raise UserError(
            ErrorKind.MODEL,
            f"{text!r} is a file; give a .gguf file or the directory that holds config.json.",
        )
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise unreadable(text, error) from error
    if magic != b"GGUF":
        raise UserError(ErrorKind.MODEL, f"{text!r} is not a GGUF file; its content is damaged.")
    return Checkpoint(text, path.parent, path.name)


def _no_such_path(text: str) -> UserError:
    return UserError(
        ErrorKind.MODEL, f"There is no directory or file {text!r}; check the path of the model."
    )


def unreadable(text: str, error: OSError) -> UserError:
    reason = os.strerror(error.errno) if error.errno else "it cannot be read"
    return UserError(ErrorKind.MODEL, f"{text!r} cannot be read as a model: {reason}.")


@contextmanager
def failing_as(name: str, what: str) -> Iterator[None]:
    """Turn whatever a library raises about a user's files into one sentence."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(name) from error
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: {what}; a weight file is damaged, cut short, or holds more than plain "
            f"tensors ({_reason(error)}).",
        ) from error
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        StrictDataclassError,
        TypeError,
        ValueError,
    ) as error:
        if "allocate memory" in str(error) or "out of memory" in str(error):
            raise _out_of_memory(name) from error
        raise UserError(ErrorKind.MODEL, f"{name}: {what} ({_reason(error)}).") from error


def _out_of_memory(name: str) -> UserError:
    return UserError(
        ErrorKind.DEVICE,
        f"There is not enough memory to load {name}; close other programs, choose a smaller model, "
        "or load it with --dtype bfloat16.",
    )


def _reason(error: BaseException, longest: int = 200) -> str:
    """The first line of a library's message, without its full stop."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else type(error).__name__
    return text if len(text) <= longest else text[: longest - 1] + "…"


def processor_settings(directory: Path, name: str) -> dict[str, Any]:
    """Return what a checkpoint's files say of its processor.

    Raises:
        UserError: a file is damaged.
    """
    found: dict[str, Any] = {}
    for file in reversed(PROCESSOR_FILES):
        try:
            found |= json.loads((directory / file).read_text("utf-8"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unreadable(str(directory / file), error) from error
        except (ValueError, TypeError) as error:
            raise UserError(
                ErrorKind.MODEL, f"{name}: {file} is damaged, it is no JSON of named settings."
            ) from error
    return found
