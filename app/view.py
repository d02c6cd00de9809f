"""The view: everything a person chose on the page, as one value.

It is what the browser keeps and what a link carries. Results are not part of it: they can be
computed again. Its JSON form holds for each field exactly what the page's control of it holds.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ablation.types import STRATEGIES
from app.examples import EXAMPLES
from app.field_readers import flag, fraction, one_of, optional, text, typed, whole
from app.question_form import QuestionForm, read_question
from models.picture import MOST_PICTURES
from models.types import Head
from viz.combined import COMBINATIONS
from viz.sink import SINKS

TABS = ("attention", "attribution", "study", "circuit", "heads", "studies")
PICTURES = {
    "matrix": "Matrix",
    "lines": "Lines",
    "text": "Text",
    "overview": "Overview",
    "image": "Image",
}
"""How attention is drawn, and what the choice is called; the first by default.
`app.panels.attention` says which tools and which place each of them has."""
DIRECTIONS = {"at": "looks at", "by": "is looked at by"}
"""What is shown of a selected token: its row of the map, or its column."""
VALUES = {"attention": "attention", "moved": "× moved norm", "rollout": "rollout"}
"""What the pictures show of the heads: keys of `MAP_KINDS`, and what the choice is called."""
EXTRAS = {"none": "no extra", **{name: f"+ {name}" for name in COMBINATIONS}}
"""The map of all chosen heads together that may stand beside theirs, and what it is called."""
STUDIES = ("sweep", "positions", "generic", "targeted")
SCALES = ("shared", "own")
MAX_PROMPT_CHARACTERS = 200_000
"""A longer prompt is refused before it is tokenised: no model here could show its attention."""
MAX_CHOSEN_HEADS = 4096
MAX_IMAGES = MOST_PICTURES
_STACK = re.compile(r"[a-z][a-z_]{0,30}")
BETWEEN: Mapping[str, tuple[int, int] | None] = {"all": None, "a-b": (0, 1), "b-a": (1, 0)}
"""From which sentence of a pair to which: the part of a map that is drawn, None being all."""
MAIN_STACK = "main"
"""What the main stack is called here, as its own name is empty."""
MIN_SIZE, MAX_SIZE = 160, 640
"""Edge of one attention map, in CSS pixels."""


@dataclass(frozen=True, slots=True)
class InterventionForm:
    """An intervention as its form holds it: a name of `INTERVENTIONS`, and what was typed.

    It may be unfinished; `build` of the entry says what is missing.
    """

    name: str = "zero"
    values: tuple[tuple[str, str | float], ...] = ()
    """(parameter, value) in the order of their names."""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "values": dict(self.values)}


@dataclass(frozen=True, slots=True)
class View:
    """What is asked and how it is shown. The defaults are what an empty page opens with."""

    model: str = "builtin"
    prompt: str = EXAMPLES[0].text
    second: str = ""
    """The text beside the prompt, for models that take one: what an encoder-decoder's decoder has
    written so far, or the second sentence of a pair. May be empty."""
    images: tuple[str, ...] = ()
    """The pictures in the prompt, for models that read them, by what `app.images` calls them."""
    bos: bool | None = None
    """Whether a beginning-of-sequence token goes in front; None: what the tokenizer does."""
    position: int | None = None
    """The position read; None: the last one, or the masked one."""
    heads: tuple[Head, ...] | None = None
    """The chosen heads; None: some that are interesting on this prompt."""
    stack: str = MAIN_STACK
    """The stack whose heads are on the map, and which a sweep is about."""
    intervention: InterventionForm = InterventionForm()
    ablate: bool = False
    """Whether the chosen heads are ablated."""
    acted: str = ""
    """The positions that the intervention acts on, as typed: "3, 5-7"; empty: all of them."""
    tab: str = "attention"
    picture: str = "matrix"
    """How attention is drawn: a key of `PICTURES`."""
    cells: str = "thumbnail"
    """What the overview shows of each head: its "thumbnail", or a metric of heads by its name."""
    token: int | None = None
    """The position whose attention alone is shown, or is brought out; None: no one."""
    direction: str = "at"
    """A key of `DIRECTIONS`."""
    values: str = "attention"
    """What the pictures show of each head: a key of `VALUES`."""
    threshold: float = 0.0
    """Weights below it are not drawn; of norms, those below this part of the largest."""
    scale: str = "shared"
    """"shared": one colour scale for all maps; "own": each map has its own."""
    log: bool = False
    sink: str = "show"
    """What is done about the first token: a key of `SINKS`."""
    between: str = "all"
    """Which part of the maps of a pair of sentences is drawn: a key of `BETWEEN`."""
    size: int = 300
    linked: bool = False
    """Whether all maps are zoomed together."""
    extra: str = "none"
    """A key of `EXTRAS`."""
    watched: int | None = None
    """The vocabulary id whose rank is shown; None: the token most likely before."""
    metric: str = "kl"
    study: str = "sweep"
    target: int | None = None
    """The vocabulary id that a targeted study works towards."""
    goal: str = ""
    """What a targeted study of a policy makes of its action, as typed: "dx<0"."""
    max_heads: int = 10
    strategy: str = "exact"
    """How a search chooses: a key of `STRATEGIES`."""
    question: QuestionForm | None = None
    """What the circuit tab asks, in a link; the page holds it in the form of that tab alone, so
    that no other panel hears of it."""

    @property
    def stack_name(self) -> str:
        """The stack's name as heads have it."""
        return "" if self.stack == MAIN_STACK else self.stack

    def to_json(self) -> dict[str, Any]:
        """Return plain data from which `from_json` makes the same view."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["heads"] = None if self.heads is None else [head.short for head in self.heads]
        data["intervention"] = self.intervention.to_json()
        data["question"] = None if self.question is None else asdict(self.question)
        return data

    @staticmethod
    def from_json(data: object) -> "View":
        """Read a view from data that came from outside.

        Missing fields take their default and unknown ones are ignored, so that links of other
        versions open.

        Raises:
            ValueError: `data` is no mapping, or a field holds what cannot be in it.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a view is a mapping, not {type(data).__name__}")
        return View(
            **{name: read(name, data[name]) for name, read in _READERS.items() if name in data}
        )


