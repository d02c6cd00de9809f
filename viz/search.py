"""What a search found: its trace, its steps and the result told in sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ablation.types import STOP_REASONS, SearchResult, SearchStep
from models.types import Head, TokenProbability
from viz.labels import clipped, literal, probability, quoted
from viz.theme import MONO, base_layout, palette, plain_axis

_WIDE_STEP = 44  # px that "L10H11" needs below a step without being turned
_ASSUMED_WIDTH = 640  # px
_HEIGHT = 260  # px
_STACK_LINE = 14  # px more where heads' names have their stack's above them


def trace_figure(result: SearchResult, *, dark: bool = False) -> go.Figure:
    """Draw how the prediction changes with each head that the search adds.

    A generic search shows KL; a targeted one the probability of the target and that of the most
    likely token, which meet where the target is reached. Heads that were dropped in the end are
    hollow. The figure takes its container's width; a click yields `x`, the number of heads.
    """
    targeted = result.target is not None
    traces = _probability_traces(result, dark) if targeted else [_kl_trace(result, dark)]
    if result.dropped:
        traces.append(_legend_entry("dropped at the end", dark))
    more = _STACK_LINE if any(step.head.stack for step in result.steps) else 0
    below = 58 + more
    return go.Figure(
        data=traces,
        layout={
            **base_layout(dark),
            "height": _HEIGHT + more,
            "margin": {"l": 54, "r": 16, "t": 26, "b": below, "pad": 0, "autoexpand": False},
            "hovermode": "closest",
            "showlegend": len(traces) > 1,
            "legend": _legend(dark),
            "xaxis": _step_axis(result, dark),
            "yaxis": _value_axis(result, dark),
        },
    )


def steps_table(result: SearchResult) -> list[dict[str, Any]]:
    """Return a row for each step in the order found, for a table.

    Keys: `step` (from 1), `head` ("L9H9"), `layer`, `head_index`, `kl` (nats), `target_prob` and
    `target_logprob` (nats; None for a generic search), `top_token` (its label), `top_prob`, `kept`
    ("yes", or "no" for a head that turned out not to be needed).
    """
    return [
        {
            "step": number,
            "head": str(step.head),
            "layer": step.head.layer,
            "head_index": step.head.head,
            "kl": step.kl,
            "target_prob": _target_prob(step),
            "target_logprob": step.target_logprob,
            "top_token": step.top.label,
            "top_prob": step.top.prob,
            "kept": "no" if step.head in result.dropped else "yes",
        }
        for number, step in enumerate(result.steps, start=1)
    ]


def summary_sentences(result: SearchResult) -> list[str]:
    """Tell the result, finished or not, in plain sentences; token texts in them are not escaped.

    They say what was found, what was dropped, whether heads were passed over unevaluated, why the
    search stopped, and for a target that was reached what each head is needed for.
    """
    if not result.steps:
        return [*_opening(result), *_screened(result), _reason(result)]
    found = _targeted(result) if result.target is not None else _generic(result)
    told = [*found, *_dropped(result), *_screened(result), _reason(result)]
    return [*told, *_minimality(result)]


def _probability_traces(result: SearchResult, dark: bool) -> list[go.Scatter]:
    assert result.target is not None  # the caller has looked
    colours = palette(dark)
    steps = result.steps
    target = [result.target.prob, *(_target_prob(step) for step in steps)]
    tops = _top_tokens(result)
    hover = [_hover(result, i) for i in range(len(steps) + 1)]
    # The most likely token is named where it changes: between two names it stays the same.
    names = [
        f"<b>{literal(clipped(top.label))}</b>" if i == 0 or top.id != tops[i - 1].id else ""
        for i, top in enumerate(tops)
    ]
    top_trace = _line([top.prob for top in tops], "most likely token", hover, colours.muted)
    top_trace.update(
        mode="lines+markers+text",
        text=names,
        textposition=["top right", *["top center"] * (len(steps) - 1), "top left"][: len(tops)],
        textfont={"family": MONO, "size": 11, "color": colours.text},
        cliponaxis=False,
        line={"dash": "dot"},
        marker={"symbol": "square", "size": 6},
    )
    name = f"target {literal(clipped(result.target.label))}"
    target_trace = _line(target, name, hover, colours.accent)
    return [top_trace, target_trace.update(marker=_markers(result, colours.accent, dark))]


def _kl_trace(result: SearchResult, dark: bool) -> go.Scatter:
    accent = palette(dark).accent
    hover = [_hover(result, i) for i in range(len(result.steps) + 1)]
    trace = _line([0.0, *(step.kl for step in result.steps)], "KL", hover, accent)
    return trace.update(marker=_markers(result, accent, dark))


def _line(values: Sequence[float | None], name: str, hover: list[str], colour: str) -> go.Scatter:
    return go.Scatter(
        name=name,
        x=list(range(len(values))),
        y=np.array(values, dtype=float),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"color": colour, "size": 9},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _markers(result: SearchResult, colour: str, dark: bool) -> dict[str, Any]:
    """Return full markers, hollow for the heads that were dropped."""
    surface = palette(dark).surface
    fills = [surface if step.head in result.dropped else colour for step in result.steps]
    return {"size": 9, "color": [colour, *fills], "line": {"color": colour, "width": 2}}


def _legend_entry(name: str, dark: bool) -> go.Scatter:
    colours = palette(dark)
    return go.Scatter(
        name=name,
        x=[None],
        y=[None],
        mode="markers",
        marker={
            "size": 9,
            "color": colours.surface,
            "line": {"color": colours.accent, "width": 2},
        },
    )


def _hover(result: SearchResult, n_ablated: int) -> str:
    top = _top_tokens(result)[n_ablated]
    lines = ["<b>clean run</b>"]
    if n_ablated:
        step = result.steps[n_ablated - 1]
        dropped = " (dropped at the end)" if step.head in result.dropped else ""
        lines = [f"<b>+ {literal(str(step.head))}</b>{dropped}", f"KL {step.kl:.4g} nats"]
    if result.target is not None:
        p = _target_prob(result.steps[n_ablated - 1]) if n_ablated else result.target.prob
        lines.append(f"p({literal(clipped(result.target.label))}) {p:.4g}")
    return "<br>".join([*lines, f"most likely {literal(clipped(top.label))} {top.prob:.4g}"])


def _top_tokens(result: SearchResult) -> list[TokenProbability]:
    return [result.baseline.top[0], *(step.top for step in result.steps)]


def _target_prob(step: SearchStep) -> float | None:
    return None if step.target_logprob is None else float(np.exp(step.target_logprob))


def _step_axis(result: SearchResult, dark: bool) -> dict[str, Any]:
    n = len(result.steps)
    turned = (n + 1) * _WIDE_STEP > _ASSUMED_WIDTH
    colours = palette(dark)
    names = ["clean"]
    for step in result.steps:
        colour = colours.muted if step.head in result.dropped else colours.text
        name = literal(str(step.head))
        if not turned and step.head.stack:  # beside each other they would not fit
            name = name.replace(":", ":<br>")
        names.append(f"<span style='color:{colour}'>{name}</span>")
    text = names if turned else [f"{i}<br>{name}" for i, name in enumerate(names)]
    return plain_axis(dark) | {
        "range": [-0.4, max(n, 4) + 0.4],
        "tickmode": "array",
        "tickvals": list(range(n + 1)),
        "ticktext": text,
        "tickangle": -60 if turned else 0,
        "showline": True,
        "linecolor": colours.line,
        "title": {"text": "heads ablated", "font": {"size": 11, "color": colours.muted}},
        "fixedrange": True,
    }


def _value_axis(result: SearchResult, dark: bool) -> dict[str, Any]:
    colours = palette(dark)
    largest, name, ticks = 1.0, "probability", {"dtick": 0.25}
    if result.target is None:
        largest = max((step.kl for step in result.steps), default=0.0) or 1.0
        name, ticks = "KL, nats", {"nticks": 6}
    return plain_axis(dark) | {
        **ticks,
        # Markers at either end are to be whole.
        "range": [-0.04 * largest, 1.08 * largest],
        "showgrid": True,
        "gridcolor": colours.grid,
        "title": {"text": name, "font": {"size": 11, "color": colours.muted}, "standoff": 6},
        "fixedrange": True,
    }


def _legend(dark: bool) -> dict[str, Any]:
    return {
        "orientation": "h",
        "x": 1.0,
        "xanchor": "right",
        "y": 1.0,
        "yanchor": "top",
        "yref": "container",
        "bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 11, "color": palette(dark).muted},
        "itemclick": False,
        "itemdoubleclick": False,
    }


def _opening(result: SearchResult) -> list[str]:
    """Return what can be said before any head was found."""
    clean = f"In the clean run the most likely token is {_with_prob(result.baseline.top[0])}"
    if result.target is not None:
        clean += f", and the target {_with_prob(result.target)} has rank {_rank(result)}"
    return [f"{clean}.", "No head has been chosen."]


def _generic(result: SearchResult) -> list[str]:
    last, top = result.steps[-1], result.baseline.top[0]
    moves = f"moves the prediction by KL {last.kl:.3g} nats"
    found = f"{_ablating(result, [step.head for step in result.steps])} {moves}."
    clean = f"In the clean run the most likely token was {_with_prob(top)}; "
    if last.top.id == top.id:
        return [found, f"{clean}it still is, at {probability(last.top.prob)}."]
    return [found, f"{clean}now it is {_with_prob(last.top)}."]


def _targeted(result: SearchResult) -> list[str]:
    assert result.target is not None  # the caller has looked
    leader, p = _outcome(result)
    change = f"its probability goes from {probability(result.target.prob)} to {probability(p)}"
    if not result.dropped:
        change += f", at KL {result.steps[-1].kl:.3g} nats from the clean run"
    reached = leader.id == result.target.id
    verb = "makes" if reached else "does not make"
    clean_top = result.baseline.top[0]
    clean = (
        f"In the clean run the most likely token was {_with_prob(clean_top)} "
        f"and the target had rank {_rank(result)}"
    )
    now = f"the most likely token is now {_with_prob(leader)}"
    if leader.id == clean_top.id:
        now = f"{quoted(leader)} still is the most likely, at {probability(leader.prob)}"
    return [
        f"{_ablating(result, result.heads)} {verb} {quoted(result.target)} the most likely token: "
        f"{change}.",
        f"{clean}." if reached else f"{clean}; {now}.",
    ]


def _outcome(result: SearchResult) -> tuple[TokenProbability, float]:
    """Return the most likely token and p(target) with the final set ablated."""
    assert result.target is not None  # the caller has looked
    if result.final is not None:
        return result.final.top[0], result.final.prob(result.target.id)
    # While the set grows, it is the one of the last step.
    last = result.steps[-1]
    p = _target_prob(last)
    assert p is not None  # every step of a targeted search has one
    return last.top, p


def _dropped(result: SearchResult) -> list[str]:
    if result.dropped:
        verb = "was" if len(result.dropped) == 1 else "were"
        return [
            f"{_names(result.dropped)} {verb} chosen on the way and dropped: "
            "the target is the most likely token without."
        ]
    if result.necessity and len(result.steps) > 1:
        return ["No head that was chosen on the way could be dropped."]
    return []


def _screened(result: SearchResult) -> list[str]:
    if result.strategy != "screened":
        return []
    first = "" if result.target is not None else " after the first"
    sets = "head set was" if result.evaluated == 1 else "head sets were"
    return [
        f"The search was screened: each step{first} evaluated only the most promising heads; "
        f"{result.evaluated:,} {sets} evaluated exactly."
    ]


def _minimality(result: SearchResult) -> list[str]:
    if result.target is None:
        return []
    if not result.necessity:
        unproven = result.stopped == "cancelled" and _outcome(result)[0].id == result.target.id
        return ["Whether every head of the set is needed was not tried."] if unproven else []
    return ["The set is minimal: it needs each of its heads."] + [
        f"Without {entry.head} the most likely token would be {_with_prob(entry.top)}, and "
        f"{quoted(result.target)} would have {probability(float(np.exp(entry.target_logprob)))}."
        for entry in result.necessity
    ]


def _reason(result: SearchResult) -> str:
    return STOP_REASONS[result.stopped]


def _rank(result: SearchResult) -> str:
    assert result.target is not None  # the caller has looked
    return f"{result.baseline.rank(result.target.id):,}"


def _with_prob(token: TokenProbability) -> str:
    return f"{quoted(token)} ({probability(token.prob)})"


def _ablating(result: SearchResult, heads: Sequence[Head]) -> str:
    start = "So far, ablating" if result.stopped == "running" else "Ablating"
    if len(heads) == 1:
        return f"{start} {heads[0]}"
    return f"{start} {len(heads)} heads ({_names(heads)})"


def _names(heads: Sequence[Head]) -> str:
    names = [str(head) for head in heads]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
