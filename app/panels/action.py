"""What a policy does: its action, and what is left of it while heads are ablated."""

import base64
from collections.abc import Sequence
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from app import ids, words
from app.panels.pieces import graph
from app.panels.wait_strip import awaiting
from app.services import Services, ablation_of, acted_of
from app.view import View
from app.waits import step
from models.errors import UserError
from models.types import POLICY
from viz.actions import ActionRow, action_rows, flips_said, motion_svg
from viz.chunks import ChunkRow

PICTURE_WIDTH = 150
CURVES_WIDTH, CURVES_HEIGHT = 296, 240  # px


def layout() -> html.Section:
    """Return the panel; it shows for models that say which of their tokens are actions, and for
    those that answer with numbers."""
    return html.Section(
        [
            html.Div(html.H2("Action", className="section-title"), className="section-head"),
            html.Div(id=ids.ACTION_BODY, **{"aria-live": "polite"}),
            html.Div(
                graph(ids.ACTION_CURVES, "The chunk of actions, a curve each", CURVES_HEIGHT),
                id=ids.ACTION_CURVES_PLACE,
                hidden=True,
            ),
            dcc.Store(id=ids.ACTED),
        ],
        id=ids.ACTION_PANEL,
        className="section",
        hidden=True,
    )


def table(rows: list[ActionRow]) -> html.Table:
    """Return the action in numbers, a dimension a row."""
    compared = any(row.after for row in rows)
    heads = ("", "before", "after", "KL nats") if compared else ("", "", "prob.")
    return _numbers(
        heads,
        [
            _row(
                row.name,
                (row.before, row.after, row.kl) if row.after else (row.before, row.confidence),
                row.changed,
            )
            for row in rows
        ],
    )


def chunk_table(rows: list[ChunkRow], n_steps: int) -> html.Table:
    """Return a chunk of actions in numbers, a dimension a row."""
    compared = any(row.after for row in rows)
    heads = ("", "first", "mean", "last") if n_steps > 1 else ("", "value")
    if compared:
        heads = ("", "mean" if n_steps > 1 else "whole", "ablated", "change")
    return _numbers(
        heads,
        [
            _row(
                row.name,
                (row.mean, row.after, row.change)
                if row.after
                else (row.first, row.mean, row.last)[: len(heads) - 1],
                row.flips,
            )
            for row in rows
        ],
    )


def _numbers(heads: Sequence[str], rows: list[html.Tr]) -> html.Table:
    head = html.Thead(html.Tr([html.Th(name) for name in heads]))
    return html.Table([head, html.Tbody(rows)], className="numbers")


def _row(name: str, cells: Sequence[str], changed: bool) -> html.Tr:
    return html.Tr(
        [html.Th(name, scope="row"), *(html.Td(cell, className="figure") for cell in cells)],
        className="action changed" if changed else "action",
    )


def body(services: Services, view: View) -> list[Any]:
    """Return what the panel says of a view.

    Raises:
        UserError: the prompt cannot be used.
    """
    from ablation.actions import act, compare_actions

    model = services.model(view.model)
    prompt = services.prompt(view, model)
    ablation, problem = ablation_of(view, prompt)
    with services.runs.awaited(model), step("Asking for the action", len(model.sites)):
        change = None
        try:
            change = None if ablation is None else compare_actions(model, prompt, ablation)
        except UserError as error:
            problem = error
        before = act(model, prompt) if change is None else change.before
    parts: list[Any] = [table(action_rows(before, change))]
    if change is not None:
        said = f"moved by {change.l2:.3g} of its reach"
        parts.append(html.P("; ".join([said, *flips_said(change)]) + ".", className="caption"))
    elif problem is not None:
        parts.append(html.P(str(problem), className="caption"))
    pictured = _motion(before, change, prompt)
    shown = [html.Div(parts)] if pictured is None else [pictured, html.Div(parts)]
    return [html.Div(shown, className="action-body")]


def _motion(before: Any, change: Any, prompt: Any) -> html.Img | None:
    """Return the motion on the picture, for policies that say where and how they move."""
    origin = before.space.origin(prompt)
    axes = {dimension.axis: i for i, dimension in enumerate(before.space.dimensions)}
    if origin is None or not prompt.pictures or not {"x", "y"} <= axes.keys():
        return None
    actions = [before] if change is None else [before, change.after]
    moves = [(float(a.values[axes["x"]]), float(a.values[axes["y"]])) for a in actions]
    picture = prompt.pictures[0]
    size = (picture.width, picture.height)
    svg = motion_svg(picture.png(), size, origin, moves, width=PICTURE_WIDTH)
    alt = "The motion on the picture" + (", before and after" if change is not None else "")
    return html.Img(src=svg_url(svg), alt=alt, width=PICTURE_WIDTH)


