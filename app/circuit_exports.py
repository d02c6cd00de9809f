"""Files of circuits and of head patching that need every number and every digit: JSON, GraphML,
CSV. The browser makes the pictures."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ablation.circuit.types import Circuit
from app.services import Services
from viz.circuit_graphml import circuit_graphml

if TYPE_CHECKING:
    from dash import Dash

GONE = "This result is not kept any more; run it again."

Write = Callable[[Any], str]


def json_text(found: Any) -> str:
    """Return what `main.py circuit --json` writes, of a circuit or of head patching."""
    return json.dumps(found.to_json(), ensure_ascii=False, indent=2) + "\n"


def csv_text(found: Any) -> str:
    """Return one row a head."""
    text: str = found.to_frame().to_csv(index=False)
    return text


EXPORTS: dict[str, tuple[Write, str]] = {
    "circuit/json": (json_text, "application/json"),
    "circuit/graphml": (circuit_graphml, "application/xml; charset=utf-8"),
    "patching/json": (json_text, "application/json"),
    "patching/csv": (csv_text, "text/csv; charset=utf-8"),
}
"""What of, and kind of file -> how it is written, and its media type."""


def register(app: "Dash", services: Services) -> None:
    """Add the route of each kind of file; a request names the circuit by its key."""
    # Imported here: `import app` is cheap.
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response

    def endpoint(of_circuit: bool, write: Write, media_type: str) -> Callable[..., Any]:
        async def export(request: Request) -> Response:
            try:
                key = (await request.json())["key"]
            except (ValueError, KeyError, TypeError):
                return PlainTextResponse("This is not a request for a file.", status_code=400)
            found = services.results.get(key) if isinstance(key, str) else None
            if found is None or isinstance(found, Circuit) != of_circuit:
                return PlainTextResponse(GONE, status_code=400)
            return Response(await run_in_threadpool(write, found), media_type=media_type)

        return export

    for kind, (write, media_type) in EXPORTS.items():
        route = endpoint(kind.startswith("circuit/"), write, media_type)
        path = f"/export/{kind}"
        app.server.add_route(path, route, methods=["POST"], include_in_schema=False)
