"""The ablation study by position: where in the prompt the chosen heads matter."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from dash import Dash, Input, Output, State, html, no_update, set_props

import ablation
from ablation.metrics import METRICS, metric_named
from ablation.types import PositionScores, Progress
from app import ids, words
from app.panels.pieces import browser, graph
from app.services import Services, build_intervention
from app.view import View
from models.errors import ErrorKind, UserError
from models.types import ENCODER, EXPERT, TEXT, VISION, TokenizedPrompt
from viz.positions import map_width, most_heads, position_map_figure

if TYPE_CHECKING:
    from models.language_model import LanguageModel

NO_HEADS = (
    "Choose heads on the left first: each becomes a row of the map, each token of the prompt a "
    "column."
)
"""What the empty study says while no heads are chosen."""
READY = (
    "Run the study to see where in the prompt the chosen heads matter. Each is ablated at one "
    "position at a time, with the intervention on the left."
)
MAP_HEIGHT = 240


def layout() -> html.Div:
    """Return the place of the result."""
    return html.Div(
        [
            html.Div(
                html.P(NO_HEADS, id=ids.BY_POSITION_HINT),
                id=ids.BY_POSITION_EMPTY,
                className="empty",
            ),
            html.Div(
                [
                    html.P(id=ids.BY_POSITION_CAPTION, className="caption"),
                    html.Div(
                        graph(
                            ids.BY_POSITION_MAP,
                            "Heads by positions map of the study's metric; a click on a cell "
                            "opens its token",
                            MAP_HEIGHT,
                        ),
                        id=ids.BY_POSITION_FRAME,
                    ),
                ],
                id=ids.BY_POSITION_BODY,
                hidden=True,
            ),
        ],
        id=ids.BY_POSITION_RESULT,
        hidden=True,
    )


def run(
    model: "LanguageModel",
    prompt: TokenizedPrompt,
    view: View,
    report: Callable[[Progress], None],
    cancel: threading.Event,
) -> PositionScores:
    """Do the study that a view asks for. The positions acted on play no part: each has its turn.

    Raises:
        UserError: no heads are chosen, or more than a map can show, or a choice does not fit.
    """
    heads = view.heads or ()
    if not heads:
        raise UserError(
            ErrorKind.HEADS,
            "No heads are chosen to be studied by position; choose some here first.",
        )
    n_positions = len(model.axes_of(prompt, heads).queries)
    if len(heads) > (most := most_heads(n_positions)):
        raise UserError(
            ErrorKind.HEADS,
            f"{len(heads):,} heads at {n_positions:,} positions are too many for one map; choose "
            f"at most {most:,} heads, or shorten the prompt.",
        )
    # How far an action moves is asked for of heads alone.
    metric = view.metric if view.metric in METRICS else "kl"
    return ablation.sweep_positions(
        model,
        prompt,
        heads,
        build_intervention(view.intervention),
        metric,
        view.position,
        target=view.target if metric_named(metric).info.needs_target else None,
        progress=report,
        cancel=cancel,
    )


ELSEWHERE = {
    ENCODER: "after position {} of the decoder text, these being the source's",
    TEXT: "from the picture, these being positions of the texts",
    VISION: "after position {} of the prompt, these being the vision tower's",
    EXPERT: "from the actions, these being the action expert's own positions",
}
"""Stack -> where the prediction is read, if not at one of the positions that are shown."""


def caption(scores: PositionScores, kept: dict[str, Any]) -> str:
    """Say what the numbers are of."""
    n_heads, n_positions = scores.values.shape
    done = int((~np.isnan(scores.values)).sum())
    extent = f"{words.count(n_heads, 'head')} × {words.count(n_positions, 'position')}"
    if scores.stopped == "cancelled":
        extent = f"Cancelled after {done:,} of {words.count(scores.values.size, 'cell')}"
    position = scores.baseline.position
    read = f"at position {position}, which is framed"
    if not scores.read_here:
        read = ELSEWHERE[scores.heads[0].stack].format(position)
    unused = " The positions on the left play no part here." if kept["acted"].strip() else ""
    return (
        f"{extent}, each head ablated at one position at a time ({kept['intervention']}); the "
        f"prediction is read {read}.{unused} "
        f"{'Click a cell for its token.' if scores.read_here else ''}"
    ).rstrip()


def show(scores: PositionScores, dark: bool) -> None:
    """Put the map, finished or not, on the page from within a callback."""
    set_props(ids.BY_POSITION_MAP, {"figure": position_map_figure(scores, dark=dark)})
    set_props(ids.BY_POSITION_FRAME, {"style": frame(scores)})
    set_props(ids.BY_POSITION_CAPTION, {"children": ""})
    set_props(ids.BY_POSITION_EMPTY, {"hidden": True})
    set_props(ids.BY_POSITION_BODY, {"hidden": False})


def frame(scores: PositionScores) -> dict[str, str]:
    """Return the style of what holds the map: as wide as there is room, but not wider than need."""
    return {"maxWidth": f"{map_width(scores)}px"}


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that draw the map and open the token of a cell; `study_run` runs it."""

    @app.callback(
        Output(ids.BY_POSITION_MAP, "figure"),
        Output(ids.BY_POSITION_FRAME, "style"),
        Output(ids.BY_POSITION_CAPTION, "children"),
        Output(ids.BY_POSITION_EMPTY, "hidden"),
        Output(ids.BY_POSITION_BODY, "hidden"),
        Input(ids.BY_POSITION, "data"),
        Input(ids.DARK, "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    def draw(kept: dict[str, Any] | None, dark: bool, data: dict[str, Any]) -> tuple[Any, ...]:
        scores = services.results.get(kept["key"]) if kept else None
        if kept is None or scores is None or kept["model"] != data["model"]:
            return no_update, no_update, "", False, True
        figure = position_map_figure(scores, dark=bool(dark))
        return figure, frame(scores), caption(scores, kept), True, False

    app.clientside_callback(
        browser("hintByPosition"),
        Output(ids.BY_POSITION_HINT, "children"),
        Output(ids.HEADS_TEXT, "error", allow_duplicate=True),
        Input(ids.HEADS, "value"),
        State(ids.LIMITS, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("openColumn"),
        Output(ids.TOKEN_OPEN, "data", allow_duplicate=True),
        Input(ids.BY_POSITION_MAP, "clickData"),
        State(ids.BY_POSITION, "data"),
        State(ids.PROMPT, "data"),
        State(ids.SECOND, "data"),
        State(ids.IMAGES, "data"),
        prevent_initial_call=True,
    )
