"""The tab about all heads at once: their roles, and how two runs differ."""

from dash import Dash, html

from app.panels import dossier
from app.services import Services


def layout() -> html.Div:
    """Return the contents of the tab."""
    return html.Div([dossier.layout()], className="tab-body")


def register(app: Dash, services: Services) -> None:
    """Add the callbacks of the tab and of what stands in it."""
    dossier.register(app, services)
