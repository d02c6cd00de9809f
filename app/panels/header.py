"""The header: which model, whether it proved itself, share, light or dark."""

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html

from app import ids, words
from app.panels.pieces import browser
from app.services import Services
from models.types import CLASSIFIER, POLICY, Check, ModelInfo


def layout(services: Services) -> list[Any]:
    """Return the contents of the header."""
    return [
        html.Div(
            [
                html.Span(className="mark", **{"aria-hidden": "true"}),
                html.H1("Attention Visualizer", className="product"),
            ],
            className="brand",
        ),
        html.Div(
            [
                dmc.Autocomplete(
                    id=ids.MODEL_PICKER,
                    value="",
                    data=services.registry.available(),
                    debounce=True,
                    size="xs",
                    w=232,
                    placeholder="Model: name, hub id or directory",
                    maxDropdownHeight=320,
                    filter={"function": "filterModels"},
                    inputProps={"spellCheck": False},
                    **{"aria-label": "Model: choose one, or type a hub id or directory and Enter"},
                ),
                dmc.Loader(id=ids.MODEL_LOADER, size="xs", display="none"),
                html.Div(id=ids.MODEL_FACTS, className="model-facts"),
                html.Div(id=ids.MODEL_PROGRESS, className="model-progress", role="status"),
            ],
            className="header-model",
        ),
        html.Div(id=ids.SELF_CHECK, className="self-check-place"),
        html.Div(className="grow"),
        dmc.Button(
            "Share",
            id=ids.SHARE,
            size="compact-xs",
            variant="default",
            **{"aria-label": "Copy a link to this view"},
        ),
        dmc.ActionIcon(
            html.Span(className="theme-icon", **{"aria-hidden": "true"}),
            id=ids.DARK_TOGGLE,
            variant="default",
            size=24,
            **{"aria-label": "Switch between light and dark"},
        ),
        dcc.Store(id=ids.DARK, storage_type="local"),
    ]


def facts(info: ModelInfo) -> str:
    """Say in a few words what model this is."""
    size = words.parameters(info.n_parameters)
    if len(info.stacks) == 1:
        return f"{size} · {info.n_layers} layers × {info.n_heads} heads"
    shapes = (
        f"{stack.name or stack.label} {stack.n_layers} × {stack.n_heads}" for stack in info.stacks
    )
    return f"{size} · {', '.join(shapes)}"


KINDS = {
    "causal": "predicts the next token",
    "masked": "predicts at a mask token",
    "encoder-decoder": "predicts the next token that its decoder writes",
    CLASSIFIER: "says which class a picture shows",
    POLICY: "answers with the numbers of an action",
}


def _vocabulary(info: ModelInfo) -> str:
    """Say what is predicted, and from how much."""
    if info.kind == CLASSIFIER:
        return f"{info.n_vocab:,} classes"
    if info.kind == POLICY:
        return f"{info.n_vocab:,} numbers"
    return f"{info.n_vocab:,} tokens, context {info.max_positions:,}"


def self_check_badge(info: ModelInfo) -> dmc.Popover:
    """Return the badge of what the model proved at load, which opens to the numbers."""
    check = info.self_check
    passed = check.passed
    return dmc.Popover(
        [
            dmc.PopoverTarget(
                html.Button(
                    [
                        html.Span("✓" if passed else "!", **{"aria-hidden": "true"}),
                        " self-check passed" if passed else " self-check failed",
                    ],
                    className=f"badge {'good' if passed else 'bad'}",
                    type="button",
                )
            ),
            dmc.PopoverDropdown(_self_check_table(info), className="self-check"),
        ],
        width=520,
        position="bottom-start",
        withArrow=True,
        shadow="md",
    )


def _self_check_table(info: ModelInfo) -> list[Any]:
    description = (
        f"{info.architecture}, {KINDS[info.kind]}; "
        f"{info.n_kv_heads} key-value heads of {info.d_head}, "
        f"{_vocabulary(info)}; {info.dtype} on {info.device}."
    )
    return [
        html.P(description, className="muted"),
        html.Table(
            [
                html.Thead(
                    html.Tr([html.Th(t) for t in ("Proved at load", "largest error", "allowed")])
                ),
                html.Tbody([_self_check_row(check) for check in info.self_check.checks]),
            ],
            className="numbers",
        ),
        html.P(f"Checked in {info.self_check.seconds:.1f} s.", className="muted"),
    ]


def _self_check_row(check: Check) -> html.Tr:
    mark = "✓" if check.passed else "✗"
    return html.Tr(
        [
            html.Td([html.Strong(f"{mark} {check.name}"), html.Div(check.detail)]),
            html.Td(_error(check.value, 1), className="figure"),
            html.Td(_error(check.limit, 0), className="figure"),
        ]
    )


def _error(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}e}" if value else "0"


def register(app: Dash, services: Services) -> None:
    """Add the callbacks of the header; opening a model is the page's."""
    app.clientside_callback(
        browser("toggleDark"),
        Output(ids.DARK, "data"),
        Input(ids.DARK_TOGGLE, "n_clicks"),
        State(ids.DARK, "data"),
    )
    app.clientside_callback(
        browser("applyDark"),
        Output(ids.PROVIDER, "forceColorScheme"),
        Input(ids.DARK, "data"),
    )
    app.clientside_callback(
        browser("share"),
        Output(ids.NOTICES, "sendNotifications", allow_duplicate=True),
        Input(ids.SHARE, "n_clicks"),
        State(ids.FRAGMENT_OUT, "data"),
        prevent_initial_call=True,
    )
