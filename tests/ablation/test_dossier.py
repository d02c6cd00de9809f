"""Roles of heads on repeated tokens: equal to eager attention, right by hand, kept on disk."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from reference import attentions
from tiny import tiny_model

from ablation import Progress, head_dossier
from ablation.dossier import KIND, Dossier, known_dossier
from ablation.stimuli import LENGTH, ROLES, RepeatedTokens, repeated_tokens, role_scores
from models.builtin import CACHE_VARIABLE
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray, Head, TokenizedPrompt

TOLERANCE = 1e-5  # two correct float32 computations differ by about 1e-7 here; see test_parity.py
SHAPE = (3, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own, with nothing in it."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path


def stimulus(n: int, start: int, length: int) -> RepeatedTokens:
    words = tuple("abcdefghijkl"[:n])
    prompt = TokenizedPrompt("".join(words), tuple(range(n)), words, words, ("text",) * n)
    return RepeatedTokens(prompt, start, length)


# --- the stimuli ---


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_sequence_opens_and_says_the_same_twice(family: str) -> None:
    model = tiny_model(family)
    several = repeated_tokens(model)
    assert len(several) == 4
    for one in several:
        first, second = one.prompt.ids[1 : LENGTH + 1], one.prompt.ids[LENGTH + 1 :]
        assert model.has_bos(one.prompt)
        assert first == second
        assert len(set(first)) == LENGTH == one.length
        assert set(one.prompt.kinds[1:]) == {"text"}
    assert len({one.prompt.ids for one in several}) == 4


def test_the_seed_decides(gpt2: LanguageModel) -> None:
    ids = [[one.prompt.ids for one in repeated_tokens(gpt2, seed=seed)] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_without_an_opening_token_the_copies_begin_at_once(
    gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModel, "opening_id", None)
    (one,) = repeated_tokens(gpt2, 1, 5)
    assert one.start == 0
    assert one.prompt.ids[:5] == one.prompt.ids[5:]


def test_a_short_context_makes_short_sequences(
    gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpt2, "max_positions", 21)
    assert repeated_tokens(gpt2, 1)[0].length == 10


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"n_sequences": 0}, "0 sequences"),
        ({"length": 64}, "from 2 to 63; got 4 sequences of length 64"),
        ({"length": 1}, "length 1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_what_cannot_be_made_is_refused(
    gpt2: LanguageModel, arguments: dict[str, int], part: str
) -> None:
    with pytest.raises(UserError, match=part) as raised:
        head_dossier(gpt2, **arguments)
    assert raised.value.kind is ErrorKind.OPTION


# --- the scores ---


def test_each_role_reads_its_own_weights_and_no_others() -> None:
    """A map [BOS a b c a b c] in which each role has a weight of its own, worked out by hand."""
    weights = np.zeros((1, 7, 7), np.float32)
    weights[0, 2:, 0] = 0.125  # first token: the five queries from the third token on
    weights[0, [2, 3, 4, 5, 6], [1, 2, 3, 4, 5]] = 0.25  # previous token: likewise
    weights[0, [4, 5, 6], [1, 2, 3]] = [0.5, 0.25, 0.0]  # duplicate: a, b, c of the second copy
    weights[0, [4, 5, 6], [2, 3, 4]] = [0.0, 0.5, 0.25]  # induction: b, c, and the second a
    scores = role_scores(weights, stimulus(7, 1, 3))[:, 0]
    assert dict(zip(ROLES, scores.tolist(), strict=True)) == {
        "previous_token": 0.25,
        "induction": 0.25,
        "duplicate_token": 0.25,
        "first_token": 0.125,
    }
    changed = weights.copy()
    changed[0, 1, 0] = changed[0, 0, 0] = 1.0  # of the first two tokens nothing counts
    np.testing.assert_array_equal(role_scores(changed, stimulus(7, 1, 3))[:, 0], scores)


def by_hand(weights: FloatArray, ids: tuple[int, ...]) -> dict[str, float]:
    """Score one map [query, key] by looking the tokens up, position by position."""
    found: dict[str, list[float]] = {role: [] for role in ROLES}
    for query in range(len(ids)):
        earlier = [key for key in range(query) if ids[key] == ids[query]]
        if query >= 2:
            found["first_token"].append(weights[query, 0])
            found["previous_token"].append(weights[query, query - 1])
        if earlier:
            found["duplicate_token"].append(weights[query, earlier[0]])
            found["induction"].append(weights[query, earlier[0] + 1])
    return {role: float(np.mean(values)) for role, values in found.items()}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_scores_equal_those_of_eager_attention(family: str) -> None:
    model = tiny_model(family)
    dossier = head_dossier(model, n_sequences=3, length=20, seed=5)
    expected: dict[str, list[FloatArray]] = {role: [] for role in ROLES}
    for one in repeated_tokens(model, 3, 20, 5):
        theirs = attentions(family, one.prompt.ids).numpy()  # [n_layers, n_heads, query, key]
        scores = [
            [by_hand(theirs[layer, head], one.prompt.ids) for head in range(4)]
            for layer in range(3)
        ]
        for role, several in expected.items():
            several.append(np.array([[cell[role] for cell in row] for row in scores]))
    for i, role in enumerate(ROLES):
        mean = np.mean(expected[role], axis=0)
        np.testing.assert_allclose(dossier.values[i], mean, atol=TOLERANCE, rtol=0)
        assert mean.std() > 10 * TOLERANCE, "heads that do not differ prove nothing"
    assert dossier.values.dtype == np.float32
    assert (dossier.n_sequences, dossier.length, dossier.seed) == (3, 20, 5)


def test_memory_for_one_head_at_a_time_changes_nothing(
    gpt2: LanguageModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = head_dossier(gpt2, n_sequences=1).values
    (cache / KIND).rename(cache / "away")
    monkeypatch.setattr("ablation.reading.PART_BYTES", 1)
    np.testing.assert_array_equal(head_dossier(gpt2, n_sequences=1).values, expected)


def test_the_leaders_come_first_and_are_written_out(gpt2: LanguageModel) -> None:
    dossier = head_dossier(gpt2, n_sequences=1)
    leaders = dossier.leaders("induction", 3)
    values = dossier.of("induction").values
    assert leaders[0][1] == values.max()
    assert values[leaders[0][0].layer, leaders[0][0].head] == values.max()
    assert [score for _, score in leaders] == sorted((s for _, s in leaders), reverse=True)
    written = dossier.to_json()
    assert written["roles"]["induction"]["leaders"][0]["head"] == leaders[0][0].to_json()
    assert np.array(written["roles"]["induction"]["scores"]).shape == SHAPE
    frame = dossier.to_frame()
    assert len(frame) == 12
    assert frame["induction"].max() == values.max()
    assert "1 sequence [BOS r r], r being 50 random tokens (seed 0)" in dossier.describe()


def test_a_value_for_each_role_is_needed() -> None:
    with pytest.raises(ValueError, match="n_layers"):
        Dossier("m", np.zeros((1, *SHAPE), np.float32), 1, 5, 0, True)


# --- progress and cancelling ---


def test_cancelling_gives_the_mean_over_what_was_measured(gpt2: LanguageModel) -> None:
    cancel = threading.Event()
    reports: list[Progress] = []

    def stop(report: Progress) -> None:
        reports.append(report)
        cancel.set()

    partial = head_dossier(gpt2, n_sequences=3, progress=stop, cancel=cancel)
    assert partial.stopped == "cancelled"
    assert [(r.done, r.total) for r in reports] == [(1, 3)]
    assert known_dossier(gpt2, n_sequences=3) is None, "what is not complete is not kept"
    np.testing.assert_array_equal(partial.values, head_dossier(gpt2, n_sequences=1).values)
    nothing = head_dossier(gpt2, n_sequences=3, cancel=cancel)
    assert np.isnan(nothing.values).all()
    assert nothing.leaders("induction") == []


# --- kept on disk ---


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts forward passes that read attention: a number for each."""
    counted: list[int] = []
    attention = LanguageModel.attention

    def counting(self: LanguageModel, prompt: TokenizedPrompt, *args: object) -> object:
        counted.append(len(prompt))
        return attention(self, prompt, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "attention", counting)
    return counted