def svg_url(svg: str) -> str:
    """Return SVG as what an image is made from."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def chunk_body(services: Services, view: View, dark: bool) -> tuple[list[Any], Any]:
    """Return what the panel says of a policy that answers with numbers, and its curves, if it
    answers with several actions.

    Raises:
        UserError: the prompt cannot be used.
    """
    from ablation.chunk_actions import act_chunk, compare_chunks
    from viz.chunks import chunk_figure, chunk_rows, moved_line

    model = services.model(view.model)
    prompt = services.prompt(view, model)
    ablation, problem = ablation_of(view, prompt)
    with services.runs.awaited(model), step("Asking for the action", len(model.sites)):
        change = None
        try:
            change = None if ablation is None else compare_chunks(model, prompt, ablation)
        except UserError as error:
            problem = error
        before = act_chunk(model, prompt) if change is None else change.before
    parts: list[Any] = [chunk_table(chunk_rows(before, change), before.space.n_steps)]
    if change is not None:
        said = "; ".join([moved_line(change), *flips_said(change)])
        if before.space.n_steps > 1:
            said += ". Means are over the chunk (a choice: how it ends), changes root mean squares"
    elif problem is not None:
        said = str(problem).removesuffix(".")
    else:
        n_steps = before.space.n_steps
        chunk = "An action" if n_steps == 1 else f"a chunk of {n_steps} actions"
        said = f"{chunk}, found from one noise"
    parts.append(html.P(f"{said}.", className="caption"))
    unmoved = "" if ablation is None else _unmoved(model, ablation)
    if unmoved:
        parts.append(html.P(unmoved, className="caption"))
    if before.space.n_steps == 1:  # a curve of one point is none
        return parts, None
    return parts, chunk_figure(before, change, width=CURVES_WIDTH, dark=dark)


def _unmoved(model: Any, ablation: Any) -> str:
    """Explain why ablating heads of the language model's last layer moves nothing."""
    last = model.n_layers - 1
    dead = [head for head in ablation.heads if not head.stack and head.layer == last]
    if not dead or not model.last_layer_is_idle:
        return ""
    return (
        f"{words.some_of(dead)} cannot move it: of the language model's last layer the action "
        "expert reads keys and values alone, not what its heads put out."
    )


def asked(view: View, dark: bool = False) -> list[Any]:
    """Return all that the panel shows depends on, as plain data."""
    data = view.to_json()
    kept = ("model", "prompt", "second", "images", "bos")
    ablated = [data[name] for name in ("heads", "intervention", "acted")] if view.ablate else None
    return [*(data[name] for name in kept), ablated, dark]


def register(app: Dash, services: Services) -> None:
    """Add the callback that asks the policy."""

    @app.callback(
        Output(ids.ACTION_PANEL, "hidden"),
        Output(ids.ACTION_BODY, "children"),
        Output(ids.ACTED, "data"),
        Output(ids.ACTION_CURVES, "figure"),
        Output(ids.ACTION_CURVES_PLACE, "hidden"),
        Input(ids.VIEW, "data"),
        Input(ids.DARK, "data"),
        State(ids.ACTED, "data"),
        State(ids.TAB_ID, "data"),
        Input(ids.WAIT_AGAIN, "n_clicks"),
        prevent_initial_call=True,
    )
    def draw(
        data: dict[str, Any] | None, dark: bool, shown: Any, tab: str, *again: int | None
    ) -> Any:
        view = None if data is None else View.from_json(data)
        if view is None:
            return (no_update,) * 5
        model = services.model(view.model)
        in_numbers = model.kind == POLICY
        now = asked(view, in_numbers and bool(dark))  # only curves have another look in the dark
        if now == shown:
            return (no_update,) * 5
        if model.actions is None and not in_numbers:
            return True, no_update, None, no_update, True
        with awaiting(services, tab, "action", view, acted_of(view)):
            if in_numbers:
                parts, figure = chunk_body(services, view, bool(dark))
                drawn = no_update if figure is None else figure
                return False, parts, now, drawn, figure is None
            return False, body(services, view), now, no_update, True
