"""A policy along a recorded episode: what it would do at each frame, whole and with heads ablated,
beside what was done, and what chosen heads look at meanwhile.

Open loop: at each frame the policy sees what was recorded, whatever it answered before. So frames
are independent, and a difference at one is the ablation's own.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ablation.actions import act, compare_actions, space_of
from ablation.chunk_actions import act_chunk, compare_chunks
from ablation.evaluation import Cancelled, stop_if
from ablation.types import Ablation, Progress
from models.actions import ActionDimension, ActionSpace
from models.chunks import ChunkDimension, ChunkSpace
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.picture import Cell
from models.recordings import Recording
from models.recordings.types import cells_showing
from models.robot import read_state
from models.types import POLICY, VISION, FloatArray, Head, RobotInput, TokenizedPrompt


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """Where heads look on a frame's pictures."""

    cells: tuple[Cell | None, ...]
    """Of each position that shows a part of a picture; empty where that is not known."""
    weights: FloatArray
    """float32 [n_heads, n_cells]"""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A policy along an episode. Frames that were not reached before a cancel are NaN."""

    space: ActionSpace | ChunkSpace
    times: FloatArray
    """float64 [n_frames], seconds."""
    recorded: FloatArray
    """float64 [n_frames, n_dimensions]: what was done; NaN where it was not recorded under the name
    of a dimension."""
    before: FloatArray
    """float64 [n_frames, n_dimensions]: what the whole policy answers; of a chunk the first
    action."""
    after: FloatArray | None
    """The same with heads ablated, if any are."""
    kl: FloatArray | None
    """float64 [n_frames, n_dimensions], nats: whole against ablated, of each dimension's tokens;
    None too where actions are no tokens."""
    moved: FloatArray | None
    """float64 [n_frames]: how far the ablated policy's action is from the whole one's, in `unit`;
    of a policy that answers with a chunk, how far all of that is."""
    unit: str
    """"parts of reach" (`ablation.actions`), or a `ChunkSpace`'s."""
    ablation: Ablation | None
    """What `after` is without."""
    heads: tuple[Head, ...]
    """Those that are watched."""
    on_image: FloatArray
    """float64 [n_heads, n_frames]: the part of a head's attention, from the position whose answer
    is read, that is on the picture; NaN where it is not known which positions show that."""
    on_objects: FloatArray
    """float64 [n_heads, n_objects, n_frames]: the part that is on the cells that show each thing
    (`cells_showing`); NaN where it is not told where the thing is."""
    objects: tuple[str, ...]
    looks: tuple[Look, ...]
    """Of each frame that was reached, where heads are watched."""
    stopped: str
    """"complete" or "cancelled"."""

    @property
    def n_done(self) -> int:
        return int(np.isfinite(self.before[:, 0]).sum())

    @property
    def n_bytes(self) -> int:
        """Memory that it takes, nearly, in bytes."""
        return sum(look.weights.nbytes for look in self.looks) + 8 * self.before.size * 4

    def to_json(self) -> dict[str, Any]:
        names = [dimension.name for dimension in dimensions_of(self.space)]
        moved = self.moved

        def listed(values: FloatArray) -> list[Any]:
            return [None if np.isnan(value) else float(value) for value in values]

        def by_name(values: FloatArray | None) -> dict[str, list[Any]] | None:
            if values is None:
                return None
            return {name: listed(values[:, i]) for i, name in enumerate(names)}

        return {
            "ablated": None if self.ablation is None else _named(self.ablation),
            "times": listed(self.times),
            "recorded": by_name(self.recorded),
            "before": by_name(self.before),
            "after": by_name(self.after),
            "kl": by_name(self.kl),
            "moved": None if moved is None else listed(moved),
            "attention": [
                {
                    "head": head.to_json(),
                    "image": listed(self.on_image[i]),
                    "objects": {
                        name: listed(self.on_objects[i, k]) for k, name in enumerate(self.objects)
                    },
                }
                for i, head in enumerate(self.heads)
            ],
            "stopped": self.stopped,
        }


