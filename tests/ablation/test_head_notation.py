"""Reading heads as people type them, and writing them back."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.heads import check_notation, format_heads, parse_heads
from models.errors import ErrorKind, UserError
from models.types import Head, Stack

N_LAYERS, N_HEADS = 6, 4


def pairs(text: str) -> list[tuple[int, int]]:
    return [(h.layer, h.head) for h in parse_heads(text, N_LAYERS, N_HEADS)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5.3", [(5, 3)]),
        ("L5H3", [(5, 3)]),
        ("l5h3", [(5, 3)]),
        ("5.3, 0.1", [(0, 1), (5, 3)]),
        ("5.3;0.1\n2.2\t3.3", [(0, 1), (2, 2), (3, 3), (5, 3)]),
        ("5.3,5.3 L5H3", [(5, 3)]),
        (" , ;", []),
        ("", []),
        ("2.*", [(2, 0), (2, 1), (2, 2), (2, 3)]),
        ("L2", [(2, 0), (2, 1), (2, 2), (2, 3)]),
        ("*.3", [(layer, 3) for layer in range(6)]),
        ("2.1-3", [(2, 1), (2, 2), (2, 3)]),
        ("3-5.0-1", [(3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (5, 1)]),
        ("3–5.0", [(3, 0), (4, 0), (5, 0)]),  # a dash that word processors put in
        ("L4-L5", [(layer, head) for layer in (4, 5) for head in range(4)]),
        ("L4-5", [(layer, head) for layer in (4, 5) for head in range(4)]),
        ("l0-l1h2", [(0, 2), (1, 2)]),
    ],
)
def test_reads_the_notation(text: str, expected: list[tuple[int, int]]) -> None:
    assert pairs(text) == expected


@pytest.mark.parametrize("text", ["all", "ALL", "*", "*.*", "L0-L5", "0-5.0-3"])
def test_every_head(text: str) -> None:
    assert len(pairs(text)) == N_LAYERS * N_HEADS


@pytest.mark.parametrize("text", ["6.0", "0.4", "L6", "2.1-4", "4-6.0", "99999999.*", "5.3, 0.9"])
def test_a_head_that_does_not_exist_is_named_with_the_valid_range(text: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_heads(text, N_LAYERS, N_HEADS)
    assert raised.value.kind is ErrorKind.HEADS
    message = str(raised.value)
    assert repr(text.rsplit(", ", maxsplit=1)[-1]) in message
    assert "0 to 5" in message
    assert "0 to 3" in message


@pytest.mark.parametrize("text", ["5", "3-5", "1 2"])
def test_a_bare_number_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UserError, match="may mean a layer or a head; write L"):
        parse_heads(text, N_LAYERS, N_HEADS)


@pytest.mark.parametrize(
    "text",
    ["heads", "5.", ".3", "5.3.1", "-1.2", "5,x", "L", "H3", "5.h3", "<b>", "5:3", "٣.1", "1e9.0"],
)
def test_nonsense_is_named_and_the_notation_shown(text: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_heads(text.replace("5,x", "5.1,x"), N_LAYERS, N_HEADS)
    assert raised.value.kind is ErrorKind.HEADS
    assert "Cannot read" in str(raised.value)
    assert "5.3 or L5H3" in str(raised.value)


def test_a_backward_range_is_refused() -> None:
    with pytest.raises(UserError, match="runs backwards"):
        parse_heads("5-3.0", N_LAYERS, N_HEADS)


def test_a_message_stays_short_whatever_was_pasted() -> None:
    for paste in ("x" * 1_000_000, "9" * 1_000_000):
        with pytest.raises(UserError) as raised:
            parse_heads(paste, N_LAYERS, N_HEADS)
        assert len(str(raised.value)) < 300


def test_writes_briefly() -> None:
    def heads(*indices: tuple[int, int]) -> list[Head]:
        return [Head(*pair) for pair in indices]

    assert format_heads(heads((9, 6), (5, 3))) == "5.3, 9.6"
    assert format_heads(heads((5, 0), (5, 1))) == "5.0, 5.1"
    assert format_heads(heads((5, 0), (5, 1), (5, 2), (5, 9))) == "5.0-2, 5.9"
    assert format_heads(parse_heads("L2", 6, 4), n_heads=4) == "2.*"
    assert format_heads(parse_heads("L2, L3, 4.0, 0.1", 6, 4), n_heads=4) == "0.1, 2-3.*, 4.0"
    assert format_heads(parse_heads("all", 6, 4), n_heads=4) == "0-5.*"
    assert format_heads(parse_heads("all", 6, 4), n_heads=4, n_layers=6) == "all"
    assert format_heads(()) == ""


head_sets = st.sets(
    st.builds(Head, st.integers(0, N_LAYERS - 1), st.integers(0, N_HEADS - 1)), max_size=24
)


@given(head_sets, st.sampled_from([None, N_HEADS]), st.sampled_from([None, N_LAYERS]))
def test_what_is_written_reads_back(
    heads: set[Head], n_heads: int | None, n_layers: int | None
) -> None:
    written = format_heads(heads, n_heads, n_layers)
    assert parse_heads(written, N_LAYERS, N_HEADS) == tuple(sorted(heads))


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing else may be raised: any other exception is a defect."""
    with suppress(UserError):
        heads = parse_heads(text, N_LAYERS, N_HEADS)
        assert list(heads) == sorted(set(heads))


