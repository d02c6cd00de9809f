"""Policies whose actions are tokens: which tokens are which dimension, and what each stands for.

A policy's directory says so in `actions.json`:

    {"actions": [
        {"name": "dx", "unit": "px", "tokens": {"<-2>": -2, "<0>": 0, "<+2>": 2}, "axis": "x"},
        {"name": "grip", "tokens": {"<open>": 0, "<shut>": 1}, "words": {"0": "open", "1": "shut"}}
     ],
     "origin": {"pattern": "x([0-9]+) y([0-9]+)", "scale": 2},
     "state": "x[0-9]+|y[0-9]+|open|closed",
     "prompt": "{instruction} x{state[0]:.0f} y{state[1]:.0f}"}

The dimensions are answered in this order, a token each. `axis` is given to those that are motion in
the plane of the picture: "x" to the right, "y" downwards. `origin` says where what moves is on the
picture: two numbers of the prompt's text, times `scale`, in pixels. `state` is a pattern of the
words that tell of the robot; the other words are the instruction. `prompt` says how a recorded
instruction and state become what the policy is told; without it, it is the instruction, and behind
it the state where that was recorded in words. In place of `tokens`, `bins` with
`first` (a token id), `count`, `low` and `high` describes evenly spaced bins; OpenVLA's go the other
way (`"descending": true`): the highest value is the lowest id's.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np

from models.errors import ErrorKind, UserError
from models.tokens import TokenReader
from models.types import FloatArray, TokenizedPrompt

ACTIONS_FILE = "actions.json"
MOST_DIMENSIONS = 64


@dataclass(frozen=True, slots=True, eq=False)
class ActionDimension:
    """One number of an action, answered by one token."""

    name: str
    unit: str
    token_ids: tuple[int, ...]
    values: FloatArray
    """float64 [n_tokens]: what each token stands for."""
    words: Mapping[float, str]
    """What values are called, for those that are no quantities: open, close."""
    axis: str | None = None

    @property
    def reach(self) -> float:
        """The distance between its largest and its smallest value."""
        return float(self.values.max() - self.values.min())

    @property
    def is_choice(self) -> bool:
        """Whether its values are named and no quantities."""
        return bool(self.words)

    def said(self, value: float) -> str:
        """Return a value in words, with its unit."""
        if value in self.words:
            return self.words[value]
        return f"{value:{'+' if value else ''}g} {self.unit}".strip()


@dataclass(frozen=True, slots=True, eq=False)
class ActionSpace:
    """What a policy's answers mean."""

    dimensions: tuple[ActionDimension, ...]
    origin_pattern: str | None = None
    origin_scale: float = 1.0
    state_pattern: str | None = None
    prompt_pattern: str | None = None
    """How an instruction and a state become what the policy is told."""

    def told(self, instruction: str, state: str | Sequence[float] | None) -> str:
        """Return what the policy is told of an instruction and what the robot tells of itself.

        Raises:
            UserError: the policy is told more of the state than there is.
        """
        if self.prompt_pattern is None:
            return f"{instruction} {state}" if isinstance(state, str) else instruction
        try:
            _refuse_other_state(self.prompt_pattern, state)
            return self.prompt_pattern.format(instruction=instruction, state=state)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                ErrorKind.RECORDING,
                f"The policy is told {self.prompt_pattern!r}, and the recorded state "
                f"{str(state)[:60]!r} does not fit that; change `prompt` in {ACTIONS_FILE}, or the "
                "recording.",
            ) from error

    def kinds(self, prompt: TokenizedPrompt) -> tuple[str, ...]:
        """Return the kinds of a prompt's positions, those that tell of the robot being "state"."""
        if self.state_pattern is None:
            return prompt.kinds
        told = (re.fullmatch(self.state_pattern, text.strip()) for text in prompt.texts)
        return tuple(
            "state" if found and kind == "text" else kind
            for found, kind in zip(told, prompt.kinds, strict=True)
        )

    def origin(self, prompt: TokenizedPrompt) -> tuple[float, float] | None:
        """Return where on the picture that is which moves, in pixels; None if it is not told."""
        found = self.origin_pattern and re.search(self.origin_pattern, prompt.text)
        if not found:
            return None
        x, y = (float(number) * self.origin_scale for number in found.groups()[:2])
        return x, y

    def named(self, name: str) -> int:
        """Return which dimension has a name; raise `UserError` if none has."""
        return dimension_named([dimension.name for dimension in self.dimensions], name)


def dimension_named(names: Sequence[str], name: str) -> int:
    """Return which of a policy's actions has a name; raise `UserError` if none has."""
    if name in names:
        return names.index(name)
    raise UserError(
        ErrorKind.TARGET, f"The policy has no action {name!r}; its actions are {', '.join(names)}."
    )


def _refuse_other_state(pattern: str, state: str | Sequence[float] | None) -> None:
    """Raise `ValueError` if a pattern asks for numbers where there are words, or the reverse."""
    if "{state" not in pattern:
        return
    wants_numbers = "{state[" in pattern
    if state is None or wants_numbers == isinstance(state, str):
        raise ValueError("the state is of another kind")
    if wants_numbers and not np.isfinite(np.array(state, dtype=float)).all():
        raise ValueError("the state is no number")


