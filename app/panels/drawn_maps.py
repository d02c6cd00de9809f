"""The maps of a view as they stand on the page: which, how they are looked at, and as messages.

`app.panels.attention` says when they are drawn; `assets/pictures.js` draws them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.runs import Outcome, map_key
from app.services import Services
from app.view import BETWEEN, View
from app.waits import one_by_one
from models.types import AttentionMaps, TokenizedPrompt
from viz.attention import Look, attention_message, token_names
from viz.cells import Region
from viz.combined import combined, combined_extent, combined_name
from viz.extent import Extent, shared_largest, unit_of
from viz.sides import PROMPT, other_sides, sides_of


def look(view: View, outcome: Outcome, extents: Sequence[Extent], dark: bool) -> Look:
    """Return how all maps of a view are drawn.

    Args:
        extents: of the maps of the outcome.
    """
    return Look(
        position=outcome.before.position,
        threshold=view.threshold,
        unit=unit_of(outcome.kind, extents),
        zmax=shared_largest(extents) if view.scale == "shared" else None,
        log=view.log,
        dark=dark,
        size=view.size,
        sink=view.sink,
        between=BETWEEN[view.between],
    )


def signature(view: View, outcome: Outcome, how: Look) -> str:
    """Return what all maps that are drawn have in common: if it changes, all change."""
    data = view.to_json()
    same = {name: data[name] for name in ("model", "prompt", "second", "images", "bos", "ablate")}
    if view.ablate:
        same |= {name: data[name] for name in ("heads", "intervention", "acted")}
    return hashlib.sha256(
        json.dumps([same, outcome.kind, repr(how)], sort_keys=True).encode()
    ).hexdigest()


@dataclass(frozen=True, slots=True)
class Shown:
    """One map of the page: of a chosen head, or of all of them together."""

    key: str
    name: str
    sides: tuple[str, str]
    """Of what queries and keys are the positions; see `viz.sides`."""
    read: Callable[[], AttentionMaps]
    """Returns the map; that of all heads is made only when it is needed."""
    extent: Callable[[AttentionMaps], Extent]
    """Returns the map's."""
    is_of_all: bool = False

    def message(self, how: Look, region: Region | None = None) -> dict[str, Any]:
        if self.sides[0] != PROMPT:  # where no prediction is read
            how = replace(how, position=None)
        maps = self.read()
        how = replace(how, done=self.is_of_all)
        drawn = attention_message(maps, 0, how, region, self.name, self.extent(maps))
        return {**drawn, "sides": list(self.sides)}


def shown_maps(outcome: Outcome, extents: Sequence[Extent]) -> list[Shown]:
    """Return the maps of the chosen heads."""
    each = zip(outcome.maps, extents, strict=True)
    return [_of_head(maps, extent, outcome.prompt) for maps, extent in each]


def _of_head(maps: AttentionMaps, extent: Extent, prompt: TokenizedPrompt) -> Shown:
    sides = sides_of(maps, prompt)
    return Shown(map_key(maps), maps.title(0), sides, lambda: maps, lambda _: extent)


def extra_map(view: View, outcome: Outcome, extents: Sequence[Extent]) -> list[Shown]:
    """Return the map of all heads that are drawn together, if the view asks for one.

    Heads of different stacks, whose positions differ, make a map a stack.

    Args:
        extents: of the maps of the outcome.
    """
    if view.extra == "none":
        return []
    of_stacks: dict[str, list[tuple[AttentionMaps, Extent]]] = {}
    for maps, extent in zip(outcome.maps, extents, strict=True):
        of_stacks.setdefault(maps.heads[0].stack, []).append((maps, extent))
    return [_of_all(view, several, outcome.prompt) for several in of_stacks.values()]


def _of_all(
    view: View, each: Sequence[tuple[AttentionMaps, Extent]], prompt: TokenizedPrompt
) -> Shown:
    several = [maps for maps, _ in each]
    causal = all(extent.causal for _, extent in each)
    heads = ",".join(map_key(maps) for maps in several)
    stack = several[0].heads[0].stack
    return Shown(
        f"{view.extra} {heads}",
        combined_name(view.extra, several) + (f" ({stack})" if stack else ""),
        sides_of(several[0], prompt),
        lambda: combined(several, view.extra, view.sink),
        lambda one: combined_extent(one, causal, view.sink),
        is_of_all=True,
    )


def message(
    view: View,
    outcome: Outcome,
    extents: Sequence[Extent],
    how: Look,
    serial: str,
    drawn: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return what `assets/pictures.js` draws from, or None if all stand as they should.

    Args:
        extents: of the maps of the outcome.
        serial: the signature of how they are drawn.
        drawn: `heads` and `serial` of the maps that stand; those are not sent again.

    Raises:
        GivenUp: the thread's wait is not wanted any more.
    """
    of_heads, extra = shown_maps(outcome, extents), extra_map(view, outcome, extents)
    order, extras = [one.key for one in of_heads], [one.key for one in extra]
    prompt = outcome.prompt
    known = set(drawn["heads"]) if drawn is not None and drawn["serial"] == serial else set()
    if drawn is not None and known and list(drawn["heads"]) == order + extras:
        return None
    missing = [one for one in (*of_heads, *extra) if one.key not in known]
    new = {
        one.key: {"name": one.name, "figure": one.message(how)}
        for one in one_by_one("Drawing the maps", missing)
    }
    return {
        "serial": serial,
        "order": order,
        "extra": extras,
        "names": token_names(prompt),
        "labels": list(prompt.labels),
        "sides": {
            side: _names_and_labels(positions) for side, positions in other_sides(prompt).items()
        },
        "main": prompt.main,
        "marked": how.position,
        "images": list(view.images),
        "maps": new,
    }


def standing(sent: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what must be known of the maps that stand once these are drawn."""
    return {"heads": [*sent["order"], *sent["extra"]], "serial": sent["serial"], "kind": kind}


def _names_and_labels(positions: TokenizedPrompt) -> dict[str, list[str]]:
    return {"names": token_names(positions), "labels": list(positions.labels)}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A view, and what its maps are drawn from."""

    view: View
    outcome: Outcome
    extents: tuple[Extent, ...]
    look: Look
    serial: str


def as_drawn(services: Services, view: View, dark: bool, pages: int) -> Drawn:
    """Return what the maps of a view are drawn from."""
    outcome = services.outcome(view, pages)
    extents = services.extents(view, outcome)
    how = look(view, outcome, extents, bool(dark))
    return Drawn(view, outcome, extents, how, signature(view, outcome, how))
