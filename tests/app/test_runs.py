"""What the page computes, and what it does not compute twice."""

import numpy as np
import pytest

from ablation.interventions import Scale, Zero
from ablation.types import Ablation
from app.examples import interesting_heads, spread_heads
from app.runs import Memory, Runs, map_key, parse_positions
from models.attention_flow import attention_rollout, moved_attention
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import AttentionMaps, Head, TokenizedPrompt
from viz.extent import extent_of


@pytest.fixture
def asked(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What was asked of the model, one entry a forward pass."""
    calls: list[dict] = []
    run = LanguageModel.run

    def counted(self: LanguageModel, prompt: TokenizedPrompt, **options: object) -> object:
        calls.append(options)
        return run(self, prompt, **options)

    monkeypatch.setattr(LanguageModel, "run", counted)
    return calls


def test_one_forward_serves_prediction_and_attention(
    llama: LanguageModel, asked: list[dict]
) -> None:
    runs, prompt = Runs(), llama.tokenize("The key to the cabinets")
    heads = [Head(0, 1), Head(2, 3)]
    outcome = runs.outcome(llama, prompt, None, heads, None)
    assert len(asked) == 1
    expected = llama.attention(prompt, heads)
    assert [maps.heads for maps in outcome.maps] == [(head,) for head in heads]
    for maps, values in zip(outcome.maps, expected.values, strict=True):
        np.testing.assert_array_equal(maps.values[0], values)


def test_what_is_known_is_not_computed_again(llama: LanguageModel, asked: list[dict]) -> None:
    runs, prompt = Runs(), llama.tokenize("The key to the cabinets")
    ablation = Ablation((Head(1, 1),), Zero())
    first = runs.outcome(llama, prompt, None, [Head(0, 1)], ablation)
    n_asked = len(asked)
    again = runs.outcome(llama, prompt, None, [Head(0, 1)], ablation)
    assert len(asked) == n_asked
    np.testing.assert_array_equal(first.maps[0].values, again.maps[0].values)
    assert again.after is first.after


def test_another_head_is_the_only_one_asked_for(llama: LanguageModel, asked: list[dict]) -> None:
    runs, prompt = Runs(read_all_bytes=0), llama.tokenize("The key to the cabinets")
    runs.outcome(llama, prompt, None, [Head(0, 1)], None)
    runs.outcome(llama, prompt, None, [Head(0, 1), Head(1, 2)], None)
    assert [call["heads"] for call in asked] == [(Head(0, 1),), (Head(1, 2),)]


def test_foreseen_heads_are_read_in_the_same_pass(llama: LanguageModel, asked: list[dict]) -> None:
    runs, prompt = Runs(read_all_bytes=0), llama.tokenize("The key to the cabinets")
    runs.outcome(llama, prompt, None, (), None, foreseen=[Head(0, 1)])
    runs.outcome(llama, prompt, None, [Head(0, 1)], None)
    assert [call["heads"] for call in asked] == [(Head(0, 1),)]


def test_all_heads_of_a_short_prompt_are_known_after_one_pass(
    llama: LanguageModel, asked: list[dict]
) -> None:
    runs, prompt = Runs(), llama.tokenize("The key to the cabinets")
    for ablation in (None, Ablation((Head(1, 1),), Zero())):
        runs.outcome(llama, prompt, None, [Head(0, 1)], ablation)
        n_asked = len(asked)
        outcome = runs.outcome(llama, prompt, None, llama.all_heads(), ablation)
        assert len(asked) == n_asked
        expected = llama.attention(prompt, llama.all_heads(), ablation).values
        asked.pop()  # the line above
        shown = np.concatenate([maps.values for maps in outcome.maps])
        np.testing.assert_array_equal(shown, expected)


def test_long_maps_are_never_copied(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    run = LanguageModel.run
    monkeypatch.setattr(
        LanguageModel, "run", lambda *args, **kw: answers.append(run(*args, **kw)) or answers[-1]
    )
    runs, prompt = Runs(), llama.tokenize("The key to the cabinets")
    heads = [Head(0, 1), Head(2, 3)]
    for outcome in (runs.outcome(llama, prompt, None, heads, None) for _ in range(2)):
        for maps in outcome.maps:
            assert np.shares_memory(maps.values, answers[0].attention.values)
    assert len(answers) == 1


def test_maps_that_had_to_make_room_are_asked_for_again(
    llama: LanguageModel, asked: list[dict]
) -> None:
    prompt = llama.tokenize("The key to the cabinets")
    one_map = 4 * len(prompt) ** 2
    prediction = 8 * llama.n_vocab
    runs = Runs(Memory(prediction + 2 * one_map + 100), read_all_bytes=0)
    for heads in ([Head(0, 0), Head(0, 1)], [Head(1, 1)], [Head(0, 1), Head(1, 1)]):
        outcome = runs.outcome(llama, prompt, None, heads, None)
        expected = llama.attention(prompt, heads).values
        for maps, values in zip(outcome.maps, expected, strict=True):
            np.testing.assert_array_equal(maps.values[0], values)
    assert [call["heads"] for call in asked if call["top_k"] > 1] == [
        (Head(0, 0), Head(0, 1)),
        (Head(1, 1),),
        (Head(0, 1),),
    ]


def test_runs_with_other_content_are_kept_apart(llama: LanguageModel) -> None:
    runs, prompt = Runs(), llama.tokenize("The key to the cabinets")
    heads = (Head(0, 1),)
    outcomes = [
        runs.outcome(llama, prompt, position, (), ablation)
        for position in (2, None)
        for ablation in (
            None,
            Ablation(heads, Zero()),
            Ablation(heads, Scale(2.0)),
            Ablation(heads, Zero(), (1,)),
        )
    ]
    shown = [(o.after or o.before).log_probs.tobytes() for o in outcomes]
    assert len(set(shown)) == len(shown)


def test_the_ablated_run_is_compared_with_the_clean_one(llama: LanguageModel) -> None:
    prompt = llama.tokenize("The key to the cabinets")
    ablation = Ablation((Head(0, 0),), Zero())
    outcome = Runs().outcome(llama, prompt, None, [Head(2, 0)], ablation)
    clean, ablated = llama.predict(prompt), llama.predict(prompt, ablation=ablation)
    kl = float(np.sum(np.exp(clean.log_probs) * (clean.log_probs - ablated.log_probs)))
    assert outcome.comparison is not None
    assert outcome.comparison.kl == pytest.approx(kl, rel=1e-9)
    assert outcome.maps[0].ablated
    expected = llama.attention(prompt, [Head(2, 0)], ablation)
    np.testing.assert_array_equal(outcome.maps[0].values, expected.values)


@pytest.mark.parametrize("read_all_bytes", [0, 2**20])
def test_moved_norms_are_computed_once(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, read_all_bytes: int
) -> None:
    passes = []
    watch = LanguageModel.watch
    monkeypatch.setattr(
        LanguageModel, "watch", lambda *args, **kw: passes.append(args) or watch(*args, **kw)
    )
    runs, prompt = Runs(read_all_bytes=read_all_bytes), llama.tokenize("The key to the cabinets")
    heads = [Head(0, 1), Head(2, 3)]
    first = runs.flow(llama, prompt, heads, "moved")
    again = runs.flow(llama, prompt, heads[::-1], "moved")
    assert len(passes) == 1
    expected = moved_attention(llama, prompt, heads)
    for maps, other, values in zip(first, again[::-1], expected.values, strict=True):
        assert (maps.kind, other.heads) == ("moved", maps.heads)
        np.testing.assert_array_equal(maps.values[0], values)
        np.testing.assert_array_equal(other.values[0], values)
    runs.flow(llama, prompt, [Head(1, 1)], "moved")
    assert len(passes) == (3 if read_all_bytes == 0 else 2)  # one of them is the expected one's


@pytest.mark.parametrize("read_all_bytes", [0, 2**20])
def test_a_rollout_has_a_map_for_each_layer_of_the_heads(
    llama: LanguageModel, read_all_bytes: int
) -> None:
    runs, prompt = Runs(read_all_bytes=read_all_bytes), llama.tokenize("The key to the cabinets")
    shown = runs.flow(llama, prompt, [Head(2, 3), Head(0, 1), Head(2, 1)], "rollout")
    expected = attention_rollout(llama, prompt, [2, 0])
    assert [map_key(maps) for maps in shown] == ["2", "0"]
    np.testing.assert_array_equal(np.concatenate([maps.values for maps in shown]), expected.values)


def test_a_head_that_does_not_exist_has_no_moved_norms(llama: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"7\.1|L7H1"):
        Runs().flow(llama, llama.tokenize("The key"), [Head(7, 1)], "moved")


def test_a_prompt_is_tokenised_once(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    tokenize = LanguageModel.tokenize
    monkeypatch.setattr(
        LanguageModel, "tokenize", lambda *args: asked.append(args[1:]) or tokenize(*args)
    )
    runs = Runs()
    first = runs.prompt(llama, "The key", None)
    assert runs.prompt(llama, "The key", None) is first
    assert runs.prompt(llama, "The key", True) is not first
    assert asked == [("The key", None), ("The key", True)]
    for _ in range(2):
        with pytest.raises(UserError):
            runs.prompt(llama, "", None)


def test_a_map_is_looked_through_once(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    monkeypatch.setattr("app.runs.extent_of", lambda *args: looked.append(args) or extent_of(*args))
    runs, prompt = Runs(), llama.tokenize("The key to the cabinets")
    ablation = Ablation((Head(0, 0),), Zero())
    heads = [Head(1, 1), Head(2, 3)]
    cases = [(None, "show"), (None, "renormalise"), (ablation, "show")]
    for _ in range(2):
        found = []
        for what, sink in cases:
            outcome = runs.outcome(llama, prompt, None, heads, what)
            found.append(runs.extents(llama, prompt, outcome.maps, what, sink))
            expected = tuple(extent_of(maps, 0, sink) for maps in outcome.maps)
            assert found[-1] == expected
        moved = runs.flow(llama, prompt, heads, "moved")
        found.append(runs.extents(llama, prompt, moved, None, "show"))
        assert found[-1] == tuple(extent_of(maps, 0, "show") for maps in moved)
        assert len(set(found)) == len(found)
    assert len(looked) == 4 * len(heads)
    assert runs.extents(llama, prompt, (), None, "show") == ()


def test_memory_forgets_the_least_recently_used() -> None:
    memory = Memory(max_bytes=10)
    memory.put("a", 1, 4)
    memory.put("b", 2, 4)
    memory.get("a")
    memory.put("c", 3, 4)
    assert [memory.get(key) for key in "abc"] == [1, None, 3]


def test_memory_does_not_keep_what_is_larger_than_itself() -> None:
    memory = Memory(max_bytes=10)
    memory.put("a", 1, 4)
    memory.put("b", 2, 11)
    assert [memory.get(key) for key in "ab"] == [1, None]


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("", None),
        (" all ", None),
        ("3", (3,)),
        ("3, 5-7", (3, 5, 6, 7)),
        ("2-2,0", (0, 2)),
        ("image, 3", (3, "image")),
    ],
)
def test_positions_as_typed(text: str, positions: tuple[int | str, ...] | None) -> None:
    assert parse_positions(text, 8) == positions


@pytest.mark.parametrize("text", ["x", "1-", "-1", "5-3", "8", "1.5", "99999999999"])
def test_positions_that_cannot_be(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_positions(text, 8)
    assert caught.value.kind == ErrorKind.POSITION


def _maps(values: list[list[list[float]]], heads: list[Head]) -> AttentionMaps:
    n = len(values[0])
    prompt = TokenizedPrompt("x", (0,) * n, ("x",) * n, ("x",) * n, ("text",) * n)
    return AttentionMaps(tuple(heads), np.array(values, np.float32), prompt)


def test_interesting_heads_look_elsewhere_than_at_the_start_and_themselves() -> None:
    resting = [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    itself = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    elsewhere = [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    heads = [Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1)]
    maps = _maps([resting, elsewhere, itself, resting], heads)
    assert interesting_heads(maps, 1) == (Head(0, 1),)
    assert interesting_heads(maps) == (Head(0, 1), Head(1, 0))


def test_spread_heads_exist_and_reach_from_first_to_last_layer() -> None:
    heads = spread_heads(40, 4)
    assert (heads[0].layer, heads[-1].layer) == (0, 39)
    assert all(head.head < 4 for head in heads)
