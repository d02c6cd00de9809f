"""Two lists of tokens side by side: nothing is lost, and every difference is seen."""

from hypothesis import given
from hypothesis import strategies as st

from ablation.circuit.alignment import GAP, align, in_words

LABELS = st.lists(st.sampled_from("abcd"), max_size=12)


@given(LABELS, LABELS)
def test_each_side_holds_its_tokens_in_their_order(clean: list[str], corrupt: list[str]) -> None:
    columns = align(clean, corrupt)
    assert [c.clean for c in columns if c.clean is not None] == clean
    assert [c.corrupt for c in columns if c.corrupt is not None] == corrupt
    assert all(column.same for column in columns) == (clean == corrupt)


@given(st.lists(st.sampled_from("xyz")), LABELS, LABELS, st.lists(st.sampled_from("uvw")))
def test_what_both_begin_and_end_with_stands_beside_itself(
    front: list[str], clean: list[str], corrupt: list[str], back: list[str]
) -> None:
    columns = align([*front, *clean, *back], [*front, *corrupt, *back])
    assert all(column.same for column in columns[: len(front)])
    assert all(column.same for column in columns[len(columns) - len(back) :])


def test_a_token_more_leaves_a_gap() -> None:
    columns = align(["When", "·Mary", "·went"], ["When", "·Al", "ice", "·went"])
    assert [(c.clean, c.corrupt) for c in columns] == [
        ("When", "When"),
        ("·Mary", "·Al"),
        (None, "ice"),
        ("·went", "·went"),
    ]
    clean, corrupt = in_words(columns)
    assert clean.split() == ["When", "[·Mary]", f"[{GAP}]", "·went"]
    assert corrupt.split() == ["When", "[·Al]", "[ice]", "·went"]
    assert len(clean) == len(corrupt)
    assert clean.index("·went") == corrupt.index("·went")


def test_far_from_a_difference_tokens_are_left_out() -> None:
    same = [f"t{i}" for i in range(9)]
    clean, corrupt = in_words(align([*same, "x", *same], [*same, "y", "z", *same]))
    assert clean.split() == ["…", "t7", "t8", "[x]", f"[{GAP}]", "t0", "t1", "…"]
    assert corrupt.split() == ["…", "t7", "t8", "[y]", "[z]", "t0", "t1", "…"]
