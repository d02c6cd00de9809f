"""Attention as one HTML file: it works offline, in any browser of today, without this program.

The scripts of the page that draw lines and text are put into the file as they are; the heat maps,
which Plotly draws on the page, are drawn by a small script of their own (Plotly alone is 4 MB).
Weights travel as the codes of `viz.coding`, deflated: what is below `SMALLEST` is written as 0.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from models.types import AttentionMaps, TokenizedPrompt
from viz import coding
from viz.attention import Look, shown_map, strength_scale
from viz.extent import Extent, extent_of, shared_largest, unit_of
from viz.labels import VALUE_NAMES, clipped
from viz.sides import SOURCE, other_sides, sides_of
from viz.theme import css_variables, sequential_scale

SMALLEST = 1e-5
"""Smaller weights are written as 0: nobody reads them, and they would be half of a large file. Of
norms: this part of the largest."""

PICTURES = ("matrix", "lines", "text")
"""The pictures that the file has."""

_HERE = Path(__file__).resolve().parent
_ASSETS = _HERE.parents[1] / "assets"
_SCRIPTS = (
    _ASSETS / "weights.js",
    _ASSETS / "pens.js",
    _ASSETS / "exports.js",
    _ASSETS / "stacks.js",
    _ASSETS / "lines.js",
    _ASSETS / "text.js",
    _HERE / "matrix.js",
    _HERE / "start.js",
)
_STYLES = (_HERE / "standalone.css", _ASSETS / "pictures.css")
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""What the file may do: run what is in it, and ask no one for anything."""


@dataclass(frozen=True, slots=True, eq=False)
class OfAll:
    """One more map, of all heads together, as it is shown (`viz.combined`)."""

    name: str
    maps: AttentionMaps
    extent: Extent


def attention_html(
    *maps: AttentionMaps,
    of_all: Sequence[OfAll] = (),
    prompt: TokenizedPrompt | None = None,
    picture: str = "matrix",
    position: int | None = None,
    token: int | None = None,
    direction: str = "at",
    threshold: float = 0.0,
    scale: str = "shared",
    log: bool = False,
    sink: str = "show",
    between: tuple[int, int] | None = None,
    dark: bool | None = None,
    title: str = "Attention",
) -> str:
    """Return a page that shows maps as heat maps, lines and text, to be switched between.

    In a notebook, show it in a frame: `IPython.display.IFrame` of a file with it.

    Args:
        maps: of one prompt, with all their rows.
        of_all: further heat maps, with the first token dealt with as `sink` says.
        prompt: what they are of; None: as the maps have it. Maps of an encoder's heads alone do not
            tell that there is a decoder, whose position is the one that was read.
        picture: the one that it opens with: "matrix", "lines" or "text".
        position: the position at which the prediction was read; it is marked.
        token: the position that is selected at first; None: no one.
        direction: "at" if it is shown where the selected token looks, "by" if who looks at it.
        threshold: weights below it are not shown at first; of norms, those below this part of
            the largest.
        scale: "shared" if the largest weight of all maps shows strongest; "own": each map's own.
        log: whether strength follows the logarithm of the weight.
        sink: what is done about the first token; a key of `viz.sink.SINKS`.
        between: of a pair of sentences, the part that is drawn; see `viz.attention.Look`.
        dark: None: as the reader's system has it.
        title: a heading.

    Raises:
        ValueError: there is no map, or they are not of one prompt and one kind.
    """
    if not maps or not maps[0].heads:
        raise ValueError("a page of attention needs a map")
    if any(other.kind != maps[0].kind for other in maps):
        raise ValueError("all maps must be of one kind")
    prompt = prompt or _prompt_of(maps)
    each = [(several, i) for several in maps for i in range(len(several.heads))]
    others = other_sides(prompt)
    if not others and maps[0].looked_at is not None:  # by themselves, without their prompt
        others = {SOURCE: maps[0].looked_at}
    sides = [list(sides_of(several, prompt, others)) for several, _ in each]
    extents = [extent_of(several, i, sink) for several, i in each]
    zmax = shared_largest(extents) if scale == "shared" else None
    unit = unit_of(maps[0].kind, extents)
    look = Look(position, zmax=zmax, log=log, sink=sink, between=between, unit=unit)
    heads = [
        _head(*one, look, extent, of) for one, extent, of in zip(each, extents, sides, strict=True)
    ]
    for i, one in enumerate(of_all):
        done = replace(look, done=True)
        drawn, codes = _head(
            one.maps, 0, done, one.extent, list(sides_of(one.maps, prompt, others))
        )
        heads.append(({**drawn, "head": f"all {i}", "name": one.name, "of_all": True}, codes))
    about = {
        "title": title,
        **_names_and_labels(prompt),
        "sides": {side: _names_and_labels(positions) for side, positions in others.items()},
        "main": prompt.main,
        "marked": position,
        "picture": picture,
        "token": token,
        "direction": direction,
        "threshold": threshold,
        "unit": unit,
        "smallest": f"{SMALLEST * unit:.3g}" if unit != 1 else f"{SMALLEST:f}".rstrip("0"),
        "value": VALUE_NAMES[maps[0].kind],
        "sink": sink,
        "ablated": any(several.ablated for several in maps),
        "dark": dark,
        "scales": {name: _colours(name == "dark") for name in ("light", "dark")},
        "maps": [about for about, _ in heads],
    }
    return "".join(_page(title, about, [codes for _, codes in heads]))


