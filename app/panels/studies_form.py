"""The studies tab, the form: which study, what it runs on, its options, its plan."""

import base64
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, State, dcc, html, no_update

from ablation.studies import PROMPT_STUDIES, plan_study, study_named
from ablation.studies.options import StudyOption
from app import ids, words
from app.jobs import duration
from app.services import Services
from app.view import View
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from ablation.studies.prompts import PromptSet
    from models.language_model import LanguageModel

THIS_PROMPT, FILE = "prompt", "file"
"""What a study may run on beside the shipped sets."""
MOST_PROMPTS = 1000

ASKED = (
    State(ids.STUDIES_NAME, "value"),
    State(ids.STUDIES_SET, "value"),
    State(ids.STUDIES_N, "value"),
    State(ids.STUDIES_FILE, "data"),
    State(ids.study_option(ALL), "value"),
    State(ids.study_option(ALL), "id"),
)
"""What the form holds."""


def prompt_fields() -> list[Any]:
    """Return the fields of what a study runs on."""
    from ablation.studies.prompts import SHIPPED

    shipped = [{"value": info.name, "label": info.label} for info in SHIPPED.values()]
    own = [
        {"value": THIS_PROMPT, "label": "This prompt"},
        {"value": FILE, "label": "A file of prompts"},
    ]
    return [
        dmc.Select(
            id=ids.STUDIES_SET,
            label="Prompts",
            data=[{"group": "Shipped", "items": shipped}, {"group": "Your own", "items": own}],
            value=PROMPT_STUDIES[0].prompt_set,
            allowDeselect=False,
            size="xs",
            w=190,
        ),
        dmc.NumberInput(
            id=ids.STUDIES_N,
            label="How many",
            value=PROMPT_STUDIES[0].n_prompts,
            min=1,
            max=MOST_PROMPTS,
            allowDecimal=False,
            clampBehavior="strict",
            debounce=True,
            size="xs",
            w=86,
        ),
        html.Div(
            [
                dcc.Upload(
                    dmc.Button("Choose a file", size="xs", variant="default"),
                    id=ids.STUDIES_UPLOAD,
                    accept=".txt,.csv,.json,.jsonl",
                    max_size=4 * 2**20,
                ),
                html.Span(id=ids.STUDIES_FILE_NOTE, className="muted"),
            ],
            id=ids.STUDIES_UPLOAD_PLACE,
            className="row upload",
            hidden=True,
        ),
    ]


def option_field(option: StudyOption) -> Any:
    """Return the field of one option."""
    shared = {"id": ids.study_option(option.name), "label": option.label, "size": "xs"}
    if option.kind == "choice":
        return dmc.Select(
            data=[{"value": value, "label": label} for value, label in option.choices],
            value=option.default,
            allowDeselect=False,
            w=190,
            **shared,
        )
    return dmc.NumberInput(
        value=option.default,
        min=option.minimum,
        max=option.maximum,
        allowDecimal=option.kind == "number",
        clampBehavior="strict",
        debounce=True,
        w=120,
        **shared,
    )


def prompts_of(
    services: Services, view: View, model: "LanguageModel", chosen: str, n: Any, file: str | None
) -> "PromptSet":
    """Return what a study runs on.

    Raises:
        UserError: there is no file, no number, or the set has not as many prompts.
    """
    from ablation.studies.prompts import given_prompts, shipped_prompts

    if chosen == THIS_PROMPT:
        services.prompt(view, model)
        return given_prompts([view.prompt])
    if chosen == FILE:
        found: PromptSet | None = services.results.get(file) if file else None
        if found is None:
            raise UserError(ErrorKind.OPTION, "No file of prompts is chosen; choose one first.")
        return found
    if not isinstance(n, int):
        raise UserError(ErrorKind.OPTION, "How many prompts is missing; fill in the number.")
    return shipped_prompts(model, chosen, n)


def options_of(name: str, values: list[Any], at: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a study's options from its form.

    Args:
        values: of the fields.
        at: their ids.

    Raises:
        UserError: a field is empty, or its value is none of the option's.
    """
    known = {option.name: option for option in study_named(name).options}
    given = {}
    for field_id, value in zip(at, values, strict=True):
        option = known.get(field_id["name"])
        if option is None:
            continue  # the form is still that of another study
        if value is None or value == "":
            raise UserError(
                ErrorKind.OPTION, f"{option.label} is missing; fill in the empty field."
            )
        whole = option.kind == "integer" and isinstance(value, float) and value.is_integer()
        given[option.name] = int(value) if whole else value
        option.check(given[option.name])
    return given


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that fill the form and tell the plan."""

    @app.callback(
        Output(ids.STUDIES_QUESTION, "children"),
        Output(ids.STUDIES_ABOUT, "children"),
        Output(ids.STUDIES_OPTIONS, "children"),
        Output(ids.STUDIES_SET, "value"),
        Output(ids.STUDIES_N, "value"),
        Input(ids.STUDIES_NAME, "value"),
    )
    def describe(name: str) -> tuple[Any, ...]:
        info = study_named(name)
        fields = [option_field(option) for option in info.options]
        return info.question, info.about, fields, info.prompt_set, info.n_prompts

    @app.callback(
        Output(ids.STUDIES_UPLOAD_PLACE, "hidden"),
        Output(ids.STUDIES_N, "display"),
        Input(ids.STUDIES_SET, "value"),
        prevent_initial_call=True,
    )
    def offer(chosen: str) -> tuple[bool, Any]:
        return chosen != FILE, "none" if chosen in (FILE, THIS_PROMPT) else None

    @app.callback(
        Output(ids.STUDIES_FILE, "data"),
        Output(ids.STUDIES_FILE_NOTE, "children"),
        Input(ids.STUDIES_UPLOAD, "contents"),
        State(ids.STUDIES_UPLOAD, "filename"),
        prevent_initial_call=True,
    )
    def read_file(contents: str | None, name: str | None) -> tuple[Any, Any]:
        if contents is None or name is None:
            return no_update, no_update
        from ablation.studies.prompts import parse_prompts

        try:
            found = parse_prompts(base64.b64decode(contents.partition(",")[2]), name)
        except UserError as error:
            return None, str(error)
        key = services.results.keep(found, 2**16 + len(contents))
        return key, f"{words.count(len(found), 'prompt')} in {name}"

    @app.callback(
        Output(ids.STUDIES_PLAN, "children"),
        Output(ids.STUDIES_PROBLEM, "children"),
        Input(ids.IN_STUDIES, "data"),
        *(Input(field.component_id, field.component_property) for field in ASKED),
        State(ids.VIEW, "data"),
        # What stands there is of what was asked before.
        running=[
            (Output(ids.STUDIES_PLANNING, "hidden"), False, True),
            (Output(ids.STUDIES_PLAN, "hidden"), True, False),
            (Output(ids.STUDIES_PROBLEM, "hidden"), True, False),
        ],
        prevent_initial_call=True,
    )
    def tell_plan(changes: int | None, *given: Any) -> tuple[Any, Any]:
        name, chosen, n, file, values, at, data = given
        if data is None or data["tab"] != "studies" or changes is None:
            return no_update, no_update
        view = View.from_json(data)
        try:
            model = services.model(view.model)
            prompts = prompts_of(services, view, model, chosen, n, file)
            plan = plan_study(name, model, prompts, **options_of(name, values, at))
        except UserError as error:
            return "", str(error)
        passes = f"{plan.n_passes:,.0f} passes, about {duration(plan.seconds)}"
        return f"Plan: {plan.words} {passes}.", ""
