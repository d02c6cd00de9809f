"""A ranked list of terms as the page writes it; heads in it can be added to the choice."""

from collections.abc import Sequence
from typing import Any

from dash import html

from viz.terms import TermBar


def term_list(bars: Sequence[TermBar], label: str) -> html.Ol:
    """Return the bars as a list.

    Args:
        label: what the list is, for screen readers.
    """
    return html.Ol([_line(bar) for bar in bars], className="terms", **{"aria-label": label})


def _line(bar: TermBar) -> html.Li:
    if bar.rest:
        summary = html.Summary(
            [_name(bar), html.Span(bar.value, className="term-value")], title="Show them"
        )
        others = html.Ol([_line(one) for one in bar.rest], className="terms")
        return html.Li(html.Details([summary, others]), className="rest")
    style = {"left": f"{100 * bar.start:.2f}%", "width": f"{100 * bar.width:.2f}%"}
    kind = "term-bar plus" if bar.positive else "term-bar minus"
    return html.Li(
        [
            _name(bar),
            html.Span(bar.value, className="term-value"),
            html.Span(className=kind, style=style),
        ]
    )


def _name(bar: TermBar) -> Any:
    if not bar.head:
        return html.Span(bar.label, className="term-label")
    # assets/attribution.js listens for clicks on what carries a head.
    return html.Button(
        bar.label,
        type="button",
        className="term-label",
        title=f"Add {bar.label} to the chosen heads",
        **{"data-head": bar.head},
    )