def read_actions(path: Path, reader: TokenReader, n_vocab: int) -> ActionSpace | None:
    """Read the description of a policy's actions; None if there is no such file.

    Raises:
        UserError: the file is damaged, or does not fit the model.
    """
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _refusal(path, "it cannot be read") from error
    try:
        data = json.loads(text)
        described = data["actions"]
        if not isinstance(described, list) or not 0 < len(described) <= MOST_DIMENSIONS:
            raise _refusal(path, f"it must list 1 to {MOST_DIMENSIONS} actions")
        dimensions = tuple(_dimension(path, one, reader, n_vocab) for one in described)
        origin = data.get("origin") or {}
        pattern = origin.get("pattern")
        if pattern is not None and re.compile(pattern).groups < 2:
            raise _refusal(path, "the pattern of origin needs two groups of digits")
        state = data.get("state")
        if state is not None:
            re.compile(state)
        prompt = data.get("prompt")
        if prompt is not None:
            _check_prompt(path, prompt)
        return ActionSpace(dimensions, pattern, float(origin.get("scale", 1)), state, prompt)
    except json.JSONDecodeError as error:
        raise _refusal(path, f"line {error.lineno} is not valid JSON") from error
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise _refusal(path, f"it does not have the form that is described ({error})") from error


def _check_prompt(path: Path, pattern: str) -> None:
    """Refuse a pattern that names anything else than an instruction and a state."""
    for _, field, spec, _ in Formatter().parse(pattern):
        if field is not None and not re.fullmatch(r"instruction|state(\[[0-9]+\])?", field):
            raise _refusal(path, f"its prompt may name instruction and state[0], not {field!r}")
        if not re.fullmatch(r"[+]?(\.[0-9]{1,2})?[fged]?", spec or ""):
            raise _refusal(path, f"its prompt may write a number as in .2f, not {spec!r}")


def _dimension(path: Path, data: Any, reader: TokenReader, n_vocab: int) -> ActionDimension:
    name = str(data["name"])
    if "bins" in data:
        bins = data["bins"]
        count = int(bins["count"])
        ids = tuple(range(int(bins["first"]), int(bins["first"]) + count))
        edges = np.linspace(float(bins["low"]), float(bins["high"]), count + 1)
        values = (edges[:-1] + edges[1:]) / 2
        values = values[::-1].copy() if bins.get("descending") else values
    else:
        ids = tuple(_token_id(path, name, token, reader) for token in data["tokens"])
        values = np.array([float(value) for value in data["tokens"].values()])
    if len(ids) < 2 or not np.isfinite(values).all():
        raise _refusal(path, f"the action {name!r} needs at least two tokens with finite values")
    outside = next((i for i in ids if not 0 <= i < n_vocab), None)
    if outside is not None:
        raise _refusal(
            path, f"the action {name!r} names the token {outside}, and ids end at {n_vocab - 1}"
        )
    words = {float(value): str(word) for value, word in data.get("words", {}).items()}
    axis = data.get("axis")
    if axis not in (None, "x", "y"):
        raise _refusal(path, f"the axis of {name!r} must be x or y, not {axis!r}")
    return ActionDimension(name, str(data.get("unit", "")), ids, values, words, axis)


def _token_id(path: Path, name: str, token: str, reader: TokenReader) -> int:
    ids = reader.tokenizer(token, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) != 1 or reader.text(ids[0]).strip() != token.strip():
        raise _refusal(path, f"{token!r}, of the action {name!r}, is not one token of the model")
    return int(ids[0])


def _refusal(path: Path, what: str) -> UserError:
    return UserError(ErrorKind.MODEL, f"The description of actions {path} is wrong: {what}.")


def followed_by(
    prompt: TokenizedPrompt, added: Sequence[int], reader: TokenReader
) -> TokenizedPrompt:
    """Return a prompt with tokens behind it, as if the model had answered them."""
    if not added:
        return prompt
    ids = list(added)
    n = len(ids)
    given = None
    if prompt.given is not None:
        given = {name: _lengthened(name, array, prompt, n) for name, array in prompt.given.items()}
    return replace(
        prompt,
        ids=(*prompt.ids, *ids),
        labels=(*prompt.labels, *map(reader.label, ids)),
        texts=(*prompt.texts, *map(reader.text, ids)),
        kinds=(*prompt.kinds, *["action"] * n),
        cells=None if prompt.cells is None else (*prompt.cells, *[None] * n),
        given=given,
    )


def _lengthened(name: str, array: FloatArray, prompt: TokenizedPrompt, n: int) -> FloatArray:
    """Return what a model is given with the entries of answered positions, where it has one for
    each position.

    Token types tell pictures (1) from text (0), or else a prefix (0), picture and all, whose
    positions see each other, from what is answered to it (1).
    """
    if array.shape != (1, len(prompt)):
        return array
    pictured = array[0, [kind == "image" for kind in prompt.kinds]]
    is_prefix = name == "token_type_ids" and not pictured.any()
    return np.concatenate([array, np.full((1, n), int(is_prefix), dtype=array.dtype)], axis=1)
