"""Files of a circuit that need every edge and every digit: JSON and GraphML. The browser makes the
pictures."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ablation.circuit.types import Circuit
from app.services import Services
from viz.circuit_graphml import circuit_graphml

if TYPE_CHECKING:
    from dash import Dash

GONE = "This circuit is not kept any more; discover it again."

Write = Callable[[Circuit], str]


def json_text(circuit: Circuit) -> str:
    """Return what `main.py circuit --json` writes."""
    return json.dumps(circuit.to_json(), ensure_ascii=False, indent=2) + "\n"


EXPORTS: dict[str, tuple[Write, str]] = {
    "json": (json_text, "application/json"),
    "graphml": (circuit_graphml, "application/xml; charset=utf-8"),
}
"""Kind of file -> how it is written, and its media type."""


def register(app: "Dash", services: Services) -> None:
    """Add the route of each kind of file; a request names the circuit by its key."""
    # Imported here: `import app` is cheap.
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response

    def endpoint(write: Write, media_type: str) -> Callable[..., Any]:
        async def export(request: Request) -> Response:
            try:
                key = (await request.json())["key"]
            except (ValueError, KeyError, TypeError):
                return PlainTextResponse("This is not a request for a file.", status_code=400)
            circuit = services.results.get(key) if isinstance(key, str) else None
            if not isinstance(circuit, Circuit):
                return PlainTextResponse(GONE, status_code=400)
            return Response(await run_in_threadpool(write, circuit), media_type=media_type)

        return export

    for kind, (write, media_type) in EXPORTS.items():
        route = endpoint(write, media_type)
        path = f"/export/circuit/{kind}"
        app.server.add_route(path, route, methods=["POST"], include_in_schema=False)
