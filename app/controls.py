"""Which component holds which field of the view.

The value of each component *is* the field's JSON form, so that one table serves both ways: the
browser gathers the view from it, and opening a view fills it in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dash import Input, Output

from app import ids
from app.view import View


@dataclass(frozen=True, slots=True)
class Control:
    """A field of the view, and the property that holds it."""

    field: str
    component: str
    prop: str


CONTROLS = (
    Control("model", ids.MODEL, "data"),
    Control("prompt", ids.PROMPT, "data"),
    Control("second", ids.SECOND, "data"),
    Control("images", ids.IMAGES, "data"),
    Control("bos", ids.BOS_USED, "data"),
    Control("position", ids.POSITION, "data"),
    Control("heads", ids.HEADS, "value"),
    Control("stack", ids.STACK, "value"),
    Control("intervention", ids.INTERVENTION, "data"),
    Control("ablate", ids.ABLATE, "checked"),
    Control("acted", ids.ACTED_TEXT, "value"),
    Control("tab", ids.TABS, "value"),
    Control("picture", ids.PICTURE, "value"),
    Control("cells", ids.CELLS, "value"),
    Control("token", ids.TOKEN, "data"),
    Control("direction", ids.DIRECTION, "value"),
    Control("threshold", ids.THRESHOLD, "value"),
    Control("scale", ids.SCALE, "value"),
    Control("log", ids.LOG, "checked"),
    Control("values", ids.VALUES, "value"),
    Control("sink", ids.SINK, "value"),
    Control("between", ids.BETWEEN, "value"),
    Control("size", ids.SIZE, "value"),
    Control("linked", ids.LINKED, "checked"),
    Control("extra", ids.EXTRA, "value"),
    Control("watched", ids.WATCHED, "data"),
    Control("metric", ids.METRIC, "value"),
    Control("study", ids.STUDY, "value"),
    Control("target", ids.TARGET, "data"),
    Control("goal", ids.GOAL, "value"),
    Control("max_heads", ids.MAX_HEADS, "value"),
    Control("strategy", ids.STRATEGY, "value"),
)


def inputs() -> list[Input]:
    """Return every control as an input, in the order of the table."""
    return [Input(control.component, control.prop) for control in CONTROLS]


def outputs() -> list[Output]:
    """Return every control as an output, in the order of the table."""
    return [Output(control.component, control.prop, allow_duplicate=True) for control in CONTROLS]


def values(view: View) -> Sequence[Any]:
    """Return what the controls hold for a view, in the order of the table."""
    data = view.to_json()
    return [data[control.field] for control in CONTROLS]
