"""Where things stand in the figure of a map: its cells, its labels, and the header above them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from viz.labels import clipped, literal
from viz.theme import MONO_ASPECT, compact_colour_bar, palette
from viz.weight_colours import ColourRange

LABEL_SIZE = 10  # px
_LABEL_ROOM = 9  # px: with smaller cells, not every token is labelled
_THIN_LABEL_ROOM = 12  # px between labels once they are thinned
_HEADER = 42  # px above the map: title, a line of notes and colour bar
_NOTE_LINE = 17  # px of one more line of notes
_EDGE = 10  # px between what is drawn and the figure's left, right and lower edge
_BAR_EDGE = 46  # px at the right of the colour bar: the page has buttons there
_BAR_ROOM = 16  # px between the name and the colour bar, whose first label is centred on its end
_SHORTEST_BAR = 34  # px: below, there is none
_NAME_ASPECT, _NAME_SIZE = 0.62, 13  # of a bold character, its width by its height in px
_NOTE_ASPECT, _NOTE_SIZE = 0.53, 11
_MIN_WIDTH = 250  # px: the header needs them
_SMALL_PLOT, _LARGE_PLOT, _LARGEST_CELL = 240, 420, 32  # px, where no size is asked for
_LARGEST_SIZED_CELL = 64  # px, where one is
NOTE = "{note}"
"""Where in a map's title it is said how its cells stand for weights."""
_LONGEST_NOTE = 25
"""Characters that come there."""
_MARKUP = re.compile("<[^>]+>")


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where things stand, in px."""

    cell: float
    across: float
    down: float
    left: int
    bottom: int
    width: int
    lines: int = 2
    """Of the header: name and notes."""

    @property
    def plot(self) -> float:
        """The longer side of the map."""
        return max(self.across, self.down)

    @property
    def height(self) -> int:
        return round(self.header + self.down + self.bottom)

    @property
    def header(self) -> int:
        """px above the map: its name, its notes and the colour bar."""
        return _HEADER + (self.lines - 2) * _NOTE_LINE

    @property
    def right(self) -> int:
        return round(self.width - self.left - self.across)

    def n_labels(self, n: int) -> int:
        """Return how many labels fit beside an axis of n positions."""
        return n if self.cell >= _LABEL_ROOM else max(int(self.cell * n / _THIN_LABEL_ROOM), 1)


def geometry_of(
    query_labels: tuple[str, ...], key_labels: tuple[str, ...], size: int | None
) -> Geometry:
    """Return where things stand on a map of these positions.

    Args:
        size: width of the figure in px; None: what the prompt's length asks for.
    """
    n = max(len(query_labels), len(key_labels), 1)
    left, bottom = _label_margin(query_labels), _label_margin(key_labels)
    if size is None:
        cell = min(min(max(_SMALL_PLOT, _LABEL_ROOM * n), _LARGE_PLOT) / n, _LARGEST_CELL)
    else:
        cell = min(max(size - left - _EDGE, 1) / n, _LARGEST_SIZED_CELL)
    # Whole pixels keep all cells equally large.
    cell = float(int(cell)) if cell >= 1 else cell
    across, down = (cell * max(len(labels), 1) for labels in (key_labels, query_labels))
    width = size or max(round(left + across) + _EDGE, _MIN_WIDTH)
    return Geometry(cell, across, down, left, bottom, width)


def _label_margin(labels: tuple[str, ...]) -> int:
    longest = max((len(clipped(label)) for label in labels), default=0)
    return round(longest * LABEL_SIZE * MONO_ASPECT) + 12


def with_notes(geometry: Geometry, notes: Sequence[str]) -> tuple[Geometry, list[str]]:
    """Return the notes in as many lines as they need, and the geometry with room for these.

    Args:
        notes: as Plotly's text; the first one has the place for `NOTE`.
    """
    lines = [notes[0]]
    for note in notes[1:]:
        joined = f"{lines[-1]} · {note}"
        if _fits(joined, geometry):
            lines[-1] = joined
        else:
            lines.append(note)
    return replace(geometry, lines=1 + len(lines)), lines


def _fits(note: str, geometry: Geometry) -> bool:
    later = _LONGEST_NOTE if geometry.cell < 1 and NOTE in note else 0  # cells of several weights
    n = len(_MARKUP.sub("", note.replace(NOTE, ""))) + later
    return n * _NOTE_ASPECT * _NOTE_SIZE <= geometry.width - 2 * _EDGE


def colour_bar(name: str, scale: ColourRange, geometry: Geometry, dark: bool) -> dict[str, Any]:
    """Return a trace that draws nothing and owns the colour bar, which may be logarithmic.

    The bar ends where the figure ends, not where a map narrower than its header does, and begins
    behind the name; where there is no room for it, there is none.
    """
    begin = _EDGE + len(name) * _NAME_ASPECT * _NAME_SIZE + _BAR_ROOM
    # Plotly places a bar by the map's width, and no farther from its left than three of these.
    farthest = geometry.left + 3 * geometry.across
    end = geometry.width - _BAR_EDGE
    pixels = min(scale.bar_pixels, int(end - begin))
    left = min(end - pixels, farthest)
    pixels = pixels if left >= begin else 0
    # Of a shorter bar only the ends are labelled.
    ends = slice(None) if pixels == scale.bar_pixels else slice(None, None, len(scale.tickvals) - 1)
    bar = compact_colour_bar(
        dark,
        pixels=max(pixels, 0),
        y=1 - 3 / geometry.height,  # its labels stay clear of the title's second line
        tickvals=scale.tickvals[ends],
        ticktext=scale.ticktext[ends],
    )
    bar |= {"xanchor": "left", "x": (left - geometry.left) / geometry.across}
    return {
        "type": "scatter",
        "x": [None],
        "y": [None],
        "mode": "markers",
        "hoverinfo": "skip",
        "marker": {
            "color": [scale.bar_low],
            "cmin": scale.bar_low,
            "cmax": scale.bar_high,
            "colorscale": scale.bar_colours,
            "showscale": pixels >= _SHORTEST_BAR,
            "colorbar": bar,
        },
    }


def frame(geometry: Geometry) -> dict[str, Any]:
    """Return the size and the margins of the figure."""
    margin = {
        "l": geometry.left,
        "r": geometry.right,
        "t": geometry.header,
        "b": geometry.bottom,
        "pad": 2,
        "autoexpand": False,
    }
    return {"width": geometry.width, "height": geometry.height, "margin": margin}


def title(name: str, lines: Sequence[str], geometry: Geometry, dark: bool) -> dict[str, Any]:
    """Return the title: the name, and the lines of notes under it."""
    colours = palette(dark)
    small = [
        f"<span style='font-size:{_NOTE_SIZE}px;color:{colours.muted}'>{line}</span>"
        for line in lines
    ]
    return {
        "text": "<br>".join([f"<b>{literal(name)}</b>", *small]),
        "font": {"size": _NAME_SIZE, "color": colours.text},
        "x": _EDGE / geometry.width,
        "xanchor": "left",
        "xref": "container",
        # Plotly anchors the second of the lines.
        "y": 1 - 17 / geometry.height,
        "yanchor": "top",
        "yref": "container",
    }
