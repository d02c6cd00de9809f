"""Interventions as values: notation, table, refusals, and their effect on z worked out by hand."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import PROMPT, tiny_model
from torch import Tensor

from ablation import Ablation
from ablation.interventions import (
    INTERVENTIONS,
    Intervention,
    Knockout,
    Mean,
    Permute,
    Resample,
    Scale,
    Sparsify,
    Zero,
    parse_intervention,
)
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import Head

# --- The notation. ---

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(min_size=1, max_size=20)
positions = st.none() | st.lists(st.integers(-99, 99), min_size=1, max_size=5).map(tuple)
interventions = st.one_of(
    st.just(Zero()),
    finite.map(Scale),
    st.lists(texts, max_size=4).map(lambda given: Mean(tuple(given))),
    texts.map(Resample),
    st.integers(0, 2**32 - 1).map(Permute),
    st.floats(0, 1e6).map(lambda value: Sparsify(threshold=value)),
    st.floats(0, 1).map(lambda value: Sparsify(fraction=value)),
    st.builds(Knockout, positions, positions),
)


@given(interventions)
def test_a_spec_reads_back_as_the_same_value(intervention: Intervention) -> None:
    again = parse_intervention(intervention.spec)
    assert again == intervention
    assert hash(again) == hash(intervention)
    assert again.spec == intervention.spec
    assert again.label == intervention.label != ""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("zero", Zero()),
        (" ZERO ", Zero()),
        ("scale:0.5", Scale(0.5)),
        ("scale: -1", Scale(-1)),
        ("mean", Mean()),
        ("mean:", Mean()),
        ("mean:The cat", Mean(("The cat",))),
        ("mean:The cat|| the dog: a", Mean(("The cat", " the dog: a"))),
        (r"mean:a\|b||c\\d||e\f", Mean(("a|b", "c\\d", "e\\f"))),
        ("resample: a || b", Resample(" a || b")),
        ("permute", Permute(0)),
        ("permute:7", Permute(7)),
        ("sparsify:threshold=0.1", Sparsify(threshold=0.1)),
        ("sparsify: fraction = .2", Sparsify(fraction=0.2)),
        ("knockout:13>1,4", Knockout((13,), (1, 4))),
        ("knockout:*>0", Knockout(None, (0,))),
        ("knockout:-1>0-3, 5", Knockout((-1,), (0, 1, 2, 3, 5))),
        ("knockout:4>*", Knockout((4,), None)),
    ],
)
def test_reads_the_notation(spec: str, expected: Intervention) -> None:
    assert parse_intervention(spec) == expected


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("", "There is no intervention ''"),
        ("ablate", "choose one of zero, scale, mean"),
        ("zero:1", "takes no parameter"),
        ("scale", "needs its factor; write scale:FACTOR"),
        ("scale:much", "must be a number, not 'much'"),
        ("scale:nan", "must be a number, not 'nan'"),
        ("scale:inf", "must be a number, not 'inf'"),
        ("scale:1e999", "must be a number"),
        ("mean:a||||b", "reference prompt of the mean is empty"),
        ("resample:", "needs its source prompt"),
        ("permute:-1", "from 0 to 4294967295, not '-1'"),
        ("permute:1.5", "whole number, not '1.5'"),
        ("sparsify", "write sparsify:threshold=0.1"),
        ("sparsify:0.1", "write sparsify:threshold=0.1"),
        ("sparsify:threshold=", "give exactly one"),
        ("sparsify:threshold=-1", "of at least 0, not '-1'"),
        ("sparsify:fraction=1.5", "from 0 to 1, not '1.5'"),
        ("sparsify:fraction=nan", "from 0 to 1, not 'nan'"),
        ("knockout", "write QUERIES>KEYS"),
        ("knockout:3", "write QUERIES>KEYS"),
        ("knockout:>3", "write QUERIES>KEYS"),
        ("knockout:a>3", "Cannot read 'a' as positions"),
        ("knockout:3-1>0", "Cannot read '3-1' as positions"),
        ("knockout:3>,", "keys of knockout are empty"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(spec: str, part: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_intervention(spec)
    assert raised.value.kind is ErrorKind.INTERVENTION
    assert part in str(raised.value)


@given(st.text(max_size=40), st.sampled_from(["", *INTERVENTIONS]))
def test_any_text_is_read_or_refused(argument: str, name: str) -> None:
    """Nothing else may be raised: any other exception is a defect."""
    with suppress(UserError):
        assert parse_intervention(f"{name}:{argument}").label


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    for make in (
        lambda: Scale(value),
        lambda: Sparsify(threshold=value),
        lambda: Sparsify(fraction=value),
        lambda: Permute(value),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match="must be a number"):
            make()


@pytest.mark.parametrize("given_both", [{}, {"threshold": 0.1, "fraction": 0.1}])
def test_sparsify_takes_exactly_one_parameter(given_both: dict[str, float]) -> None:
    with pytest.raises(UserError, match="give exactly one"):
        Sparsify(**given_both)


def test_values_compare_by_content() -> None:
    assert Scale(2) == Scale(2.0) != Scale(3)
    assert Mean(["a", "b"]) == Mean(("a", "b"))  # type: ignore[arg-type]
    assert Mean("one prompt") == Mean(("one prompt",))  # type: ignore[arg-type]
    assert Knockout((4, 1, 4), (0,)) == Knockout((1, 4), (0,))
    assert len({Zero(), Zero(), Permute(1), Permute(1), Permute(2)}) == 3


# --- The table. ---


def test_the_table_names_each_intervention_once_and_describes_it() -> None:
    assert list(INTERVENTIONS) == [
        "zero",
        "scale",
        "mean",
        "resample",
        "permute",
        "sparsify",
        "knockout",
    ]
    for name, entry in INTERVENTIONS.items():
        assert entry.name == name
        assert entry.label
        assert entry.description.endswith(".")
        assert entry.usage.startswith(name)
        for parameter in entry.parameters:
            assert parameter.kind in {"number", "integer", "text", "lines", "positions"}
            assert parameter.help


def test_what_a_form_holds_at_first_builds_unless_a_text_is_needed() -> None:
    built = {}
    for name, entry in INTERVENTIONS.items():
        if name != "resample":
            built[name] = entry.build(**{p.name: p.default for p in entry.parameters})
    assert built == {
        "zero": Zero(),
        "scale": Scale(0.5),
        "mean": Mean(),
        "permute": Permute(0),
        "sparsify": Sparsify(fraction=0.25),
        "knockout": Knockout(None, (0,)),
    }


def test_forms_give_texts_numbers_or_nothing() -> None:
    build = {name: entry.build for name, entry in INTERVENTIONS.items()}
    assert build["scale"](factor="0.5") == Scale(0.5)
    assert build["permute"](seed=3.0) == Permute(3)
    assert build["permute"](seed=None) == Permute(0)
    assert build["mean"](references="one\n\n  two\n") == Mean(("one", "  two"))
    assert build["mean"](references=["one", "two"]) == Mean(("one", "two"))
    assert build["sparsify"](threshold=0.1, fraction=None) == Sparsify(threshold=0.1)
    assert build["sparsify"](threshold=0.1, fraction="") == Sparsify(threshold=0.1)
    assert build["knockout"](queries="3, 5-6", keys="*") == Knockout((3, 5, 6), None)
    assert build["knockout"](queries=(3,), keys=None) == Knockout((3,), None)


@pytest.mark.parametrize(
    ("name", "values", "part"),
    [
        ("scale", {"factor": None}, "needs its factor"),
        ("resample", {"source": ""}, "needs its source prompt"),
        ("zero", {"factor": 1}, "no parameter 'factor'"),
        ("permute", {"seed": 10**400}, "must be a number"),
    ],
)
def test_a_form_that_does_not_fit_is_refused(
    name: str, values: dict[str, object], part: str
) -> None:
    with pytest.raises(UserError, match=part):
        INTERVENTIONS[name].build(**values)


# --- What they do to z, by hand. ---


def edited(
    model: LanguageModel,
    intervention: Intervention,
    z: list[list[float]],
    positions: tuple[int, ...] | None = None,
) -> list[list[float]]:
    """Edit z [position, d_head] as a model would that has head 1 of layer 0 ablated."""
    prompt = model.prompt_of_ids(range(10, 10 + len(z)))
    editor = intervention.prepare(model, prompt, [Head(0, 1)], positions)
    assert editor.blocked is None
    before = torch.tensor([z], dtype=torch.float64)
    after = editor.edit_z(before, 0, torch.tensor([1]))
    assert torch.equal(before, torch.tensor([z], dtype=torch.float64)), "edited in place"
    return after[0].tolist()


def test_zero_scale_and_mean_by_hand(llama: LanguageModel) -> None:
    z = [[1.0, -2.0], [3.0, 4.0]]
    assert edited(llama, Zero(), z) == [[0.0, 0.0], [0.0, 0.0]]
    assert edited(llama, Scale(-0.5), z) == [[-0.5, 1.0], [-1.5, -2.0]]
    assert edited(llama, Mean(), z) == [[2.0, 1.0], [2.0, 1.0]]


def test_zeroing_silences_an_infinite_output_too(llama: LanguageModel) -> None:
    assert edited(llama, Zero(), [[math.inf, 1.0]]) == [[0.0, 0.0]]


def test_sparsify_by_hand(llama: LanguageModel) -> None:
    z = [[1.0, -2.0], [3.0, -0.5]]
    assert edited(llama, Sparsify(threshold=1.0), z) == [[1.0, -2.0], [3.0, 0.0]]
    assert edited(llama, Sparsify(threshold=0.0), z) == z
    assert edited(llama, Sparsify(fraction=0.5), z) == [[0.0, -2.0], [3.0, 0.0]]
    assert edited(llama, Sparsify(fraction=0.0), z) == [[0.0, 0.0], [0.0, 0.0]]
    assert edited(llama, Sparsify(fraction=1.0), z) == z
    # 0.6 of four entries are 2.4, so 2; 0.625 are 2.5, so 3.
    assert edited(llama, Sparsify(fraction=0.6), z) == [[0.0, -2.0], [3.0, 0.0]]
    assert edited(llama, Sparsify(fraction=0.625), z) == [[1.0, -2.0], [3.0, 0.0]]
    # Of equal entries the first ones stay.
    assert edited(llama, Sparsify(fraction=0.5), [[1.0, -1.0], [1.0, 1.0]]) == [[1, -1], [0, 0]]


def test_sparsify_counts_its_fraction_over_the_positions_acted_on(llama: LanguageModel) -> None:
    z = [[9.0, 8.0], [1.0, 2.0], [7.0, 6.0]]
    after = edited(llama, Sparsify(fraction=0.5), z, positions=(1,))
    assert after[1] == [0.0, 2.0]


PINNED = [1, 3, 2, 0]
"""Seed 1's shuffle of four: a saved link or script has to mean the same one tomorrow."""


