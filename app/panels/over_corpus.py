"""How heads attend over a corpus: a map of each metric, and where one head looks most."""

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update

from ablation.contexts import Context, Piece
from ablation.studies.heads import METRICS, HeadDistributions
from ablation.studies.heads import run as study_heads
from ablation.studies.types import StudyResult
from app import ids, words
from app.panels.export_menu import export_menu
from app.panels.head_maps import HEIGHT, large_map
from app.panels.pieces import browser, choose_on_click, empty, graph
from app.panels.progress import Bar, cancels, progress_place, watch_page
from app.services import Services
from app.view import head_from_text
from models.types import Head

ABOUT = (
    "Read every head on the 240 short texts that come with the program (stories, news, recipes, "
    "code, tables, questions...), so that none is judged on one prompt: how each metric is "
    "distributed, and where a head looks most. With the built-in model it takes minutes; what was "
    "read until Cancel is kept."
)
NO_HEAD = "Choose a head, on the left or on the map, to see its numbers and where it looks most."


def layout() -> html.Div:
    """Return the part of the tab that is about the corpus."""
    return html.Div(
        [
            html.Div(
                [
                    html.P(id=ids.CORPUS_CAPTION, className="caption grow"),
                    dmc.Button("Read the corpus", id=ids.CORPUS_RUN, size="xs"),
                    dmc.Button(
                        "Cancel", id=ids.CORPUS_CANCEL, size="xs", variant="default", disabled=True
                    ),
                    export_menu("corpus"),
                ],
                className="toolbar unwrapped",
            ),
            progress_place(
                ids.CORPUS_PROGRESS, ids.CORPUS_BAR, ids.CORPUS_STATUS, "Progress of the corpus"
            ),
            empty(ABOUT, id=ids.CORPUS_EMPTY),
            html.Div(
                [
                    html.Div([_map(), _of_head()], className="sweep-columns"),
                    html.Ol(id=ids.CORPUS_CONTEXTS, className="contexts"),
                ],
                id=ids.CORPUS_BODY,
                hidden=True,
            ),
            dcc.Store(id=ids.CORPUS),
        ],
        id=ids.CORPUS_PLACE,
        hidden=True,
    )


def _map() -> html.Div:
    return html.Div(
        [
            dmc.Select(
                id=ids.CORPUS_METRIC,
                data=[{"value": info.name, "label": info.label} for info in METRICS],
                value="previous_weight",
                allowDeselect=False,
                size="xs",
                **{"aria-label": "Metric that the map shows"},
            ),
            graph(
                ids.CORPUS_MAP,
                "Layers by heads map of a metric, mean over the corpus; a click chooses a head",
                HEIGHT,
            ),
        ],
        className="dossier-map",
    )


def _of_head() -> html.Div:
    return html.Div(
        [
            dmc.Select(
                id=ids.CORPUS_HEAD,
                data=[],
                allowDeselect=False,
                size="xs",
                w=110,
                **{"aria-label": "Head that is told about"},
            ),
            html.Div(id=ids.CORPUS_NUMBERS),
        ],
        className="told",
    )


def caption(result: StudyResult) -> str:
    """Say what was read."""
    read = words.count(result.n_prompts, "text")
    said = f"Cancelled after {read}" if result.stopped == "cancelled" else f"{read} read"
    return f"{said}. {result.answer[0]}"


def numbers(result: StudyResult, head: Head) -> list[Any]:
    """Return the table of one head: each metric over the texts, and its rank among heads."""
    table = result.table
    rows = table[(table["layer"] == head.layer) & (table["head"] == head.head)].set_index("metric")
    n_heads = int((table["metric"] == METRICS[0].name).sum())
    titles = {
        "": None,
        "mean": "over the corpus",
        "10–90 %": "of the texts",
        "rank": f"of {n_heads}",
    }
    body = []
    for info in METRICS:
        row = rows.loc[info.name]
        named = "" if info.unit == "probability" else f" {info.unit}"  # as everywhere with weights
        unit = html.Span(named, className="unit")
        figures = (
            f"{row['mean']:.3g}",
            f"{row['low']:.2g}–{row['high']:.2g}",
            f"{row['rank']:.0f}",
        )
        cells = [html.Td(figure, className="figure") for figure in figures]
        body.append(html.Tr([html.Th([info.label, unit]), *cells]))
    names = [html.Th(name, title=title) for name, title in titles.items()]
    head_row = html.Thead(html.Tr(names))
    return [html.Table([head_row, html.Tbody(body)], className="numbers")]


