"""Readers of values that come from outside, as in links: each checks one, and says what it must be.

A reader takes the name of a field and a value, and raises `ValueError` if it cannot be in it.
"""

import math
from collections.abc import Callable
from typing import Any


def text(longest: int) -> Callable[[str, object], str]:
    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= longest:
            raise ValueError(f"{name} must be a text of 1 to {longest} characters")
        # Half of a surrogate pair is no character, and UTF-8 cannot carry it.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    return read


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    return value


def whole(low: int, high: int) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
        return value

    return read


def fraction(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {value!r}")
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
    return float(value)


def one_of(choices: tuple[str, ...]) -> Callable[[str, object], str]:
    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        return value

    return read


def optional(read: Callable[[str, object], Any]) -> Callable[[str, object], Any]:
    return lambda name, value: None if value is None else read(name, value)


def typed(longest: int) -> Callable[[str, object], str]:
    read = text(longest)
    return lambda name, value: "" if value in ("", None) else read(name, value)
