"""One head's attention as a heat map: queries down, keys across, each side with its own tokens.

A map with more weights than pixels is drawn in cells that stand for several (`viz.cells`), and
says so; a region of it is drawn in finer ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from models.types import AttentionMaps, FloatArray, TokenizedPrompt
from viz import coding
from viz.cells import Cells, Region, cells_of, fitting_step, sent_step
from viz.extent import Extent, extent_of, shared_largest
from viz.labels import VALUE_NAMES, clipped, literal
from viz.map_frame import (
    LABEL_SIZE,
    NOTE,
    Geometry,
    colour_bar,
    frame,
    geometry_of,
    title,
    with_notes,
)
from viz.sink import SINK_NOTES, apart, column_without_first, without_first
from viz.strongest import strongest_weights
from viz.theme import MONO, base_layout, palette, plain_axis
from viz.weight_colours import ColourRange, colour_range, log_floor, short

_GAP_FROM = 8  # px: cells of this size have a hairline between them
WEIGHT = "<b>%{z:.3g}</b>"
"""A weight in a hover box: three digits, which coded weights hold (`viz.coding`)."""


def shared_maximum(*maps: AttentionMaps, sink: str = "show") -> float:
    """Return the largest weight of all maps: the `zmax` with which they can be compared.

    Under causal attention the first position, which can only attend to itself, does not count.

    Args:
        sink: see `Look`.
    """
    return shared_largest(
        extent_of(several, index, sink) for several in maps for index in range(len(several.heads))
    )


@dataclass(frozen=True, slots=True)
class Look:
    """How a map is drawn. Weights below `threshold` stay blank, as does what causal attention
    can't reach."""

    position: int | None = None
    """The query whose row is marked: where the prediction is read."""
    threshold: float = 0.0
    zmax: float | None = None
    """The weight that gets the strongest colour; by default the map's own largest, not counting
    the first position under causal attention (it can only attend to itself)."""
    log: bool = False
    """Whether the colour follows log10(weight), down to `LOG_FLOOR`."""
    dark: bool = False
    size: int | None = None
    """Width of the figure in px; by default what the prompt's length asks for."""
    sink: str = "show"
    """What is done about the first token: a key of `viz.sink.SINKS`."""
    between: tuple[int, int] | None = None
    """(sentence of the queries, sentence of the keys), 0 or 1: of a pair of sentences only this
    part is drawn."""
    done: bool = False
    """Whether the maps come with their first token dealt with as `sink` says."""
    unit: float = 1.0
    """What `threshold` is a part of; see `viz.extent.unit_of`."""

    @property
    def least(self) -> float:
        """The least weight that is drawn."""
        return self.threshold * self.unit


@dataclass(frozen=True, slots=True, eq=False)
class ShownMap:
    """The map of one head as it is shown."""

    weights: FloatArray
    """float32 [query, key]; NaN where it is left out: the first token, or a sentence of a pair."""
    causal: bool
    largest: float


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
    sink: str = "show",
    between: tuple[int, int] | None = None,
    region: Region | None = None,
    name: str | None = None,
) -> go.Figure:
    """Draw the map of one head.

    A click is read with `clicked_cell`; its `z` is the weight, also when `log` is set, or the
    largest weight of a cell that stands for several.

    Args:
        index: which of `maps.heads`.
        region: what is drawn of the map; None for all. The axes show all of it either way.
        name: the title; None for the head's name.

    The other arguments are those of `Look`.
    """
    look = Look(position, threshold, zmax, log, dark, size, sink, between)
    region = region or _whole(maps)
    step = fitting_step(region.side, dots_across(maps.prompt, size, maps.keys))
    shown = shown_map(maps, index, look)
    cells = _cells(shown, look, region, step)
    queries, keys = token_names(maps.prompt), token_names(maps.keys)
    plot = _plot(maps, name or maps.title(index), look, shown, cells)
    title = plot["layout"]["title"]
    title["text"] = title["text"].replace(NOTE, _resolution(cells, _whole(maps)))
    figure = go.Figure(plot)
    trace = figure.data[0]
    trace.hovertemplate = _hover(cells.pooled, look, maps.kind)
    if cells.pooled:
        trace.customdata = _ranges(cells, queries, keys)
    return figure.update_layout(
        xaxis={"labelalias": _aliases(keys, None)},
        yaxis={"labelalias": _aliases(queries, position)},
    )


