"""Results kept on disk, so that they need not be computed again.

One that cannot be read whole counts as not there, and one that cannot be written is simply not
kept: nothing but time depends on these files.
"""

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.builtin import cache_directory


def key_of(*parts: Any) -> str:
    """Return the key of a result that depends on these parts, which are plain data."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load_kept(kind: str, key: str) -> Any:
    """Return the data kept under a key, or None: never kept, damaged, or half written."""
    try:
        digest, _, text = _place(kind, key).read_text("utf-8").partition("\n")
        return json.loads(text) if digest == _digest(text) else None
    except (OSError, ValueError):
        return None


def keep(kind: str, key: str, data: Any) -> None:
    """Keep plain data under a key, in the place of what was there."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    with suppress(OSError):
        _write(_place(kind, key), f"{_digest(text)}\n{text}")


def _place(kind: str, key: str) -> Path:
    return cache_directory() / kind / f"{key}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    """Write a file beside its place and move it there: others see all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix="tmp-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
