"""The model as the rest of the program uses it: refusals, threads, batches, many states."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import PROMPT, tiny_directory, tiny_model
from transformers import AutoTokenizer

from ablation import Ablation, Zero
from models.attention_tap import TapRequest, active, active_request
from models.errors import ErrorKind, UserError
from models.forward_pass import float64_device
from models.language_model import LanguageModel
from models.registry import load_model
from models.types import Head


def test_a_run_gives_the_prediction_and_the_maps_in_the_order_asked(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    heads = (Head(2, 3), Head(0, 1), Head(2, 0), Head(0, 1))
    run = llama.run(prompt, heads=heads, top_k=7)
    assert run.attention.heads == heads
    assert run.attention.values.dtype == np.float32
    single = [llama.attention(prompt, [head]).values[0] for head in heads]
    np.testing.assert_array_equal(run.attention.values, np.stack(single))
    probs = [token.prob for token in run.prediction.top]
    assert len(probs) == 7
    assert probs == sorted(probs, reverse=True)
    assert np.exp(run.prediction.log_probs).sum() == pytest.approx(1, abs=1e-12)
    p = np.exp(run.prediction.log_probs)
    assert run.prediction.entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)
    assert run.prediction.rank(run.prediction.top[2].id) == 3


@pytest.mark.parametrize(
    "head", [Head(3, 0), Head(0, 4), Head(-1, 0), Head(0, -1), Head(0, 0, "vision")]
)
def test_heads_that_do_not_exist_are_refused_by_name(llama: LanguageModel, head: Head) -> None:
    with pytest.raises(UserError, match=str(head).replace(".", r"\.")) as refusal:
        llama.attention(llama.tokenize(PROMPT), [head])
    assert refusal.value.kind is ErrorKind.HEADS
    assert "0 to 2" in str(refusal.value)


@pytest.mark.parametrize("position", [99, -99, 18, -19])
def test_positions_outside_the_prompt_are_refused(llama: LanguageModel, position: int) -> None:
    with pytest.raises(UserError) as refusal:
        llama.predict(llama.tokenize(PROMPT), position)
    assert refusal.value.kind is ErrorKind.POSITION


@pytest.fixture
def with_changed_tokenizer(tmp_path: Path) -> Callable[..., LanguageModel]:
    """Load a family whose tokenizer was changed."""

    def load(family: str, change: Callable[[Any], object]) -> LanguageModel:
        shutil.copytree(tiny_directory(family), tmp_path, dirs_exist_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        change(tokenizer)
        tokenizer.save_pretrained(tmp_path)
        return load_model(str(tmp_path), device="cpu")

    return load


def test_tokens_that_the_model_has_no_embedding_of_are_refused(
    with_changed_tokenizer: Callable[..., LanguageModel],
) -> None:
    model = with_changed_tokenizer("gpt2", lambda tokenizer: tokenizer.add_tokens(["<extra>"]))
    with pytest.raises(UserError, match="<extra>") as refusal:
        model.tokenize("a<extra>b")
    assert refusal.value.kind is ErrorKind.PROMPT
    with pytest.raises(UserError) as refusal:
        model.resolve_token("<extra>")
    assert refusal.value.kind is ErrorKind.TARGET
    for ids in ([], [-1], [320]):
        with pytest.raises(UserError):
            model.prompt_of_ids(ids)


@pytest.mark.parametrize(("family", "n"), [("bert", 130), ("roberta", 129), ("opt", 128)])
def test_the_longest_prompt_runs_when_the_tokenizer_states_no_length(
    family: str, n: int, with_changed_tokenizer: Callable[..., LanguageModel]
) -> None:
    """RoBERTa's table has as many rows as BERT's, and one less serves a token."""

    def state_none(tokenizer: Any) -> None:
        tokenizer.model_max_length = int(1e30)

    model = with_changed_tokenizer(family, state_none)
    assert model.max_positions == n
    model.predict(model.prompt_of_ids([5 + i % 200 for i in range(n)]), -1)


def test_float64_numbers_live_where_there_are_any() -> None:
    assert float64_device(torch.device("mps", 0)) == torch.device("cpu")
    for name in ("cpu", "cuda:1"):
        assert float64_device(torch.device(name)) == torch.device(name)


def test_acting_on_no_position_is_refused(llama: LanguageModel) -> None:
    ablation = Ablation((Head(0, 0),), Zero(), positions=())
    with pytest.raises(UserError, match="No position"):
        llama.predict(llama.tokenize(PROMPT), ablation=ablation)


def test_a_masked_model_reads_at_its_first_mask_token_or_says_that_there_is_none() -> None:
    bert = tiny_model("bert")
    prompt = bert.tokenize("the [MASK] sat on the [MASK]")
    assert prompt.labels[bert.resolve_position(prompt)] == "[MASK]"
    assert bert.resolve_position(prompt) == prompt.labels.index("[MASK]")
    with pytest.raises(UserError, match=r"\[MASK\]"):
        bert.predict(bert.tokenize("the cat"))
    # Looking needs no mask token.
    assert bert.attention(bert.tokenize("the cat"), [Head(0, 0)]).values.shape[0] == 1


def test_weights_that_become_nan_are_reported_and_leave_the_model_usable() -> None:
    model = load_model(str(tiny_directory("llama")), device="cpu")
    prompt = model.tokenize(PROMPT)
    before = model.predict(prompt).log_probs
    weight = model._model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        kept = float(weight[0, 0])
        weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite") as refusal:
        model.predict(prompt)
    assert refusal.value.kind is ErrorKind.NUMBERS
    with torch.no_grad():
        weight[0, 0] = kept
    np.testing.assert_array_equal(model.predict(prompt).log_probs, before)


def test_batch_size_and_order_change_nothing(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    heads = llama.all_heads()
    together = llama.ablated_logprobs(prompt, [[h] for h in heads], Zero())
    backwards = llama.ablated_logprobs(prompt, [[h] for h in reversed(heads)], Zero()).flip(0)
    alone = torch.cat([llama.ablated_logprobs(prompt, [[h]], Zero()) for h in heads])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(backwards, alone, atol=1e-5, rtol=0)


def test_threads_cannot_see_each_others_requests() -> None:
    model = tiny_model("gpt2")
    prompt = model.tokenize(PROMPT)
    clean = model.predict(prompt).log_probs
    ablation = Ablation((Head(1, 2),), Zero())
    ablated = model.predict(prompt, ablation=ablation).log_probs
    wrong: list[str] = []
    start = threading.Barrier(4)

    def work(i: int) -> None:
        start.wait()
        for _ in range(25):
            if i % 2:
                got, expected = model.predict(prompt).log_probs, clean
            else:
                got, expected = model.predict(prompt, ablation=ablation).log_probs, ablated
            if not np.array_equal(got, expected):
                wrong.append(f"thread {i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not np.array_equal(clean, ablated)


def test_a_request_lives_in_its_own_thread_only() -> None:
    seen: list[object] = []
    with active(TapRequest()):
        thread = threading.Thread(target=lambda: seen.append(active_request()))
        thread.start()
        thread.join()
        assert active_request() is not None
    assert seen == [None]
    assert active_request() is None


def test_a_failing_run_leaves_nothing_behind(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    before = llama.predict(prompt).log_probs
    n_hooks = sum(len(m._forward_pre_hooks) for m in llama._model.modules())

    class Failing:
        blocked = None

        def prepare(self, *_: object) -> "Failing":
            return self

        def edit_z(self, *_: object) -> torch.Tensor:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        llama.predict(prompt, ablation=Ablation((Head(0, 0),), Failing()))  # type: ignore[arg-type]
    assert active_request() is None
    assert n_hooks == sum(len(m._forward_pre_hooks) for m in llama._model.modules())
    np.testing.assert_array_equal(llama.predict(prompt).log_probs, before)


def test_token_detail_tells_what_the_embedding_table_holds(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    detail = llama.token_detail(prompt, 3)
    row = llama._model.get_input_embeddings().weight[prompt.ids[3]]
    assert detail.label == prompt.labels[3]
    assert detail.embedding_norm == pytest.approx(float(row.square().sum().sqrt()), rel=1e-6)
    np.testing.assert_array_equal(detail.prediction.log_probs, llama.predict(prompt, 3).log_probs)


def test_half_precision_passes_its_own_self_check_and_gives_float32_maps() -> None:
    model = load_model(str(tiny_directory("llama")), device="cpu", dtype="bfloat16")
    assert model.info.dtype == "bfloat16"
    run = model.run(model.tokenize(PROMPT), heads=[Head(0, 0)])
    assert run.attention.values.dtype == np.float32
    assert run.prediction.log_probs.dtype == np.float64
    np.testing.assert_allclose(run.attention.values.sum(-1), 1, atol=1e-5)


def test_maps_and_predictions_export(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    maps = llama.attention(prompt, [Head(1, 1), Head(2, 3)])
    frame = maps.to_frame()
    assert len(frame) == 2 * len(prompt) ** 2
    row = frame[(frame.layer == 2) & (frame["query"] == 5) & (frame["key"] == 2)].iloc[0]
    assert row.weight == maps.values[1, 5, 2]
    assert row.key_token == prompt.labels[2]
    exported = maps.to_json()
    assert exported["heads"] == [[1, 1], [2, 3]]
    assert exported["values"][1][5][2] == float(maps.values[1, 5, 2])