def attention_message(
    maps: AttentionMaps,
    index: int,
    look: Look,
    region: Region | None = None,
    name: str | None = None,
    extent: Extent | None = None,
) -> dict[str, Any]:
    """Return what `assets/pictures.js` needs to draw the same figure: small.

    What the browser can make by itself is left out: weights are coded (`viz.coding`), and become
    cells as coarse as its pixels there; the names of the tokens, alike for all maps, travel apart
    (`token_names`). So does what depends on how coarse the cells are: `hover` has the templates
    for cells of one weight and of several, and the title has a place, `NOTE`, to say it. Where
    cells of the whole map stand for several weights, `strongest` has the strongest of these.

    Args:
        extent: the map's, if it is known.
    """
    whole = region is None
    region = region or _whole(maps)
    dots = dots_across(maps.prompt, look.size, maps.keys)
    shown = shown_map(maps, index, look, extent)
    step = sent_step(region, shown.causal, dots)
    cells = _cells(shown, look, region, step)
    plot = _plot(maps, name or maps.title(index), look, shown, cells)
    for place in ("z", "x0", "dx", "y0", "dy"):
        del plot["data"][0][place]
    for axis in ("xaxis", "yaxis"):
        del plot["layout"][axis]["categoryarray"]
    plot["layout"]["template"] = {}
    zmax = plot["data"][0]["zmax"]
    sent = {"query": region.query, "key": region.key, "step": cells.step}
    lines = whole and cells.pooled
    return {
        **plot,
        "cells": {**sent, "coded": coding.encode(cells.values)},
        "strongest": strongest_weights(shown.weights, zmax, look.least) if lines else None,
        "hover": [_hover(pooled, look, maps.kind) for pooled in (False, True)],
        "causal": shown.causal,
        "scale": strength_scale(zmax, look),
    }


def strength_scale(zmax: float, look: Look) -> dict[str, float | None]:
    """Return what `strength` of assets/weights.js tells the strength of a weight by."""
    return {"zmax": zmax, "floor": log_floor(zmax) if look.log else None, "unit": look.unit}


def token_message(
    maps: AttentionMaps,
    index: int,
    look: Look,
    position: int,
    direction: str,
    extent: Extent | None = None,
) -> dict[str, Any]:
    """Return the weights of one token, coded as one row, for prompts whose maps are sent pooled.

    Args:
        position: the token, counted from 0.
        direction: "at" for its row of the map, where it looks; "by" for its column.
        extent: the map's, if it is known.
    """
    weights, part = maps.values[index], _between(maps, look)
    causal = (extent or extent_of(maps, index, look.sink)).causal
    if direction == "at":
        row = without_first(weights[position], look.sink, maps.keys.starts)
        reached = np.arange(len(row)) <= position
        part = None if part is None else part[position]
    else:
        row = column_without_first(weights, position, look.sink, maps.keys.starts)
        reached = np.arange(len(row)) >= position
        part = None if part is None else part[:, position]
    seen = (reached | (not causal)) & (row >= look.least)
    return coding.encode(np.where(seen if part is None else seen & part, row, np.nan)[None])


def dots_across(
    prompt: TokenizedPrompt, size: int | None, keys: TokenizedPrompt | None = None
) -> int:
    """Return how many pixels a figure `size` px wide has for a prompt's positions.

    Args:
        keys: the columns, where they are not the prompt's; then it is about the longer side.
    """
    columns = prompt.unique_labels if keys is None else keys.unique_labels
    return int(geometry_of(prompt.unique_labels, columns, size).plot)


def token_names(prompt: TokenizedPrompt) -> list[str]:
    """Return what the positions are called beside the axes, escaped for Plotly."""
    return [literal(clipped(label)) for label in prompt.unique_labels]


def shown_map(
    maps: AttentionMaps, index: int, look: Look, extent: Extent | None = None
) -> ShownMap:
    """Return the map of one head without what a look leaves out.

    Args:
        extent: the map's, if it is known.
    """
    if maps.queries is not None:
        raise ValueError("only maps with all their rows can be drawn")
    extent, part = extent or extent_of(maps, index, look.sink), _between(maps, look)
    shown = maps.values[index]
    if not look.done:
        shown = without_first(shown, look.sink, maps.keys.starts)
    drawn = shown if part is None else np.where(part, shown, np.float32(np.nan))
    return ShownMap(drawn, extent.causal, extent.largest)


def _whole(maps: AttentionMaps) -> Region:
    return Region.whole(len(maps.prompt), len(maps.keys))


def _cells(shown: ShownMap, look: Look, region: Region, step: int) -> Cells:
    cells = cells_of(shown.weights, shown.causal, region, step)
    cells.values[cells.values < look.least] = np.nan
    return cells


def _between(maps: AttentionMaps, look: Look) -> np.ndarray | None:
    """Return which weights [query, key] are drawn of a pair of sentences; None for all."""
    if look.between is None or maps.prompt.segments is None or maps.keys.segments is None:
        return None
    queries = np.array(maps.prompt.segments) == look.between[0]
    keys = np.array(maps.keys.segments) == look.between[1]
    drawn: np.ndarray = queries[:, None] & keys
    return drawn