def test_the_second_time_nothing_runs(gpt2: LanguageModel, passes: list[int]) -> None:
    assert known_dossier(gpt2) is None
    first = head_dossier(gpt2)
    assert len(passes) == 4
    again, known = head_dossier(gpt2), known_dossier(gpt2)
    assert len(passes) == 4
    assert known is not None
    for kept in (again, known):
        np.testing.assert_array_equal(kept.values, first.values)
        assert kept.to_json() == first.to_json()


def test_other_stimuli_and_other_weights_are_measured_anew(passes: list[int]) -> None:
    head_dossier(tiny_model("gpt2"))
    for model, seed, length in (
        (tiny_model("gpt2"), 1, 50),
        (tiny_model("gpt2"), 0, 20),
        (tiny_model("gpt2", 7), 0, 50),
    ):
        before = len(passes)
        head_dossier(model, seed=seed, length=length)
        assert len(passes) == before + 4


@pytest.mark.parametrize("left", [0, 1, 70, -1, -10])
def test_a_damaged_or_half_written_file_counts_as_none(
    gpt2: LanguageModel, cache: Path, passes: list[int], left: int
) -> None:
    expected = head_dossier(gpt2).values
    (file,) = (cache / KIND).iterdir()
    file.write_bytes(file.read_bytes()[:left])
    assert known_dossier(gpt2) is None
    np.testing.assert_array_equal(head_dossier(gpt2).values, expected)
    assert len(passes) == 8
    assert known_dossier(gpt2) is not None, "it was written anew"


