"""Head metrics and thumbnails of all heads, against plain numpy on plain eager attention.

TOLERANCE is 1e-5, absolute and relative: two correct float32 computations of a probability differ
by about 1e-7 here, and a metric adds up a few of them; a metric of another head, or over other
queries, differs by more than 1e-3 (`test_the_tolerance_tells_heads_and_queries_apart`).
"""

import math
import threading

import numpy as np
import pytest
from reference import attentions
from tiny import FAMILIES, MASKED, prompt_text, tiny_model

from ablation import HEAD_METRICS, Ablation, Head, HeadSummaries, Zero, summarise_heads
from ablation.head_metrics import head_metric_named
from ablation.types import Progress
from models import attention_reading
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel

TOLERANCE = 1e-5


def plain_metrics(rows: np.ndarray, causal: bool) -> dict[str, float]:
    """Return every metric of one head from its map [query, key], spelled out query by query."""
    found: dict[str, list[float]] = {name: [] for name in HEAD_METRICS}
    for i, row in enumerate(rows.astype(float)):
        if causal and i == 0:
            continue
        share = row / row.sum()
        entropy = -sum(p * math.log(p) for p in share if p > 0)
        found["entropy"].append(entropy)
        found["effective_span"].append(math.exp(entropy))
        found["mean_distance"].append(sum(p * abs(i - j) for j, p in enumerate(share)))
        found["self_weight"].append(row[i])
        if i > 0:
            found["previous_weight"].append(row[i - 1])
        found["first_weight"].append(row[0])
        found["largest_weight"].append(max(row))
    return {name: sum(values) / len(values) for name, values in found.items()}


def plain_thumbnail(rows: np.ndarray, step: int) -> np.ndarray:
    n = math.ceil(len(rows) / step)
    cells = [[rows[i * step : (i + 1) * step, j * step : (j + 1) * step] for j in range(n)]
             for i in range(n)]  # fmt: skip
    return np.array([[cell.max() for cell in row] for row in cells])


@pytest.mark.parametrize("block_scores", [1, 40, 100_000], ids=["row", "some rows", "all heads"])
@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_and_thumbnails_equal_numpy_on_eager_attention(
    family: str, block_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_reading, "BLOCK_SCORES", block_scores)
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    maps = attentions(family, prompt.ids).numpy()  # [n_layers, n_heads, query, key]
    summaries = summarise_heads(model, prompt, side=5)
    assert summaries.step == math.ceil(len(prompt) / 5)
    assert summaries.causal == (family not in MASKED)
    for head in model.all_heads():
        rows = maps[head.layer, head.head]
        for name, expected in plain_metrics(rows, summaries.causal).items():
            found = summaries.values_of(name)[head.layer, head.head]
            assert found == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE), (name, head)
        np.testing.assert_allclose(
            summaries.thumbnails[head.layer, head.head],
            plain_thumbnail(rows, summaries.step),
            atol=TOLERANCE,
            rtol=0,
        )


