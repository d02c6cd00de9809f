"""What a person wants of a policy's action: "dx<0", "gripper=close"."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.actions import ActionDimension, ActionSpace
from models.chunks import ChunkDimension
from models.errors import ErrorKind, UserError


@dataclass(frozen=True, slots=True, eq=False)
class ActionGoal:
    """What one dimension of an action shall be."""

    dimension: int
    token_ids: tuple[int, ...]
    """Any of which fulfils it."""


def read_goal(space: ActionSpace, text: str) -> ActionGoal:
    """Read a goal as a person writes it: "dx<0", "dy>=4", "gripper=close".

    Raises:
        UserError: it cannot be read, names no action, or nothing or everything fulfils it.
    """
    name, sign, value = parse_goal(text)
    index = space.named(name)
    dimension = space.dimensions[index]
    wanted = value_of(dimension, value)
    fulfils = SIGNS[sign]
    ids = tuple(
        token
        for token, one in zip(dimension.token_ids, dimension.values.tolist(), strict=True)
        if fulfils(one, wanted)
    )
    if not ids or len(ids) == len(dimension.token_ids):
        which = "Every" if ids else "No"
        values = ", ".join(dimension.said(one) for one in sorted(dimension.values.tolist()))
        raise UserError(
            ErrorKind.TARGET, f"{which} value of {name} is {sign}{value}; its values are {values}."
        )
    return ActionGoal(index, ids)


SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def parse_goal(text: str) -> tuple[str, str, str]:
    """Return the action, the sign and the value that a goal names.

    Raises:
        UserError: it cannot be read.
    """
    found = re.fullmatch(r"\s*([\w.-]+?)\s*(<=|>=|<|>|=)\s*(\S+)\s*", text)
    if found is None:
        raise UserError(
            ErrorKind.TARGET,
            f"Cannot read {text!r} as a goal; write an action, a sign and a value: dx<0, "
            "gripper=close.",
        )
    name, sign, value = found.groups()
    return name, sign, value


def value_of(dimension: ActionDimension | ChunkDimension, text: str) -> float:
    """Return the value that a number, or a word for one, stands for; raise `UserError` if none."""
    for value, word in dimension.words.items():
        if word == text:
            return value
    try:
        return float(text)
    except ValueError:
        known = f" or {', '.join(dimension.words.values())}" if dimension.words else ""
        raise UserError(
            ErrorKind.TARGET,
            f"{text!r} is no value of {dimension.name}; give a number{known}.",
        ) from None
