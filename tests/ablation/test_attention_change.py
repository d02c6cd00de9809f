"""How much attention changes between two runs: equal to eager attention, in plain numpy."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import attentions, edited_heads, zero
from tiny import PROMPT, prompt_text, tiny_model

from ablation import Ablation, Progress, Zero, compare_attention
from ablation.attention_change import (
    attention_change,
    to_json,
    with_ablation,
    with_model,
    with_prompt,
)
from ablation.paired_reading import head_changes, map_change, row_divergences
from models.attention_inputs import Inputs
from models.errors import ErrorKind, UserError
from models.forward_pass import ForwardPass
from models.language_model import LanguageModel
from models.types import FloatArray, Head

TOLERANCE = 1e-6  # of a divergence, which is quadratic in the maps' differences of about 1e-7
OTHER = "When John and Mary went to the store, Mary gave a drink to"


def by_hand(p: FloatArray, q: FloatArray) -> float:
    """Return the mean Jensen-Shannon divergence of two maps [query, key], row by row."""
    found = []
    for one, other in zip(p.astype(float), q.astype(float), strict=True):
        middle = [(a + b) / 2 for a, b in zip(one, other, strict=True)]
        halves = [
            sum(a * math.log(a / m) for a, m in zip(row, middle, strict=True) if a > 0)
            for row in (one, other)
        ]
        found.append(sum(halves) / 2)
    return float(np.mean(found))


def expected(before: FloatArray, after: FloatArray) -> FloatArray:
    """Return the same of all maps [n_layers, n_heads, query, key]."""
    found = np.empty((3, 4))
    for layer, head in np.ndindex(3, 4):
        found[layer, head] = by_hand(before[layer, head], after[layer, head])
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_two_prompts_of_as_many_tokens(family: str) -> None:
    model = tiny_model(family)
    prompt, other = model.tokenize(PROMPT), model.tokenize(OTHER)
    change = attention_change(with_prompt(model, prompt, other))
    maps = [attentions(family, p.ids).numpy() for p in (prompt, other)]
    np.testing.assert_allclose(change.values, expected(*maps), atol=TOLERANCE, rtol=0)
    assert change.values.min() > 10 * TOLERANCE
    assert change.stopped == "complete"
    assert change.metric.unit == "nats"


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_two_models_of_one_tokenizer(family: str) -> None:
    model, other = tiny_model(family), tiny_model(family, 3)
    prompt = model.tokenize(PROMPT)
    change = attention_change(with_model(model, prompt, other))
    theirs = other.attention(prompt, other.all_heads()).values.reshape(3, 4, len(prompt), -1)
    maps = attentions(family, prompt.ids).numpy()
    np.testing.assert_allclose(change.values, expected(maps, theirs), atol=TOLERANCE, rtol=0)
    assert change.values.min() > 10 * TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_clean_against_ablated(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(PROMPT)
    ablation = Ablation((Head(0, 1), Head(0, 3)), Zero())
    change = attention_change(with_ablation(model, prompt, ablation))
    with edited_heads(family, [(0, 1, zero), (0, 3, zero)]) as edited, torch.no_grad():
        ids = torch.tensor([list(prompt.ids)])
        output = edited(input_ids=ids, output_attentions=True, use_cache=False)
    theirs = torch.stack(output.attentions)[:, 0].numpy()
    maps = attentions(family, prompt.ids).numpy()
    np.testing.assert_allclose(change.values, expected(maps, theirs), atol=TOLERANCE, rtol=0)
    assert change.values[0].max() < TOLERANCE, "what comes before the ablation cannot change"
    assert change.values[1:].min() > 10 * TOLERANCE


@pytest.mark.parametrize("family", ["bert", "gpt_oss", "mistral"])
def test_a_run_does_not_differ_from_itself(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    change = attention_change(with_prompt(model, prompt, prompt))
    assert change.values.max() == 0


# --- the divergence ---


def divergences(before: FloatArray, after: FloatArray) -> FloatArray:
    return row_divergences(torch.from_numpy(before), torch.from_numpy(after)).numpy()


def test_rows_worked_out_by_hand() -> None:
    before = np.array([[1, 0], [1, 0], [0.5, 0.5]], np.float32)
    after = np.array([[0, 1], [0.5, 0.5], [0.5, 0.5]], np.float32)
    # KL((1, 0) || (3/4, 1/4)) = ln 4/3; KL((1/2, 1/2) || (3/4, 1/4)) = ln 2/sqrt 3
    half = (math.log(4 / 3) + math.log(2 / math.sqrt(3))) / 2
    np.testing.assert_allclose(divergences(before, after), [math.log(2), half, 0], atol=1e-12)


def test_what_sinks_took_counts_as_one_more_key() -> None:
    before = np.array([[0.5, 0.0]], np.float32)  # half in the sink
    after = np.array([[0.0, 0.5]], np.float32)
    # (1/2, 0, 1/2) and (0, 1/2, 1/2): half of each disjoint, half alike.
    np.testing.assert_allclose(divergences(before, after), [math.log(2) / 2], atol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_blocks_of_rows_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    maps = generator.dirichlet(np.full(6, 0.3), (2, 11)).astype(np.float32)
    monkeypatch.setattr("ablation.paired_reading.BLOCK_WEIGHTS", block)
    assert map_change(*maps) == pytest.approx(by_hand(*maps), abs=1e-6)


@pytest.mark.parametrize("block", [1, 40, 700])
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "bert"])
def test_blocks_of_a_layer_change_nothing(
    family: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    pair = with_ablation(model, prompt, Ablation((Head(0, 1),), Zero()))
    whole = attention_change(pair).values
    assert whole[1:].min() > 10 * TOLERANCE
    monkeypatch.setattr("ablation.paired_reading.BLOCK_WEIGHTS", block)
    np.testing.assert_allclose(attention_change(pair).values, whole, atol=TOLERANCE, rtol=0)


# --- memory, progress, cancelling ---


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each forward pass that came to its end."""
    found: list[int] = []
    run = ForwardPass.logits_at

    def counted(self: ForwardPass, ids: list[list[int]], *args: object) -> object:
        logits = run(self, ids, *args)
        found.append(len(ids[0]))
        return logits

    monkeypatch.setattr(ForwardPass, "logits_at", counted)
    return found


