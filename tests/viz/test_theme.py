"""Colours that can be read, and figures that stay small."""

import itertools
import re
import subprocess
import sys

import plotly.graph_objects as go
import plotly.io as pio
import pytest

from viz.theme import (
    ColourScale,
    base_layout,
    css_variables,
    diverging_scale,
    head_colour,
    label_step,
    palette,
    sequential_scale,
)

READABLE = 4.5  # WCAG 2.1, text
VISIBLE = 3.0  # WCAG 2.1, graphics


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" or "rgb(r,g,b)", as WCAG 2.1 defines it."""
    if colour.startswith("#"):
        channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    else:
        channels = [int(c) for c in re.findall(r"\d+", colour)]
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in channels)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminances(scale: ColourScale) -> list[float]:
    return [luminance(colour) for _, colour in scale]


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_marks_stand_out_from_the_surface(dark: bool) -> None:
    colours = palette(dark)
    for surface in (colours.surface, colours.page):
        assert contrast(colours.text, surface) >= READABLE
        assert contrast(colours.muted, surface) >= READABLE
        assert contrast(colours.primary, surface) >= READABLE
        assert contrast(colours.accent, surface) >= VISIBLE


@pytest.mark.parametrize("dark", [False, True])
def test_the_sequential_scale_leaves_the_surface_steadily(dark: bool) -> None:
    steps = luminances(sequential_scale(dark))
    assert steps == sorted(steps, reverse=not dark)
    assert contrast(sequential_scale(dark)[0][1], palette(dark).surface) < 1.25
    assert contrast(sequential_scale(dark)[-1][1], palette(dark).surface) > 12


@pytest.mark.parametrize("dark", [False, True])
def test_the_diverging_scale_leaves_zero_on_both_sides(dark: bool) -> None:
    scale = diverging_scale(dark)
    middle = len(scale) // 2
    assert scale[middle][0] == 0.5
    steps = luminances(scale)
    assert steps[: middle + 1] == sorted(steps[: middle + 1], reverse=dark)
    assert steps[middle:] == sorted(steps[middle:], reverse=not dark)


@pytest.mark.parametrize("dark", [False, True])
def test_seven_heads_have_seven_visible_hues(dark: bool) -> None:
    hues = [head_colour(i, dark) for i in range(7)]
    assert len(set(hues)) == 7
    assert head_colour(7, dark) == hues[0]
    assert all(contrast(hue, palette(dark).surface) > 2 for hue in hues)


def test_the_stylesheet_gets_the_same_names_in_both_themes() -> None:
    light, dark = css_variables(False), css_variables(True)
    assert light.keys() == dark.keys()
    assert light["--av-surface"] == "#ffffff"


def test_the_layout_brings_no_template_of_plotly() -> None:
    figure = go.Figure(layout=base_layout(dark=False))
    assert len(figure.to_json()) < 1000


@pytest.mark.parametrize(
    ("n", "cell", "step"),
    [(1, 2.0, 1), (12, 20.0, 1), (32, 7.0, 2), (30, 4.0, 5), (9, 0.1, 200), (5, 0.01, 5)],
)
def test_axes_label_as_many_cells_as_there_is_room_for(n: int, cell: float, step: int) -> None:
    assert label_step(n, cell, room=12) == step


def test_no_room_below_pulls_in_torch_and_no_global_of_plotly_is_set() -> None:
    rooms = ("theme", "labels", "attention", "predictions", "heads", "search")
    code = (
        f"import sys; {'; '.join(f'import viz.{room}' for room in rooms)}; "
        "import plotly.io as pio; "
        "print('torch' in sys.modules, 'dash' in sys.modules, pio.templates.default)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert answer == ["False", "False", "plotly"]
    assert pio.templates.default == "plotly"


def test_luminance_of_black_and_white() -> None:
    """The measure that the other tests rely on."""
    assert contrast("#000000", "rgb(255, 255, 255)") == pytest.approx(21)
    assert all(a < b for a, b in itertools.pairwise(luminances([(0, "#000000"), (1, "#808080")])))
