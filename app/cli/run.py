"""Run one command, and turn whatever goes wrong into one line and an exit status."""

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import import_module

from app.cli.parser import build_parser, with_command
from app.cli.threads import let_waiting_threads_sleep

DEBUG_VARIABLE = "ATTENTION_VISUALIZER_DEBUG"
"""Environment variable: "1" shows the traceback of an internal error."""

WRONG_INPUT = 2
INTERNAL_ERROR = 1
INTERRUPTED = 130
READER_GONE = 141
"""Exit statuses. The last two are those of a program ended by SIGINT and SIGPIPE."""


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    _prepare_streams()
    let_waiting_threads_sleep()
    try:
        options = build_parser().parse_args(with_command(arguments))
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    try:
        return _run_command(options)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C.", INTERRUPTED)


def _run_command(options: Namespace) -> int:
    # Imported here: `--help` needs none of it.
    from app.cli.terminal import Terminal, discard_stdout
    from models.errors import UserError

    try:
        terminal = Terminal(getattr(options, "json", None))
        command: Callable[[Namespace, Terminal], int]
        command = import_module(f"app.cli.{options.command}").run
        return command(options, terminal)
    except UserError as error:
        return _fail(f"error: {error}", WRONG_INPUT)
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        discard_stdout()
        return READER_GONE
    except Exception as error:  # noqa: BLE001 - the edge: anything else is a defect of this program
        return _fail(_internal_error(error), INTERNAL_ERROR)


def _fail(sentence: str, status: int) -> int:
    print(" ".join(sentence.split()), file=sys.stderr)  # noqa: T201 - stderr is for this
    return status


def _internal_error(error: Exception) -> str:
    """Write the traceback to the log (or show it, if asked) and say where it is."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get(DEBUG_VARIABLE) == "1":
        print(text, file=sys.stderr)  # noqa: T201
    from models.builtin import cache_directory

    summary = f"internal error ({type(error).__name__})"
    log = cache_directory() / "error.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')}\n{text}\n")
    except OSError:
        return f"{summary}; set {DEBUG_VARIABLE}=1 to see the traceback."
    return f"{summary}; the traceback is in {log}."


def _prepare_streams() -> None:
    """Make sure that writing cannot fail for want of a stream or of a character."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`)
            nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
            setattr(sys, name, nowhere)
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
