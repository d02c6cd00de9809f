"""The studies tab: a ready-made study and what it found; see `studies_form` for what it asks.

Everything that can be chosen comes from the table of studies (`ablation.studies.STUDIES`).
"""

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update

from ablation.studies import PROMPT_STUDIES, asked_words, run_study, study_named
from ablation.studies.types import StudyResult
from app import ids, words
from app.jobs import duration
from app.panels import studies_form
from app.panels.circuit_tables import figures, table
from app.panels.export_menu import export_menu
from app.panels.pieces import GRAPH_CONFIG, empty
from app.panels.progress import Bar, cancels, progress_place, watch_page
from app.panels.studies_form import ASKED, options_of, prompt_fields, prompts_of
from app.services import Services
from app.view import View
from models.errors import ErrorKind, UserError

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
                    export_menu("studies", page=True),
                ],
                className="toolbar",
            ),
            html.P(first.question, id=ids.STUDIES_QUESTION, className="question"),
            html.P(first.about, id=ids.STUDIES_ABOUT, className="help"),
            html.Div(
                [*prompt_fields(), html.Div(id=ids.STUDIES_OPTIONS, className="pair")],
                className="options lower",
            ),
            html.P(id=ids.STUDIES_PROBLEM, className="error", role="alert"),
            html.P(id=ids.STUDIES_PLAN, className="help"),
            html.P("Planning…", id=ids.STUDIES_PLANNING, className="help", hidden=True),
            progress_place(
                ids.STUDIES_PROGRESS, ids.STUDIES_BAR, ids.STUDIES_STATUS, "Progress of the study"
            ),
            empty(EMPTY, id=ids.STUDIES_EMPTY),
            _result(),
            dcc.Store(id=ids.STUDIES_FILE),
        ],
        className="tab-body",
    )


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


def headline(result: StudyResult, asked: str) -> str:
    """Say what ran, on what, and how long.

    Args:
        asked: the prompts and options in words (`ablation.studies.asked_words`).
    """
    info = study_named(result.name)
    done = (
        f"{info.label}, {words.count(result.n_prompts, 'prompt')} ({asked}), "
        f"{duration(result.seconds)}"
    )
    return f"Cancelled: {done}; what was measured until then" if _stopped(result) else done


def _stopped(result: StudyResult) -> bool:
    return result.stopped == "cancelled"


def columns(result: StudyResult) -> list[dict[str, Any]]:
    """Return the columns of a study's table."""
    found = []
    for name in result.table.columns:
        label = str(name).replace("_", " ")
        if result.table[name].dtype.kind == "f":
            column = figures(str(name), label, ".3~g")
        else:
            column = {"field": str(name), "headerName": label, "flex": 1}
        # A cut number reads as another one: the table scrolls instead.
        found.append(column | {"minWidth": 96, "wrapHeaderText": True, "autoHeaderHeight": True})
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


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that fill the form, plan, run, cancel and draw."""
    studies_form.register(app, services)
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
            headline(result, asked_words(result.name, kept["prompts"], kept["options"])),
            [html.P(sentence) for sentence in result.answer],
            [html.Li(caveat) for caveat in result.caveats],
            shown,
            columns(result),
            _rows(result),
            True,
            False,
        )


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
        asked = {"prompts": prompts.name, "options": options}
        return {"key": key, "model": view.model, "file": name, **asked}, ""

    cancels(app, services, ids.STUDIES_CANCEL, ids.STUDIES_STATUS)
