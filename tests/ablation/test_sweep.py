"""The sweep: every head once, equal to one plain forward pass a head, cancellable anywhere."""

import threading

import numpy as np
import pytest
import torch
from reference import kl, log_probs, zero
from tiny import PROMPT, prompt_text, tiny_directory, tiny_model

from ablation import METRICS, Ablation, Progress, Scale, Zero, sweep_heads
from models.budget import MemoryBudget
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.registry import load_model
from models.types import Head

TOLERANCE = 1e-5  # rounding of float32 logits; see test_intervention_parity
SHAPE = (3, 4)


def rows(monkeypatch: pytest.MonkeyPatch, model: LanguageModel, count: int) -> None:
    monkeypatch.setattr(MemoryBudget, "rows", lambda *_: count)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_kl_of_every_head_equals_plain_hooks(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    scores = sweep_heads(model, prompt)
    read_at = model.resolve_position(prompt)
    clean = log_probs(family, prompt.ids, read_at)
    expected = np.empty(SHAPE)
    for layer, head in np.ndindex(SHAPE):
        ablated = log_probs(family, prompt.ids, read_at, [(layer, head, zero)])
        expected[layer, head] = kl(clean, ablated)
    np.testing.assert_allclose(scores.values, expected, atol=TOLERANCE, rtol=1e-4)
    assert expected.min() > 10 * TOLERANCE
    assert scores.stopped == "complete"
    assert scores.metric.name == "kl"
    assert scores.target is None
    assert scores.values.dtype == np.float32
    assert np.array_equal(scores.baseline.log_probs, model.predict(prompt).log_probs)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_at_another_position(llama: LanguageModel, name: str) -> None:
    prompt = llama.tokenize(PROMPT)
    target = 77
    scores = sweep_heads(llama, prompt, Zero(), name, 6, target=target)
    clean = log_probs("llama", prompt.ids, 6)
    for layer, head in np.ndindex(SHAPE):
        ablated = log_probs("llama", prompt.ids, 6, [(layer, head, zero)])
        expected = METRICS[name].compute(clean, ablated[None], target).item()
        assert scores.values[layer, head] == pytest.approx(expected, abs=TOLERANCE, rel=1e-4)
    assert scores.target is not None
    assert scores.target.id == target
    assert scores.target.prob == pytest.approx(float(clean[target].exp()), abs=TOLERANCE)
    assert np.abs(scores.values).max() > 10 * TOLERANCE


def test_text_is_tokenised_and_negative_positions_count_from_the_end(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    last = sweep_heads(llama, prompt).values
    assert np.array_equal(sweep_heads(llama, PROMPT, position=-1).values, last)
    early = sweep_heads(llama, PROMPT, position=-3).values
    assert np.array_equal(early, sweep_heads(llama, prompt, position=len(prompt) - 3).values)
    assert not np.allclose(early, last, atol=TOLERANCE)


def test_what_is_done_at_later_positions_cannot_matter(llama: LanguageModel) -> None:
    later = sweep_heads(llama, PROMPT, position=2, positions=(3, -1)).values
    assert later.max() < 1e-9
    earlier = sweep_heads(llama, PROMPT, position=2, positions=(1, 2)).values
    assert earlier.max() > 10 * TOLERANCE


@pytest.mark.parametrize("count", [1, 5, 12, 64])
def test_the_batch_size_changes_nothing(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    expected = sweep_heads(llama, PROMPT).values
    rows(monkeypatch, llama, count)
    np.testing.assert_allclose(
        sweep_heads(llama, PROMPT).values, expected, atol=TOLERANCE, rtol=TOLERANCE
    )


def test_progress_carries_what_was_found_so_far(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, llama, 5)
    reports: list[Progress] = []
    scores = sweep_heads(llama, PROMPT, progress=reports.append)
    assert [(r.done, r.total) for r in reports] == [(5, 12), (10, 12), (12, 12)]
    for report in reports:
        assert report.partial is not None
        found = report.partial.values.reshape(-1)
        assert np.array_equal(found[: report.done], scores.values.reshape(-1)[: report.done])
        assert np.isnan(found[report.done :]).all()
        assert f"{report.done} of 12" in report.message


@pytest.mark.parametrize("n_batches", [0, 1, 2])
def test_cancelling_keeps_what_was_found_and_leaves_the_model_usable(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, n_batches: int
) -> None:
    rows(monkeypatch, llama, 5)
    complete = sweep_heads(llama, PROMPT)
    cancel = threading.Event()
    if n_batches == 0:
        cancel.set()

    def stop(report: Progress) -> None:
        if report.done == 5 * n_batches:
            cancel.set()

    partial = sweep_heads(llama, PROMPT, progress=stop, cancel=cancel)
    assert partial.stopped == "cancelled"
    found = partial.values.reshape(-1)
    assert np.array_equal(found[: 5 * n_batches], complete.values.reshape(-1)[: 5 * n_batches])
    assert np.isnan(found[5 * n_batches :]).all()
    assert len(partial.ranked()) == 5 * n_batches
    assert np.array_equal(sweep_heads(llama, PROMPT).values, complete.values)


def test_an_error_in_the_middle_leaves_the_model_usable(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, llama, 5)
    complete = sweep_heads(llama, PROMPT)

    def fail(report: Progress) -> None:
        raise KeyError("the page has gone")

    with pytest.raises(KeyError):
        sweep_heads(llama, PROMPT, progress=fail)
    assert np.array_equal(sweep_heads(llama, PROMPT).values, complete.values)


def test_a_head_that_a_layer_lacks_stays_nan(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = tuple(h for h in llama.all_heads() if h != Head(1, 3))
    monkeypatch.setattr(llama, "all_heads", lambda stack: heads)
    values = sweep_heads(llama, PROMPT).values
    assert np.argwhere(np.isnan(values)).tolist() == [[1, 3]]


@pytest.mark.parametrize(
    ("arguments", "kind", "part"),
    [
        ({"metric": "accuracy"}, ErrorKind.OPTION, "'accuracy'; choose one of kl"),
        ({"metric": "target_prob"}, ErrorKind.TARGET, "needs a target token"),
        ({"target": "Mary and John"}, ErrorKind.TARGET, "tokens for this model, not one"),
        ({"target": 320}, ErrorKind.TARGET, "320"),
        ({"position": 999}, ErrorKind.POSITION, "999"),
        ({"positions": (0, 999)}, ErrorKind.POSITION, "999"),
        ({"positions": ()}, ErrorKind.POSITION, "No position"),
        ({"prompt": ""}, ErrorKind.PROMPT, "empty"),
    ],
)
def test_what_does_not_fit_is_refused(
    llama: LanguageModel, arguments: dict[str, object], kind: ErrorKind, part: str
) -> None:
    with pytest.raises(UserError) as raised:
        sweep_heads(llama, **{"prompt": PROMPT, **arguments})
    assert raised.value.kind is kind
    assert part in str(raised.value)


def test_numbers_that_are_not_finite_are_refused() -> None:
    broken = load_model(str(tiny_directory("gpt2")), device="cpu")  # a copy of its own
    with torch.no_grad():
        broken._model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UserError) as raised:
        sweep_heads(broken, PROMPT)
    assert raised.value.kind is ErrorKind.NUMBERS


def test_a_clean_thread_sees_nothing_of_an_ablating_one(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    clean = llama.predict(prompt).log_probs
    swept = sweep_heads(llama, prompt, Scale(-3.0)).values
    ablated = llama.predict(prompt, ablation=Ablation((Head(0, 0),), Scale(-3.0))).log_probs
    assert not np.allclose(clean, ablated, atol=TOLERANCE)
    found: list[np.ndarray] = []
    done = threading.Event()

    def ablate() -> None:
        try:
            found.extend(sweep_heads(llama, prompt, Scale(-3.0)).values for _ in range(5))
        finally:
            done.set()

    thread = threading.Thread(target=ablate)
    thread.start()
    n_clean = 0
    while not done.is_set() or n_clean == 0:
        assert np.array_equal(llama.predict(prompt).log_probs, clean)
        n_clean += 1
    thread.join()
    assert len(found) == 5
    assert all(np.array_equal(values, swept) for values in found)
