"""Rows of values from files that people write: CSV with a header, a JSON list, or JSON lines.

What is wrong is said with the file's name and the row; nothing is guessed.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ErrorKind, UserError

Row = tuple[int, str, Mapping[str, Any]]
"""A row's number, from 1; where it stands, in words; its values by column."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """A kind of file, as what is wrong with one is told."""

    noun: str
    """What it is a file of: "pairs"."""
    one: str
    """One of them: "pair"."""
    needed: tuple[str, ...]
    """Columns, or keys, that every row has."""
    optional: tuple[str, ...] = ()
    readers: "Mapping[str, Callable[[RowFile, str, str], Iterator[Row]]] | None" = None
    """Ending -> what reads the rows of a text, beside CSV, JSON and JSON lines."""

    @property
    def columns(self) -> tuple[str, ...]:
        return *self.needed, *self.optional

    def read(self, path: str | Path) -> tuple[bytes, str]:
        """Return a file's contents and its name.

        Raises:
            UserError: it cannot be read, or its name says not what it is.
        """
        path = Path(path)
        self._reader_of(path.name)  # a name that says nothing is said before the disk is asked
        try:
            return path.read_bytes(), path.name
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UserError(
                ErrorKind.OPTION, f"The file of {self.noun} {path} cannot be read: {reason}."
            ) from None

    def rows(self, data: bytes, name: str) -> list[Row]:
        """Return the rows of a file's contents: text in every needed column, text or None in the
        others.

        Args:
            name: the file's name: its ending says what is in it.

        Raises:
            UserError: the ending is unknown, the contents are empty, no UTF-8 or not what the
                ending says, a column is unknown or missing, or a value is (the row is named).
        """
        read = self._reader_of(name)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.refusal(
                name, f"is not UTF-8 (byte {error.start + 1}); save it with that encoding"
            ) from None
        rows = list(read(self, text, name))
        for row in rows:
            self._check(name, row)
        if not rows:
            raise self.refusal(name, f"has no {self.noun} in it; {self._wanted(name)}")
        return rows

    def _wanted(self, name: str) -> str:
        """Say what stands in a file of this ending."""
        if name.lower().endswith(".txt"):
            return "write one a line"
        return f"give rows of {', '.join(self.columns)}"

    def refusal(self, name: str, what: str) -> UserError:
        """Return what is said of a file that cannot be used."""
        return UserError(ErrorKind.OPTION, f"The file of {self.noun} {name} {what}.")

    def check_columns(self, name: str, columns: Iterable[str], where: str) -> None:
        """Raise `UserError` for unknown, missing and doubled columns."""
        found = list(columns)
        for column in found:
            if column not in self.columns:
                others = f" ({', '.join(self.optional)} may be missing)" if self.optional else ""
                raise self.refusal(
                    name,
                    f"has the unknown column {column[:40]!r} in {where}; the columns are "
                    f"{', '.join(self.columns)}{others}",
                )
        for column in self.needed:
            if column not in found:
                raise self.refusal(name, f'lacks "{column}" in {where}; add it')
        if len(set(found)) < len(found):
            raise self.refusal(name, f"names a column twice in {where}; leave one out")

    def _check(self, name: str, row: Row) -> None:
        number, place, values = row
        self.check_columns(name, values, f"row {number}{place}")
        for column, value in values.items():
            if not isinstance(value, str) and (column in self.needed or value is not None):
                found = "nothing" if value is None else f"{json.dumps(value, default=str)[:40]}"
                raise self.refusal(
                    name, f'has {found} as "{column}" in row {number}{place}; write text in quotes'
                )
            if not value and column in self.needed:
                raise self.refusal(name, f'has no "{column}" in row {number}{place}; write one')

    def _reader_of(self, name: str) -> "Callable[[RowFile, str, str], Iterator[Row]]":
        readers = {**_READERS, **(self.readers or {})}
        ending = Path(name).suffix.lower()
        if ending not in readers:
            raise self.refusal(
                name, f"ends in {ending or 'nothing'!r}; give one that ends in {', '.join(readers)}"
            )
        return readers[ending]


def _csv_rows(file: RowFile, text: str, name: str) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [column.strip() for column in next(lines, [])]
        if not header:
            return
        file.check_columns(name, header, "its first line")
        number = 0
        for values in lines:
            if not values:  # a blank line
                continue
            number += 1
            place = f" (line {lines.line_num})"
            if len(values) > len(header):
                raise file.refusal(
                    name,
                    f"has {len(values)} values in row {number}{place} and {len(header)} columns; "
                    "put a text with commas in quotes",
                )
            yield number, place, dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise file.refusal(name, f"is not CSV at line {lines.line_num}: {error}") from None


def _json_rows(file: RowFile, text: str, name: str) -> Iterator[Row]:
    if not text.strip():
        return
    found = _loaded(file, text, name, "is not JSON")
    if not isinstance(found, list):
        raise file.refusal(name, f"is JSON but no list; write a list of objects, one a {file.one}")
    for number, values in enumerate(found, start=1):
        yield number, "", _object(file, values, name, f"row {number}")


def _json_line_rows(file: RowFile, text: str, name: str) -> Iterator[Row]:
    number = 0
    # Not `splitlines`: that also splits at characters that JSON may hold.
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        number += 1
        where = f"row {number} (line {line_number})"
        values = _loaded(file, line, name, f"is not JSON in {where}")
        yield number, f" (line {line_number})", _object(file, values, name, where)


def _loaded(file: RowFile, text: str, name: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise file.refusal(name, f"{what}: {error}") from None


def _object(file: RowFile, values: Any, name: str, where: str) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise file.refusal(
            name, f"has no object in {where}; write one with the keys {', '.join(file.columns)}"
        )
    return values


_READERS: Mapping[str, Callable[[RowFile, str, str], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".json": _json_rows,
    ".jsonl": _json_line_rows,
}
"""Ending -> what reads the rows of a text; the file's name is for what it says."""
