"""Sets of heads in the notation that people type, and back.

    5.3  L5H3          one head
    5.*  L5            every head of layer 5
    *.3                head 3 of every layer
    5.0-3  3-5.0-2     ranges of heads, of layers, or of both; L3-L5 for whole layers
    all  *             every head
    cross:5.3          a head of another stack than the main one; encoder:all for all of one

Parts are separated by commas, semicolons or white space; capital letters do not matter.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence

from models.errors import ErrorKind, UserError
from models.types import Head, Stack

HEAD_NOTATION = (
    "5.3 or L5H3 for one head, 5.* or L5 for a layer, *.3 for head 3 of every layer, "
    "3-5.0-2 for ranges, or all"
)
"""The notation in one phrase, for messages and help."""

STACK_NOTATION = "cross:5.3 for another stack's"
"""What the notation has for models of several stacks."""

_SEPARATORS = re.compile(r"[,;\s]+")
_INDICES = r"\*|[0-9]{1,9}(?:-[lh]?[0-9]{1,9})?"
_ONE_OR_MORE_HEADS = re.compile(rf"l?(?P<layers>{_INDICES})[.h](?P<heads>{_INDICES})")
_WHOLE_LAYERS = re.compile(rf"l(?P<layers>{_INDICES})")
_BARE_NUMBERS = re.compile(r"[0-9]+(?:-[0-9]+)?")
_DASHES = str.maketrans("–—−", "---")
_SHOWN_LENGTH = 40
_STACK = re.compile(r"(?P<stack>[a-z][a-z_]{0,30}):(?P<rest>.*)", re.DOTALL)
_SPACE_BEHIND_STACK = re.compile(r":\s+")


def parse_heads(
    text: str, n_layers: int, n_heads: int, stacks: Sequence[Stack] = ()
) -> tuple[Head, ...]:
    """Read heads in a person's notation.

    Args:
        text: parts in the notation of this module; an empty text means no heads.
        n_layers: layers that the model's main stack has.
        n_heads: heads that each of them has.
        stacks: all stacks of the model, where there are several. The main one may be named by its
            label, as in decoder:5.3.

    Returns:
        The heads named, sorted by (layer, head), each once.

    Raises:
        UserError: a part that cannot be read, or that names a head the model does not have.
    """
    heads: set[Head] = set()
    for part in _parts(text):
        name, rest = _split_stack(part)
        if name is None:
            heads.update(_parse_part(part, n_layers, n_heads))
            continue
        stack = _stack_named(name, stacks)
        found = _parse_part(rest, stack.n_layers, stack.n_heads)
        heads.update(Head(head.layer, head.head, stack.name) for head in found)
    return tuple(sorted(heads))


def check_notation(text: str) -> None:
    """Read heads without knowing the model, to refuse early what no model could make sense of.

    Raises:
        UserError: a part that cannot be read.
    """
    for part in _parts(text):
        _parse_part(_split_stack(part)[1], sys.maxsize, sys.maxsize)


def _parts(text: str) -> list[str]:
    joined = _SPACE_BEHIND_STACK.sub(":", text.translate(_DASHES))
    return [part for part in _SEPARATORS.split(joined) if part]


def _split_stack(part: str) -> tuple[str | None, str]:
    """Return the name of a stack in front of heads, if there is one, and the rest."""
    match = _STACK.fullmatch(part.lower())
    return (match["stack"], match["rest"]) if match else (None, part)


def _stack_named(name: str, stacks: Sequence[Stack]) -> Stack:
    for stack in stacks:
        if name == (stack.name or stack.label):
            return stack
    known = ", ".join(stack.name or stack.label for stack in stacks)
    raise UserError(
        ErrorKind.HEADS,
        f"This model has no stack {_shown(name)}; "
        + (f"its stacks are {known}." if known else "write its heads without a stack: 5.3."),
    )


def format_heads(
    heads: Iterable[Head], n_heads: int | None = None, n_layers: int | None = None
) -> str:
    """Write heads in the notation that `parse_heads` reads, as briefly as it allows.

    Args:
        heads: in any order; repeats are written once.
        n_heads: heads a layer of the main stack has. Given, a whole layer is written `5.*`.
        n_layers: layers it has. Given as well, all of its heads together are written `all`.
    """
    members = sorted(set(heads))
    written = [_format_main([h for h in members if not h.stack], n_heads, n_layers)]
    for stack in sorted({head.stack for head in members if head.stack}):
        of_stack = _format_main([head for head in members if head.stack == stack], None, None)
        written.extend(f"{stack}:{part}" for part in of_stack.split(", "))
    return ", ".join(filter(None, written))


def _format_main(heads: Sequence[Head], n_heads: int | None, n_layers: int | None) -> str:
    by_layer: dict[int, list[int]] = {}
    for head in heads:
        by_layer.setdefault(head.layer, []).append(head.head)
    whole = [layer for layer, members in by_layer.items() if len(members) == n_heads]
    if n_layers is not None and whole and len(whole) == n_layers:
        return "all"
    parts = {(run.start, -1): f"{_run_text(run)}.*" for run in _runs(whole)}
    for layer in by_layer.keys() - set(whole):
        for run in _runs(by_layer[layer]):
            parts |= _parts_of_run(layer, run)
    return ", ".join(parts[key] for key in sorted(parts))


def _parse_part(part: str, n_layers: int, n_heads: int) -> Iterator[Head]:
    name = part.lower()
    if name in ("all", "*"):
        name = "*.*"
    if match := _ONE_OR_MORE_HEADS.fullmatch(name):
        layer_range, head_range = match["layers"], match["heads"]
    elif match := _WHOLE_LAYERS.fullmatch(name):
        layer_range, head_range = match["layers"], "*"
    else:
        raise _unreadable(part)
    layers = _indices(layer_range, n_layers, part)
    members = _indices(head_range, n_heads, part)
    if layers.stop > n_layers or members.stop > n_heads:
        raise UserError(
            ErrorKind.HEADS,
            f"This model has no {_shown(part)}: its layers are 0 to {n_layers - 1}, "
            f"with heads 0 to {n_heads - 1} each.",
        )
    return (Head(layer, member) for layer in layers for member in members)


def _indices(text: str, count: int, part: str) -> range:
    """Return the indices that `*`, `5` or `3-5` names; they may lie beyond `count`."""
    if text == "*":
        return range(count)
    first, _, last = text.partition("-")
    low = int(first)
    high = int(last.lstrip("lh")) if last else low
    if high < low:
        raise UserError(
            ErrorKind.HEADS,
            f"The range in {_shown(part)} runs backwards; write its lower end first.",
        )
    return range(low, high + 1)


def _unreadable(part: str) -> UserError:
    if _BARE_NUMBERS.fullmatch(part):
        return UserError(
            ErrorKind.HEADS,
            f"{_shown(part)} may mean a layer or a head; write L{part[:_SHOWN_LENGTH]} for every "
            "head of a layer, or layer.head (such as 5.3) for one head.",
        )
    return UserError(
        ErrorKind.HEADS, f"Cannot read {_shown(part)} as attention heads; write {HEAD_NOTATION}."
    )


def _shown(part: str) -> str:
    """Quote what was typed, cut so that a message stays one readable sentence."""
    return repr(part if len(part) <= _SHOWN_LENGTH else part[:_SHOWN_LENGTH] + "…")


def _runs(numbers: Iterable[int]) -> Iterator[range]:
    """Split ascending numbers into runs without a gap."""
    run: range | None = None
    for number in numbers:
        if run is not None and number == run.stop:
            run = range(run.start, number + 1)
            continue
        if run is not None:
            yield run
        run = range(number, number + 1)
    if run is not None:
        yield run


def _run_text(run: range) -> str:
    return str(run.start) if len(run) == 1 else f"{run.start}-{run.stop - 1}"


def _parts_of_run(layer: int, run: range) -> dict[tuple[int, int], str]:
    # Two neighbours read better as 5.3, 5.4 than as 5.3-4.
    if len(run) > 2:
        return {(layer, run.start): f"{layer}.{_run_text(run)}"}
    return {(layer, member): f"{layer}.{member}" for member in run}
