"""The circuit tab, head patching: each head's output replaced by the other prompt's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, html, no_update

from ablation.circuit.methods import DIRECTIONS, METRICS
from ablation.types import Progress
from app import ids, words
from app.jobs import Job
from app.panels.circuit_asked import Asked, asked_about, pairs_of
from app.panels.circuit_tables import figures, table
from app.panels.export_menu import menu_of
from app.panels.head_maps import HEIGHT, large_map
from app.panels.pieces import browser, choose_on_click, empty, graph
from app.services import Services
from app.view import View, head_from_text
from models.types import Head
from viz.circuit_text import number
from viz.positions import map_width, most_heads, position_map_figure

if TYPE_CHECKING:
    from ablation.circuit.patching import HeadPatching

POSITIONS_HEIGHT = 240
NO_POSITIONS = (
    "Of one pair of prompts, heads that are chosen on the left are patched at each position too."
)


def layout() -> html.Div:
    """Return the place of the result."""
    columns = [
        {"field": "rank", "headerName": "#", "width": 56},
        {"field": "head", "headerName": "Head", "width": 86},
        figures("value", "Share of the effect", "+.3~g"),
    ]
    files = ((ids.PATCHING_CSV, "CSV"), (ids.PATCHING_JSON, "JSON"))
    export = menu_of(files, id=ids.PATCHING_EXPORT)
    grid = table("", ids.PATCHING_TABLE, columns, "params.data.id", HEIGHT)
    heads_map = graph(
        ids.PATCHING_MAP, "Layers by heads map of head patching; a click chooses a head", HEIGHT
    )
    return html.Div(
        [
            html.P(id=ids.PATCHING_OUTDATED, className="note", role="status"),
            empty(
                "Run it to see what each head carries by itself: its output is replaced by that of "
                "the other prompt of a pair, exactly, one head at a time.",
                id=ids.PATCHING_EMPTY,
            ),
            html.Div(
                [
                    html.Div(
                        [html.P(id=ids.PATCHING_CAPTION, className="caption"), export],
                        className="unwrapped toolbar",
                    ),
                    html.Div([heads_map, grid], className="sweep-columns"),
                    html.P(NO_POSITIONS, id=ids.PATCHING_NOTE, className="help"),
                    html.Div(
                        graph(
                            ids.PATCHING_POSITIONS,
                            "Heads by positions map of head patching",
                            POSITIONS_HEIGHT,
                        ),
                        id=ids.PATCHING_FRAME,
                        hidden=True,
                    ),
                ],
                id=ids.PATCHING_BODY,
                hidden=True,
            ),
        ],
        id=ids.PATCHING_PLACE,
        hidden=True,
    )


def patch(
    services: Services, view: View, asked: Asked, report: Callable[[Progress], None], job: Job
) -> "HeadPatching":
    """Patch heads as a form asks; of one pair the chosen heads at each position too.

    Pairs that are held out play no part.

    Raises:
        UserError: a choice that does not fit the model or the pairs.
    """
    from ablation.circuit.patching import patch_heads

    model = services.model(view.model)
    pairs, _ = pairs_of(services, view, asked, model)
    heads: tuple[Head, ...] = ()
    if len(pairs) == 1:
        heads = _by_position(view, len(model.tokenize(pairs[0].clean, view.bos)))
    return patch_heads(
        model,
        pairs,
        asked.method,
        asked.metric,
        by_position=bool(heads),
        heads=heads,
        bos=view.bos,
        progress=report,
        cancel=job.cancel,
    )


def _by_position(view: View, n_positions: int) -> tuple[Head, ...]:
    """Return the chosen heads, as many of them as one map can show."""
    return (view.heads or ())[: most_heads(n_positions)]


def finished(services: Services, view: View, asked: Asked, found: "HeadPatching") -> dict[str, Any]:
    """Keep a result; return what the page keeps of it."""
    n_bytes = found.values.nbytes + 2**16
    heads: tuple[Head, ...] = ()
    if found.by_position is not None:
        n_bytes += found.by_position.nbytes
        heads = _by_position(view, len(found.labels))
    return {
        "key": services.results.keep(found, n_bytes),
        "model": view.model,
        "asked": asked_about(asked, view),
        "heads": [head.short for head in heads],
    }


def caption(found: "HeadPatching") -> str:
    """Say what the numbers are of."""
    cancelled = "Cancelled; " if found.stopped == "cancelled" else ""
    metric = METRICS[found.metric].label
    return (
        f"{cancelled}{DIRECTIONS[found.direction].label}, "
        f"{words.count(found.n_pairs, 'pair')}. {DIRECTIONS[found.direction].description} "
        f"{metric[:1].upper()}{metric[1:]}: {number(found.clean)} on the clean prompt, "
        f"{number(found.corrupt)} on the corrupted one. 1 is all of the way between them."
    )


def rows(found: "HeadPatching") -> list[dict[str, Any]]:
    """Return the heads, the largest effect first."""
    return [
        {"id": head.short, "rank": rank, "head": str(head), "value": value}
        for rank, (head, value) in enumerate(found.scores.ranked(), 1)
    ]


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that draw what was found; `circuit_run` runs it."""

    @app.callback(
        Output(ids.PATCHING_MAP, "figure"),
        Output(ids.PATCHING_POSITIONS, "figure"),
        Output(ids.PATCHING_FRAME, "style"),
        Output(ids.PATCHING_FRAME, "hidden"),
        Output(ids.PATCHING_NOTE, "hidden"),
        Output(ids.PATCHING_CAPTION, "children"),
        Output(ids.PATCHING_TABLE, "rowData"),
        Output(ids.PATCHING_EMPTY, "hidden"),
        Output(ids.PATCHING_BODY, "hidden"),
        Input(ids.PATCHING, "data"),
        Input(ids.DARK, "data"),
        State(ids.HEADS, "value"),
        State(ids.MODEL, "data"),
        prevent_initial_call=True,
    )
    def draw(
        kept: dict[str, Any] | None, dark: bool, chosen: list[str] | None, name: str
    ) -> tuple[Any, ...]:
        found = services.results.get(kept["key"]) if kept and kept["model"] == name else None
        if kept is None or found is None:
            return (no_update,) * 3 + (True, False, "", [], False, True)
        heads_map = large_map(found.scores, chosen or [], bool(dark))
        heads = [head_from_text(text) for text in kept["heads"]]
        scores = found.position_scores(heads)
        positions, style = no_update, no_update
        if scores is not None:
            positions = position_map_figure(scores, dark=bool(dark))
            style = {"maxWidth": f"{map_width(scores)}px"}
        return (
            heads_map, positions, style, scores is None, scores is not None,
            caption(found), rows(found), True, False,
        )  # fmt: skip

    choose_on_click(app, ids.PATCHING_MAP)
    app.clientside_callback(
        browser("showMethod", "circuit"),
        Output(ids.CIRCUIT_FOUND, "hidden"),
        Output(ids.PATCHING_PLACE, "hidden"),
        Input(ids.CIRCUIT_METHOD, "value"),
        State(ids.LIMITS, "data"),
    )
    app.clientside_callback(
        browser("exported", "circuit"),
        Input(ids.PATCHING_CSV, "n_clicks"),
        Input(ids.PATCHING_JSON, "n_clicks"),
        State(ids.PATCHING, "data"),
        prevent_initial_call=True,
    )
    for rows_of in (ids.PATCHING_TABLE, ids.CIRCUIT_ROLES):
        app.clientside_callback(
            browser("chooseRow", "circuit"),
            Output(ids.HEADS, "value", allow_duplicate=True),
            Input(rows_of, "cellClicked"),
            State(ids.HEADS, "value"),
            prevent_initial_call=True,
        )
