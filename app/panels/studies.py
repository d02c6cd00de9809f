"""The studies tab: a ready-made study, what it runs on, its plan, and what it found.

Everything that can be chosen comes from the table of studies (`ablation.studies.STUDIES`).
"""

import base64
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update

from ablation.studies import PROMPT_STUDIES, plan_study, run_study, study_named
from ablation.studies.options import StudyOption
from ablation.studies.types import StudyResult
from app import ids, words
from app.jobs import duration
from app.panels.circuit_tables import figures, table
from app.panels.export_menu import export_menu
from app.panels.pieces import GRAPH_CONFIG, empty
from app.panels.progress import Bar, cancels, progress_place, watch_page
from app.services import Services, prompt_of
from app.view import View
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from ablation.studies.prompts import PromptSet
    from models.language_model import LanguageModel

THIS_PROMPT, FILE = "prompt", "file"
"""What a study may run on beside the shipped sets."""
MOST_PROMPTS = 1000
TABLE_HEIGHT = 330  # px
EMPTY = (
    "Run the study to get its answer in a few sentences, written from what was measured, with "
    "figures, a table, and what the answer must not be taken for."
)


def layout() -> html.Div:
    """Return the contents of the tab."""
    first = PROMPT_STUDIES[0]
    return html.Div(
        [
            html.Div(
                [
                    dmc.Select(
                        id=ids.STUDIES_NAME,
                        data=[{"value": s.name, "label": s.label} for s in PROMPT_STUDIES],
                        value=first.name,
                        allowDeselect=False,
                        size="xs",
                        w=210,
                        **{"aria-label": "Study"},
                    ),
                    html.Div(className="grow"),
                    dmc.Button("Run study", id=ids.STUDIES_RUN, size="xs"),
                    dmc.Button(
                        "Cancel", id=ids.STUDIES_CANCEL, size="xs", variant="default", disabled=True
                    ),
                    export_menu("studies"),
                ],
                className="toolbar",
            ),
            html.P(first.question, id=ids.STUDIES_QUESTION, className="question"),
            html.P(first.about, id=ids.STUDIES_ABOUT, className="help"),
            html.Div(
                [*_prompts(), html.Div(id=ids.STUDIES_OPTIONS, className="pair")],
                className="options lower",
            ),
            html.P(id=ids.STUDIES_PROBLEM, className="error", role="alert"),
            html.P(id=ids.STUDIES_PLAN, className="help"),
            progress_place(
                ids.STUDIES_PROGRESS, ids.STUDIES_BAR, ids.STUDIES_STATUS, "Progress of the study"
            ),
            empty(EMPTY, id=ids.STUDIES_EMPTY),
            _result(),
            dcc.Store(id=ids.STUDIES_FILE),
        ],
        className="tab-body",
    )


def _prompts() -> list[Any]:
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


def _result() -> html.Div:
    return html.Div(
        [
            html.Div(
                [
                    html.P(id=ids.STUDIES_HEADLINE, className="caption"),
                    html.Div(id=ids.STUDIES_ANSWER, className="sentences answer"),
                    html.Ul(id=ids.STUDIES_CAVEATS, className="caveats"),
                ],
                className="card",
            ),
            html.Div(id=ids.STUDIES_FIGURES, className="study-figures"),
            table("Table", ids.STUDIES_TABLE, [], "params.data.row", TABLE_HEIGHT),
        ],
        id=ids.STUDIES_BODY,
        className="studies-body",
        hidden=True,
    )


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
        prompt_of(view, model)
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


def headline(result: StudyResult) -> str:
    """Say what ran, on what, and how long."""
    info = study_named(result.name)
    done = f"{info.label}, {words.count(result.n_prompts, 'prompt')}, {duration(result.seconds)}"
    return f"Cancelled: {done}; what was measured until then" if _stopped(result) else done


def _stopped(result: StudyResult) -> bool:
    return result.stopped == "cancelled"


def columns(result: StudyResult) -> list[dict[str, Any]]:
    """Return the columns of a study's table."""
    found = []
    for name in result.table.columns:
        label = str(name).replace("_", " ")
        if result.table[name].dtype.kind == "f":
            found.append(figures(str(name), label, ".3~g"))
        else:
            found.append({"field": str(name), "headerName": label, "flex": 1, "minWidth": 70})
    return found


