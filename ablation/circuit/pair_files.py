"""Sets of prompt pairs from files: CSV with a header, a JSON list, or JSON lines."""

from collections.abc import Sequence
from pathlib import Path

from ablation.circuit.types import PromptPair
from ablation.row_files import RowFile
from models.errors import ErrorKind, UserError

PAIRS = RowFile("pairs", "pair", ("clean", "corrupt", "answer"), ("distractor",))


def read_pairs(path: str | Path) -> tuple[PromptPair, ...]:
    """Read the pairs of a .csv, .json or .jsonl file.

    Columns, or keys, are `clean`, `corrupt`, `answer` and, not always, `distractor`. White space
    counts: an answer is mostly a token with a space in front.

    Raises:
        UserError: the file cannot be read, or its contents, as `parse_pairs`.
    """
    return parse_pairs(*PAIRS.read(path))


def parse_pairs(data: bytes, name: str) -> tuple[PromptPair, ...]:
    """Read the pairs of a file's contents.

    Raises:
        UserError: as `RowFile.rows`.
    """
    return tuple(
        PromptPair(**{column: value or "" for column, value in values.items()})
        for _, _, values in PAIRS.rows(data, name)
    )


def without_last(
    pairs: Sequence[PromptPair], n_held_out: int
) -> tuple[tuple[PromptPair, ...], tuple[PromptPair, ...]]:
    """Return the pairs of a file but its last ones, and those, which are held out.

    Raises:
        UserError: none would be left to find a circuit on.
    """
    n = len(pairs) - n_held_out
    if n < 1:
        raise UserError(
            ErrorKind.OPTION,
            f"The file has {len(pairs):,} {'pair' if len(pairs) == 1 else 'pairs'}, so that "
            f"{n_held_out:,} cannot be held out; hold out fewer.",
        )
    return tuple(pairs[:n]), tuple(pairs[n:])
