"""Colours, fonts and the layout that all figures share.

Colour means one thing. Blues (a sequential scale) are weights and distances; purple to green
(diverging around zero) are effects, ablated minus clean; orange is what the user ablates or has
chosen, grey the clean run beside it; the hues of `head_colour` tell heads apart.
"""

from dataclasses import asdict, dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.colors import cmocean, diverging

SANS = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
MONO_ASPECT = 0.602
"""Width of a character of the monospaced faces above, in units of the font size."""
SANS_ASPECT = 0.53
"""Of the other faces: about the mean of English text, a little on the wide side."""

ColourScale = list[tuple[float, str]]
"""Plotly's form: (position in [0, 1], colour), positions ascending from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one theme. The page's stylesheet may mirror them; see `css_variables`."""

    page: str
    """Behind the cards."""
    surface: str
    """A card, on which figures stand."""
    text: str
    muted: str
    """Secondary text; at least 4.5:1 against `surface`."""
    line: str
    """Borders and axis lines."""
    grid: str
    empty: str
    """A cell without a value."""
    neutral: str
    """The clean run, where it stands beside the ablated one."""
    accent: str
    """Chosen heads and the ablated run: the vermilion or orange of Okabe and Ito."""
    primary: str
    """Controls and links: a blue from the sequential scale."""


LIGHT = Palette(
    page="#f5f7f9",
    surface="#ffffff",
    text="#1b2026",
    muted="#5a6672",
    line="#d5dbe1",
    grid="#e9edf0",
    empty="#eef1f4",
    neutral="#9aa6b2",
    accent="#d55e00",
    primary="#2d6da3",
)
DARK = Palette(
    page="#0f1317",
    surface="#171c22",
    text="#e7ebef",
    muted="#9ba7b3",
    line="#343d47",
    grid="#262d35",
    empty="#1f252c",
    neutral="#76838f",
    accent="#e69f00",
    primary="#72b8cd",
)

# Okabe and Ito, "Color Universal Design" (2008). Black would vanish on dark and yellow on white,
# so the seventh hue is the one that the theme can show.
_OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_OKABE_ITO_DARK = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#0072b2")
_SEVENTH_LIGHT, _SEVENTH_DARK = "#000000", "#f0e442"

N_HUES = 7

_QUIET_ZERO = "#2d343c"  # zero on the dark diverging scale: not the colour of an empty cell


def palette(dark: bool) -> Palette:
    """Return the colours of the dark theme or of the light one."""
    return DARK if dark else LIGHT


def css_variables(dark: bool) -> dict[str, str]:
    """Return the palette as CSS custom properties, `--av-surface` and so on, and the hues of heads:
    `--av-head-0` to `--av-head-6`."""
    hues = {f"head-{i}": head_colour(i, dark) for i in range(N_HUES)}
    return {f"--av-{name}": colour for name, colour in (asdict(palette(dark)) | hues).items()}


def head_colour(i: int, dark: bool = False) -> str:
    """Return the hue of the i-th of several heads told apart; seven hues, then again."""
    hues = (*_OKABE_ITO_DARK, _SEVENTH_DARK) if dark else (*_OKABE_ITO, _SEVENTH_LIGHT)
    return hues[i % len(hues)]


def sequential_scale(dark: bool) -> ColourScale:
    """Return the scale for weights and distances: from nearly the surface to the far end.

    cmocean's "ice" (Thyng et al. 2016, doi:10.5670/oceanog.2016.66), perceptually uniform, light
    on dark and reversed on light. Its blackest stop is left out, in dark it would be a hole, and
    on light its palest one is toned down to a grey that stays calm over large areas.
    """
    stops = list(cmocean.ice[1:])
    return _evenly(stops if dark else ["rgb(241, 246, 248)", *stops[-2::-1]])


def diverging_scale(dark: bool) -> ColourScale:
    """Return the scale for effects around zero: purple below, green above, the surface between.

    ColorBrewer's "PRGn" (Harrower and Brewer 2003), safe for colour-blind readers. In dark the
    same hues are turned inside out, so that zero is quiet and a large effect is bright.
    """
    stops = list(diverging.PRGn)
    if not dark:
        return _evenly(stops)
    negative, positive = stops[1:5][::-1], stops[6:10]
    return _evenly([*negative, _QUIET_ZERO, *positive[::-1]])


def base_layout(dark: bool) -> dict[str, Any]:
    """Return what every figure's layout starts from, as arguments of `go.Layout`.

    It carries an empty template: Plotly's own would add 7 kB to each figure.
    """
    colours = palette(dark)
    return {
        "template": go.layout.Template(),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": SANS, "size": 12, "color": colours.text},
        "hoverlabel": {
            "bgcolor": colours.surface,
            "bordercolor": colours.line,
            "font": {"family": MONO, "size": 12, "color": colours.text},
            "align": "left",
            "namelength": -1,
        },
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": colours.muted,
            "activecolor": colours.text,
        },
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8, "pad": 0, "autoexpand": False},
        "showlegend": False,
    }


def plain_axis(dark: bool) -> dict[str, Any]:
    """Return an axis without lines, grid or ticks, its labels small and quiet."""
    return {
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "tickfont": {"family": MONO, "size": 10, "color": palette(dark).muted},
    }


def compact_colour_bar(dark: bool, *, pixels: int, y: float, **ticks: Any) -> dict[str, Any]:
    """Return a thin horizontal colour bar at the right of a figure's header.

    Args:
        pixels: its length.
        y: height of its upper edge, as a fraction of the figure.
        ticks: `tickvals` and `ticktext`.
    """
    return {
        "orientation": "h",
        "lenmode": "pixels",
        "len": pixels,
        "thickness": 7,
        "x": 1.0,
        "xanchor": "right",
        "xref": "paper",
        "y": y,
        "yanchor": "top",
        "yref": "container",
        "xpad": 0,
        "ypad": 0,
        "outlinewidth": 0,
        "ticks": "",
        "ticklabelposition": "outside bottom",
        "tickmode": "array",
        "tickangle": 0,
        "ticklabeloverflow": "allow",
        "tickfont": {"family": MONO, "size": 9, "color": palette(dark).muted},
        **ticks,
    }


def label_step(n: int, cell: float, room: float) -> int:
    """Return every how many cells an axis of `n` cells, `cell` px each, has room for a label.

    Args:
        room: what one label needs, in px.
    """
    if n <= 1 or cell >= room:
        return 1
    for step in (2, 5, 10, 20, 50, 100, 200, 500):
        if step * cell >= room:
            return step
    return n


def _evenly(colours: list[str]) -> ColourScale:
    last = len(colours) - 1
    return [(i / last, colour) for i, colour in enumerate(colours)]
