"""The roles of all heads on standard stimuli: a map, and who plays each role most."""

from typing import Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update

from ablation.dossier import Dossier, head_dossier, known_dossier
from ablation.stimuli import roles_of
from ablation.types import MetricInfo
from app import ids
from app.panels.export_menu import export_menu
from app.panels.head_maps import HEIGHT, large_map, stack_name
from app.panels.pieces import browser, choose_on_click, empty, graph, head_bars, segmented
from app.panels.progress import Bar, cancels, progress_place, watch_page
from app.services import Services
from models.types import Head

N_LEADERS = 5
ABOUT = (
    "Measure the roles to see which heads look at the previous token, continue what was said "
    "before, find a token again, or rest on the first one. Every head is scored on random tokens "
    "that are said twice, where it is known beforehand at which token a head of each role must "
    "look. It takes seconds, and is kept for the next time."
)


def layout() -> html.Div:
    """Return the part of the tab that is about roles."""
    return html.Div(
        [
            html.Div(
                [
                    html.P(id=ids.DOSSIER_CAPTION, className="caption grow"),
                    dmc.Button("Measure roles", id=ids.DOSSIER_RUN, size="xs"),
                    dmc.Button(
                        "Cancel", id=ids.DOSSIER_CANCEL, size="xs", variant="default", disabled=True
                    ),
                    export_menu("roles"),
                ],
                className="toolbar unwrapped",
            ),
            progress_place(
                ids.DOSSIER_PROGRESS, ids.DOSSIER_BAR, ids.DOSSIER_STATUS, "Progress of the roles"
            ),
            empty(ABOUT, id=ids.DOSSIER_EMPTY),
            html.Div(
                [_map(), html.Div(id=ids.DOSSIER_LEADERS)],
                id=ids.DOSSIER_BODY,
                className="sweep-columns",
                hidden=True,
            ),
            dcc.Store(id=ids.DOSSIER),
        ],
        id=ids.ROLES_PLACE,
    )


def _map() -> html.Div:
    return html.Div(
        [
            segmented(
                ids.DOSSIER_ROLE,
                _choices(""),
                "induction",
                "Role that the map shows",
                fullWidth=True,
            ),
            graph(
                ids.DOSSIER_MAP,
                "Layers by heads map of how far each head plays a role; a click chooses a head",
                HEIGHT,
            ),
        ],
        className="dossier-map",
    )


def _choices(stack: str) -> list[tuple[str, str]]:
    """Return the roles that heads of a stack can play: name, and word."""
    roles = roles_of(stack).items()
    return [(name, role.info.label.removesuffix(" token")) for name, role in roles]


def leaders(dossier: Dossier) -> list[html.Section]:
    """Return for each role the heads that play it most, each a button that chooses it."""
    return [
        _leaders_of(name, role.info, dossier.leaders(name, N_LEADERS))
        for name, role in dossier.roles.items()
    ]


def _leaders_of(role: str, info: MetricInfo, places: list[tuple[Head, float]]) -> html.Section:
    return html.Section(
        [
            html.Div(
                [
                    html.H3(info.label, className="small-title", title=info.description),
                    dmc.Button(
                        "Use these heads",
                        id=ids.use_role(role),
                        size="compact-xs",
                        variant="subtle",
                        **{"aria-label": f"Choose these heads: {info.label}"},
                    ),
                ],
                className="section-head",
            ),
            head_bars(role, places),
        ],
        className="leaders",
    )


def caption(dossier: Dossier, role: str) -> str:
    """Say what the numbers of a role are."""
    cancelled = "Cancelled; " if dossier.stopped == "cancelled" else ""
    info = dossier.roles[role].info
    return f"{cancelled}{info.label}: {info.description}. {said(dossier)}"


def said(dossier: Dossier) -> str:
    """Return the sentence about the stimuli."""
    sentence = dossier.describe()
    return f"{sentence[0].upper()}{sentence[1:]}."


def _kept(services: Services, name: str, dossier: Dossier | None) -> dict[str, Any] | None:
    """Keep a dossier in which something was measured; return what the page keeps of it."""
    if dossier is None or not dossier.n_sequences:
        return None
    key = services.results.keep(dossier, dossier.values.nbytes)
    used = {
        role: [head.short for head, _ in dossier.leaders(role, N_LEADERS)] for role in dossier.roles
    }
    about = {"model": name, "stack": dossier.stack, "stopped": dossier.stopped}
    return {"key": key, "leaders": used, **about}