def contexts(found: tuple[Context, ...]) -> list[html.Li]:
    """Return where a head looks most: weight, text, and the words around both tokens."""
    return [
        html.Li(
            [
                html.Span(f"{context.weight:.3f}", className="figure"),
                html.Span(context.passage, className="muted"),
                html.Span([_piece(piece) for piece in context.pieces(around=7)]),
            ]
        )
        for context in found
    ]


def _piece(piece: Piece) -> Any:
    titles = {"query": "looks", "key": "is looked at", "both": "looks at itself"}
    if not piece.part:
        return piece.text
    return html.Mark(piece.text, className=piece.part, title=titles[piece.part])


def _legend(head: Head) -> html.Li:
    marks = [
        html.Mark("a token", className="query"), " that looks at ",
        html.Mark("another", className="key"), f": the largest weights of {head}, the first token "
        "apart, at most one a text.",
    ]  # fmt: skip
    return html.Li(
        [html.Span("weight", className="muted"), html.Span("text", className="muted"),
         html.Span(marks, className="muted")]
    )  # fmt: skip


def _size(details: HeadDistributions) -> int:
    arrays = ((p.metrics, p.largest, p.queries, p.keys) for p in details.passages)
    return sum(array.nbytes for several in arrays for array in several)


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that read the corpus, cancel, and draw."""

    @app.callback(
        Output(ids.CORPUS, "data"),
        Input(ids.CORPUS_RUN, "n_clicks"),
        State(ids.MODEL, "data"),
        State(ids.TAB_ID, "data"),
        running=[
            (Output(ids.CORPUS_RUN, "disabled"), True, False),
            (Output(ids.CORPUS_CANCEL, "disabled"), False, True),
            (Output(ids.CORPUS_PROGRESS, "hidden"), False, True),
        ],
        prevent_initial_call=True,
    )
    def run(n_clicks: int | None, name: str, tab: str) -> Any:
        model = services.model(name)
        with services.jobs.start(tab) as job:
            bar = Bar(job, ids.CORPUS_BAR, ids.CORPUS_STATUS, watch_page())
            bar.start()
            result = study_heads(model, progress=bar, cancel=job.cancel)
        if not result.n_prompts:
            return None
        return {"key": services.results.keep(result, _size(result.details)), "model": name}

    cancels(app, services, ids.CORPUS_CANCEL, ids.CORPUS_STATUS)

    @app.callback(
        Output(ids.CORPUS_MAP, "figure"),
        Output(ids.CORPUS_CAPTION, "children"),
        Output(ids.CORPUS_EMPTY, "hidden"),
        Output(ids.CORPUS_BODY, "hidden"),
        Input(ids.CORPUS, "data"),
        Input(ids.CORPUS_METRIC, "value"),
        Input(ids.DARK, "data"),
        Input(ids.MODEL, "data"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
    def draw(
        kept: dict[str, Any] | None, metric: str, dark: bool, name: str, heads: list[str]
    ) -> tuple[Any, ...]:
        result = _result(services, kept, name)
        if result is None:
            return no_update, "", False, True
        figure = large_map(result.details.mean(metric), heads, bool(dark))
        return figure, caption(result), True, False

    @app.callback(
        Output(ids.CORPUS_NUMBERS, "children"),
        Output(ids.CORPUS_CONTEXTS, "children"),
        Input(ids.CORPUS, "data"),
        Input(ids.CORPUS_HEAD, "value"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def tell(kept: dict[str, Any] | None, text: str | None, name: str) -> tuple[Any, Any]:
        result = _result(services, kept, name)
        if result is None:
            return [], []
        if not text:
            return html.P(NO_HEAD, className="muted"), []
        head = services.model(name).check_heads([head_from_text(text)])[0]
        found = result.details.contexts(head)
        return numbers(result, head), [_legend(head), *contexts(found)]

    app.clientside_callback(
        browser("offerHeads", "heads"),
        Output(ids.CORPUS_HEAD, "data"),
        Output(ids.CORPUS_HEAD, "value"),
        Input(ids.IN_HEADS_TAB, "data"),
        State(ids.HEADS, "value"),
        State(ids.CORPUS_HEAD, "data"),
        State(ids.CORPUS_HEAD, "value"),
    )
    choose_on_click(app, ids.CORPUS_MAP)


def _result(services: Services, kept: dict[str, Any] | None, name: str) -> StudyResult | None:
    """Return what was read of the model that stands, if it is still there."""
    if kept is None or kept["model"] != name:
        return None
    result: StudyResult | None = services.results.get(kept["key"])
    return result
