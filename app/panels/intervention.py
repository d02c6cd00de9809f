"""The intervention: what is done to the chosen heads, where, and whether it is done."""

from typing import Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, State, html, no_update

from ablation.interventions import INTERVENTIONS, Parameter
from app import ids
from app.panels.pieces import section
from app.services import Services
from app.view import InterventionForm

STARTERS: dict[str, dict[str, str | float]] = {
    "scale": {"factor": 0.5},
    "sparsify": {"fraction": 0.1},
    "knockout": {"queries": "*", "keys": "0"},
}
"""What a form holds at first where a value has to be given and one is a fair start."""


def layout() -> html.Section:
    """Return the intervention's part of the left column."""
    return section(
        "Intervention",
        html.Div(
            [
                dmc.Select(
                    id=ids.INTERVENTION_KIND,
                    data=[
                        {"value": name, "label": entry.label}
                        for name, entry in INTERVENTIONS.items()
                    ],
                    value="zero",
                    allowDeselect=False,
                    size="xs",
                    **{"aria-label": "Intervention"},
                ),
                dmc.TextInput(
                    id=ids.ACTED_TEXT,
                    value="",
                    size="xs",
                    debounce=True,
                    placeholder="all positions (3, 5-7, image)",
                    spellCheck=False,
                    **{"aria-label": "Positions acted on, such as 3, 5-7 or image; empty for all"},
                ),
            ],
            className="two-fields",
        ),
        html.Div(id=ids.INTERVENTION_PARAMETERS, className="parameters"),
        html.P(id=ids.INTERVENTION_HELP, className="help"),
        html.P(id=ids.INTERVENTION_ERROR, className="error", role="alert"),
        right=dmc.Switch(
            id=ids.ABLATE,
            checked=False,
            size="sm",
            color="accent",
            onLabel="on",
            offLabel="off",
            **{"aria-label": "Ablate the chosen heads"},
        ),
    )


def parameter_fields(form: InterventionForm) -> list[Any]:
    """Return a field for each parameter of an intervention, filled from its form."""
    entry = INTERVENTIONS[form.name]
    values = dict(form.values)
    return [
        html.Div(_field(entry.name, parameter, values.get(parameter.name)), title=parameter.help)
        for parameter in entry.parameters
    ]


def _field(intervention: str, parameter: Parameter, value: str | float | None) -> Any:
    shared: dict[str, Any] = {
        "id": ids.parameter(intervention, parameter.name),
        "label": parameter.label,
        "size": "xs",
        "debounce": True,
    }
    default = "" if parameter.default in (None, ()) else str(parameter.default)
    if parameter.kind in ("number", "integer"):
        return dmc.NumberInput(
            value="" if value is None else value,
            placeholder=default,
            min=parameter.minimum,
            max=parameter.maximum,
            allowDecimal=parameter.kind == "number",
            step=1 if parameter.kind == "integer" else 0.1,
            clampBehavior="none",
            **shared,
        )
    text = "" if value is None else str(value)
    if parameter.kind == "lines":
        return dmc.Textarea(
            value=text, placeholder=parameter.help, minRows=2, maxRows=3, autosize=True, **shared
        )
    return dmc.TextInput(value=text, placeholder=parameter.help, **shared)


def starter(name: str) -> InterventionForm:
    """Return the form that choosing an intervention opens."""
    return InterventionForm(name, tuple(sorted(STARTERS.get(name, {}).items())))


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that keep the form in the view and say what it lacks."""

    @app.callback(
        Output(ids.INTERVENTION, "data", allow_duplicate=True),
        Output(ids.INTERVENTION_PARAMETERS, "children", allow_duplicate=True),
        Input(ids.INTERVENTION_KIND, "value"),
        State(ids.INTERVENTION, "data"),
        prevent_initial_call=True,
    )
    def choose(name: str, form: dict[str, Any]) -> tuple[Any, Any]:
        if name == form["name"]:  # opened from a link, not chosen
            return no_update, no_update
        chosen = starter(name)
        return chosen.to_json(), parameter_fields(chosen)

    @app.callback(
        Output(ids.INTERVENTION, "data", allow_duplicate=True),
        Input(ids.parameter(ALL, ALL), "value"),
        State(ids.parameter(ALL, ALL), "id"),
        State(ids.INTERVENTION, "data"),
        prevent_initial_call=True,
    )
    def fill_in(values: list[Any], fields: list[dict[str, str]], form: dict[str, Any]) -> Any:
        entered = {
            field["name"]: value
            for field, value in zip(fields, values, strict=True)
            if field["intervention"] == form["name"] and value not in (None, "")
        }
        return no_update if entered == form["values"] else {**form, "values": entered}

    @app.callback(
        Output(ids.INTERVENTION_HELP, "children"),
        Input(ids.INTERVENTION, "data"),
        prevent_initial_call=True,
    )
    def explain(form: dict[str, Any]) -> str:
        return INTERVENTIONS[form["name"]].description
