"""One head's attention as a heat map: queries down, keys across."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from models.types import AttentionMaps, FloatArray
from viz.labels import clipped, literal
from viz.theme import (
    MONO,
    MONO_ASPECT,
    ColourScale,
    base_layout,
    compact_colour_bar,
    palette,
    plain_axis,
    sequential_scale,
)

LOG_FLOOR = 1e-4
"""On the logarithmic scale, weights at and below this one share the lowest colour."""

_LABEL_SIZE = 10  # px
_LABEL_ROOM = 9  # px: with smaller cells, not every token is labelled
_THIN_LABEL_ROOM = 12  # px between labels once they are thinned
_HEADER = 42  # px above the map: title, subtitle and colour bar
_EDGE = 10  # px between what is drawn and the figure's left, right and lower edge
_BAR_EDGE = 16  # px at the right of the colour bar: its last label is centred on its end
_MIN_WIDTH = 250  # px: the header needs them
_GAP_FROM = 8  # px: cells of this size have a hairline between them
_SMALL_PLOT, _LARGE_PLOT, _LARGEST_CELL = 240, 420, 32  # px, where no size is asked for
_LARGEST_SIZED_CELL = 64  # px, where one is


def shared_maximum(*maps: AttentionMaps) -> float:
    """Return the largest weight of all maps: the `zmax` with which they can be compared.

    Under causal attention the first position, which can only attend to itself, does not count.
    """
    largest = (_largest(weights) for several in maps for weights in several.values)
    return max(largest, default=0.0) or 1.0


def attention_figure(
    maps: AttentionMaps,
    index: int,
    *,
    position: int | None = None,
    threshold: float = 0.0,
    zmax: float | None = None,
    log: bool = False,
    dark: bool = False,
    size: int | None = None,
) -> go.Figure:
    """Draw the map of one head.

    Cells below `threshold`, and those that causal attention can't reach, stay blank. A click is
    read with `clicked_cell`; its `z` is the weight, also when `log` is set.

    Args:
        index: which of `maps.heads`.
        position: the query whose row is marked: where the prediction is read.
        zmax: the weight that gets the strongest colour; by default the map's own largest, not
            counting the first position under causal attention (it can only attend to itself).
        log: whether the colour follows log10(weight), down to `LOG_FLOOR`.
        size: width of the figure in px; by default what the prompt's length asks for.
    """
    weights = maps.values[index]
    largest, causal = _largest(weights), _is_causal(weights)
    geometry = _geometry(maps.prompt.unique_labels, size)
    scale = _colour_range(zmax or largest or 1.0, log, dark)
    figure = go.Figure(
        data=[_map_trace(weights, threshold, causal, scale, geometry, dark), _bar_trace(scale)],
        layout={
            **base_layout(dark),
            **_frame(geometry),
            "title": _title(str(maps.heads[index]), largest, maps.ablated, geometry, dark),
            "xaxis": _token_axis(maps, None, geometry, dark) | {"tickangle": -90},
            "yaxis": _token_axis(maps, position, geometry, dark)
            | {"range": [len(weights) - 0.5, -0.5], "scaleanchor": "x", "constrain": "domain"},
            "shapes": _row_mark(position, len(weights), causal, dark),
        },
    )
    bar = compact_colour_bar(
        dark,
        pixels=scale.bar_pixels,
        y=1 - 8 / geometry.height,
        tickvals=scale.tickvals,
        ticktext=scale.ticktext,
    )
    # The bar ends where the figure ends, not where a map narrower than its header does.
    bar["x"] = 1 + (geometry.right - _BAR_EDGE) / geometry.plot
    return figure.update_traces(marker={"colorbar": bar}, selector={"type": "scatter"})


def clicked_cell(point: Mapping[str, Any]) -> tuple[int, int]:
    """Return the indices (query, key) of a clicked or hovered point of `attention_figure`.

    Plotly names the values of a category axis by text: here the digits of the index.
    """
    return int(point["y"]), int(point["x"])


def _is_causal(weights: FloatArray) -> bool:
    return not np.triu(weights, k=1).any()


def _largest(weights: FloatArray) -> float:
    """Return the largest weight [query, key], without the trivial 1 of a causal map's first row."""
    counted = weights[1:] if len(weights) > 1 and _is_causal(weights) else weights
    return float(counted.max(initial=0.0))


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where things stand, in px."""

    cell: float
    plot: float
    left: int
    bottom: int
    width: int
    n_labels: int
    """How many labels fit beside an axis."""

    @property
    def height(self) -> int:
        return round(_HEADER + self.plot + self.bottom)

    @property
    def right(self) -> int:
        return round(self.width - self.left - self.plot)


def _geometry(labels: tuple[str, ...], size: int | None) -> _Geometry:
    n = max(len(labels), 1)
    longest = max((len(clipped(label)) for label in labels), default=0)
    margin = round(longest * _LABEL_SIZE * MONO_ASPECT) + 12
    if size is None:
        cell = min(min(max(_SMALL_PLOT, _LABEL_ROOM * n), _LARGE_PLOT) / n, _LARGEST_CELL)
    else:
        cell = min(max(size - margin - _EDGE, 1) / n, _LARGEST_SIZED_CELL)
    # Whole pixels keep all cells equally large.
    cell = float(int(cell)) if cell >= 1 else cell
    plot = cell * n
    n_labels = n if cell >= _LABEL_ROOM else max(int(plot / _THIN_LABEL_ROOM), 1)
    width = size or max(round(margin + plot) + _EDGE, _MIN_WIDTH)
    return _Geometry(cell, plot, margin, margin, width, n_labels)


@dataclass(frozen=True, slots=True)
class _ColourRange:
    """How weights become colours, and how the colour bar says so."""

    zmax: float
    map_colours: ColourScale
    """On weights from 0 to zmax."""
    bar_colours: ColourScale
    """On the bar from `bar_low` to `bar_high`: weights, or their log10."""
    bar_low: float
    bar_high: float
    bar_pixels: int
    tickvals: list[float]
    ticktext: list[str]


def _colour_range(zmax: float, log: bool, dark: bool) -> _ColourRange:
    colours = sequential_scale(dark)
    if not log:
        ticks = [0.0, zmax]
        return _ColourRange(zmax, colours, colours, 0.0, zmax, 84, ticks, ["0", _short(zmax)])
    floor = min(LOG_FLOOR, zmax / 10)
    low, high = float(np.log10(floor)), float(np.log10(zmax))
    decades = range(int(np.ceil(low - 1e-9)), int(np.floor(high + 1e-9)) + 1)
    return _ColourRange(
        zmax,
        _logarithmic(colours, floor / zmax),
        colours,
        low,
        high,
        128,
        [float(d) for d in decades],
        [_short(10.0**d) for d in decades],
    )


def _logarithmic(colours: ColourScale, floor: float) -> ColourScale:
    """Return a scale on [0, 1] whose colour follows the logarithm between `floor` and 1.

    The map so keeps its weights as they are, and hovering and clicking yield them.
    """
    # Linear pieces between close stops: ten a decade differ from the logarithm by under 1 %.
    n_stops = max(int(-10 * np.log10(floor)), 2)
    fractions = np.linspace(0.0, 1.0, n_stops + 1)
    channels = np.array([_channels(colour) for _, colour in colours])
    positions = [position for position, _ in colours]
    mixed = np.stack([np.interp(fractions, positions, c) for c in channels.T], axis=1)
    stops = [f"rgb({r}, {g}, {b})" for r, g, b in mixed.round().astype(int)]
    at = floor ** (1 - fractions)
    return [(0.0, stops[0]), *zip(at[:-1].tolist(), stops[:-1], strict=True), (1.0, stops[-1])]


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(channel) for channel in colour.removeprefix("rgb(").rstrip(")").split(","))


def _short(value: float) -> str:
    return f"{value:.3g}".removeprefix("0") if value < 1 else f"{value:g}"


def _map_trace(
    weights: FloatArray,
    threshold: float,
    causal: bool,
    scale: _ColourRange,
    geometry: _Geometry,
    dark: bool,
) -> go.Heatmap:
    shown = np.array(weights, dtype=np.float32)  # query, key; a copy
    if causal:
        shown[np.triu_indices(len(shown), k=1)] = np.nan
    shown[shown < threshold] = np.nan
    indices = list(range(len(shown)))
    gap = 1 if geometry.cell >= _GAP_FROM else 0
    muted = palette(dark).muted
    return go.Heatmap(
        z=shown,
        x=indices,
        y=indices,
        zmin=0.0,
        zmax=scale.zmax,
        colorscale=scale.map_colours,
        showscale=False,
        xgap=gap,
        ygap=gap,
        hoverongaps=False,
        hovertemplate=(
            f"<span style='color:{muted}'>query %{{y:d}}</span> <b>%{{y}}</b><br>"
            f"<span style='color:{muted}'>key   %{{x:d}}</span> <b>%{{x}}</b><br>"
            f"<span style='color:{muted}'>weight</span> <b>%{{z:.4g}}</b><extra></extra>"
        ),
    )


def _bar_trace(scale: _ColourRange) -> go.Scatter:
    """Return a trace that draws nothing and owns the colour bar, which may be logarithmic."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        hoverinfo="skip",
        marker={
            "color": [scale.bar_low],
            "cmin": scale.bar_low,
            "cmax": scale.bar_high,
            "colorscale": scale.bar_colours,
            "showscale": True,
        },
    )