def test_permute_by_hand(llama: LanguageModel) -> None:
    assert Permute(1).permutation(4).tolist() == PINNED
    z = [[0.0], [1.0], [2.0], [3.0]]
    assert edited(llama, Permute(1), z) == [[1.0], [3.0], [2.0], [0.0]]


def test_permute_shuffles_among_the_chosen_positions_only(llama: LanguageModel) -> None:
    z = [[float(i)] for i in range(8)]
    chosen = (1, 3, 4, 6)
    after = [row[0] for row in edited(llama, Permute(1), z, chosen)]
    assert [after[i] for i in (0, 2, 5, 7)] == [0.0, 2.0, 5.0, 7.0]
    assert [after[i] for i in chosen] == [float(chosen[i]) for i in PINNED]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_a_permutation_is_one_and_follows_from_seed_and_count(seed: int, count: int) -> None:
    order = Permute(seed).permutation(count)
    assert sorted(order.tolist()) == list(range(count))
    assert torch.equal(order, Permute(seed).permutation(count))


# --- Knockout. ---


def blocked(
    model: LanguageModel,
    intervention: Knockout,
    n: int = 4,
    positions: tuple[int, ...] | None = None,
) -> list[str]:
    """Return one string a query, with x where it may not attend to a key."""
    prompt = model.prompt_of_ids(range(10, 10 + n))
    matrix = intervention.prepare(model, prompt, [Head(0, 0)], positions).blocked
    assert isinstance(matrix, Tensor)
    return ["".join("x" if cell else "." for cell in row) for row in matrix.tolist()]


