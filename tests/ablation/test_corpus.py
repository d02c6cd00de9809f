"""The corpus that ships with the program: enough texts, of many kinds, each its own."""

from collections import Counter
from pathlib import Path

import ablation.corpus
from ablation.corpus import load_corpus

N_SHARED = 8
"""Two different texts have no run of so many words in common."""


def test_there_are_240_passages_of_24_kinds() -> None:
    corpus = load_corpus()
    assert len(corpus) == len({passage.id for passage in corpus}) == 240
    assert set(Counter(passage.kind for passage in corpus).values()) == {10}
    assert all(passage.id.startswith(f"{passage.kind}-") for passage in corpus)


def test_the_first_ones_are_of_all_kinds_and_the_order_is_fixed() -> None:
    corpus = load_corpus()
    assert len({passage.kind for passage in corpus[:24]}) == 24
    assert corpus[0].id == "biography-01"
    assert corpus[-1].id == "weather-10"
    assert corpus == load_corpus()


def test_each_has_40_to_80_words_and_clean_ends() -> None:
    for passage in load_corpus():
        assert 40 <= len(passage.text.split()) <= 80, passage.id
        assert passage.text == passage.text.strip("\n")
        assert "===" not in passage.text


def test_no_two_share_a_run_of_words() -> None:
    """Filler that is copied from text to text would make them fewer than they seem."""
    owner: dict[tuple[str, ...], str] = {}
    for passage in load_corpus():
        words = passage.text.lower().split()
        for i in range(len(words) - N_SHARED + 1):
            run = tuple(words[i : i + N_SHARED])
            assert owner.setdefault(run, passage.id) == passage.id, run


def test_each_file_states_its_source() -> None:
    files = list(Path(ablation.corpus.__file__).parent.glob("*.txt"))
    assert len(files) == 6
    for file in files:
        head = " ".join(file.read_text("utf-8").split("===")[0].split())
        assert "Written for this program, under its licence" in head
