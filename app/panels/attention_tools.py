"""The tools above the pictures of attention: which picture, of what, and how it is drawn.

A tool that means nothing for a picture is hidden while that is shown (`shown_for`).
"""

from collections.abc import Mapping
from typing import Any

import dash_mantine_components as dmc
from dash import html

from app import ids
from app.panels import overview
from app.panels.export_menu import menu_of
from app.panels.pieces import segmented, switch
from app.view import DIRECTIONS, EXTRAS, MAX_SIZE, MIN_SIZE, PICTURES, VALUES, View
from viz.sink import SINKS

EXPORTS = (
    (ids.EXPORT_PNG, "Picture as PNG"),
    (ids.EXPORT_SVG, "Picture as SVG"),
    (ids.EXPORT_HTML, "Page as one HTML file"),
    (ids.EXPORT_CSV, "All numbers as CSV"),
    (ids.EXPORT_JSON, "All numbers as JSON"),
)
"""What the menu of the tab writes to a file."""


def toolbar() -> html.Div:
    return html.Div(
        [
            segmented(ids.PICTURE, tuple(PICTURES.items()), "matrix", "How attention is drawn"),
            html.Div(overview.tools(), className="tool", **shown_for("overview")),
            html.Div(
                [
                    html.Span("Show", className="field-label"),
                    dmc.Select(
                        id=ids.VALUES,
                        data=_options(VALUES),
                        value="attention",
                        allowDeselect=False,
                        size="xs",
                        w=132,
                        **{"aria-label": "Show: attention, times what it moves, or rolled out"},
                    ),
                ],
                className="tool",
                **shown_for("matrix", "lines", "text", "image"),
            ),
            html.Div(
                html.Div(
                    [
                        html.Span("Sentences", className="field-label"),
                        segmented(
                            ids.BETWEEN,
                            (("all", "all"), ("a-b", "A→B"), ("b-a", "B→A")),
                            "all",
                            "Which sentence of the pair looks at which",
                        ),
                    ],
                    id=ids.BETWEEN_PLACE,
                    className="tool",
                    hidden=True,
                ),
                **shown_for("matrix", "lines", "text", "image"),
            ),
            html.Div(className="row-end"),
            html.Div(
                [
                    html.Span("Weights ≥", className="field-label"),
                    dmc.Slider(
                        id=ids.THRESHOLD,
                        min=0,
                        max=0.5,
                        step=0.01,
                        value=0,
                        size="sm",
                        w=64,
                        updatemode="mouseup",
                        label=None,
                        thumbLabel="Threshold: smaller weights are not drawn",
                    ),
                    html.Span("0", id=ids.THRESHOLD_READING, className="reading"),
                ],
                className="tool",
                **shown_for("matrix", "lines", "text", "image"),
            ),
            html.Div(
                segmented(
                    ids.DIRECTION,
                    tuple(DIRECTIONS.items()),
                    "at",
                    "What is shown of the selected token",
                ),
                className="tool",
                **shown_for("text", "image"),
            ),
            html.Div(overview.legend(), className="tool", **shown_for("overview")),
            html.Div(className="grow"),
            html.Div(_display()),
            menu_of(EXPORTS),
        ],
        className="toolbar",
    )


def _display() -> dmc.Popover:
    """Return what is changed now and then about how maps are drawn."""
    opener = dmc.Button("Display", size="compact-xs", variant="default", rightSection="▾")
    return dmc.Popover(
        [
            dmc.PopoverTarget(opener),
            dmc.PopoverDropdown(
                [
                    _setting(
                        "Colours",
                        segmented(
                            ids.SCALE,
                            (("shared", "shared"), ("own", "per map")),
                            "shared",
                            "Colour scale: shared by all maps, or each map its own",
                        ),
                        *PICTURES,
                    ),
                    _setting("Scale", switch(ids.LOG, "log"), *PICTURES),
                    _setting(
                        "First token",
                        dmc.Select(
                            id=ids.SINK,
                            data=_options(SINKS),
                            value="show",
                            allowDeselect=False,
                            size="xs",
                            w=116,
                            comboboxProps={"withinPortal": False},
                            **{"aria-label": "First token: show, hide, or renormalise the others"},
                        ),
                        *PICTURES,
                    ),
                    _setting(
                        "Size",
                        dmc.Slider(
                            id=ids.SIZE,
                            min=MIN_SIZE,
                            max=MAX_SIZE,
                            step=10,
                            value=View().size,
                            size="sm",
                            w=116,
                            updatemode="mouseup",
                            label=None,
                            thumbLabel="Size of each map in pixels",
                        ),
                        "matrix",
                    ),
                    _setting("All maps", switch(ids.LINKED, "link zoom"), "matrix"),
                    _setting(
                        "One more map",
                        dmc.Select(
                            id=ids.EXTRA,
                            data=_options(EXTRAS),
                            value="none",
                            allowDeselect=False,
                            size="xs",
                            w=116,
                            comboboxProps={"withinPortal": False},
                            **{"aria-label": "One more map: all heads together"},
                        ),
                        "matrix",
                    ),
                ],
                className="display-tools",
                **{"aria-label": "Display"},
            ),
        ],
        id=ids.DISPLAY,
        keepMounted=True,  # what is in it belongs to the view
        withinPortal=False,
        trapFocus=True,
        returnFocus=True,
        position="bottom-end",
        shadow="md",
    )


def _setting(label: str, control: Any, *pictures: str) -> html.Div:
    """Return a line of `_display` that is there for some pictures."""
    name = html.Span(label, className="field-label")
    return html.Div([name, control], className="tool", **shown_for(*pictures))


def _options(words: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"value": value, "label": word} for value, word in words.items()]


def shown_for(*pictures: str) -> dict[str, str]:
    """Return what hides a component while none of these pictures is shown."""
    return {"data-pictures": " ".join(pictures)}
