"""The picture of a circuit, as SVG: one drawing for the page and for files.

Parts and edges carry what the page's script needs of them as `data-` attributes: rank (to
hide weak ones), what a hover tells, and what a click chooses; see assets/circuit.js.
"""

import math
from xml.sax.saxutils import escape, quoteattr

from ablation.circuit.types import Circuit
from viz.circuit_layout import LEGEND, MARGIN, Layout, Line, Look, Part, lay_out
from viz.circuit_legend import DASHES, heading, legend, letters_of, sign_colours, text
from viz.circuit_positions import lay_out_by_token
from viz.circuit_text import edge_name, number, part_lines, percent, signed
from viz.theme import MONO_ASPECT, SANS, Palette, palette

_SMALLEST_TEXT, _LARGEST_TEXT = 7.0, 11.0  # px
_MANY = 60
"""Edges from which on lines are thinner."""
_THINNEST, _WIDEST, _WIDEST_OF_MANY = 0.8, 6.0, 4.2  # px
_HIT = 7  # px: how wide a line is to the pointer, at least
_PORTS_FROM = 34  # px from row to row that the letters of the inputs need


def circuit_svg(
    circuit: Circuit,
    *,
    dark: bool = False,
    width: float = 900,
    height: float = 600,
    by_token: bool = False,
    headed: bool = False,
) -> str:
    """Draw a circuit.

    What it is of stands above the picture proper, at negative heights, where a page that says it
    elsewhere does not show it.

    A line's width is |score| relative to the largest; its colour the sign; its dashes the input
    it goes into. Where a score was not measured the line is thin and grey.

    Args:
        width: of the picture in px.
        height: at most so many px; few rows need less, and tokens may need more.
        by_token: whether parts stand at the tokens where they read and write, if the circuit's
            edges were scored by position.
        headed: whether what it is of is seen, above those `height` px.
    """
    places = circuit.by_position if by_token else None
    layout = (
        lay_out(circuit, width, height)
        if places is None
        else lay_out_by_token(circuit, places, width, height)
    )
    bars = [part for part in layout.parts if part.is_bar]
    others = [part for part in layout.parts if not part.is_bar]
    above = heading(circuit, layout, dark)
    return _document(layout, dark, above.height if headed else 0.0, [
        above.svg,
        *_rows(layout, dark),
        *_tokens(layout, dark),
        *(_look(circuit, look, dark) for look in layout.looks),
        # An arrow into a head's query ends above the bar of its key and value.
        *(_part(circuit, part, layout, dark) for part in bars),
        *(_line(circuit, line, layout, dark) for line in reversed(layout.lines)),
        *(_part(circuit, part, layout, dark) for part in others),
        *_port_letters(layout, dark),
        legend(circuit, layout, dark),
    ])  # fmt: skip


def _document(layout: Layout, dark: bool, above: float, content: list[str]) -> str:
    """Return a picture of which so many px above its proper height are seen."""
    w, h, colours = f"{layout.width:g}", f"{layout.height:g}", palette(dark)
    seen = f"{layout.height + above:g}"
    raising, lowering = sign_colours(dark)
    arrows = "".join(
        f'<marker id="circuit-{name}" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="5.5" '
        'markerHeight="5.5" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0,0L6,3L0,6Z" fill="{colour}"/></marker>'
        for name, colour in (
            ("plus", raising),
            ("minus", lowering),
            ("unknown", colours.neutral),
        )
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{seen}" '
        f'viewBox="0 {-above:g} {w} {seen}" data-unit="{"places" if layout.columns else "edges"}" '
        f'data-total="{layout.n_edges}" '
        f'font-family="{escape(SANS)}" font-size="10">'
        f'<defs>{arrows}</defs><rect width="{w}" height="{h}" fill="{colours.surface}"/>'
        f"{''.join(content)}</svg>"
    )