def _frame(geometry: _Geometry) -> dict[str, Any]:
    margin = {
        "l": geometry.left,
        "r": geometry.right,
        "t": _HEADER,
        "b": geometry.bottom,
        "pad": 2,
        "autoexpand": False,
    }
    return {"width": geometry.width, "height": geometry.height, "margin": margin}


def _title(
    head: str, largest: float, ablated: bool, geometry: _Geometry, dark: bool
) -> dict[str, Any]:
    colours = palette(dark)
    note = f"max {_short(largest)}"
    if ablated:
        note += f" · <span style='color:{colours.accent}'>ablated run</span>"
    small = f"<span style='font-size:11px;color:{colours.muted}'>{note}</span>"
    return {
        "text": f"<b>{literal(head)}</b><br>{small}",
        "font": {"size": 13, "color": colours.text},
        "x": _EDGE / geometry.width,
        "xanchor": "left",
        "xref": "container",
        # Plotly anchors the second of the two lines.
        "y": 1 - 17 / geometry.height,
        "yanchor": "top",
        "yref": "container",
    }


def _token_axis(
    maps: AttentionMaps, marked: int | None, geometry: _Geometry, dark: bool
) -> dict[str, Any]:
    """Return an axis whose values are the positions, shown under the tokens' names.

    Positions are categories, so that Plotly never puts a tick between two of them and shows more
    labels where a zoom gives room; the names are aliases, for ticks and hovering alike.
    """
    names = {str(i): literal(clipped(name)) for i, name in enumerate(maps.prompt.unique_labels)}
    if marked is not None:
        names[str(marked)] = f"<b>{names[str(marked)]}</b>"
    n = len(maps.prompt)
    return plain_axis(dark) | {
        "type": "category",
        "range": [-0.5, n - 0.5],
        "nticks": geometry.n_labels,
        "labelalias": names,
        "tickfont": {"family": MONO, "size": _LABEL_SIZE, "color": palette(dark).muted},
    }


def _row_mark(position: int | None, n: int, causal: bool, dark: bool) -> list[dict[str, Any]]:
    if position is None:
        return []
    return [
        {
            "type": "rect",
            "x0": -0.5,
            "x1": position + 0.5 if causal else n - 0.5,
            "y0": position - 0.5,
            "y1": position + 0.5,
            "line": {"color": palette(dark).muted, "width": 1},
        }
    ]