def head_from_text(text: object) -> Head:
    """Read the notation of one head, "5.3" or "cross:5.3".

    Raises:
        ValueError: `text` is anything else.
    """
    stack, colon, name = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    layer, dot, head = name.partition(".")
    digits = layer.isascii() and head.isascii() and layer.isdigit() and head.isdigit()
    if not dot or not digits or len(layer) > 4 or len(head) > 4:
        raise ValueError(f"a head is written layer.head, as in 5.3, not {text!r}")
    return Head(int(layer), int(head), _stack("stack", stack) if colon else "")


def _stack(name: str, value: object) -> str:
    if not isinstance(value, str) or not _STACK.fullmatch(value):
        raise ValueError(f"{name} must be the name of a stack of layers, not {value!r}")
    return value


def _heads(name: str, value: object) -> tuple[Head, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_CHOSEN_HEADS:
        raise ValueError(f"{name} must be a list of at most {MAX_CHOSEN_HEADS} heads")
    return tuple(dict.fromkeys(head_from_text(text) for text in value))


def _form(name: str, value: object) -> InterventionForm:
    if not isinstance(value, Mapping) or not isinstance(value.get("values"), Mapping):
        raise ValueError(f"{name} must hold a name and values")
    entered = sorted(
        (text(100)(name, key), _entered(key, entry))
        for key, entry in value["values"].items()
        if entry not in (None, "")
    )
    return InterventionForm(text(100)(name, value.get("name")), tuple(entered))


def _entered(name: str, value: object) -> str | float:
    if isinstance(value, str):
        return text(MAX_PROMPT_CHARACTERS)(name, value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number or a text, not {value!r}")
    return value


def _images(name: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or len(value) > MAX_IMAGES:
        raise ValueError(f"{name} must be a list of at most {MAX_IMAGES} pictures")
    return tuple(text(200)(name, one) for one in value)


_TOKEN = optional(whole(0, 10_000_000))

_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "model": text(1000),
    "prompt": text(MAX_PROMPT_CHARACTERS),
    "second": typed(MAX_PROMPT_CHARACTERS),
    "images": _images,
    "bos": optional(flag),
    "position": optional(whole(0, MAX_PROMPT_CHARACTERS)),
    "heads": optional(_heads),
    "stack": _stack,
    "intervention": _form,
    "ablate": flag,
    "acted": typed(1000),
    "tab": one_of(TABS),
    "picture": one_of(tuple(PICTURES)),
    "cells": text(100),
    "token": optional(whole(0, MAX_PROMPT_CHARACTERS)),
    "direction": one_of(tuple(DIRECTIONS)),
    "values": one_of(tuple(VALUES)),
    "threshold": fraction,
    "scale": one_of(SCALES),
    "log": flag,
    "sink": one_of(tuple(SINKS)),
    "between": one_of(tuple(BETWEEN)),
    "size": whole(MIN_SIZE, MAX_SIZE),
    "linked": flag,
    "extra": one_of(tuple(EXTRAS)),
    "watched": _TOKEN,
    "metric": text(100),
    "study": one_of(STUDIES),
    "target": _TOKEN,
    "goal": typed(200),
    "max_heads": whole(1, MAX_CHOSEN_HEADS),
    "strategy": one_of(tuple(STRATEGIES)),
    "question": optional(read_question),
}
"""How each field is read and checked."""
