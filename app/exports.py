"""Files of what a view shows: every weight as CSV or JSON, or a page that works by itself.

They are asked for over HTTP and not by a callback: they can be long, so they are written piece by
piece and never stand in memory whole.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ablation.types import without_nan
from app.panels.drawn_maps import extra_map
from app.runs import Outcome, map_key
from app.services import Services, build_intervention
from app.view import BETWEEN, View
from models.errors import ErrorKind, UserError
from models.types import MAP_KINDS, AttentionMaps
from viz.sink import without_first
from viz.standalone import PICTURES as STANDALONE_PICTURES
from viz.standalone import OfAll, attention_html

if TYPE_CHECKING:
    from dash import Dash

ROWS_OF_FRAME = 200_000
"""A long map becomes CSV in frames of about so many rows."""

RAW = "as the model computes them, the first token included, nothing renormalised"

Export = Callable[[View, Outcome, Sequence[OfAll]], Iterator[str]]
"""Args: the view, what it shows, and the maps of all heads together that it shows."""


def csv(view: View, outcome: Outcome, of_all: Sequence[OfAll]) -> Iterator[str]:
    """Yield `AttentionMaps.to_frame` of all maps as CSV.

    "weight" is what the model computes. Where the view does something about the first token, one
    more column, "shown", has what is shown, empty where that is blank. Where it has a map of all
    heads together, one more column, "map", names each; layer and head of that map are -1.
    """
    first = True
    for maps in outcome.maps:
        for part in _parts(maps):
            frame = part.to_frame()
            if view.sink != "show":
                frame["shown"] = without_first(part.values, view.sink, part.keys.starts).reshape(-1)
            if of_all:
                frame.insert(0, "map", maps.title(0))
            yield frame.to_csv(index=False, header=first)
            first = False
    for one in of_all:
        for part in _parts(one.maps):
            frame = part.to_frame().assign(layer=-1, head=-1)
            if view.sink != "show":  # there is no other than the one that is shown
                frame["shown"] = frame["weight"]
                frame["weight"] = np.nan
            frame.insert(0, "map", one.name)
            yield frame.to_csv(index=False, header=False)


def _parts(maps: AttentionMaps) -> Iterator[AttentionMaps]:
    """Yield a map in rows of as many as a frame may have."""
    n = len(maps.prompt)
    n_queries = max(1, ROWS_OF_FRAME // len(maps.keys))
    for start in range(0, n, n_queries):
        queries = tuple(range(start, min(start + n_queries, n)))
        yield replace(maps, values=maps.values[:, list(queries)], queries=queries)


def json_text(view: View, outcome: Outcome, of_all: Sequence[OfAll]) -> Iterator[str]:
    """Yield what `main.py attention --json` writes: the prompt, heads, and [head][query][key].

    "values_are" says that these are the model's own whatever the view does about the first token.
    Maps of all heads together are in "combined", as they are shown, null where they are blank.
    """
    ablated = any(maps.ablated for maps in outcome.maps)
    about = {
        "model": view.model,
        **outcome.prompt.to_json(),
        "position": outcome.before.position,
        "intervention": build_intervention(view.intervention).spec if ablated else None,
        "ablated_heads": [head.to_json() for head in view.heads or ()] if ablated else [],
        "heads": [head.to_json() for maps in outcome.maps for head in maps.heads],
        **({} if outcome.kind == "attention" else {"kind": outcome.kind}),
        "values_are": RAW,
        "shown": {"first_token": view.sink, "one_more_map": view.extra},
    }
    yield json.dumps(about, ensure_ascii=False)[:-1] + ', "values": ['
    for index, maps in enumerate(outcome.maps):
        yield ", [" if index else "["
        for query, row in enumerate(maps.values[0]):
            yield (", " if query else "") + json.dumps(row.astype(float).tolist())
        yield "]"
    yield '], "combined": ['
    for index, one in enumerate(of_all):
        yield (", " if index else "") + '{"name": ' + json.dumps(one.name) + ', "values": ['
        for query, row in enumerate(without_nan(one.maps.values[0])):
            yield (", " if query else "") + json.dumps(row)
        yield "]}"
    yield "]}\n"


def html(view: View, outcome: Outcome, of_all: Sequence[OfAll]) -> Iterator[str]:
    """Yield one HTML file that shows the view without this program."""
    yield attention_html(
        *outcome.maps,
        of_all=of_all,
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
                shown = await run_in_threadpool(_shown, services, await request.json())
            except (UserError, ValueError, KeyError, TypeError) as error:
                return PlainTextResponse(_sentence(error), status_code=400)
            return StreamingResponse(write(*shown), media_type=media_type)

        return export

    for kind, (write, media_type) in EXPORTS.items():
        route = endpoint(write, media_type)
        app.server.add_route(f"/export/{kind}", route, methods=["POST"], include_in_schema=False)


def _shown(services: Services, asked: Any) -> tuple[View, Outcome, list[OfAll]]:
    """Return what is exported of a view: {view, pages, head}, the key of a map or null.

    Raises:
        UserError: there is no map.
    """
    view = View.from_json(asked["view"])
    outcome = services.outcome(view, max(1, int(asked["pages"])))
    if asked["head"] is not None:
        chosen = tuple(maps for maps in outcome.maps if map_key(maps) == asked["head"])
        outcome = replace(outcome, maps=chosen)
    if not outcome.maps:
        raise UserError(
            ErrorKind.HEADS, "There are no weights to export: choose heads on the left first."
        )
    if asked["head"] is not None or view.picture != "matrix":  # the one that has such a map
        return view, outcome, []
    extra = extra_map(view, outcome, services.extents(view, outcome))
    read = [(one, one.read()) for one in extra]
    return view, outcome, [OfAll(one.name, maps, one.extent(maps)) for one, maps in read]


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else "This is not a request for a file."