def test_each_run_goes_through_the_model_once(llama: LanguageModel, passes: list[int]) -> None:
    attention_change(with_prompt(llama, llama.tokenize(PROMPT), llama.tokenize(OTHER)))
    assert len(passes) == 2


def test_the_values_are_not_kept_of_the_first_run(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is queries and keys, in memory of their own: maps are never there."""
    kept: list[Inputs] = []

    def noted(before: Inputs, *args: object) -> FloatArray:
        kept.append(before)
        return head_changes(before, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("ablation.paired_reading.head_changes", noted)
    prompt = llama.tokenize(PROMPT)
    attention_change(with_prompt(llama, prompt, prompt))
    sizes = [
        tensor.untyped_storage().nbytes() for i in kept for tensor in (i.query, i.key, i.value)
    ]
    a_query_head = 4 * len(prompt) * llama.d_head
    assert sizes == [4 * a_query_head, llama.n_kv_heads * a_query_head, 0] * 3


def test_layers_of_which_not_all_fit_are_read_in_parts(
    llama: LanguageModel, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = with_prompt(llama, llama.tokenize(PROMPT), llama.tokenize(OTHER))
    whole = attention_change(pair)
    monkeypatch.setattr("ablation.paired_reading.KEPT_BYTES", 1)
    np.testing.assert_array_equal(attention_change(pair).values, whole.values)
    assert len(passes) == 2 + 2 * 3


def test_progress_tells_of_every_layer_and_cancelling_keeps_those_compared(
    llama: LanguageModel,
) -> None:
    pair = with_prompt(llama, llama.tokenize(PROMPT), llama.tokenize(OTHER))
    whole = attention_change(pair)
    reports: list[Progress] = []
    cancel = threading.Event()

    def stop(report: Progress) -> None:
        reports.append(report)
        if report.done == 8:
            cancel.set()

    partial = attention_change(pair, progress=stop, cancel=cancel)
    assert partial.stopped == "cancelled"
    assert [(r.done, r.total) for r in reports] == [(0, 12)] * 3 + [(4, 12), (8, 12)]
    assert [r.message for r in reports[2:4]] == ["first run, layer 3 of 3", "4 of 12 heads"]
    np.testing.assert_array_equal(partial.values[:2], whole.values[:2])
    assert np.isnan(partial.values[2]).all()
    assert reports[3].partial is not None
    assert np.isnan(reports[3].partial.values[1:]).all()
    nothing = attention_change(pair, cancel=cancel)
    assert (nothing.stopped, nothing.ranked()) == ("cancelled", [])


def test_of_a_model_that_does_not_dispatch_one_head_at_a_time_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("gptj")
    pair = with_prompt(model, model.tokenize(PROMPT), model.tokenize(OTHER))
    whole = attention_change(pair)
    monkeypatch.setattr("ablation.attention_change.SIDE_BYTES", 1)
    reports: list[Progress] = []
    cancel = threading.Event()

    def stop(report: Progress) -> None:
        reports.append(report)
        if report.done == 5:
            cancel.set()

    np.testing.assert_array_equal(attention_change(pair).values, whole.values)
    partial = attention_change(pair, progress=stop, cancel=cancel)
    assert partial.stopped == "cancelled"
    assert [(r.done, r.total) for r in reports] == [(i, 12) for i in range(1, 6)]
    found = partial.values.reshape(-1)
    np.testing.assert_array_equal(found[:5], whole.values.reshape(-1)[:5])
    assert np.isnan(found[5:]).all()
    assert reports[0].partial is not None
    assert np.isnan(reports[0].partial.values.reshape(-1)[1:]).all()


# --- what cannot be compared ---


def test_prompts_of_other_lengths_are_refused(gpt2: LanguageModel) -> None:
    prompt, other = gpt2.tokenize("The cat"), gpt2.tokenize("The cat sat on")
    with pytest.raises(UserError, match=r"have \d+ and \d+ tokens; compare two") as raised:
        with_prompt(gpt2, prompt, other)
    assert raised.value.kind is ErrorKind.PROMPT


def test_models_with_another_tokenizer_are_refused(gpt2: LanguageModel) -> None:
    with pytest.raises(UserError, match="different tokens") as raised:
        with_model(gpt2, gpt2.tokenize(PROMPT), tiny_model("bert"))
    assert raised.value.kind is ErrorKind.MODEL


def test_models_of_another_shape_are_refused(
    gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_model("llama")
    deeper = replace(other.stacks.stacks[0], n_layers=7)
    monkeypatch.setattr(other, "stacks", replace(other.stacks, stacks=(deeper,)))
    with pytest.raises(UserError, match=r"3 layers of 4 heads and .* 7 of 4"):
        with_model(gpt2, gpt2.tokenize(PROMPT), other)


def test_one_function_does_all_three(gpt2: LanguageModel) -> None:
    prompt, other = gpt2.tokenize(PROMPT), gpt2.tokenize(OTHER)
    ablation = Ablation((Head(0, 1),), Zero())
    for given, pair in (
        ({"other_prompt": OTHER}, with_prompt(gpt2, prompt, other)),
        (
            {"other_model": tiny_model("gpt2", 3)},
            with_model(gpt2, prompt, tiny_model("gpt2", 3)),
        ),
        ({"ablation": ablation}, with_ablation(gpt2, prompt, ablation)),
    ):
        values = compare_attention(gpt2, PROMPT, **given).values
        np.testing.assert_array_equal(values, attention_change(pair).values)
    with pytest.raises(UserError, match="0 were given"):
        compare_attention(gpt2, PROMPT)
    with pytest.raises(UserError, match="2 were given"):
        compare_attention(gpt2, PROMPT, other_prompt=OTHER, ablation=ablation)


def test_a_comparison_writes_out(gpt2: LanguageModel) -> None:
    prompt = gpt2.tokenize(PROMPT)
    pair = with_ablation(gpt2, prompt, Ablation((Head(0, 1),), Zero()))
    written = to_json(pair, attention_change(pair))
    assert written["comparison"] == "clean against ablated (zero)"
    assert written["other"]["ablated_heads"] == [[0, 1]]
    assert np.array(written["scores"]).shape == (3, 4)
    assert (written["metric"], written["unit"]) == ("js", "nats")
