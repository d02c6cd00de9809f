"""Files of what a view shows: every weight as CSV or JSON, or a page that works by itself.

They are asked for over HTTP and not by a callback: they can be long, so they are written piece by
piece and never stand in memory whole.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.runs import Outcome, map_key
from app.services import Services, build_intervention
from app.view import BETWEEN, View
from models.errors import ErrorKind, UserError
from models.types import MAP_KINDS
from viz.standalone import PICTURES as STANDALONE_PICTURES
from viz.standalone import attention_html

if TYPE_CHECKING:
    from dash import Dash

ROWS_OF_FRAME = 200_000
"""A long map becomes CSV in frames of about so many rows."""

Export = Callable[[View, Outcome], Iterator[str]]


def csv(view: View, outcome: Outcome) -> Iterator[str]:
    """Yield `AttentionMaps.to_frame` of all maps as CSV."""
    first = True
    for maps in outcome.maps:
        n = len(maps.prompt)
        n_queries = max(1, ROWS_OF_FRAME // len(maps.keys))
        for start in range(0, n, n_queries):
            queries = tuple(range(start, min(start + n_queries, n)))
            part = replace(maps, values=maps.values[:, list(queries)], queries=queries)
            yield part.to_frame().to_csv(index=False, header=first)
            first = False


def json_text(view: View, outcome: Outcome) -> Iterator[str]:
    """Yield what `main.py attention --json` writes: the prompt, heads, and [head][query][key]."""
    ablated = any(maps.ablated for maps in outcome.maps)
    about = {
        "model": view.model,
        **outcome.prompt.to_json(),
        "position": outcome.before.position,
        "intervention": build_intervention(view.intervention).spec if ablated else None,
        "ablated_heads": [head.to_json() for head in view.heads or ()] if ablated else [],
        "heads": [head.to_json() for maps in outcome.maps for head in maps.heads],
        **({} if outcome.kind == "attention" else {"kind": outcome.kind}),
    }
    yield json.dumps(about, ensure_ascii=False)[:-1] + ', "values": ['
    for index, maps in enumerate(outcome.maps):
        yield ", [" if index else "["
        for query, row in enumerate(maps.values[0]):
            yield (", " if query else "") + json.dumps(row.astype(float).tolist())
        yield "]"
    yield "]}\n"


def html(view: View, outcome: Outcome) -> Iterator[str]:
    """Yield one HTML file that shows the view without this program."""
    yield attention_html(
        *outcome.maps,
        prompt=outcome.prompt,
        picture=view.picture if view.picture in STANDALONE_PICTURES else STANDALONE_PICTURES[0],
        position=outcome.before.position,
        token=view.token,
        direction=view.direction,
        threshold=view.threshold,
        scale=view.scale,
        log=view.log,
        sink=view.sink,
        between=BETWEEN[view.between],
        title=f"{MAP_KINDS[outcome.kind].capitalize()} of {view.model}",
    )


EXPORTS: dict[str, tuple[Export, str]] = {
    "csv": (csv, "text/csv; charset=utf-8"),
    "json": (json_text, "application/json"),
    "html": (html, "text/html; charset=utf-8"),
}
"""Kind of file -> how it is written, and its media type."""


def register(app: "Dash", services: Services) -> None:
    """Add the route of each kind of file."""
    # Imported here: `import app` is cheap.
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response, StreamingResponse

    def endpoint(write: Export, media_type: str) -> Callable[..., Any]:
        async def export(request: Request) -> Response:
            try:
                view, outcome = await run_in_threadpool(_outcome, services, await request.json())
            except (UserError, ValueError, KeyError, TypeError) as error:
                return PlainTextResponse(_sentence(error), status_code=400)
            return StreamingResponse(write(view, outcome), media_type=media_type)

        return export

    for kind, (write, media_type) in EXPORTS.items():
        route = endpoint(write, media_type)
        app.server.add_route(f"/export/{kind}", route, methods=["POST"], include_in_schema=False)


def _outcome(services: Services, asked: Any) -> tuple[View, Outcome]:
    """Return what is exported of a view: {view, pages, head}, the key of a map or null."""
    view = View.from_json(asked["view"])
    outcome = services.outcome(view, max(1, int(asked["pages"])))
    if asked["head"] is not None:
        chosen = tuple(maps for maps in outcome.maps if map_key(maps) == asked["head"])
        outcome = replace(outcome, maps=chosen)
    if not outcome.maps:
        raise UserError(
            ErrorKind.HEADS, "There are no weights to export: choose heads on the left first."
        )
    return view, outcome


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else "This is not a request for a file."