def _graphs(result: StudyResult, dark: bool) -> list[html.Div]:
    from viz.studies import study_figures

    return [
        html.Div(
            [
                html.H3(drawn.title, className="small-title"),
                html.P(drawn.about, className="help"),
                html.Div(
                    dcc.Graph(figure=drawn.figure, config=GRAPH_CONFIG),
                    role="img",
                    className="graph",
                    **{"aria-label": f"{drawn.title}: {drawn.about}"},
                ),
            ],
            className="card wide" if drawn.wide else "card",
        )
        for drawn in study_figures(result, dark=dark)
    ]


def _rows(result: StudyResult) -> list[dict[str, Any]]:
    return [{**row, "row": str(i)} for i, row in enumerate(result.to_json()["table"])]


ASKED = (
    State(ids.STUDIES_NAME, "value"),
    State(ids.STUDIES_SET, "value"),
    State(ids.STUDIES_N, "value"),
    State(ids.STUDIES_FILE, "data"),
    State(ids.study_option(ALL), "value"),
    State(ids.study_option(ALL), "id"),
)
"""What the form holds."""


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that fill the form, plan, run, cancel and draw."""
    _register_form(app, services)
    _register_run(app, services)

    @app.callback(
        Output(ids.STUDIES_HEADLINE, "children"),
        Output(ids.STUDIES_ANSWER, "children"),
        Output(ids.STUDIES_CAVEATS, "children"),
        Output(ids.STUDIES_FIGURES, "children"),
        Output(ids.STUDIES_TABLE, "columnDefs"),
        Output(ids.STUDIES_TABLE, "rowData"),
        Output(ids.STUDIES_EMPTY, "hidden"),
        Output(ids.STUDIES_BODY, "hidden"),
        Input(ids.STUDIES, "data"),
        Input(ids.DARK, "data"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def draw(kept: dict[str, Any] | None, dark: bool, name: str) -> tuple[Any, ...]:
        result = services.results.get(kept["key"]) if kept else None
        if kept is None or result is None or kept["model"] != name:
            return "", [], [], [], [], [], False, True
        shown = _graphs(result, bool(dark))
        if ctx.triggered_id == ids.DARK:
            return (*(no_update,) * 3, shown, *(no_update,) * 4)
        return (
            headline(result),
            [html.P(sentence) for sentence in result.answer],
            [html.Li(caveat) for caveat in result.caveats],
            shown,
            columns(result),
            _rows(result),
            True,
            False,
        )


def _register_form(app: Dash, services: Services) -> None:
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
        return f"Plan: {plan.words} About {duration(plan.seconds)}.", ""


def _register_run(app: Dash, services: Services) -> None:
    @app.callback(
        Output(ids.STUDIES, "data"),
        Output(ids.STUDIES_PROBLEM, "children", allow_duplicate=True),
        Input(ids.STUDIES_RUN, "n_clicks"),
        *ASKED,
        State(ids.VIEW, "data"),
        State(ids.TAB_ID, "data"),
        running=[
            (Output(ids.STUDIES_RUN, "disabled"), True, False),
            (Output(ids.STUDIES_CANCEL, "disabled"), False, True),
            (Output(ids.STUDIES_PROGRESS, "hidden"), False, True),
        ],
        prevent_initial_call=True,
    )
    def run(n_clicks: int | None, *given: Any) -> tuple[Any, Any]:
        name, chosen, n, file, values, at, data, tab = given
        view = View.from_json(data)
        try:
            model = services.model(view.model)
            prompts = prompts_of(services, view, model, chosen, n, file)
            options = options_of(name, values, at)
            with services.jobs.start(tab) as job:
                bar = Bar(job, ids.STUDIES_BAR, ids.STUDIES_STATUS, watch_page())
                bar.start()
                result = run_study(name, model, prompts, progress=bar, cancel=job.cancel, **options)
        except UserError as error:
            if error.kind is ErrorKind.BUSY:
                raise
            return no_update, str(error)
        key = services.results.keep(result, 2**20 + int(result.table.memory_usage().sum()))
        return {"key": key, "model": view.model}, ""

    cancels(app, services, ids.STUDIES_CANCEL, ids.STUDIES_STATUS)