def test_knockout_by_hand(llama: LanguageModel) -> None:
    assert blocked(llama, Knockout((3,), (0, 1))) == ["....", "....", "....", "xx.."]
    assert blocked(llama, Knockout((-1,), (-2,))) == ["....", "....", "....", "..x."]
    # Every query but the first, whose only key is itself.
    assert blocked(llama, Knockout(None, (0,))) == ["....", "x...", "x...", "x..."]
    # Every key but the query's own.
    assert blocked(llama, Knockout((2,), None)) == ["....", "....", "xx.x", "...."]
    assert blocked(llama, Knockout(None, None))[3] == "xxx."


def test_knockout_acts_at_the_chosen_positions_only(llama: LanguageModel) -> None:
    assert blocked(llama, Knockout(None, (0,)), positions=(2,)) == ["....", "....", "x...", "...."]
    assert blocked(llama, Knockout((1, 2), (0,)), positions=(2, 3))[1] == "...."


def test_a_query_named_that_would_keep_no_key_is_refused(llama: LanguageModel) -> None:
    for knockout, query in [
        (Knockout((0,), (0,)), 0),
        (Knockout((1,), (0, 1)), 1),
        (Knockout((3, 2), (0, 1, 2)), 2),
    ]:
        with pytest.raises(UserError, match=f"leave position {query} no key") as raised:
            blocked(llama, knockout)
        assert raised.value.kind is ErrorKind.INTERVENTION


