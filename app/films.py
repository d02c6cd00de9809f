"""A recorded episode as a film: its pictures with what a head looks at over them, and what the
policy does at each moment, whole and ablated."""

from typing import Any

import numpy as np

from models.errors import ErrorKind, UserError
from models.recordings import Recording
from viz.film import Shot, action_lines, film, frames_a_second

MOST_SHOTS = 3000
"""A film is no longer, in frames; what comes after is left out."""


def recording_film(
    recording: Recording, trace: Any, watched: int | None = None, kind: str = "gif"
) -> bytes:
    """Return a recorded episode as a film, as far as a policy was traced along it.

    Args:
        trace: an `ablation.traces.Trace`.
        watched: which of its heads is drawn over the pictures; None for none.
        kind: as `viz.film.film`.

    Raises:
        UserError: no frame was followed, or a picture cannot be read.
    """
    if not trace.n_done:
        raise UserError(
            ErrorKind.RECORDING, "No frame was followed, so there is no film; follow it again."
        )
    strongest = 1.0
    if watched is not None:
        # One scale for all watched heads, so that one that hardly looks at the picture shows it.
        looks = [look.weights for look in trace.looks if look.weights.size]
        strongest = max((float(weights.max()) for weights in looks), default=1.0) or 1.0
    known = bool(np.isfinite(trace.recorded).any())

    def shot(i: int) -> Shot:
        actions = [("done", trace.recorded[i])] if known else []
        actions.append(("whole", trace.before[i]))
        if trace.after is not None:
            actions.append(("ablated", trace.after[i]))
        lines: tuple[str, ...] = (f"{trace.times[i]:.1f} s  {recording.told(i)}",)
        lines += action_lines(trace.space, actions)
        [picture, *_] = recording.pictures(i)
        if watched is None:
            return Shot(picture, lines)
        look = trace.looks[i]
        on_image = look.weights[watched].sum()
        said = f"{trace.heads[watched]}: {on_image:.0%} of its attention on the picture"
        return Shot(picture, (*lines, said), look.cells, look.weights[watched] / strongest)

    n = min(trace.n_done, MOST_SHOTS)
    return film(n, shot, frames_a_second(trace.times), kind)
