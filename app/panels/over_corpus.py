"""How heads attend over a corpus: a map of each metric, and where one head looks most."""

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update

from ablation.contexts import Context, Piece
from ablation.distributions import STATISTICS
from ablation.studies.heads import METRICS, HeadDistributions
from ablation.studies.heads import run as study_heads
from ablation.studies.types import StudyResult
from ablation.types import MetricInfo
from app import ids, words
from app.panels.export_menu import export_menu
from app.panels.head_maps import HEIGHT, large_map, stack_name
from app.panels.pieces import browser, choose_on_click, empty, graph, segmented
from app.panels.progress import Bar, cancels, progress_place, watch_page
from app.services import Services
from app.view import head_from_text
from models.types import Head
from viz.distributions import distribution_figure

ABOUT = (
    "Read every head on the 240 short texts that come with the program (stories, news, recipes, "
    "code, tables, questions...), so that none is judged on one prompt: how each metric is "
    "distributed, and where a head looks most. With the built-in model it takes minutes; what was "
    "read until Cancel is kept."
)
HISTOGRAM_HEIGHT = 206
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
                data=_choices(METRICS),
                value="previous_weight",
                allowDeselect=False,
                size="xs",
                **{"aria-label": "Metric that the map shows"},
            ),
            segmented(
                ids.CORPUS_STATISTIC,
                tuple(STATISTICS.items()),
                "mean",
                "What the map shows of each head's distribution over the texts",
                fullWidth=True,
            ),
            graph(
                ids.CORPUS_MAP,
                "Layers by heads map of a metric over the corpus; a click chooses a head",
                HEIGHT,
            ),
        ],
        className="dossier-map",
    )


def _choices(metrics: tuple[MetricInfo, ...]) -> list[dict[str, str]]:
    return [{"value": info.name, "label": info.label} for info in metrics]


def _of_head() -> html.Div:
    picked = dmc.Select(
        id=ids.CORPUS_HEAD,
        data=[],
        allowDeselect=False,
        size="xs",
        w=130,
        **{"aria-label": "Head that is told about"},
    )
    histogram = graph(
        ids.CORPUS_HISTOGRAM,
        "Histogram of the map's metric of one head over the texts",
        HISTOGRAM_HEIGHT,
    )
    return html.Div(
        [
            html.Div([picked, export_menu("distribution")], className="row"),
            html.Div(histogram, id=ids.CORPUS_HISTOGRAM_PLACE, hidden=True),
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
    metrics = result.details.metrics
    n_heads = int((table["metric"] == metrics[0].name).sum())
    titles = {
        "": None,
        "mean": "over the corpus",
        "10–90 %": "of the texts",
        "rank": f"of {n_heads}",
    }
    body = []
    for info in metrics:
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
        State(ids.STACK, "value"),
        State(ids.TAB_ID, "data"),
        running=[
            (Output(ids.CORPUS_RUN, "disabled"), True, False),
            (Output(ids.CORPUS_CANCEL, "disabled"), False, True),
            (Output(ids.CORPUS_PROGRESS, "hidden"), False, True),
        ],
        prevent_initial_call=True,
    )
    def run(n_clicks: int | None, name: str, stack_value: str, tab: str) -> Any:
        model, stack = services.model(name), stack_name(stack_value)
        with services.jobs.start(tab) as job:
            bar = Bar(job, ids.CORPUS_BAR, ids.CORPUS_STATUS, watch_page())
            bar.start()
            result = study_heads(model, stack=stack, progress=bar, cancel=job.cancel)
        if not result.n_prompts:
            return None
        key = services.results.keep(result, _size(result.details))
        return {"key": key, "model": name, "stack": stack}

    cancels(app, services, ids.CORPUS_CANCEL, ids.CORPUS_STATUS)

    @app.callback(
        Output(ids.CORPUS_MAP, "figure"),
        Output(ids.CORPUS_CAPTION, "children"),
        Output(ids.CORPUS_EMPTY, "hidden"),
        Output(ids.CORPUS_BODY, "hidden"),
        Output(ids.CORPUS_METRIC, "data"),
        Output(ids.CORPUS_METRIC, "value"),
        Input(ids.CORPUS, "data"),
        Input(ids.CORPUS_METRIC, "value"),
        Input(ids.CORPUS_STATISTIC, "value"),
        Input(ids.DARK, "data"),
        Input(ids.MODEL, "data"),
        Input(ids.STACK, "value"),
        State(ids.HEADS, "value"),
        prevent_initial_call=True,
    )
    def draw(
        kept: dict[str, Any] | None,
        metric: str,
        statistic: str,
        dark: bool,
        name: str,
        stack_value: str,
        heads: list[str],
    ) -> tuple[Any, ...]:
        result = _result(services, kept, name, stack_value)
        if result is None:
            return no_update, "", False, True, no_update, no_update
        details = result.details
        metric = _measured(details, metric)
        shown = large_map(details.over_passages(metric, statistic), heads, bool(dark))
        choices = _choices(details.metrics) if ctx.triggered_id == ids.CORPUS else no_update
        return shown, caption(result), True, False, choices, metric

    @app.callback(
        Output(ids.CORPUS_NUMBERS, "children"),
        Output(ids.CORPUS_CONTEXTS, "children"),
        Input(ids.CORPUS, "data"),
        Input(ids.CORPUS_HEAD, "value"),
        Input(ids.STACK, "value"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def tell(
        kept: dict[str, Any] | None, text: str | None, stack_value: str, name: str
    ) -> tuple[Any, Any]:
        result = _result(services, kept, name, stack_value)
        if result is None:
            return [], []
        head = _told(services, name, text, result.details.stack)
        if head is None:
            return html.P(NO_HEAD, className="muted"), []
        found = result.details.contexts(head)
        return numbers(result, head), [_legend(head), *contexts(found)]

    @app.callback(
        Output(ids.CORPUS_HISTOGRAM, "figure"),
        Output(ids.CORPUS_HISTOGRAM_PLACE, "hidden"),
        Input(ids.CORPUS, "data"),
        Input(ids.CORPUS_HEAD, "value"),
        Input(ids.CORPUS_METRIC, "value"),
        Input(ids.DARK, "data"),
        Input(ids.STACK, "value"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def draw_histogram(
        kept: dict[str, Any] | None,
        text: str | None,
        metric: str,
        dark: bool,
        stack_value: str,
        name: str,
    ) -> tuple[Any, bool]:
        result = _result(services, kept, name, stack_value)
        details = None if result is None else result.details
        head = None if details is None else _told(services, name, text, details.stack)
        if details is None or head is None:
            return no_update, True
        distribution = details.distribution(head, _measured(details, metric))
        figure = distribution_figure(distribution, dark=bool(dark), height=HISTOGRAM_HEIGHT)
        return figure, False

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


def _measured(details: HeadDistributions, metric: str) -> str:
    """Return a metric, or the first one where it has no meaning for these heads."""
    names = [info.name for info in details.metrics]
    return metric if metric in names else names[0]


def _told(services: Services, name: str, text: str | None, stack: str) -> Head | None:
    """Return the head that is told about, if it is one of those that were read."""
    head = head_from_text(text) if text else None
    if head is None or head.stack != stack:
        return None
    return services.model(name).check_heads([head])[0]


def _result(
    services: Services, kept: dict[str, Any] | None, name: str, stack_value: str
) -> StudyResult | None:
    """Return what was read of the model and the stack that stand, if it is still there."""
    if kept is None or (kept["model"], kept["stack"]) != (name, stack_name(stack_value)):
        return None
    result: StudyResult | None = services.results.get(kept["key"])
    return result
