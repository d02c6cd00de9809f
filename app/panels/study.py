"""The ablation study, what stands on its tab: options, progress, results. See `study_run`."""

from collections.abc import Mapping
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import dcc, html

from ablation.metrics import METRICS
from ablation.types import STRATEGIES, MetricInfo
from app import ids
from app.panels import by_position
from app.panels.pieces import empty, graph, segmented
from app.panels.progress import progress_place

STUDIES = (
    ("sweep", "Every head"),
    ("positions", "By position"),
    ("generic", "Generic"),
    ("targeted", "Targeted"),
)
HELP = {
    "sweep": "Ablates every head alone and maps how much the prediction answers.",
    "positions": "Ablates each chosen head at one position at a time and maps where in the prompt "
    "it matters.",
    "generic": "Adds one head at a time, always the one that moves the whole prediction most.",
    "targeted": "Looks for a small set of heads whose ablation makes a token of your choice "
    "the most likely one.",
}
POLICY_HELP = {
    "sweep": "Ablates every head of the stack alone and maps how far the chunk of actions moves.",
    "positions": "Is about tokens: a policy that answers with numbers has no such map.",
    "generic": "Adds one head at a time, always the one that moves the action farthest.",
    "targeted": "Looks for a small set of heads whose ablation makes the action what you want: its "
    "mean over the chunk, or what a choice such as the gripper ends at.",
}
"""What the studies do with a policy that answers with numbers."""
STRATEGY_HELP = {name: f"{name.capitalize()}: {words}." for name, words in STRATEGIES.items()}
SWEEP_MAP_HEIGHT = 400


GRID_THEME = """themeQuartz.withParams({
    backgroundColor: "var(--av-surface)", foregroundColor: "var(--av-text)",
    accentColor: "var(--av-primary)", borderColor: "var(--av-line)",
    headerBackgroundColor: "var(--av-surface)", headerTextColor: "var(--av-muted)",
    rowHoverColor: "var(--av-grid)", fontSize: 12, headerFontSize: 11, fontFamily: "inherit",
    browserColorScheme: "inherit", spacing: 5, wrapperBorderRadius: 6, cellHorizontalPadding: 9
})"""
"""The tables in the page's own colours, in light and dark alike."""


def metric_options(metrics: Mapping[str, MetricInfo]) -> list[dict[str, str]]:
    """Return what a sweep can measure as options of a list."""
    return [{"value": name, "label": info.label} for name, info in metrics.items()]


def target_metrics() -> list[str]:
    """Return the names of the metrics that are about a target token."""
    return [name for name, metric in METRICS.items() if metric.info.needs_target]


def layout() -> html.Div:
    """Return the contents of the tab."""
    return html.Div(
        [
            html.Div(
                [
                    segmented(ids.STUDY, STUDIES, "sweep", "Kind of study"),
                    html.Div(className="grow"),
                    dmc.Button("Run study", id=ids.STUDY_RUN, size="xs"),
                    dmc.Button(
                        "Cancel", id=ids.STUDY_CANCEL, size="xs", variant="default", disabled=True
                    ),
                ],
                className="toolbar",
            ),
            html.P(id=ids.STUDY_HELP, className="help"),
            html.Div(
                [_sweep_options(), _search_options(), _target_options(), _goal_options()],
                className="options",
            ),
            progress_place(
                ids.STUDY_PROGRESS, ids.STUDY_BAR, ids.STUDY_STATUS, "Progress of the study"
            ),
            html.P(id=ids.STUDY_OUTDATED, className="note", role="status"),
            _sweep_result(),
            by_position.layout(),
            _search_result(),
            dcc.Store(id=ids.TARGET),
            dcc.Store(id=ids.STUDY_REQUEST),
        ],
        className="tab-body",
    )


def _sweep_options() -> html.Div:
    return html.Div(
        dmc.Select(
            id=ids.METRIC,
            label="Metric",
            data=metric_options({name: metric.info for name, metric in METRICS.items()}),
            value="kl",
            allowDeselect=False,
            size="xs",
            w=236,
        ),
        id=ids.SWEEP_OPTIONS,
    )


def _search_options() -> html.Div:
    return html.Div(
        [
            dmc.NumberInput(
                id=ids.MAX_HEADS,
                label="Heads, at most",
                value=10,
                min=1,
                max=4096,
                allowDecimal=False,
                clampBehavior="strict",
                debounce=True,
                size="xs",
                w=96,
            ),
            html.Div(
                [
                    html.Span("Strategy", className="field-label"),
                    segmented(
                        ids.STRATEGY,
                        [(name, name) for name in STRATEGIES],
                        "exact",
                        "Strategy of the search",
                    ),
                ],
                className="labelled",
            ),
        ],
        id=ids.SEARCH_OPTIONS,
        hidden=True,
        className="pair",
    )


