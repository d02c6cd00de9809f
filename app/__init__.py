"""The page: what the rooms below find out, shown and asked for in a browser.

It holds no science. `create_app` makes the application; `app.server` serves it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dash import Dash

    from app.services import Registry, Services

ASSETS = Path(__file__).resolve().parent.parent / "assets"

MAX_WORKERS = 32
"""Callbacks that run at the same time, over all pages. A running study holds one."""


def create_app(registry: "Registry", default_model: str = "builtin") -> "Dash":
    """Make the page as a Dash application on FastAPI.

    Every callback comes over a websocket, and so runs in a thread of its own: over HTTP the
    FastAPI backend would run it on the event loop and keep all other pages waiting.

    Args:
        registry: where models come from; see `models.registry.Registry`.
        default_model: what a page without a link opens.
    """
    # Imported here so that `import app` is cheap.
    import dash

    from app import circuit_exports, exports, notices, tables
    from app.panels import page
    from app.services import Services

    services = Services(registry, default_model)
    app = dash.Dash(
        __name__,
        backend="fastapi",
        assets_folder=str(ASSETS),
        title="Attention Visualizer",
        update_title="",
        on_error=notices.show_error,
        websocket_callbacks=True,
        websocket_max_workers=MAX_WORKERS,
        websocket_inactivity_timeout=0,
        serve_locally=True,
        health_endpoint="health",
        index_string=page.index_string(),
        add_log_handler=False,
    )
    app.layout = lambda: page.layout(services)
    page.register(app, services)
    app.server.state.services = services
    exports.register(app, services)
    tables.register(app, services)
    circuit_exports.register(app, services)
    _listen_for_leaving(app, services)
    return app


def _listen_for_leaving(app: "Dash", services: "Services") -> None:
    """Cancel the job of a page that is closed or reloaded: the page sends a last word.

    The websocket alone does not tell, because tabs of one browser share it.
    """

    async def leave(tab: str) -> None:
        services.jobs.cancel(tab)
        services.waits.leave(tab)

    app.server.add_api_route(
        "/leave/{tab}", leave, methods=["POST"], status_code=204, include_in_schema=False
    )