def _rows(layout: Layout, dark: bool) -> list[str]:
    colours, step = palette(dark), max(1, math.ceil(9 / layout.pitch))
    return [
        f'<path d="M{MARGIN + 26},{y:.1f}H{layout.width - MARGIN:g}" stroke="{colours.grid}"/>'
        + (text(name, MARGIN, y, 9, colours.muted, "start") if i % step == 0 else "")
        for i, (name, y) in enumerate(layout.rows)
    ]


def _tokens(layout: Layout, dark: bool) -> list[str]:
    """Return the columns' tokens, and the lines between columns."""
    colours, bottom = palette(dark), layout.height - MARGIN - LEGEND
    drawn = []
    for i, (token, x, width) in enumerate(layout.columns):
        room = max(1, int(width / (_LARGEST_TEXT * MONO_ASPECT)))
        shown = token if len(token) <= room else token[: room - 1] + "…"
        drawn.append(
            f"<g><title>{escape(token)}</title>"
            + text(shown, x, bottom - 6, _LARGEST_TEXT, colours.text, "middle", mono=True)
            + "</g>"
        )
        if i:
            left = x - width / 2
            drawn.append(f'<path d="M{left:.1f},{MARGIN}V{bottom:.1f}" stroke="{colours.grid}"/>')
    return drawn


def _look(circuit: Circuit, look: Look, dark: bool) -> str:
    """Return a head's attention from one column to another."""
    (x0, y0), (x, y), (x1, y1) = look.start, look.bend, look.end
    path = f"M{x0:.1f},{y0:.1f}Q{x:.1f},{y:.1f} {x1:.1f},{y1:.1f}"
    told = [
        f"{look.head} looks from {_token(circuit, look.query)} to {_token(circuit, look.key)}",
        f"attention {number(look.weight)}",
    ]
    return (
        f'<g class="circuit-look" '
        f'data-source="{look.source}" data-target="{look.target}" data-told={_attribute(told)}>'
        f'<path class="hit" d="{path}" fill="none" stroke="transparent" stroke-width="{_HIT}"/>'
        f'<path d="{path}" fill="none" stroke="{palette(dark).muted}" '
        f'stroke-width="{_THINNEST + 2 * look.weight:.2f}" '
        f'stroke-opacity="{0.3 + 0.6 * look.weight:.2f}"/></g>'
    )


def _token(circuit: Circuit, position: int) -> str:
    places = circuit.by_position
    return "" if places is None else f"{places.tokens[position]} ({position})"


def _line(circuit: Circuit, line: Line, layout: Layout, dark: bool) -> str:
    (x0, y0), (b0, b1), (x1, y1) = line.start, line.bends, line.end
    middle = ((b0[0] + b1[0]) / 2, (b0[1] + b1[1]) / 2)
    path = (
        f"M{x0:.1f},{y0:.1f}Q{b0[0]:.1f},{b0[1]:.1f} {middle[0]:.1f},{middle[1]:.1f}"
        f"Q{b1[0]:.1f},{b1[1]:.1f} {x1:.1f},{y1:.1f}"
    )
    widest = _WIDEST if len(layout.lines) <= _MANY else _WIDEST_OF_MANY
    width = _THINNEST + (widest - _THINNEST) * line.strength
    name, colour = _sign(line.score, dark)
    dashes = DASHES.get(line.edge.target.input or "", "")
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    told = [
        edge_name(line.edge),
        f"score {signed(line.score)}, {percent(line.share)} of the circuit's |scores|",
        f"number {line.rank} of {layout.n_edges:,} by |score|",
    ]
    if line.position is not None:
        told[0] += f" at {_token(circuit, line.position)}"
    return (
        f'<g class="circuit-edge" data-rank="{line.rank}" '
        f'data-source="{line.source}" data-target="{line.target}" '
        f'data-edge="{line.index[0]}-{line.index[1]}" data-told={_attribute(told)}>'
        f'<path class="hit" d="{path}" fill="none" stroke="transparent" '
        f'stroke-width="{max(_HIT, width):.1f}"/>'
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:.2f}" '
        f'stroke-opacity="{0.35 + 0.6 * line.strength**0.5:.2f}"{dashed} '
        f'marker-end="url(#circuit-{name})"/></g>'
    )


