"""Errors on the page: each is shown once, where it belongs."""

import logging
from collections.abc import Mapping

from dash import set_props

from app import ids
from app.waits import GivenUp
from models.errors import ErrorKind, UserError

_logger = logging.getLogger(__name__)

PLACES: Mapping[ErrorKind, tuple[str, str]] = {
    ErrorKind.PROMPT: (ids.PROMPT_TEXT, "error"),
    ErrorKind.STATE: (ids.SECOND_TEXT, "error"),
    ErrorKind.HEADS: (ids.HEADS_TEXT, "error"),
    ErrorKind.POSITION: (ids.ACTED_TEXT, "error"),
    ErrorKind.INTERVENTION: (ids.INTERVENTION_ERROR, "children"),
    ErrorKind.TARGET: (ids.TARGET_TEXT, "error"),
}
"""Errors that have a field of their own; the others become a notification."""

INTERNAL = "Internal error: this is a defect of the program. The server's log has the details."


def notice(message: str, title: str = "", color: str = "red") -> dict[str, object]:
    """Return a notification as the notification container takes it."""
    return {
        "action": "show",
        "id": f"notice-{hash(message)}",  # the same sentence twice is one notice
        "title": title,
        "message": message,
        "color": color,
        "autoClose": 12_000 if color == "red" else 6_000,
        "withBorder": True,
    }


def tell(message: str, title: str = "", color: str = "red") -> None:
    """Show a notification from within a callback."""
    set_props(ids.NOTICES, {"sendNotifications": [notice(message, title, color)]})


def show_error(error: Exception) -> None:
    """Show what went wrong in a callback; this is the page's `on_error`."""
    if isinstance(error, GivenUp):  # nothing did
        return
    if not isinstance(error, UserError):
        _logger.error("A callback failed", exc_info=error)
        tell(INTERNAL)
        return
    place = PLACES.get(error.kind)
    if place is None:
        tell(str(error))
    else:
        component, prop = place
        set_props(component, {prop: str(error)})