def _target_options() -> html.Div:
    return html.Div(
        [
            dmc.Select(
                id=ids.TARGET_PICKER,
                label="Target token",
                data=[],
                searchable=True,
                size="xs",
                w=170,
                placeholder="one of the 20 most likely",
            ),
            dmc.TextInput(
                id=ids.TARGET_TEXT,
                label="or type any token",
                size="xs",
                w=170,
                debounce=True,
                placeholder="with its leading space",
                spellCheck=False,
            ),
        ],
        id=ids.TARGET_OPTIONS,
        hidden=True,
        className="pair",
    )


def _goal_options() -> html.Div:
    return html.Div(
        dmc.TextInput(
            id=ids.GOAL,
            label="What the action shall be",
            size="xs",
            w=190,
            placeholder="dx<0",
            spellCheck=False,
        ),
        id=ids.GOAL_OPTIONS,
        hidden=True,
    )


def _sweep_result() -> html.Div:
    return html.Div(
        [
            empty(
                "Run the study to see what each head does on its own. Every head is ablated once, "
                "with the intervention on the left.",
                id=ids.SWEEP_EMPTY,
            ),
            html.Div(
                [
                    html.P(id=ids.SWEEP_CAPTION, className="caption"),
                    html.Div(
                        [
                            graph(
                                ids.SWEEP_MAP,
                                "Layers by heads map of the sweep's metric",
                                SWEEP_MAP_HEIGHT,
                            ),
                            _grid(ids.SWEEP_TABLE, sweep_columns()),
                        ],
                        className="sweep-columns",
                    ),
                ],
                id=ids.SWEEP_BODY,
                hidden=True,
            ),
        ],
        id=ids.SWEEP_RESULT,
    )


def _search_result() -> html.Div:
    return html.Div(
        [
            empty(
                "Run the study to search for the heads that matter together. Steps appear here as "
                "they are found.",
                id=ids.SEARCH_EMPTY,
            ),
            html.Div(
                [
                    html.Div(
                        [
                            dmc.Button(
                                "Use these heads", id=ids.USE_HEADS, size="xs", disabled=True
                            ),
                            html.Div(id=ids.SEARCH_SENTENCES, className="sentences"),
                        ],
                        className="finding",
                    ),
                    graph(ids.SEARCH_TRACE, "The prediction after each step of the search", 260),
                    _grid(ids.SEARCH_TABLE, search_columns(), height=None),
                ],
                id=ids.SEARCH_BODY,
                hidden=True,
            ),
        ],
        id=ids.SEARCH_RESULT,
        hidden=True,
    )


def figures_column(name: str, header: str, spec: str, **options: Any) -> dict[str, Any]:
    """Return a column of numbers, written as d3 writes `spec`."""
    return {
        "field": name,
        "headerName": header,
        "type": "rightAligned",
        "valueFormatter": {
            "function": f"params.value == null ? '' : d3.format('{spec}')(params.value)"
        },
        **options,
    }


def sweep_columns(metric: MetricInfo | None = None) -> list[dict[str, Any]]:
    """Return the columns of the ranked heads; the value's header names the metric and its unit."""
    unit = f", {metric.unit}" if metric is not None and metric.unit else ""
    value = "Value" if metric is None else f"{metric.label}{unit}"
    return [
        {"field": "rank", "headerName": "#", "width": 62},
        {"field": "head", "headerName": "Head", "width": 92},
        figures_column("value", value, ".4~g", flex=1, wrapHeaderText=True, autoHeaderHeight=True),
    ]


def search_columns(has_target: bool = True) -> list[dict[str, Any]]:
    """Return the columns of a search's steps; a generic search has no target to show."""
    target = [figures_column("target_prob", "p(target)", ".3~g", flex=1)] if has_target else []
    return [
        {"field": "step", "headerName": "#", "width": 56},
        {"field": "head", "headerName": "Head", "width": 86},
        figures_column("kl", "KL, nats", ".4~g", flex=1),
        *target,
        {"field": "top_token", "headerName": "Top token", "flex": 1},
        figures_column("top_prob", "p(top)", ".3~g", flex=1),
        {"field": "kept", "headerName": "Kept", "width": 76},
    ]


def _grid(component_id: str, columns: list[dict[str, Any]], height: int | None = 400) -> dag.AgGrid:
    return dag.AgGrid(
        id=component_id,
        columnDefs=columns,
        rowData=[],
        getRowId="params.data.head",
        defaultColDef={"sortable": True, "resizable": True, "suppressMovable": True},
        dashGridOptions={
            "theme": {"function": GRID_THEME},
            "rowHeight": 27,
            "headerHeight": 29,
            "animateRows": False,
            "domLayout": "normal" if height else "autoHeight",
            "suppressNoRowsOverlay": True,
        },
        eventListeners={"cellKeyDown": ["gridRowChosen(params, setEventData)"]},
        className="grid",
        style={"height": height, "width": "100%"},
    )