def _named(ablation: Ablation) -> dict[str, Any]:
    places = ablation.positions
    return {
        "heads": [head.to_json() for head in ablation.heads],
        "intervention": ablation.intervention.spec,
        "positions": None if places is None else list(places),
    }


def frame_prompt(
    model: LanguageModel, recording: Recording, index: int, bos: bool | None = None
) -> TokenizedPrompt:
    """Return what a policy is told at a frame of a recording.

    Args:
        bos: whether a beginning-of-sequence token stands in front; None leaves it to the tokenizer.

    Raises:
        UserError: the model is no policy or reads no pictures, the frame's pictures cannot be read,
            or the recording's state does not fit.
    """
    told, robot = frame_told(model, recording, index)
    pictures = recording.pictures(index)
    try:
        return model.tokenize(told, bos, pictures=pictures, robot=robot)
    except UserError as error:
        if len(pictures) < 2:
            raise
        raise UserError(
            error.kind,
            f"With the pictures of {len(pictures)} cameras ({', '.join(recording.cameras)}) the "
            f"policy says: {error} Choose the cameras that it was trained with.",
        ) from error


def frame_told(
    model: LanguageModel, recording: Recording, index: int
) -> tuple[str, RobotInput | None]:
    """Return the text that a policy is told at a frame of a recording, and what it is told of the
    robot in numbers, if it is.

    Raises:
        UserError: the model is no policy, or the recording's state does not fit.
    """
    instruction, state = recording.told(index), recording.frames[index].state
    if model.kind != POLICY:
        return space_of(model).told(instruction, state), None
    numbers = read_state(state) if isinstance(state, str) else tuple(state or ())
    return instruction, RobotInput(numbers)


def refuse_numbers(ablation: Ablation | None) -> None:
    """Refuse positions by number: they mean another thing where a prompt has another length."""
    places = () if ablation is None else ablation.positions or ()
    if any(isinstance(place, int) for place in places):
        raise UserError(
            ErrorKind.POSITION,
            "Along a recording positions are named by words (image, text, state), as numbers mean "
            "other things in other frames; name them so, or take all positions.",
        )


def dimensions_of(
    space: ActionSpace | ChunkSpace,
) -> tuple[ActionDimension | ChunkDimension, ...]:
    """Return the numbers of an action."""
    return space.dimensions


def unmatched(space: ActionSpace | ChunkSpace, recording: Recording) -> str:
    """Say so where a recording's actions have none of a policy's names; nothing otherwise."""
    names = [dimension.name for dimension in dimensions_of(space)]
    if not recording.action_names or set(names) & set(recording.action_names):
        return ""
    return (
        f"The recorded actions ({', '.join(recording.action_names)}) have none of the policy's "
        f"names ({', '.join(names)}), so what was done is not drawn."
    )