@pytest.mark.parametrize("text", ["", "5.3, L9H9", "*.3", "all", "999.999", "L3-L5 7.*"])
def test_notation_is_checked_without_a_model(text: str) -> None:
    check_notation(text)


@pytest.mark.parametrize("text", ["foo", "5.3, 7", "5.3-1", "L5.x"])
def test_what_no_model_could_read_is_refused_without_one(text: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_notation(text)
    assert refusal.value.kind is ErrorKind.HEADS


STACKS = (
    Stack("encoder", "encoder", 2, 3, "source", "source", causal=False),
    Stack("", "decoder", N_LAYERS, N_HEADS),
    Stack("cross", "cross attention", N_LAYERS, N_HEADS, "prompt", "source", causal=False),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoder:1.2", [Head(1, 2, "encoder")]),
        ("cross:L5H3, 5.3", [Head(5, 3), Head(5, 3, "cross")]),
        ("decoder:5.3", [Head(5, 3)]),
        ("Encoder: L0", [Head(0, i, "encoder") for i in range(3)]),
        ("encoder:all", [Head(layer, i, "encoder") for layer in range(2) for i in range(3)]),
        ("cross:2-3.0", [Head(2, 0, "cross"), Head(3, 0, "cross")]),
    ],
)
def test_heads_of_other_stacks_carry_its_name(text: str, expected: list[Head]) -> None:
    assert list(parse_heads(text, N_LAYERS, N_HEADS, STACKS)) == expected
    check_notation(text)


def test_all_is_all_of_the_main_stack() -> None:
    heads = parse_heads("all", N_LAYERS, N_HEADS, STACKS)
    assert {head.stack for head in heads} == {""}
    assert len(heads) == N_LAYERS * N_HEADS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoder:2.0", "layers are 0 to 1, with heads 0 to 2"),
        ("vision:0.0", "its stacks are encoder, decoder, cross"),
        ("cross:", "Cannot read"),
        ("cross:5", "may mean a layer or a head"),
    ],
)
def test_what_a_stack_lacks_is_refused(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        parse_heads(text, N_LAYERS, N_HEADS, STACKS)


def test_a_model_of_one_stack_has_no_others() -> None:
    with pytest.raises(UserError, match="write its heads without a stack"):
        parse_heads("cross:5.3", N_LAYERS, N_HEADS)


def test_heads_of_stacks_are_written_so_that_they_read_back() -> None:
    heads = parse_heads("5.3, cross:2.0-3, encoder:1.1, cross:0.0", N_LAYERS, N_HEADS, STACKS)
    written = format_heads(heads, N_HEADS, N_LAYERS)
    assert written == "5.3, cross:0.0, cross:2.0-3, encoder:1.1"
    assert parse_heads(written, N_LAYERS, N_HEADS, STACKS) == heads
