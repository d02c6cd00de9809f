"""Files of pairs: what was written is read, and what is wrong is said in one sentence."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation import PromptPair, parse_pairs, read_pairs
from models.errors import ErrorKind, UserError

# Lone halves of character pairs are no text; a file cannot hold them.
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
PAIRS = st.lists(st.builds(PromptPair, TEXT, TEXT, TEXT, st.just("") | TEXT), min_size=1)


def records(pairs: list[PromptPair]) -> list[dict[str, str]]:
    return [
        {"clean": p.clean, "corrupt": p.corrupt, "answer": p.answer, "distractor": p.distractor}
        for p in pairs
    ]


@given(PAIRS, st.booleans())
def test_csv_comes_back(pairs: list[PromptPair], marked: bool) -> None:
    out = io.StringIO(newline="")
    # All in quotes: without them the writer itself loses a lone "\r".
    writer = csv.DictWriter(
        out, ["answer", "clean", "corrupt", "distractor"], quoting=csv.QUOTE_ALL
    )
    writer.writeheader()
    writer.writerows(records(pairs))
    data = out.getvalue().encode("utf-8-sig" if marked else "utf-8")
    assert parse_pairs(data, "pairs.csv") == tuple(pairs)


@given(PAIRS)
def test_json_and_json_lines_come_back(pairs: list[PromptPair]) -> None:
    rows = records(pairs)
    assert parse_pairs(json.dumps(rows).encode(), "PAIRS.JSON") == tuple(pairs)
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert parse_pairs(lines.encode(), "pairs.jsonl") == tuple(pairs)


def test_a_distractor_may_be_missing_and_spaces_count() -> None:
    expected = (PromptPair("a b", "a c", " d"),)
    assert parse_pairs(b"clean, corrupt, answer\na b,a c, d\n", "x.csv") == expected
    row = {"clean": "a b", "corrupt": "a c", "answer": " d"}
    assert parse_pairs(json.dumps([row]).encode(), "x.json") == expected
    assert parse_pairs(json.dumps([{**row, "distractor": None}]).encode(), "x.json") == expected


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.csv", b"", "has no pairs"),
        ("x.csv", b"clean,corrupt,answer\n", "has no pairs"),
        ("x.json", b"", "has no pairs"),
        ("x.json", b"[]", "has no pairs"),
        ("x.jsonl", b"\n \n", "has no pairs"),
        ("x.csv", b"clean,corrupt,answer,label\n", "unknown column 'label' in its first line"),
        ("x.csv", b"clean;corrupt;answer\n", "unknown column 'clean;corrupt;answer'"),
        ("x.csv", b"clean,corrupt\na,b\n", 'lacks "answer" in its first line'),
        ("x.csv", b"clean,corrupt,answer,clean\n", "names a column twice"),
        ("x.csv", b"clean,corrupt,answer\na,b,c\n\na,,c\n", r'no "corrupt" in row 2 \(line 4\)'),
        ("x.csv", b"clean,corrupt,answer\na,b\n", r'lacks "answer" in row 1 \(line 2\)'),
        ("x.csv", b"clean,corrupt,answer\na,b,c,d\n", r"4 values in row 1 \(line 2\) and 3 col"),
        ("x.csv", b'clean,corrupt,answer\n"a,b,c\n', "is not CSV at line"),
        ("x.csv", "clean,corrupt,answer\né,b,c".encode("latin-1"), r"not UTF-8 \(byte 22\)"),
        ("x.json", b'[{"clean": ', "is not JSON: "),
        ("x.json", b"[" * 100_000, "is not JSON: "),
        ("x.json", b'{"clean": "a"}', "is JSON but no list"),
        ("x.json", b'["a"]', "no object in row 1"),
        ("x.json", b'[{"clean":"a","corrupt":"b"}]', 'lacks "answer" in row 1'),
        ("x.json", b'[{"clean":"a","corrupt":"b","answer":3}]', 'has 3 as "answer" in row 1'),
        ("x.json", b'[{"clean":"a","corrupt":null,"answer":"c"}]', 'nothing as "corrupt" in row 1'),
        ("x.json", b'[{"clean":"","corrupt":"b","answer":"c"}]', 'has no "clean" in row 1'),
        ("x.jsonl", b'\n{"clean":"a"}', r'lacks "corrupt" in row 1 \(line 2\)'),
        ("x.jsonl", b'{"clean":"a"', r"is not JSON in row 1 \(line 1\)"),
        ("x.txt", b"", "ends in '.txt'; give one that ends in .csv, .json, .jsonl"),
        ("pairs", b"", "ends in 'nothing'"),
    ],
)
def test_what_is_wrong_is_said(name: str, data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_pairs(data, name)
    assert caught.value.kind == ErrorKind.OPTION
    assert str(caught.value).startswith(f"The file of pairs {name} ")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=60), st.sampled_from([".csv", ".json", ".jsonl"]))
def test_no_contents_do_harm(data: bytes, ending: str) -> None:
    try:
        pairs = parse_pairs(data, f"x{ending}")
    except UserError:
        return
    assert pairs


def test_files_are_read_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('clean,corrupt,answer\n"a, b",c,d\n', "utf-8")
    assert read_pairs(path) == (PromptPair("a, b", "c", "d"),)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_pairs(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"ends in '\.toml'"):
        read_pairs(str(tmp_path / "none.toml"))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_pairs(tmp_path / "folder.json")