def trace(
    model: LanguageModel,
    recording: Recording,
    ablation: Ablation | None = None,
    heads: Sequence[Head] = (),
    *,
    bos: bool | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Trace:
    """Ask a policy at each frame of a recording.

    Args:
        ablation: also ask with these heads ablated.
        heads: those of the language model, or of an action expert, whose attention is watched,
            without the ablation.
        bos: as `frame_prompt`.

    Returns:
        The trace; cut short after `cancel` was set.

    Raises:
        UserError: as `frame_prompt`, the ablation does not fit, or a watched head is the vision
            tower's, which no answer is read from.
    """
    space = model.chunk or space_of(model)
    watched = model.check_heads(heads)
    if any(head.stack == VISION for head in watched):
        raise _not_answering("vision")
    refuse_numbers(ablation)
    n, d, things = len(recording), len(space.dimensions), recording.object_names
    before, after, kl = (np.full((n, d), np.nan) for _ in range(3))
    moved = np.full(n, np.nan)
    on_image = np.full((len(watched), n), np.nan)
    on_objects = np.full((len(watched), len(things), n), np.nan)
    looks: list[Look] = []
    stopped = "complete"
    for i in range(n):
        try:
            stop_if(cancel)
        except Cancelled:
            stopped = "cancelled"
            break
        prompt = frame_prompt(model, recording, i, bos)
        before[i], after[i], kl[i], moved[i] = _answer(model, prompt, ablation)
        if watched:
            look = _look(model, prompt, watched)
            if looks and looks[-1].cells == look.cells:  # kept once
                look = replace(look, cells=looks[-1].cells)
            looks.append(look)
            if looks[-1].weights.shape[1]:  # else nobody knows what shows the pictures
                on_image[:, i] = looks[-1].weights.sum(axis=1)
            boxes = recording.frames[i].objects if looks[-1].cells else {}
            for k, name in enumerate(things):
                if name in boxes:
                    shown = cells_showing(looks[-1].cells, boxes[name])
                    on_objects[:, k, i] = looks[-1].weights[:, shown].sum(axis=1)
        if progress is not None:
            progress(Progress(i + 1, n, f"{i + 1} of {n} frames", None))
    ablates = ablation is not None
    return Trace(
        space,
        np.array([frame.time for frame in recording.frames]),
        _recorded(space, recording),
        before,
        after if ablates else None,
        kl if ablates and model.chunk is None else None,
        moved if ablates else None,
        "parts of reach" if model.chunk is None else model.chunk.unit,
        ablation,
        watched,
        on_image,
        on_objects,
        things,
        tuple(looks),
        stopped,
    )


def _answer(
    model: LanguageModel, prompt: TokenizedPrompt, ablation: Ablation | None
) -> tuple[Any, Any, Any, float]:
    """Return a policy's action whole and ablated, the divergences, and how far it is moved; NaN for
    what is not asked, or is not known of such a policy."""
    nothing = float("nan")
    if model.chunk is not None:
        if ablation is None:
            return act_chunk(model, prompt).values[0, 0], nothing, nothing, nothing
        chunk = compare_chunks(model, prompt, ablation)
        return chunk.before.values[0, 0], chunk.after.values[0, 0], nothing, chunk.moved
    if ablation is None:
        return act(model, prompt).values, nothing, nothing, nothing
    change = compare_actions(model, prompt, ablation)
    return change.before.values, change.after.values, change.kl, change.l2


def _not_answering(label: str) -> UserError:
    return UserError(
        ErrorKind.HEADS,
        "Along an episode the attention of the position that answers is watched, which the heads "
        f"of the {label} stack do not have; choose heads of another one.",
    )


def _look(model: LanguageModel, prompt: TokenizedPrompt, heads: Sequence[Head]) -> Look:
    """Return where heads look on the pictures from the position that answers: the last one, or of
    an action expert the first action, whose number is the one that is done next; NaN for heads
    that look at no parts of the pictures, or others than the prompt's."""
    at = [i for i, kind in enumerate(prompt.kinds) if kind == "image"]
    cells = () if prompt.cells is None else tuple(prompt.cells[i] for i in at)
    weights = np.zeros((len(heads), len(at)), dtype=np.float32)
    for stack in dict.fromkeys(head.stack for head in heads):
        places = [i for i, head in enumerate(heads) if head.stack == stack]
        members = [heads[i] for i in places]
        axes = model.axes_of(prompt, members)
        first = [i for i, kind in enumerate(axes.queries.kinds) if kind == "action"][:1]
        if stack and not first:
            raise _not_answering(model.stacks.named(stack).label)
        rows = model.attention(prompt, members, queries=first or [-1]).values[:, 0]
        shown = [i for i, kind in enumerate(axes.keys.kinds) if kind == "image"]
        if [axes.keys.labels[i] for i in shown] == [prompt.labels[i] for i in at]:
            weights[places] = rows[:, shown]
        else:  # other parts of the pictures than the prompt's, or none
            weights[places] = np.nan
    return Look(cells, weights)


def _recorded(space: ActionSpace | ChunkSpace, recording: Recording) -> FloatArray:
    """Return the recorded actions by the policy's dimensions, found by their names."""
    found = np.full((len(recording), len(space.dimensions)), np.nan)
    places = {name: i for i, name in enumerate(recording.action_names)}
    for k, dimension in enumerate(dimensions_of(space)):
        if dimension.name not in places:
            continue
        for i, frame in enumerate(recording.frames):
            if frame.action is not None:
                found[i, k] = frame.action[places[dimension.name]]
    return found