def _plot(
    maps: AttentionMaps, name: str, look: Look, shown: ShownMap, cells: Cells
) -> dict[str, Any]:
    """Return the figure as Plotly's JSON has it, without names, hover boxes and `NOTE`.

    Made by hand, as checking each attribute takes Plotly's Python side longer than everything
    else about a map.
    """
    dark = look.dark
    n_query, n_key = shown.weights.shape
    geometry, notes = with_notes(
        geometry_of(maps.prompt.unique_labels, maps.keys.unique_labels, look.size),
        _notes(shown, maps, look),
    )
    scale = colour_range(look.zmax or shown.largest or 1.0, look.log, dark)
    across = _token_axis(n_key, geometry, dark)
    down = _token_axis(n_query, geometry, dark)
    return {
        "data": [_map_trace(cells, scale, geometry), colour_bar(name, scale, geometry, dark)],
        "layout": {
            **base_layout(dark),
            **frame(geometry),
            "title": title(name, notes, geometry, dark),
            "xaxis": across | {"range": [-0.5, n_key - 0.5], "tickangle": -90},
            "yaxis": down
            | {"range": [n_query - 0.5, -0.5], "scaleanchor": "x", "constrain": "domain"},
            "shapes": _row_mark(look.position, n_key, cells.causal, dark),
        },
    }


def _notes(shown: ShownMap, maps: AttentionMaps, look: Look) -> list[str]:
    """Return what is said under a map's name, each as Plotly's text."""
    left_out = apart(shown.causal, len(shown.weights), look.sink, maps.prompt.starts)
    notes = [f"max {short(shown.largest)}{left_out and f' ({left_out} apart)'}{NOTE}"]
    if look.sink != "show":
        notes.append(SINK_NOTES[look.sink])
    if maps.ablated:
        notes.append(f"<span style='color:{palette(look.dark).accent}'>ablated run</span>")
    return notes


def _resolution(cells: Cells, whole: Region) -> str:
    """Say how cells stand for weights where that is not one for one, or not all of the map."""
    if cells.pooled:
        return f" · each dot: max of {cells.step}×{cells.step}"
    return "" if cells.region == whole else " · every weight"


def _ranges(cells: Cells, query_names: list[str], key_names: list[str]) -> np.ndarray:
    """Return for each cell the queries and the keys that it stands for, in words."""
    rows, columns = cells.values.shape
    region, step = cells.region, cells.step
    queries = [_range(region.query + i * step, step, query_names) for i in range(rows)]
    keys = [_range(region.key + j * step, step, key_names) for j in range(columns)]
    return np.array([[(query, key) for key in keys] for query in queries], dtype=object)


def _range(first: int, step: int, names: list[str]) -> str:
    last = min(first + step, len(names)) - 1
    return f"{first}–{last} <b>{names[first]} … {names[last]}</b>"


def clicked_cell(point: Mapping[str, Any]) -> tuple[int, int]:
    """Return the indices (query, key) of a clicked or hovered point of `attention_figure`.

    Plotly names the values of a category axis: here the digits of the index. Of a cell that
    stands for several, the one in its middle is returned.
    """
    return int(point["y"]), int(point["x"])


def _map_trace(cells: Cells, scale: ColourRange, geometry: Geometry) -> dict[str, Any]:
    gap = 1 if geometry.cell >= _GAP_FROM and not cells.pooled else 0
    centre = (cells.step - 1) / 2
    return {
        "type": "heatmap",
        "z": cells.values,
        "x0": cells.region.key + centre,
        "dx": cells.step,
        "y0": cells.region.query + centre,
        "dy": cells.step,
        "zmin": 0.0,
        "zmax": scale.zmax,
        "colorscale": scale.map_colours,
        "showscale": False,
        "xgap": gap,
        "ygap": gap,
        "hoverongaps": False,
    }


def _hover(pooled: bool, look: Look, kind: str) -> str:
    muted = palette(look.dark).muted
    value = (f"{VALUE_NAMES[kind]:6}", WEIGHT)
    lines = (
        (("queries", "%{customdata[0]}"), ("keys   ", "%{customdata[1]}"), ("largest", WEIGHT))
        if pooled
        else (("query %{y:d}", "<b>%{y}</b>"), ("key   %{x:d}", "<b>%{x}</b>"), value)
    )
    said = [f"<span style='color:{muted}'>{name}</span> {value}" for name, value in lines]
    if look.sink != "show":
        said.append(f"<span style='color:{muted}'>{SINK_NOTES[look.sink]}</span>")
    return "<br>".join(said) + "<extra></extra>"


def _token_axis(n: int, geometry: Geometry, dark: bool) -> dict[str, Any]:
    """Return an axis whose values are the positions, shown under the tokens' names.

    Positions are categories, so that Plotly never puts a tick between two of them and shows more
    labels where a zoom gives room; the names are aliases, for ticks and hovering alike.
    """
    return plain_axis(dark) | {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(range(n)),
        "nticks": geometry.n_labels(n),
        "tickfont": {"family": MONO, "size": LABEL_SIZE, "color": palette(dark).muted},
    }


def _aliases(names: list[str], marked: int | None) -> dict[str, str]:
    """Return the names by the categories that they stand for, the marked one in bold."""
    return {str(i): f"<b>{name}</b>" if i == marked else name for i, name in enumerate(names)}


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
