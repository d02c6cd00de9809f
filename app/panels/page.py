"""The page as a whole: its frame, and how a view is opened, gathered and put into the link."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, ctx, html, no_update, set_props

from app import controls, ids, notices, permalink
from app.panels import (
    action,
    attention,
    attribution,
    by_position,
    circuit,
    circuit_question,
    circuit_result,
    circuit_run,
    episodes,
    explain,
    export_menu,
    head_patching,
    header,
    heads,
    heads_tab,
    intervention,
    over_picture,
    overview,
    page_state,
    prediction,
    prompt,
    recording,
    studies,
    study,
    study_run,
    token,
    wait_strip,
)
from app.panels.circuit_asked import LINKED, opened_form
from app.services import Services, metrics_of
from app.view import View
from models.errors import ErrorKind, UserError
from viz.theme import css_variables

Notify = Callable[[str], None]

HEADER_HEIGHT, LEFT_WIDTH, RIGHT_WIDTH = 46, 312, 324
THEME = {
    "primaryColor": "primary",
    "defaultRadius": "sm",
    "fontFamily": "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "fontFamilyMonospace": "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace",
    "colors": {
        "primary": [
            "#edf5fa", "#d9e8f2", "#b0cfe4", "#84b5d6", "#609fca",
            "#4a91c3", "#3d8ac0", "#2d6da3", "#265f90", "#17517e",
        ],
        "accent": [
            "#fff3e2", "#ffe7cd", "#fdcd9d", "#fab269", "#f7993c",
            "#f68a20", "#f5820f", "#d55e00", "#c25500", "#a94700",
        ],
        # Mantine's greys for the dark theme, in the hue of the page's surfaces.
        "dark": [
            "#e7ebef", "#c3ccd4", "#9ba7b3", "#7d8a96", "#343d47",
            "#2a323b", "#1d232a", "#171c22", "#12171c", "#0f1317",
        ],
    },
    "primaryShade": {"light": 7, "dark": 6},
}  # fmt: skip


def layout(services: Services) -> dmc.MantineProvider:
    """Return the whole page; it is made anew, with a tab id of its own, whenever it is loaded."""
    return dmc.MantineProvider(
        [
            dmc.NotificationContainer(id=ids.NOTICES, position="bottom-center"),
            html.Div(
                "The server does not answer. If it was stopped, start it again; this page then "
                "goes on where it is.",
                id=ids.LOST,
                role="alert",
                hidden=True,
            ),
            *page_state.stores(),
            dmc.AppShell(
                [
                    dmc.AppShellHeader(header.layout(services), className="header"),
                    dmc.AppShellNavbar(
                        [prompt.layout(), heads.layout(), intervention.layout()],
                        className="column left",
                    ),
                    dmc.AppShellMain([_tabs(), wait_strip.layout()], className="middle"),
                    dmc.AppShellAside(
                        [
                            action.layout(),
                            prediction.layout(),
                            episodes.layout(),
                            recording.layout(),
                            explain.layout(),
                            token.layout(),
                        ],
                        className="column right",
                    ),
                ],
                id=ids.SHELL,
                header={"height": HEADER_HEIGHT},
                navbar={"width": LEFT_WIDTH, "breakpoint": 0},
                aside={"width": RIGHT_WIDTH, "breakpoint": 0},
                padding=0,
                transitionDuration=0,
            ),
        ],
        id=ids.PROVIDER,
        theme=THEME,
        forceColorScheme="light",
    )


def _tabs() -> dmc.Tabs:
    return dmc.Tabs(
        [
            dmc.TabsList(
                [
                    dmc.TabsTab("Attention", value="attention"),
                    dmc.TabsTab("Attribution", value="attribution"),
                    dmc.TabsTab("Ablation study", value="study"),
                    dmc.TabsTab("Circuit", value="circuit"),
                    dmc.TabsTab("Heads", value="heads"),
                    dmc.TabsTab("Studies", value="studies"),
                ]
            ),
            dmc.TabsPanel(attention.layout(), value="attention"),
            dmc.TabsPanel(attribution.layout(), value="attribution"),
            dmc.TabsPanel(study.layout(), value="study"),
            dmc.TabsPanel(circuit.layout(), value="circuit"),
            dmc.TabsPanel(heads_tab.layout(), value="heads"),
            dmc.TabsPanel(studies.layout(), value="studies"),
        ],
        id=ids.TABS,
        value="attention",
        keepMounted=True,
        className="tabs",
    )


def index_string() -> str:
    """Return the HTML frame, in which the colours of the figures are the page's colours too."""
    light = "".join(f"{name}:{value};" for name, value in css_variables(False).items())
    dark = "".join(f"{name}:{value};" for name, value in css_variables(True).items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
{{%metas%}}
<title>{{%title%}}</title>
{{%favicon%}}
{{%css%}}
<style>:root{{{light}}}[data-mantine-color-scheme="dark"]{{{dark}}}</style>
</head>
<body>
{{%app_entry%}}
<footer>{{%config%}}{{%scripts%}}{{%renderer%}}</footer>
</body>
</html>"""


def opened(fragment: str, default: View) -> tuple[View, str | None]:
    """Return the view that a link asks for, or the default and what was wrong with the link."""
    if fragment in ("", "#"):
        return default, None
    try:
        return permalink.decode(fragment), None
    except permalink.DamagedLinkError:
        return default, "This link is damaged or of another version; the page opens as new."


EXTRA_OUTPUTS = (
    (ids.MODEL_SHAPE, "data"),
    (ids.MODEL_PICKER, "value"),
    (ids.MODEL_PICKER, "data"),
    (ids.MODEL_FACTS, "children"),
    (ids.SELF_CHECK, "children"),
    (ids.HEADS, "data"),
    (ids.PROMPT_TEXT, "value"),
    (ids.PROMPT_TEXT, "error"),
    (ids.PROMPT_TEXT, "description"),
    (ids.PROMPT_TEXT, "disabled"),
    (ids.SECOND_TEXT, "value"),
    (ids.SECOND_TEXT, "error"),
    (ids.SECOND_TEXT, "leftSection"),
    (ids.SECOND_PLACE, "hidden"),
    (ids.STACK, "data"),
    (ids.STACK_PLACE, "hidden"),
    (ids.BOS, "checked"),
    (ids.BOS, "disabled"),
    (ids.IMAGE_PLACE, "hidden"),
    (ids.IMAGES_SHOWN, "data"),
    (ids.EXAMPLES, "data"),
    (ids.PICTURE, "data"),
    (ids.TOKENS, "data"),
    (ids.TOKEN_COUNT, "children"),
    (ids.INTERVENTION_KIND, "value"),
    (ids.INTERVENTION_PARAMETERS, "children"),
    (ids.TARGET_PICKER, "value"),
    (ids.METRIC, "data"),
    (ids.SWEEP, "data"),
    (ids.SEARCH, "data"),
    (ids.BY_POSITION, "data"),
    (ids.CIRCUIT, "data"),
    (ids.PATCHING, "data"),
    (ids.STUDIES, "data"),
    *((field.component, field.prop) for field in LINKED),
    (ids.CIRCUIT_ABOUT, "data"),
)
"""What opening a view fills in beside the controls."""


def filled(services: Services, view: View, model: Any) -> list[Any]:
    """Return what goes into the controls and `EXTRA_OUTPUTS` for a settled view."""
    tokens = services.prompt(view, model)
    unread = prompt.not_read(model.info, tokens)
    return [
        *controls.values(view),
        heads.shape(model),
        model.name,
        services.registry.available(),
        header.facts(model.info),
        header.self_check_badge(model.info),
        heads.options(model.all_heads(None), model.info.stacks),
        view.prompt,
        None,
        unread,
        unread is not None,
        view.second,
        None,
        prompt.second_word(model.info),
        prompt.second_kind(model.info) is None,
        heads.stack_choices(model.info.stacks),
        len(model.info.stacks) == 1,
        view.bos,
        model.takes is not None and model.info.bos_token is None,  # one prepares its ids itself
        not model.reads_pictures,
        prompt.pictured(tokens, view.images),
        prompt.example_options(model.info),
        attention.picture_options(model.reads_pictures),
        prompt.strip(tokens),
        prompt.token_count(tokens),
        view.intervention.name,
        intervention.parameter_fields(view.intervention),
        None if view.target is None else str(view.target),
        study.metric_options(metrics_of(model)),
        None,  # studies and circuits of what was open before
        None,
        None,
        None,
        None,
        None,
        *opened_form(view),
    ]


def open_first(
    services: Services, wanted: View, default: View, progress: Notify | None = None
) -> tuple[View, Any, str | None]:
    """Load what a view asks for; if that cannot be done, what the default asks for.

    Args:
        progress: called with sentences while a model is loaded.

    Returns:
        The settled view, its model, and a sentence if it is not the one that was wanted.

    Raises:
        UserError: the default cannot be opened either.
    """
    try:
        model = services.model(wanted.model, progress)
        view, lost = _without_lost_pictures(services, wanted, model)
        return view, model, lost
    except UserError as error:
        if wanted == default:
            raise
        model = services.model(default.model, progress)
        return services.settled(default, model), model, str(error)


def _without_lost_pictures(services: Services, wanted: View, model: Any) -> tuple[View, str | None]:
    """Return the settled view; without its pictures, and why, if they are not here any more."""
    try:
        return services.settled(wanted, model), None
    except UserError as error:
        if error.kind is not ErrorKind.PICTURE:
            raise
        return services.settled(replace(wanted, images=()), model), str(error)


def switched(
    services: Services, view: View, name: str, progress: Notify | None = None
) -> tuple[View, Any]:
    """Return the view with another model, and that model. What depends on its tokens is reset."""
    model = services.model(name, progress)
    fresh = replace(
        view,
        model=name,
        second="",
        bos=None,
        position=None,
        token=None,
        watched=None,
        target=None,
    )
    return services.settled(fresh, model), model


def _say_progress(text: str) -> None:
    set_props(ids.MODEL_PROGRESS, {"children": text})


def register(app: Dash, services: Services) -> None:
    """Add the callbacks of all panels and of the page itself."""
    panels = (
        header,
        prompt,
        heads,
        intervention,
        attention,
        attribution,
        over_picture,
        overview,
        prediction,
        action,
        episodes,
        recording,
        study_run,
        by_position,
        circuit_question,
        circuit_run,
        circuit_result,
        head_patching,
        heads_tab,
        studies,
        token,
        explain,
        wait_strip,
    )
    for panel in panels:
        panel.register(app, services)
    export_menu.register(app)
    _register_opening(app, services)
    page_state.register(app)


def _register_opening(app: Dash, services: Services) -> None:
    default = View(model=services.default_model)

    @app.callback(
        *controls.outputs(),
        *(Output(component, prop, allow_duplicate=True) for component, prop in EXTRA_OUTPUTS),
        Output(ids.MODEL_PROGRESS, "children", allow_duplicate=True),
        Input(ids.FRAGMENT_IN, "data"),
        Input(ids.MODEL_PICKER, "value"),
        State(ids.VIEW, "data"),
        State(ids.TAB_ID, "data"),
        running=[
            (Output(ids.MODEL_LOADER, "display"), "inline-block", "none"),
            (Output(ids.MODEL_PICKER, "disabled"), True, False),
            (Output(ids.SHELL, "className"), "loading", ""),
        ],
        on_error=_opening_failed,
        prevent_initial_call=True,
    )
    def open_view(fragment: str | None, name: str, data: dict[str, Any] | None, tab: str) -> Any:
        if ctx.triggered_id == ids.MODEL_PICKER:
            name = (name or "").strip()
            if data is None or name in ("", data["model"]):
                return no_update
            view, model = switched(services, View.from_json(data), name, _say_progress)
        else:
            wanted, problem = opened(fragment or "", default)
            view, model, failure = open_first(services, wanted, default, _say_progress)
            for sentence in filter(None, (problem, failure)):
                notices.tell(sentence, color="orange" if sentence == problem else "red")
        services.begin(view, tab)
        return [*filled(services, view, model), ""]


def _opening_failed(error: Exception) -> None:
    """Say why a model could not be opened; the one that stands stays, and is named again."""
    view = ctx.states.get(f"{ids.VIEW}.data")
    if view is not None:
        set_props(ids.MODEL_PICKER, {"value": view["model"]})
    if isinstance(error, UserError) and error.kind is ErrorKind.PROMPT:
        # The model that stands may not read it, but the one that was asked for has to.
        set_props(ids.PROMPT_TEXT, {"disabled": False})
    set_props(ids.MODEL_PROGRESS, {"children": ""})
    notices.show_error(error)