def _is_of(kept: dict[str, Any] | None, name: str | None, stack_value: str) -> bool:
    """Return whether what the page keeps is of a model and of the stack that is picked."""
    return kept is not None and (kept["model"], kept["stack"]) == (name, stack_name(stack_value))


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that measure roles, find those measured before, and draw them."""

    @app.callback(
        Output(ids.DOSSIER, "data"),
        Input(ids.DOSSIER_RUN, "n_clicks"),
        State(ids.MODEL, "data"),
        State(ids.STACK, "value"),
        State(ids.TAB_ID, "data"),
        running=[
            (Output(ids.DOSSIER_RUN, "disabled"), True, False),
            (Output(ids.DOSSIER_CANCEL, "disabled"), False, True),
            (Output(ids.DOSSIER_PROGRESS, "hidden"), False, True),
        ],
        prevent_initial_call=True,
    )
    def run(n_clicks: int | None, name: str, stack_value: str, tab: str) -> Any:
        model = services.model(name)
        with services.jobs.start(tab) as job:
            bar = Bar(job, ids.DOSSIER_BAR, ids.DOSSIER_STATUS, watch_page())
            bar.start()
            stack = stack_name(stack_value)
            found = head_dossier(model, stack=stack, progress=bar, cancel=job.cancel)
            return _kept(services, name, found)

    cancels(app, services, ids.DOSSIER_CANCEL, ids.DOSSIER_STATUS)

    @app.callback(
        Output(ids.DOSSIER, "data", allow_duplicate=True),
        Input(ids.TABS, "value"),
        Input(ids.MODEL, "data"),
        Input(ids.STACK, "value"),
        State(ids.DOSSIER, "data"),
        prevent_initial_call=True,
    )
    def find(tab: str, name: str | None, stack_value: str, kept: dict[str, Any] | None) -> Any:
        if tab != "heads" or name is None or _is_of(kept, name, stack_value):
            return no_update
        model, stack = services.model(name), stack_name(stack_value)
        if stack not in {one.name for one in model.stacks.stacks}:
            return no_update  # the picker is about to follow the model
        return _kept(services, name, known_dossier(model, stack=stack))

    @app.callback(
        Output(ids.DOSSIER_MAP, "figure"),
        Output(ids.DOSSIER_LEADERS, "children"),
        Output(ids.DOSSIER_CAPTION, "children"),
        Output(ids.DOSSIER_EMPTY, "hidden"),
        Output(ids.DOSSIER_BODY, "hidden"),
        Output(ids.DOSSIER_RUN, "display"),
        Output(ids.DOSSIER_CANCEL, "display"),
        Output(ids.DOSSIER_ROLE, "data"),
        Output(ids.DOSSIER_ROLE, "value"),
        Input(ids.DOSSIER, "data"),
        Input(ids.DOSSIER_ROLE, "value"),
        Input(ids.DARK, "data"),
        State(ids.HEADS, "value"),
        State(ids.MODEL, "data"),
        State(ids.STACK, "value"),
        prevent_initial_call=True,
    )
    def draw(
        kept: dict[str, Any] | None,
        role: str,
        dark: bool,
        heads: list[str],
        name: str,
        stack_value: str,
    ) -> tuple[Any, ...]:
        dossier = services.results.get(kept["key"]) if kept else None
        if dossier is None or not _is_of(kept, name, stack_value):
            return no_update, [], "", False, True, None, None, no_update, no_update
        choices: Any = no_update
        if ctx.triggered_id == ids.DOSSIER:
            choices = [{"value": a, "label": b} for a, b in _choices(dossier.stack)]
        if role not in dossier.roles:
            role = next(iter(dossier.roles))
        figure = large_map(dossier.of(role), heads, bool(dark))
        listed = leaders(dossier) if ctx.triggered_id == ids.DOSSIER else no_update
        # What is complete need not be measured again: it would be the same.
        buttons = "none" if dossier.stopped == "complete" else None
        said = caption(dossier, role)
        return figure, listed, said, True, False, buttons, buttons, choices, role

    _register_clientside(app)


def _register_clientside(app: Dash) -> None:
    choose_on_click(app, ids.DOSSIER_MAP)
    app.clientside_callback(
        browser("useRole", "heads"),
        Output(ids.HEADS, "value", allow_duplicate=True),
        Input(ids.use_role(ALL), "n_clicks"),
        State(ids.DOSSIER, "data"),
        prevent_initial_call=True,
    )
