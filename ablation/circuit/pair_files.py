"""Sets of prompt pairs from files: CSV with a header, a JSON list, or JSON lines."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ablation.circuit.types import PromptPair
from models.errors import ErrorKind, UserError

NEEDED = ("clean", "corrupt", "answer")
COLUMNS = (*NEEDED, "distractor")

Row = tuple[int, str, Mapping[str, Any]]
"""A row's number, from 1; where it stands, in words; its values by column."""


def read_pairs(path: str | Path) -> tuple[PromptPair, ...]:
    """Read the pairs of a .csv, .json or .jsonl file.

    Columns, or keys, are `clean`, `corrupt`, `answer` and, not always, `distractor`. White space
    counts: an answer is mostly a token with a space in front.

    Raises:
        UserError: the file cannot be read, or its contents, as `parse_pairs`.
    """
    path = Path(path)
    _reader_of(path.name)  # a name that says nothing is said before the disk is asked
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            ErrorKind.OPTION, f"The file of pairs {path} cannot be read: {reason}."
        ) from None
    return parse_pairs(data, path.name)


def parse_pairs(data: bytes, name: str) -> tuple[PromptPair, ...]:
    """Read the pairs of a file's contents.

    Args:
        name: the file's name: its ending says what is in it.

    Raises:
        UserError: the ending is unknown, the contents are empty, no UTF-8 or not what the ending
            says, a column is unknown or missing, or a value is (the row is named).
    """
    read = _reader_of(name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refusal(
            name, f"is not UTF-8 (byte {error.start + 1}); save it with that encoding"
        ) from None
    pairs = tuple(_pair(name, row) for row in read(text, name))
    if not pairs:
        raise _refusal(name, f"has no pairs in it; give rows of {', '.join(COLUMNS)}")
    return pairs


def _refusal(name: str, what: str) -> UserError:
    return UserError(ErrorKind.OPTION, f"The file of pairs {name} {what}.")


def _pair(name: str, row: Row) -> PromptPair:
    number, place, values = row
    _check_columns(name, values, f"row {number}{place}")
    for column, value in values.items():
        if not isinstance(value, str) and (column in NEEDED or value is not None):
            found = "nothing" if value is None else f"{json.dumps(value, default=str)[:40]}"
            raise _refusal(
                name, f'has {found} as "{column}" in row {number}{place}; write text in quotes'
            )
        if not value and column in NEEDED:
            raise _refusal(name, f'has no "{column}" in row {number}{place}; write one')
    return PromptPair(**{column: value or "" for column, value in values.items()})


def _check_columns(name: str, columns: Iterable[str], where: str) -> None:
    found = list(columns)
    for column in found:
        if column not in COLUMNS:
            raise _refusal(
                name,
                f"has the unknown column {column[:40]!r} in {where}; the columns are "
                f"{', '.join(COLUMNS)} (the last may be missing)",
            )
    for column in NEEDED:
        if column not in found:
            raise _refusal(name, f'lacks "{column}" in {where}; add it')
    if len(set(found)) < len(found):
        raise _refusal(name, f"names a column twice in {where}; leave one out")


def _csv_rows(text: str, name: str) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [column.strip() for column in next(lines, [])]
        if not header:
            return
        _check_columns(name, header, "its first line")
        number = 0
        for values in lines:
            if not values:  # a blank line
                continue
            number += 1
            place = f" (line {lines.line_num})"
            if len(values) > len(header):
                raise _refusal(
                    name,
                    f"has {len(values)} values in row {number}{place} and {len(header)} columns; "
                    "put a text with commas in quotes",
                )
            yield number, place, dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise _refusal(name, f"is not CSV at line {lines.line_num}: {error}") from None


def _json_rows(text: str, name: str) -> Iterator[Row]:
    if not text.strip():
        return
    found = _loaded(text, name, "is not JSON")
    if not isinstance(found, list):
        raise _refusal(name, "is JSON but no list; write a list of objects, one a pair")
    for number, values in enumerate(found, start=1):
        yield number, "", _object(values, name, f"row {number}")


def _json_line_rows(text: str, name: str) -> Iterator[Row]:
    number = 0
    # Not `splitlines`: that also splits at characters that JSON may hold.
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        number += 1
        where = f"row {number} (line {line_number})"
        values = _loaded(line, name, f"is not JSON in {where}")
        yield number, f" (line {line_number})", _object(values, name, where)


def _loaded(text: str, name: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(name, f"{what}: {error}") from None


def _object(values: Any, name: str, where: str) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise _refusal(
            name, f"has no object in {where}; write one with the keys {', '.join(COLUMNS)}"
        )
    return values


_READERS: Mapping[str, Callable[[str, str], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".json": _json_rows,
    ".jsonl": _json_line_rows,
}
"""Ending -> what reads the rows of a text; the file's name is for what it says."""


def _reader_of(name: str) -> Callable[[str, str], Iterator[Row]]:
    ending = Path(name).suffix.lower()
    if ending not in _READERS:
        raise _refusal(
            name, f"ends in {ending or 'nothing'!r}; give one that ends in {', '.join(_READERS)}"
        )
    return _READERS[ending]
