"""What the page keeps in the browser, and how controls become a view and a view a link."""

import uuid
from typing import Any

from dash import Dash, Input, Output, State, dcc, no_update

from app import controls, ids, permalink
from app.panels import by_position, circuit, comparison, study
from app.panels.circuit_asked import LINKED, linked
from app.panels.pieces import browser
from app.view import MAX_PROMPT_CHARACTERS, View


def stores() -> list[dcc.Store]:
    """Return what the page keeps in the browser, anew for each page."""
    limits = {
        "fields": [control.field for control in controls.CONTROLS],
        "tabs": list(ids.CHANGES_IN_TAB),
        "maxPrompt": MAX_PROMPT_CHARACTERS,
        "studyHelp": study.HELP,
        "policyHelp": study.POLICY_HELP,
        "strategyHelp": study.STRATEGY_HELP,
        "byPosition": {"noHeads": by_position.NO_HEADS, "ready": by_position.READY},
        "targetMetrics": study.target_metrics(),
        "compareHelp": comparison.HELP,
        "circuitHelp": circuit.help_texts(),
    }
    empty_stores = (
        ids.VIEW, ids.FRAGMENT_IN, ids.FRAGMENT_OUT, ids.MODEL, ids.MODEL_SHAPE, ids.PROMPT,
        ids.BOS_USED, ids.POSITION, ids.INTERVENTION, ids.WATCHED, ids.SWEEP, ids.SEARCH,
        ids.BY_POSITION, ids.CIRCUIT, ids.PATCHING, ids.STUDIES, ids.TOKEN_OPEN,
        ids.PROMPT_REQUEST, ids.SECOND, ids.IMAGES, ids.IMAGES_SHOWN,
        *ids.CHANGES_IN_TAB.values(),
    )  # fmt: skip
    return [
        dcc.Store(id=ids.TAB_ID, data=uuid.uuid4().hex),
        dcc.Store(id=ids.LIMITS, data=limits),
        *(dcc.Store(id=store) for store in empty_stores),
    ]


def register(app: Dash) -> None:
    """Add the callbacks between the controls, the view and the link."""
    app.clientside_callback(
        browser("readFragment"),
        Output(ids.FRAGMENT_IN, "data"),
        Input(ids.TAB_ID, "data"),
    )
    app.clientside_callback(
        browser("gather"),
        Output(ids.VIEW, "data"),
        *(Output(store, "data") for store in ids.CHANGES_IN_TAB.values()),
        *controls.inputs(),
        State(ids.LIMITS, "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("writeFragment"),
        Input(ids.FRAGMENT_OUT, "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output(ids.FRAGMENT_OUT, "data"),
        Input(ids.VIEW, "data"),
        *(Input(field.component, field.prop) for field in LINKED),
        prevent_initial_call=True,
    )
    def make_fragment(data: dict[str, Any] | None, *form: Any) -> Any:
        if data is None:
            return no_update
        return permalink.encode(View.from_json(data | {"question": linked(form)}))