def test_a_changed_number_is_noticed(gpt2: LanguageModel, cache: Path) -> None:
    head_dossier(gpt2)
    (file,) = (cache / KIND).iterdir()
    text = file.read_text()
    place = text.index("0.", 80)
    file.write_text(text[: place + 2] + "9" + text[place + 3 :])
    assert file.read_text() != text
    assert known_dossier(gpt2) is None


def test_a_cache_that_cannot_be_written_hinders_nothing(
    gpt2: LanguageModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = head_dossier(gpt2).values
    (cache / "file").write_text("not a directory")
    monkeypatch.setenv(CACHE_VARIABLE, str(cache / "file"))
    np.testing.assert_array_equal(head_dossier(gpt2).values, expected)


# --- the built-in model ---


@pytest.mark.builtin
@pytest.mark.timeout(600)
def test_the_built_in_model_has_the_leaders_that_were_found_independently(
    builtin: LanguageModel,
) -> None:
    """Another computation found these on other random tokens.

    Two sets of four sequences differ: over five seeds a score moved by up to 0.08, and L18H7 came
    close to L17H5, once before it. So one other head may be among the leaders.
    """
    found = {
        "previous_token": {(16, 0): 0.895, (11, 1): 0.843, (2, 1): 0.735},
        "induction": {(18, 6): 0.897, (17, 3): 0.770, (17, 4): 0.699, (17, 5): 0.606},
        "duplicate_token": {(8, 0): 0.636, (14, 3): 0.590},
        "first_token": {(18, 8): 0.996},
    }
    dossier = head_dossier(builtin)
    for role, expected in found.items():
        leaders = dict(dossier.leaders(role, len(expected) + 1))
        for head, score in expected.items():
            assert leaders[Head(*head)] == pytest.approx(score, abs=0.08)
    for role, leader in (
        ("previous_token", (16, 0)),
        ("induction", (18, 6)),
        ("first_token", (18, 8)),
    ):
        assert dossier.leaders(role, 1)[0][0] == Head(*leader)
