"""How weights become colours, linearly or by their logarithm, and how the colour bar says so."""

from dataclasses import dataclass

import numpy as np

from viz.theme import ColourScale, sequential_scale

LOG_FLOOR = 1e-4
"""On the logarithmic scale, weights at and below this one share the lowest colour; of norms, which
may be larger than 1, those at and below this part of the largest."""


@dataclass(frozen=True, slots=True)
class ColourRange:
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


def colour_range(zmax: float, log: bool, dark: bool) -> ColourRange:
    """Return the colours of weights up to `zmax`, which gets the strongest."""
    colours = sequential_scale(dark)
    if not log:
        ticks = [0.0, zmax]
        return ColourRange(zmax, colours, colours, 0.0, zmax, 84, ticks, ["0", short(zmax)])
    floor = log_floor(zmax)
    low, high = float(np.log10(floor)), float(np.log10(zmax))
    decades = range(int(np.ceil(low - 1e-9)), int(np.floor(high + 1e-9)) + 1)
    return ColourRange(
        zmax,
        _logarithmic(colours, floor / zmax),
        colours,
        low,
        high,
        128,
        [float(d) for d in decades],
        [short(10.0**d) for d in decades],
    )


def log_floor(zmax: float) -> float:
    """Return the weight at and below which the logarithmic scale has its lowest colour."""
    return min(LOG_FLOOR * max(1.0, zmax), zmax / 10)


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


def short(value: float) -> str:
    """Return a weight in three digits, without a leading zero."""
    return f"{value:.3g}".removeprefix("0") or "0"