def test_positions_of_a_knockout_have_to_be_in_the_prompt(llama: LanguageModel) -> None:
    for knockout, part in [
        (Knockout((4,), (0,)), "Position 4 of the queries of knockout"),
        (Knockout((1,), (-5,)), "Position -5 of the keys of knockout"),
    ]:
        with pytest.raises(UserError, match=part) as raised:
            blocked(llama, knockout)
        assert raised.value.kind is ErrorKind.POSITION
        assert "0 to 3" in str(raised.value)


# --- Other prompts. ---


def test_resample_needs_a_source_of_equal_length(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    source = llama.tokenize("The cat sat")
    with pytest.raises(UserError) as raised:
        Resample("The cat sat").prepare(llama, prompt, llama.all_heads(), None)
    assert raised.value.kind is ErrorKind.INTERVENTION
    message = str(raised.value)
    assert f"{len(prompt)} tokens" in message
    assert f"source has {len(source)}" in message
    assert " ".join(source.labels) in message
    assert prompt.labels[-1] in message


def test_a_reference_that_is_no_prompt_is_named(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    long = "word " * 500
    for intervention in (Mean((PROMPT, long)), Resample(long)):
        with pytest.raises(UserError, match="'word word") as raised:
            intervention.prepare(llama, prompt, llama.all_heads(), None)
        assert raised.value.kind is ErrorKind.INTERVENTION


def test_references_open_as_the_prompt_does(llama: LanguageModel) -> None:
    """A prompt with a beginning-of-sequence token is compared with references that have one."""
    text = "The cat sat on the mat."
    for bos in (False, True):
        prompt = llama.tokenize(text, bos=bos)
        editor = Resample(text).prepare(llama, prompt, llama.all_heads(), None)
        clean = llama.head_outputs(prompt, [1])[1]  # [position, n_heads, d_head]
        given_z = editor.edit_z(torch.zeros(1, *clean[:, 2].shape), 1, torch.tensor([2]))
        torch.testing.assert_close(given_z[0], clean[:, 2], rtol=0, atol=0)


def test_another_special_token_in_front_is_no_opening_token() -> None:
    bert = tiny_model("bert")
    prompt = bert.tokenize("[MASK] sat on the mat", bos=False)
    assert prompt.labels[0] == "[MASK]"
    clean = bert.predict(prompt)
    itself = bert.predict(prompt, ablation=Ablation(bert.all_heads(), Resample(prompt.text)))
    np.testing.assert_allclose(itself.log_probs, clean.log_probs, atol=1e-6)
