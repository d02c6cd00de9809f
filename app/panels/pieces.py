"""Small pieces that several panels are made of."""

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, dcc, html

from app import ids
from models.types import Head

GRAPH_CONFIG = {"displayModeBar": False, "displaylogo": False, "doubleClick": "reset"}


def browser(name: str, file: str = "page") -> ClientsideFunction:
    """Return a function of `assets/page.js`, or of another file, to be registered as a callback."""
    return ClientsideFunction(namespace=file, function_name=name)


def section(title: str, *content: Any, right: Any = None, **attributes: Any) -> html.Section:
    """Return a titled part of a column."""
    heading = html.H2(title, className="section-title")
    head = html.Div([heading, right] if right is not None else heading, className="section-head")
    return html.Section([head, *content], className="section", **attributes)


def graph(component_id: object, label: str, height: int, **options: Any) -> html.Div:
    """Return an empty figure's place, named for screen readers, `height` px high until drawn."""
    hidden = {"visible": False}
    blank = {
        "xaxis": hidden,
        "yaxis": hidden,
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }
    return html.Div(
        dcc.Graph(
            id=component_id, figure={"data": [], "layout": blank}, config=GRAPH_CONFIG, **options
        ),
        role="img",
        className="graph",
        **{"aria-label": label},
    )


def empty(text: str, **attributes: Any) -> html.Div:
    """Return an empty state: a sentence that says what to do."""
    return html.Div(html.P(text), className="empty", **attributes)


def waiting(text: str, component_id: str) -> html.Div:
    """Return a hidden sentence with a spinner, which shows only if it stands for a while."""
    line = html.Div([dmc.Loader(size=14), html.Span(text)], className="waiting-line", role="status")
    # It takes no room, so that nothing moves when it comes and goes.
    return html.Div(line, id=component_id, className="waiting-place", hidden=True)


def field_label(text: str, target: str) -> html.Label:
    return html.Label(text, htmlFor=target, className="field-label")


def switch(component_id: str, label: str, checked: bool = False, **options: Any) -> dmc.Switch:
    return dmc.Switch(id=component_id, label=label, checked=checked, size="xs", **options)


def segmented(
    component_id: str, choices: Sequence[tuple[str, str]], value: str, label: str, **options: Any
) -> dmc.SegmentedControl:
    """Return a choice among a few words, given as (value, word)."""
    return dmc.SegmentedControl(
        id=component_id,
        data=[{"value": name, "label": word} for name, word in choices],
        value=value,
        size="xs",
        **{"aria-label": label},
        **options,
    )


def head_bars(
    of: str, places: Sequence[tuple[Head, float]], largest: float = 1.0, does: str = "Choose"
) -> html.Ol:
    """Return heads with a value each, as bars; a click on one chooses it.

    Args:
        of: tells this list from others.
        largest: the value whose bar is as wide as the list.
        does: what a click does to a head.
    """
    return html.Ol([_head_bar(of, *place, largest, does) for place in places], className="bars")


def _head_bar(of: str, head: Head, value: float, largest: float, does: str) -> html.Li:
    return html.Li(
        [
            html.Button(
                str(head),
                id=ids.leader(of, head.short),
                type="button",
                className="bar-label leader",
                title=f"{does} {head}",
            ),
            html.Span(f"{value:.3f}", className="bar-value"),
            html.Span(className="bar", style={"width": f"{100 * value / (largest or 1):.1f}%"}),
        ]
    )


def choose_on_click(app: Dash, heads_map: str) -> None:
    """Let a click on a layers x heads map put that head into the choice, or take it out, and keep
    the chosen heads outlined on it; all of it without the server."""
    app.clientside_callback(
        browser("watch", "chosen"), Input(heads_map, "figure"), prevent_initial_call=True
    )
