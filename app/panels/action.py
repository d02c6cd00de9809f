"""What a policy does: its action, and what is left of it while heads are ablated."""

import base64
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from app import ids
from app.panels.wait_strip import awaiting
from app.services import Services, ablation_of, acted_of
from app.view import View
from app.waits import step
from models.errors import UserError
from viz.actions import ActionRow, action_rows, motion_svg

PICTURE_WIDTH = 150


def layout() -> html.Section:
    """Return the panel; it shows for models that say which of their tokens are actions."""
    return html.Section(
        [
            html.Div(html.H2("Action", className="section-title"), className="section-head"),
            html.Div(id=ids.ACTION_BODY, **{"aria-live": "polite"}),
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
    return html.Table(
        [html.Thead(html.Tr([html.Th(head) for head in heads])), html.Tbody(list(map(_row, rows)))],
        className="numbers",
    )


def _row(row: ActionRow) -> html.Tr:
    cells = (row.before, row.after, row.kl) if row.after else (row.before, row.confidence)
    changed = " changed" if row.changed else ""
    return html.Tr(
        [html.Th(row.name, scope="row"), *(html.Td(cell, className="figure") for cell in cells)],
        className=f"action{changed}",
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
        flips = [f"{name} changes its sign" for name in change.sign_flips]
        flips += [f"{name} flips" for name in change.choice_flips]
        said = f"moved by {change.l2:.3g} of its reach"
        parts.append(html.P("; ".join([said, *flips]) + ".", className="caption"))
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


def asked(view: View) -> list[Any]:
    """Return all that the panel shows depends on, as plain data."""
    data = view.to_json()
    kept = ("model", "prompt", "images", "bos")
    ablated = [data[name] for name in ("heads", "intervention", "acted")] if view.ablate else None
    return [*(data[name] for name in kept), ablated]


def register(app: Dash, services: Services) -> None:
    """Add the callback that asks the policy."""

    @app.callback(
        Output(ids.ACTION_PANEL, "hidden"),
        Output(ids.ACTION_BODY, "children"),
        Output(ids.ACTED, "data"),
        Input(ids.VIEW, "data"),
        State(ids.ACTED, "data"),
        State(ids.TAB_ID, "data"),
        Input(ids.WAIT_AGAIN, "n_clicks"),
        prevent_initial_call=True,
    )
    def draw(data: dict[str, Any] | None, shown: Any, tab: str, *again: int | None) -> Any:
        view = None if data is None else View.from_json(data)
        if view is None or asked(view) == shown:
            return (no_update,) * 3
        if services.model(view.model).actions is None:
            return True, no_update, None
        with awaiting(services, tab, "action", view, acted_of(view)):
            return False, body(services, view), asked(view)
