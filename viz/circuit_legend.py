"""What is written around the picture of a circuit: its legend, and what it is of."""

import math
import textwrap
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ablation.circuit.types import Circuit
from models.types import Component
from viz.circuit_caption import caption, for_xml
from viz.circuit_layout import MARGIN, Layout
from viz.circuit_text import headline, number
from viz.theme import MONO, SANS_ASPECT, Palette, diverging_scale, palette

DASHES = {"k": "6 3", "v": "1.5 2.5"}
"""How the lines into keys and values are dashed; those into queries are not."""
LETTERS = {
    "previous token": "p",
    "duplicate token": "d",
    "induction": "i",
    "copying": "c",
    "negative": "n",
    "inhibition": "s",
}
"""Role -> the letter of it in the picture."""
_SIZE, _LARGE = 9.0, 12.0  # px
_LINE = 1.45
"""Height of a line, in sizes of its letters."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above a picture."""

    svg: str
    height: float
    """px, all of them above 0."""


def sign_colours(dark: bool) -> tuple[str, str]:
    """Return the colours of edges that raise the metric and of those that lower it."""
    scale = diverging_scale(dark)
    return scale[-2][1], scale[1][1]


def letters_of(circuit: Circuit, part: Component) -> str:
    """Return the letters of the roles of a head: "ci"; of other parts, and of none, nothing."""
    roles = [role.role for role in circuit.roles if str(role.head) == str(part)]
    return "".join(dict.fromkeys(LETTERS.get(role, "*") for role in roles))


def role_words(circuit: Circuit) -> str:
    """Say what the letters at heads mean, of those roles that there are; "" without any."""
    there = {role.role for role in circuit.roles}
    named = [f"{letter} {role}" for role, letter in LETTERS.items() if role in there]
    return f"Roles, by the letter at a head: {', '.join(named)}." if named else ""


def heading(circuit: Circuit, layout: Layout, dark: bool) -> Heading:
    """Return what a picture by itself has to say: how good it is, what of, what of it is drawn."""
    colours = palette(dark)
    count = shown(len(layout.lines), layout)
    lines = [(line, _LARGE, colours.text, "") for said in headline(circuit)
             for line in _wrapped(said, _LARGE, layout)]  # fmt: skip
    for said, name in (
        (caption(circuit), ""),
        (role_words(circuit), ""),
        (count, "circuit-count"),
    ):
        lines += [(line, _SIZE, colours.muted, name) for line in _wrapped(said, _SIZE, layout)]
    # Whole, as the pixels of a file are.
    height = float(math.ceil(MARGIN + sum(_LINE * size for _, size, _, _ in lines)))
    y, drawn = MARGIN - height, []
    for words, size, colour, name in lines:
        drawn.append(text(words, MARGIN, y + _LINE * size / 2, size, colour, name=name))
        y += _LINE * size
    return Heading(
        f'<g class="circuit-heading" data-height="{height:g}">'
        f'<rect y="{-height:g}" width="{layout.width:g}" height="{height:g}" '
        f'fill="{colours.surface}"/>{"".join(drawn)}</g>',
        height,
    )


def shown(n_drawn: int, layout: Layout) -> str:
    """Say how much of a circuit is drawn; assets/circuit.js says it the same way."""
    unit = "places" if layout.columns else "edges"
    if n_drawn == layout.n_edges:
        return f"All {n_drawn:,} {unit} are drawn."
    return f"Drawn: the strongest {n_drawn:,} of {layout.n_edges:,} {unit}."


def _wrapped(words: str, size: float, layout: Layout) -> list[str]:
    room = int((layout.width - 2 * MARGIN) / (size * SANS_ASPECT))
    return textwrap.wrap(" ".join(for_xml(words).split()), max(room, 20))


def legend(circuit: Circuit, layout: Layout, dark: bool) -> str:
    """Return what colours, dashes and frames mean, along the bottom."""
    colours, (raising, lowering) = palette(dark), sign_colours(dark)
    entries = [
        ("raises it", raising, "", 3.0),
        ("lowers it", lowering, "", 3.0),
        ("into query", colours.text, "", 1.3),
        ("key", colours.text, DASHES["k"], 1.3),
        ("value", colours.text, DASHES["v"], 1.3),
    ]
    x, y, drawn = float(MARGIN), layout.height - MARGIN - 4, []
    for words, colour, dashes, width in entries:
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        drawn.append(
            f'<path d="M{x:.0f},{y:.1f}h20" stroke="{colour}" stroke-width="{width}"{dashed}/>'
            + text(words, x + 24, y, _SIZE, colours.muted)
        )
        x += 24 + 4.6 * len(words) + 11
    if any(part.is_bar for part in layout.parts):
        bar = "k, v read" if layout.columns else "shared k, v"
        drawn.append(_sample(bar, x, y, 4, colours.muted, colours.muted, colours))
        x += 92
    if circuit.roles:
        drawn.append(_sample("has a role", x, y, 9, colours.surface, colours.accent, colours))
        x += 82
    if layout.looks:
        drawn.append(
            f'<path d="M{x:.0f},{y:.1f}h20" stroke="{colours.muted}" stroke-width="2"/>'
            + text("attention", x + 24, y, _SIZE, colours.muted)
        )
        x += 78
    widest = f"widest {number(layout.largest)}"
    if layout.largest and x + 5 * len(widest) < layout.width - MARGIN:
        drawn.append(text(widest, layout.width - MARGIN, y, _SIZE, colours.muted, "end"))
    return "".join(drawn)


def _sample(
    words: str, x: float, y: float, height: float, fill: str, line: str, colours: Palette
) -> str:
    """Return an entry of the legend for parts that look so."""
    return (
        f'<rect x="{x:.0f}" y="{y - height / 2:.1f}" width="20" height="{height}" rx="2" '
        f'fill="{fill}" stroke="{line}"/>' + text(words, x + 24, y, _SIZE, colours.muted)
    )


def text(
    words: str, x: float, y: float, size: float, colour: str, anchor: str = "start", *,
    mono: bool = False, name: str = "", beside: str = "", beside_colour: str = "",
) -> str:  # fmt: skip
    """Return words around a height.

    Args:
        name: a class by which they are found.
        beside: a few letters behind the words, in another colour.
    """
    font = f' font-family="{escape(MONO)}"' if mono else ""
    named = f' class="{name}"' if name else ""
    more = (
        f'<tspan dx="{0.3 * size:.1f}" font-weight="700" fill="{beside_colour}">'
        f"{escape(beside)}</tspan>"
        if beside
        else ""
    )
    return (
        f'<text x="{x:.1f}" y="{y + 0.35 * size:.1f}" font-size="{size:.1f}" fill="{colour}" '
        f'text-anchor="{anchor}" pointer-events="none"{font}{named}>{escape(words)}{more}</text>'
    )
