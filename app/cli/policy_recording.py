"""`policy --recording` and `--record`: a policy along a recorded episode, and writing one."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from app.cli.question import read_heads
from app.cli.sweep import INTERRUPTED
from app.cli.terminal import Terminal, cancelled_by_interrupt, check_writable, write_bytes
from models.errors import ErrorKind, UserError
from models.recordings.folder import refuse_filled

if TYPE_CHECKING:
    from ablation.traces import Trace
    from ablation.types import Ablation
    from models.language_model import LanguageModel
    from models.recordings import Recording

MOST_ROWS = 40
"""Frames that the terminal gets; the rest is in --json."""


def check_film(options: Namespace) -> None:
    """Raise `UserError` for options that only make sense along a recording, or a film that cannot
    be written: better known before the work than after."""
    for option in ("watch", "film", "number", "camera"):
        if getattr(options, option) and options.recording is None:
            raise UserError(
                ErrorKind.OPTION, f"--{option} needs --recording; add it, or leave this out."
            )
    if options.record is not None and Path(options.record).is_dir():
        refuse_filled(Path(options.record))
    if options.film is None:
        return
    if Path(options.film).suffix.lower() not in (".gif", ".mp4"):
        raise UserError(
            ErrorKind.OPTION, f"--film writes .gif or .mp4, not {options.film!r}; name it so."
        )
    check_writable(options.film, "--film")


def follow(
    model: "LanguageModel",
    ablation: "Ablation | None",
    options: Namespace,
    terminal: Terminal,
) -> int:
    """Follow a recorded episode and print what the policy does at each frame."""
    from ablation.traces import trace, unmatched
    from models.recordings import open_recording

    recording = open_recording(options.recording, options.number)
    if options.camera:
        recording = recording.seen_by(options.camera)
    heads = () if options.watch is None else read_heads(model, options.watch)
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        found = trace(
            model, recording, ablation, heads, bos=options.bos, progress=progress, cancel=cancel
        )
    terminal.print(f"{model.name}: {recording.name}, {recording.instruction}")
    terminal.print(_actions(found))
    if len(recording) > MOST_ROWS:
        terminal.print(f"and {len(recording) - MOST_ROWS} frames more; --json has them all")
    if found.moved is not None and found.n_done:
        moved = found.moved[: found.n_done]
        most = f"most at {found.times[int(np.argmax(moved))]:.2f} s ({moved.max():.3g})"
        said = f"moved by {np.mean(moved):.3g} {found.unit} on average, {most}"
        terminal.print(said if moved.any() else "the ablation moves no action")
    if heads:
        terminal.print(_looks(found))
    if sentence := unmatched(found.space, recording):
        terminal.warn(sentence)
    terminal.write_json({**_about(model, recording), **found.to_json()})
    if options.film is not None and found.n_done:
        from app.films import recording_film

        kind = Path(options.film).suffix.lower().removeprefix(".")
        film = recording_film(recording, found, 0 if heads else None, kind)
        write_bytes(options.film, film, "--film")
    return INTERRUPTED if found.stopped == "cancelled" else 0


def _actions(trace: "Trace") -> Table:
    known = bool(np.isfinite(trace.recorded).any())
    columns = ["seconds", *(["done"] if known else []), "whole"]
    moved = trace.moved
    table = Table(*columns, *(["ablated", "moved"] if moved is not None else []))
    for i in range(min(trace.n_done, MOST_ROWS)):
        cells = [f"{trace.times[i]:.2f}", *([_said(trace, trace.recorded[i])] if known else [])]
        cells.append(_said(trace, trace.before[i]))
        if trace.after is not None and moved is not None:
            cells += [_said(trace, trace.after[i]), f"{moved[i]:.3g}"]
        table.add_row(*cells)
    return table


def _said(trace: "Trace", values: Any) -> str:
    """Say an action: quantities by their names, choices by what they are."""
    from ablation.traces import dimensions_of

    parts = []
    for dimension, value in zip(dimensions_of(trace.space), values, strict=True):
        if not np.isnan(value):
            said = dimension.said(float(value))
            parts.append(said if dimension.is_choice else f"{dimension.name} {said}")
    return ", ".join(parts)


def _looks(trace: "Trace") -> Table:
    """Return how much of each watched head's attention is on what, the mean over the frames."""
    table = Table("attention of", "picture", *trace.objects)
    for i, head in enumerate(trace.heads):
        means = [_mean(trace.on_image[i]), *(_mean(one) for one in trace.on_objects[i])]
        table.add_row(str(head), *means)
    return table


def _mean(values: Any) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():.0%}" if len(known) else "not told"


def record(
    model: "LanguageModel",
    ablation: "Ablation | None",
    options: Namespace,
    terminal: Terminal,
) -> int:
    """Let the policy of the table act from a scene on, and write the episode."""
    from models.recordings.folder import write_folder
    from models.tabletop.recording import FPS

    recording = played(model, options.image, ablation)
    write_folder(recording, Path(options.record), FPS)
    terminal.print(f"{recording.instruction}: {len(recording)} frames are in {options.record}")
    actions = [list(frame.action or ()) for frame in recording.frames]
    told = {"actions": list(recording.action_names), "done": actions}
    terminal.write_json({**_about(model, recording), "directory": options.record, **told})
    return 0


def _about(model: "LanguageModel", recording: "Recording") -> dict[str, Any]:
    return {
        "model": model.name,
        "recording": recording.name,
        "instruction": recording.instruction,
    }


def played(
    model: "LanguageModel", images: list[str] | None, ablation: "Ablation | None"
) -> "Recording":
    """Return the episode that begins in the scene that --image names.

    Raises:
        UserError: it names no scene, or the model is no policy of the table.
    """
    from ablation.closed_loop import run_episode
    from models.tabletop.recording import recording_of
    from models.tabletop.scenes import named_scene

    if images is None or len(images) != 1:
        raise UserError(
            ErrorKind.OPTION, "--record begins in one scene of the table; add --image tabletop:7."
        )
    [name] = images
    episode = run_episode(model, named_scene(name), ablation)
    return recording_of(episode.scenes, episode.actions, name)