def _sign(score: float, dark: bool) -> tuple[str, str]:
    if math.isnan(score):
        return "unknown", palette(dark).neutral
    raising, lowering = sign_colours(dark)
    return ("plus", raising) if score >= 0 else ("minus", lowering)


def _part(circuit: Circuit, part: Part, layout: Layout, dark: bool) -> str:
    colours, kind = palette(dark), part.component.kind
    heads = " ".join(head.short for head in part.heads)
    has_role = not part.is_bar and any(
        str(role.head) == str(part.component) for role in circuit.roles
    )
    fill = colours.muted if part.is_bar else colours.surface if heads else colours.empty
    line, line_width = (colours.accent, 1.6) if has_role else (colours.neutral, 1.0)
    told = part_lines(circuit, part, layout.lines)
    if part.position is not None:
        told[0] += f" at {_token(circuit, part.position)}"
    chosen = (
        f' data-heads="{heads}" role="button" tabindex="0" aria-label={_attribute(told[:1])}'
        if heads
        else ""
    )
    return (
        f'<g class="circuit-part {kind}" data-name="{part.name}" '
        f"data-told={_attribute(told)}{chosen}>"
        f'<rect x="{part.x - part.width / 2:.1f}" y="{part.y - part.height / 2:.1f}" '
        f'width="{part.width:.1f}" height="{part.height:.1f}" rx="{min(4, part.height / 2):.1f}" '
        f'fill="{fill}" stroke="{line}" stroke-width="{line_width}"/>'
        f"{_part_label(circuit, part, layout, colours)}</g>"
    )


def _part_label(circuit: Circuit, part: Part, layout: Layout, colours: Palette) -> str:
    """Return the name in a part: whole where all have room for that, else without its layer; and
    the letters of its roles where they have room beside it."""
    kind = part.component.kind
    colour = colours.surface if part.is_bar else colours.text
    size = min(_LARGEST_TEXT, max(_SMALLEST_TEXT, part.height - 3))
    alike = [
        other
        for other in layout.parts
        if (other.component.kind, other.is_bar) == (kind, part.is_bar)
    ]
    for name in (_name, _short_name, _shortest_name):
        longest = max(len(name(other)) for other in alike)
        if longest * size * MONO_ASPECT <= part.width - 2 and part.height >= size:
            letters = "" if part.is_bar else letters_of(circuit, part.component)
            if (len(name(part)) + 1 + len(letters)) * size * MONO_ASPECT > part.width - 2:
                letters = ""
            return text(
                name(part),
                part.x,
                part.y,
                size,
                colour,
                "middle",
                mono=True,
                beside=letters,
                beside_colour=colours.accent,
            )
    return ""


def _name(part: Part) -> str:
    return "embedding" if part.component.kind == "embed" else str(part.component)


def _short_name(part: Part) -> str:
    names = {"head": f"H{part.component.head}", "mlp": "MLP", "kv": f"KV{part.component.head}"}
    return names.get(part.component.kind, str(part.component))


def _shortest_name(part: Part) -> str:
    return "M" if part.component.kind == "mlp" else _short_name(part)


def _port_letters(layout: Layout, dark: bool) -> list[str]:
    """Return q, k and v beside the ends of the edges, once for each input."""
    if layout.pitch < _PORTS_FROM:
        return []
    # Last comes the strongest, whose strength the letter has.
    into = [line for line in reversed(layout.lines) if line.edge.target.input]
    ends = {(line.target, line.edge.target.input): line for line in into}
    return [
        f'<g class="circuit-port" data-rank="{line.rank}">'
        + text(
            line.edge.target.input or "",
            line.end[0] + 6,
            line.end[1] + 5,
            8,
            palette(dark).muted,
            "middle",
        )
        + "</g>"
        for line in ends.values()
    ]


def _attribute(lines: list[str]) -> str:
    return quoteattr("\n".join(lines))
