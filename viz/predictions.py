"""The model's next tokens, before and after an ablation."""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from ablation.types import Comparison
from models.types import Prediction, TokenProbability
from viz.labels import clipped, literal, short_probability
from viz.theme import MONO, MONO_ASPECT, base_layout, palette, plain_axis

_LABEL_SIZE = 11.5  # px
_ROW, _ROW_PAIRED = 19, 27  # px a token, with one bar and with two
_LEGEND = 22  # px
_AXIS_ENDS = (0.05, 0.1, 0.25, 0.5, 1.0)


def prediction_figure(
    before: Prediction,
    after: Prediction | None = None,
    *,
    n: int = 10,
    dark: bool = False,
) -> go.Figure:
    """Draw the most likely tokens as horizontal bars, the ablated run's under the clean run's.

    With `after`, the rows are the `n` most likely tokens of both, ordered by the clean run. The
    figure takes its container's width. A click yields `customdata[0]`, the token's id.
    """
    tokens = _union(before, after, n)
    probs = [before.prob(token.id) for token in tokens]
    probs_after = [] if after is None else [after.prob(token.id) for token in tokens]
    bars = [_bars(tokens, probs, "before", before, after, dark)]
    if after is not None:
        bars.append(_bars(tokens, probs_after, "after", before, after, dark))
    labels = [clipped(token.label) for token in tokens]
    paired = after is not None
    top = _LEGEND if paired else 4
    height = top + 4 + len(tokens) * (_ROW_PAIRED if paired else _ROW)
    left = round(max(map(len, labels), default=0) * _LABEL_SIZE * MONO_ASPECT) + 14
    # Every step of the axis is a round number, so that bars of two prompts are easily compared;
    # the quarter beyond it holds the printed values.
    largest = max([*probs, *probs_after, 0.0])
    end = next((end for end in _AXIS_ENDS if largest <= end), 1.0)
    return go.Figure(
        data=bars,
        layout={
            **base_layout(dark),
            "height": height,
            "margin": {"l": left, "r": 4, "t": top, "b": 4, "pad": 4, "autoexpand": False},
            "bargap": 0.22 if paired else 0.34,
            "bargroupgap": 0.06,
            "showlegend": paired,
            "legend": _legend(height, dark),
            "xaxis": plain_axis(dark)
            | {"range": [0, end * 1.24], "showticklabels": False, "fixedrange": True},
            "yaxis": plain_axis(dark)
            | {
                "range": [len(tokens) - 0.5, -0.5],
                "tickmode": "array",
                "tickvals": list(range(len(tokens))),
                "ticktext": [literal(label) for label in labels],
                "tickfont": {"family": MONO, "size": _LABEL_SIZE, "color": palette(dark).text},
                "fixedrange": True,
            },
        },
    )


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One line of the panel beside the bars: formatted text, "" where there is nothing to say."""

    name: str
    """Identifies the row: "kl", "entropy", "rank"."""
    label: str
    before: str
    after: str
    change: str
    """Ablated minus clean; or the value itself, for a measure of the change as a whole."""
    unit: str


def metric_rows(
    before: Prediction,
    after: Prediction | None = None,
    comparison: Comparison | None = None,
    token: TokenProbability | None = None,
) -> list[MetricRow]:
    """Return the numbers of the prediction panel.

    Args:
        comparison: of `before` and `after`; without it only the clean run's numbers are given.
        token: one chosen by the user, whose probability and rank are followed.
    """
    if after is None or comparison is None:
        rows = [_row("entropy", "entropy", f"{before.entropy:.2f}", unit="nats")]
        return rows + ([] if token is None else _token_rows(before, None, token))
    # The clean run's most likely token, as likely as the ablated run finds it.
    top_after = comparison.top_before.prob + comparison.top_prob_change
    rows = [
        _row("kl", "KL", change=_distance(comparison.kl), unit="nats"),
        _row("total_variation", "total variation", change=_distance(comparison.total_variation)),
        _row(
            "top_prob",
            f"p({comparison.top_before.label})",
            short_probability(comparison.top_before.prob),
            # Rounding of a difference may leave it just outside [0, 1].
            short_probability(min(max(top_after, 0.0), 1.0)),
            _signed(comparison.top_prob_change, 2),
        ),
        _row(
            "entropy",
            "entropy",
            f"{comparison.entropy_before:.2f}",
            f"{comparison.entropy_after:.2f}",
            _signed(comparison.entropy_after - comparison.entropy_before, 2),
            "nats",
        ),
    ]
    return rows + ([] if token is None else _token_rows(before, after, token))


def _token_rows(
    before: Prediction, after: Prediction | None, token: TokenProbability
) -> list[MetricRow]:
    p, rank = before.prob(token.id), before.rank(token.id)
    if after is None:
        return [
            _row("token_prob", f"p({token.label})", short_probability(p)),
            _row("rank", f"rank of {token.label}", f"{rank:,}"),
        ]
    p_after, rank_after = after.prob(token.id), after.rank(token.id)
    moved = "±0" if rank_after == rank else f"{rank_after - rank:+,}".replace("-", "−")
    return [
        _row(
            "token_prob",
            f"p({token.label})",
            short_probability(p),
            short_probability(p_after),
            _signed(p_after - p, 2),
        ),
        _row("rank", f"rank of {token.label}", f"{rank:,}", f"{rank_after:,}", moved),
    ]


def _row(
    name: str, label: str, before: str = "", after: str = "", change: str = "", unit: str = ""
) -> MetricRow:
    return MetricRow(name, label, before, after, change, unit)


def _distance(value: float) -> str:
    """Return a number from 0 up in three significant digits: "1.24", "0.00312"."""
    return "0" if value == 0 else f"{value:.3g}"


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return "±0" if float(text) == 0 else text.replace("-", "−")


def _union(before: Prediction, after: Prediction | None, n: int) -> list[TokenProbability]:
    known = {token.id: token for token in before.top[:n]}
    for token in () if after is None else after.top[:n]:
        known.setdefault(token.id, token)
    return sorted(known.values(), key=lambda token: (-before.log_probs[token.id], token.id))


def _bars(
    tokens: list[TokenProbability],
    probs: list[float],
    name: str,
    before: Prediction,
    after: Prediction | None,
    dark: bool,
) -> go.Bar:
    colours = palette(dark)
    shown = [[token.id, literal(token.label), _ranks(token.id, before, after)] for token in tokens]
    emphasised = after is None or name == "after"
    return go.Bar(
        name=name,
        orientation="h",
        y=list(range(len(tokens))),
        x=np.array(probs),
        text=[short_probability(p) for p in probs],
        textposition="outside",
        textangle=0,
        cliponaxis=False,
        textfont={
            "family": MONO,
            "size": 10.5,
            "color": colours.text if emphasised else colours.muted,
        },
        marker={
            "color": colours.accent if name == "after" else colours.neutral,
            "line": {"width": 0},
            "cornerradius": 2,
        },
        customdata=shown,
        hovertemplate=(
            f"<b>%{{customdata[1]}}</b> id %{{customdata[0]}}<br>p {name} %{{x:.4g}}<br>"
            "rank %{customdata[2]}<extra></extra>"
        ),
    )


def _ranks(token_id: int, before: Prediction, after: Prediction | None) -> str:
    rank = f"{before.rank(token_id):,}"
    return rank if after is None else f"{rank} → {after.rank(token_id):,}"


def _legend(height: int, dark: bool) -> dict[str, object]:
    return {
        "orientation": "h",
        "x": 1.0,
        "xanchor": "right",
        "xref": "container",
        "y": 1.0,
        "yanchor": "top",
        "yref": "container",
        "bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 11, "color": palette(dark).muted},
        "itemclick": False,
        "itemdoubleclick": False,
    }