@pytest.mark.parametrize("family", ["gpt2", "gpt_oss", "bert"])
def test_the_tolerance_tells_heads_and_queries_apart(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    causal = family not in MASKED
    values = summarise_heads(model, prompt).values.reshape(len(HEAD_METRICS), -1)
    gaps = np.abs(values[:, :, None] - values[:, None])
    gaps[:, range(values.shape[1]), range(values.shape[1])] = np.inf
    assert gaps.max(axis=0).min() > 100 * TOLERANCE
    first = attentions(family, prompt.ids).numpy()[0, 0]
    other = plain_metrics(first[1:, 1:], causal)  # as if the prompt began one token later
    differing = [abs(other[name] - values[i, 0]) for i, name in enumerate(HEAD_METRICS)]
    assert min(differing[:3]) > 100 * TOLERANCE


def test_what_a_sink_takes_is_seen_in_the_weights_alone() -> None:
    """Guard against a parity test in which scaling rows to sum to 1 would make no difference."""
    model = tiny_model("gpt_oss")
    prompt = model.tokenize(prompt_text("gpt_oss"))
    rows = attentions("gpt_oss", prompt.ids).numpy().astype(float)[:, :, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        unscaled = -np.nansum(rows * np.log(rows), axis=-1).mean(-1)  # [n_layers, n_heads]
    entropy = summarise_heads(model, prompt).values_of("entropy")
    assert np.abs(entropy - unscaled).min() > 10 * TOLERANCE


def test_the_first_query_of_a_causal_model_does_not_count(llama: LanguageModel) -> None:
    prompt = llama.tokenize("The key")
    two = llama.prompt_of_ids(prompt.ids[:2])
    summaries = summarise_heads(llama, two)
    row = llama.attention(two, llama.all_heads()).values[:, 1].reshape(3, 4, 2)
    np.testing.assert_allclose(summaries.values_of("self_weight"), row[..., 1], atol=TOLERANCE)
    np.testing.assert_allclose(summaries.values_of("previous_weight"), row[..., 0], atol=TOLERANCE)
    np.testing.assert_allclose(summaries.values_of("mean_distance"), row[..., 0], atol=TOLERANCE)


def test_a_prompt_of_one_token_has_a_thumbnail_and_no_metric(llama: LanguageModel) -> None:
    one = llama.prompt_of_ids(llama.tokenize("The").ids[:1])
    summaries = summarise_heads(llama, one)
    assert np.isnan(summaries.values).all()
    np.testing.assert_array_equal(summaries.thumbnails, np.ones((3, 4, 1, 1)))
    assert summaries.ranked("entropy") == []
    assert summaries.stopped == "complete"


def test_a_short_prompts_thumbnail_is_its_map(llama: LanguageModel) -> None:
    prompt = llama.tokenize("The key to the cabinets")
    summaries = summarise_heads(llama, prompt)
    maps = llama.attention(prompt, llama.all_heads()).values
    assert summaries.step == 1
    np.testing.assert_allclose(summaries.thumbnails.reshape(maps.shape), maps, atol=TOLERANCE)


def test_an_ablation_is_seen_behind_it(llama: LanguageModel) -> None:
    prompt = llama.tokenize("The key to the cabinets")
    ablation = Ablation((Head(1, 0),), Zero())
    clean, ablated = summarise_heads(llama, prompt), summarise_heads(llama, prompt, ablation)
    assert (clean.ablated, ablated.ablated) == (False, True)
    maps = llama.attention(prompt, llama.all_heads(), ablation).values
    np.testing.assert_allclose(ablated.thumbnails.reshape(maps.shape), maps, atol=TOLERANCE)
    np.testing.assert_array_equal(clean.values[:, :2], ablated.values[:, :2])
    assert np.abs(clean.values[:, 2] - ablated.values[:, 2]).max() > 100 * TOLERANCE


def test_progress_tells_of_every_layer(llama: LanguageModel) -> None:
    told: list[Progress] = []
    summarise_heads(llama, "The key to the cabinets", progress=told.append)
    assert [(at.done, at.total) for at in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1].message == "layer 3 of 3"


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_cancelling_keeps_the_layers_read_and_the_model(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    whole = summarise_heads(model, prompt)
    cancel = threading.Event()

    def after_the_second(at: Progress) -> None:
        if at.done == 2:
            cancel.set()

    partial = summarise_heads(model, prompt, progress=after_the_second, cancel=cancel)
    assert partial.stopped == "cancelled"
    np.testing.assert_array_equal(partial.values[:, :2], whole.values[:, :2])
    assert np.isnan(partial.values[:, 2]).all()
    assert np.isnan(partial.thumbnails[2]).all()
    assert {head.layer for head, _ in partial.ranked("entropy")} == {0, 1}
    again = summarise_heads(model, prompt)
    np.testing.assert_array_equal(again.values, whole.values)


def test_cancelled_within_a_layer_that_layer_is_not_given(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_reading, "BLOCK_SCORES", 1)

    class Later(threading.Event):
        """Is set once it was looked at so many times."""

        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 4 * len(prompt) + 3

    prompt = llama.tokenize("The key to the cabinets")
    partial = summarise_heads(llama, prompt, cancel=Later())
    assert not np.isnan(partial.values[:, 0]).any()
    assert np.isnan(partial.values[:, 1:]).all()


def test_heads_are_ranked_by_a_metric_and_written_out(llama: LanguageModel) -> None:
    prompt = llama.tokenize("The key to the cabinets")
    summaries = summarise_heads(llama, prompt)
    ranked = summaries.ranked("first_weight")
    assert len(ranked) == 12
    assert [value for _, value in ranked] == sorted((v for _, v in ranked), reverse=True)
    head, value = ranked[0]
    frame = summaries.to_frame().set_index(["layer", "head"])
    assert list(frame.columns) == list(HEAD_METRICS)
    assert frame.loc[(head.layer, head.head), "first_weight"] == pytest.approx(value)
    written = summaries.to_json()["metrics"]["first_weight"]
    assert written["values"][head.layer][head.head] == pytest.approx(value)
    assert written["unit"] == "probability"


def test_a_metric_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="entropy") as caught:
        head_metric_named("sharpness")
    assert caught.value.kind == ErrorKind.OPTION


def test_summaries_of_another_shape_are_refused(llama: LanguageModel) -> None:
    good = summarise_heads(llama, "The key")
    with pytest.raises(ValueError, match="thumbnails"):
        HeadSummaries(good.prompt, good.metrics, good.values, good.thumbnails[..., :1], 1, True)
    with pytest.raises(ValueError, match="values"):
        HeadSummaries(good.prompt, good.metrics, good.values[:2], good.thumbnails, 1, True)


@pytest.mark.parametrize("sink", ["hide", "renormalise"])
@pytest.mark.parametrize("step", [1, 3])
def test_thumbnails_without_the_first_token_equal_numpy(sink: str, step: int) -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(prompt_text("llama"))
    maps = attentions("llama", prompt.ids).numpy().copy()  # [n_layers, n_heads, query, key]
    maps[..., 0] = 0
    if sink == "renormalise":
        maps /= np.maximum(maps.sum(-1, keepdims=True), 1e-30)
    whole = summarise_heads(model, prompt)
    side = math.ceil(len(prompt) / step)
    found = summarise_heads(model, prompt, side=side, sink=sink)
    assert found.step == step
    for layer, head in ((0, 1), (2, 3)):
        expected = plain_thumbnail(maps[layer, head], step)
        np.testing.assert_allclose(
            found.thumbnails[layer, head], expected, atol=TOLERANCE, rtol=TOLERANCE
        )
    np.testing.assert_array_equal(found.values, whole.values)  # which are of all attention
