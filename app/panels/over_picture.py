"""All heads of the stack over the picture at once, below the chosen ones."""

from collections.abc import Sequence
from typing import Any

from dash import Dash, Input, Output, State, html, no_update

from app import ids
from app.panels.pieces import choose_on_click, graph, segmented, switch
from app.services import Services, ablation_of
from app.view import View
from models.errors import UserError
from models.types import MAIN
from viz.over_picture import over_picture_figure

WIDTH, HEIGHT = 612, 200  # px


def layout() -> html.Div:
    return html.Div(
        [
            html.Div(
                [
                    switch(ids.OVER_PICTURE, "all heads of the stack"),
                    segmented(ids.OVER_PICTURE_WHICH, (), "0", "Which picture", display="none"),
                ],
                className="row",
            ),
            html.Div(
                [
                    html.P(id=ids.OVER_PICTURE_NOTE, className="note", role="status"),
                    graph(ids.OVER_PICTURE_MAP, "All heads over the picture", HEIGHT),
                ],
                id=ids.OVER_PICTURE_PLACE,
                hidden=True,
            ),
        ],
        className="over-picture",
    )


def figure_of(services: Services, view: View, which: int, dark: bool) -> tuple[Any, str, int]:
    """Return all heads of a view's stack over one of its pictures, what is said of it, and how many
    pictures there are.

    Raises:
        UserError: there is no picture, or the prompt cannot be used.
    """
    from ablation.on_picture import on_picture

    model = services.model(view.model)
    prompt = services.prompt(view, model)
    stack = model.stacks.named(view.stack_name).name
    ablation, _ = ablation_of(view, prompt)
    query = view.token if stack == MAIN and view.token in range(len(prompt)) else None
    if query is None and stack == MAIN:
        query = view.position
    with services.runs.awaited(model):
        found = on_picture(model, prompt, stack, query, ablation)
    n_pictures = len(prompt.pictures)
    which = which if which in range(n_pictures) else 0
    figure = over_picture_figure(
        found, prompt.pictures[which], view.heads or (), which=which, width=WIDTH, dark=dark
    )
    whose = _whose(model.stacks.axes(prompt, stack).queries.kinds)
    looking = f"{whose} look, on average" if query is None else f"{prompt.labels[query]} looks"
    if n_pictures > 1:
        looking += f" on picture {which + 1} of {n_pictures}"
    run = "" if ablation is None else ", heads ablated"
    said = f"Where {looking}{run}; one scale for all heads. Click a head to choose it."
    return figure, said, n_pictures


def choices(n_pictures: int) -> tuple[list[dict[str, str]], str | None]:
    """Return the pictures that one may choose among, and whether the choice is hidden."""
    named = [{"value": str(i), "label": f"picture {i + 1}"} for i in range(n_pictures)]
    return (named, None) if n_pictures > 1 else ([], "none")


def _whose(kinds: Sequence[str]) -> str:
    """Say which positions of a stack look, where none is chosen."""
    if "action" in kinds:
        return "the actions"
    return "the picture's parts" if "image" in kinds else "all positions"


def register(app: Dash, services: Services) -> None:
    """Add the callback that draws all heads."""

    @app.callback(
        Output(ids.OVER_PICTURE_MAP, "figure"),
        Output(ids.OVER_PICTURE_NOTE, "children"),
        Output(ids.OVER_PICTURE_PLACE, "hidden"),
        Output(ids.OVER_PICTURE_SHOWN, "data"),
        Output(ids.OVER_PICTURE_WHICH, "data"),
        Output(ids.OVER_PICTURE_WHICH, "display"),
        Input(ids.OVER_PICTURE, "checked"),
        Input(ids.OVER_PICTURE_WHICH, "value"),
        Input(ids.VIEW, "data"),
        Input(ids.DARK, "data"),
        State(ids.OVER_PICTURE_SHOWN, "data"),
        prevent_initial_call=True,
    )
    def draw(checked: bool, which: str, data: dict[str, Any] | None, dark: bool, shown: Any) -> Any:
        if not checked or data is None or data["picture"] != "image":
            hidden = no_update if shown is None else True
            return no_update, no_update, hidden, None, no_update, "none"
        names = ("model", "prompt", "second", "images", "bos", "stack", "token", "position")
        ablated = [data[name] for name in ("heads", "intervention", "acted")]
        asked = [*(data[n] for n in names), data["ablate"] and ablated, bool(dark), which]
        if asked == shown:
            return no_update, no_update, False, no_update, no_update, no_update
        try:
            view = View.from_json(data)
            figure, said, n_pictures = figure_of(services, view, int(which), bool(dark))
        except UserError as error:
            return no_update, str(error), False, asked, [], "none"
        return figure, said, False, asked, *choices(n_pictures)

    choose_on_click(app, ids.OVER_PICTURE_MAP)
