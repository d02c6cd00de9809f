"""What the command line writes: tables on stdout, progress on stderr, JSON where asked."""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from ablation.types import Progress
from models.errors import ErrorKind, UserError

QUIET_SECONDS = 10.0
"""Where stderr is no terminal, a sentence of progress appears at most this often, so that what
is quick says nothing there."""


class _Pipe(Console):
    """A console that leaves it to the edge what a reader that went away means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Terminal:
    """Where one command writes to."""

    def __init__(self, json_target: str | None = None) -> None:
        """Prepare to write.

        Args:
            json_target: a file, "-" for stdout (which then gets nothing else), or None.

        Raises:
            UserError: the file cannot be written; better known before the work than after.
        """
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        self._out = _Pipe(file=sys.stdout, quiet=json_target == "-", **plain)
        self._err = Console(file=sys.stderr, stderr=True, **plain)
        self._drawing = False
        self._json_target = json_target
        if json_target not in (None, "-"):
            check_writable(str(json_target), "--json")

    @property
    def width(self) -> int:
        """Columns of stdout."""
        return self._out.width

    def print(self, what: RenderableType = "") -> None:
        """Write to stdout, unless that is for JSON.

        Raises:
            UserError: stdout cannot be written.
        """
        # Above a bar that is being drawn on the same terminal, not into it.
        above_bar = self._drawing and self._out.is_terminal and not self._out.quiet
        with _writing_stdout():
            (self._err if above_bar else self._out).print(what)

    def warn(self, sentence: str) -> None:
        self._err.print(sentence, soft_wrap=True)

    def write_json(self, data: Mapping[str, Any]) -> None:
        """Write the result where `--json` asked for it.

        Raises:
            UserError: the file cannot be written.
        """
        if self._json_target is None:
            return
        text = json.dumps(_strict(data), ensure_ascii=False, allow_nan=False) + "\n"
        if self._json_target == "-":
            with _writing_stdout():
                sys.stdout.write(text)
                sys.stdout.flush()
            return
        write_text(self._json_target, text, "--json")

    @contextmanager
    def sentences(self, pause: float = QUIET_SECONDS) -> Iterator[Callable[[str], None]]:
        """Give a callback for sentences of progress, each shown in the place of the last.

        Args:
            pause: where stderr is no terminal, the least seconds between two of them.
        """
        if not self._err.is_terminal:
            yield _Rarely(self.warn, pause)
            return
        self._drawing = True
        try:
            with self._err.status("Starting") as status:
                yield lambda sentence: status.update(Text(sentence))
        finally:
            self._drawing = False

    @contextmanager
    def bar(self) -> Iterator[Callable[[Progress], None]]:
        """Give a callback that shows where long work stands."""
        if not self._err.is_terminal:
            say = _Rarely(self.warn, QUIET_SECONDS)
            yield lambda at: say(_with_total(at))
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn())
        bars = Bars(
            *columns,
            TimeRemainingColumn(),
            console=self._err,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._drawing = True
        try:
            with bars:
                task = bars.add_task("Starting", total=None)
                yield lambda at: bars.update(
                    task, description=at.message, completed=at.done, total=at.total
                )
        finally:
            self._drawing = False


def _with_total(at: Progress) -> str:
    """Return where work stands in words: of one step, and of all of it where that is more."""
    total = f"{at.done} of {at.total}"
    return at.message if at.message.startswith(total) else f"{at.message} ({total})"


class _Rarely:
    """Passes a sentence on if none was passed on for a while."""

    def __init__(self, say: Callable[[str], None], pause: float) -> None:
        self._say, self._pause = say, pause
        self._last = time.monotonic()

    def __call__(self, sentence: str) -> None:
        now = time.monotonic()
        if now - self._last >= self._pause:
            self._last = now
            self._say(sentence)


@contextmanager
def cancelled_by_interrupt() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C sets, once; the second Ctrl-C interrupts as usual."""
    cancel = threading.Event()

    def handle(number: int, frame: Any) -> None:
        cancel.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)


def visible(text: str) -> str:
    """Make control characters visible, so that a token cannot steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def _writing_stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise UserError(
            ErrorKind.OPTION,
            f"standard output cannot be written: {os.strerror(error.errno or 0)}.",
        ) from error


def discard_stdout() -> None:
    """Send what is still unwritten nowhere: Python would try once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _strict(value: Any) -> Any:
    """Replace numbers that JSON does not have by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


def check_writable(target: str, option: str) -> None:
    """Raise `UserError` if a file cannot be written, without touching what is in it."""
    path = Path(target)
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise _cannot_write(target, option, error) from error


def write_text(target: str, text: str, option: str) -> None:
    """Write a file that an option names; raise `UserError` if that cannot be done."""
    try:
        Path(target).write_text(text, "utf-8")
    except OSError as error:
        raise _cannot_write(target, option, error) from error


def write_bytes(target: str, content: bytes, option: str) -> None:
    """Write a file that an option names; raise `UserError` if that cannot be done."""
    try:
        Path(target).write_bytes(content)
    except OSError as error:
        raise _cannot_write(target, option, error) from error


def _cannot_write(target: str, option: str, error: OSError) -> UserError:
    return UserError(
        ErrorKind.OPTION,
        f"The file {target!r} cannot be written ({os.strerror(error.errno or 0)}); give {option} "
        "another one.",
    )