def _prompt_of(maps: Sequence[AttentionMaps]) -> TokenizedPrompt:
    """Return what maps are of: the prompt rather than what an encoder or a vision tower reads."""
    wholes = (one.prompt for one in maps if other_sides(one.prompt))
    return next(wholes, maps[0].prompt)


def _names_and_labels(positions: TokenizedPrompt) -> dict[str, list[str]]:
    return {
        "names": [clipped(label) for label in positions.unique_labels],
        "labels": list(positions.labels),
    }


def _head(
    maps: AttentionMaps, index: int, look: Look, extent: Extent, sides: list[str]
) -> tuple[dict[str, Any], str]:
    """Return what is said of a map, and its weights."""
    shown = shown_map(maps, index, look, extent)
    coded_unit = coding.unit_of(shown.weights)
    about = {
        "head": maps.heads[index].short,
        "name": maps.title(index),
        "sides": sides,
        "causal": shown.causal,
        "largest": shown.largest,
        "unit": coded_unit,
        "scale": strength_scale(look.zmax or shown.largest or 1.0, look),
    }
    parts = shown.weights / coded_unit if coded_unit != 1 else shown.weights
    return about, _packed(parts, shown.causal, SMALLEST * look.unit / coded_unit)


def _packed(weights: np.ndarray, causal: bool, smallest: float) -> str:
    """Return the codes of a map, row by row and of a causal one up to the diagonal, deflated.

    High bytes come before low ones: they are alike, and so take less.
    """
    rows = (row[: query + 1] if causal else row for query, row in enumerate(weights))
    values = np.concatenate([np.where(row < smallest, 0.0, row) for row in rows])
    codes = coding.codes_of(values).astype("<u2")
    planes = codes.view(np.uint8).reshape(-1, 2).T.tobytes()
    return base64.b64encode(zlib.compress(planes, 6)).decode("ascii")


def _colours(dark: bool) -> list[str]:
    return [colour for _, colour in sequential_scale(dark)]


def _page(title: str, about: dict[str, Any], codes: list[str]) -> Iterator[str]:
    """Yield the parts of the file. Only the prompt's text is not our own: it stands in JSON."""
    light, dark = (
        "".join(f"{name}:{value};" for name, value in css_variables(which).items())
        for which in (False, True)
    )
    styles = "".join(path.read_text("utf-8") for path in _STYLES)
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n"
        f'<style>:root{{{light}}}[data-mantine-color-scheme="dark"]{{{dark}}}{styles}</style>\n'
        f'</head>\n<body>\n<main id="page"></main>\n'
        f'<script type="application/json" id="about">{_json(about)}</script>\n'
    )
    for map_about, coded in zip(about["maps"], codes, strict=True):
        head = map_about["head"]
        yield f'<script type="application/octet-stream" data-head="{head}">{coded}</script>\n'
    for path in _SCRIPTS:
        yield f"<script>\n{path.read_text('utf-8')}</script>\n"
    yield "</body>\n</html>\n"


def _json(data: object) -> str:
    """Return JSON that no text in it can end the element of."""
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
