"""Reading attention: block by block, only the rows asked for, straight into the result."""

import numpy as np
import pytest
import torch
from reference import attentions
from tiny import FAMILIES, prompt_text, tiny_model
from torch import Tensor

from ablation import Ablation, Zero
from models import attention_reading, attention_tap
from models.attention_reading import AttentionBlock, MapWriter, read_probabilities
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import AttentionMaps, Head

TOLERANCE = 1e-5  # two correct float32 computations differ by about 1e-7 here; see test_parity.py


def unblocked(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    allowed: Tensor,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> np.ndarray:
    """The textbook formula for all heads of row 0 at once, in float64."""
    heads = query.shape[1]
    keys = key[0].double().repeat_interleave(heads // key.shape[1], dim=0)
    scores = query[0].double() @ keys.transpose(-1, -2) * scaling  # [n_heads, n_query, n_key]
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias[0].double()
    scores = torch.where(allowed[0], scores, -torch.inf)
    weights = scores.exp()
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.double().exp()[:, None, None]
    return (weights / total).numpy()


def random_heads(n: int = 13) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 4, n, 8, generator=generator),
        torch.randn(2, 2, n, 8, generator=generator),
    )


CAUSAL = torch.ones(13, 13, dtype=torch.bool).tril()[None, None]
WINDOW = CAUSAL & ~torch.ones(13, 13, dtype=torch.bool).tril(-5)[None, None]
BIAS = torch.randn(1, 4, 13, 13, generator=torch.Generator().manual_seed(2))
SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0])


@pytest.mark.parametrize("queries", [None, (12, 0, 5), ()])
@pytest.mark.parametrize("block_scores", [1, 40, 10_000], ids=["row", "three rows", "all rows"])
@pytest.mark.parametrize(
    "options",
    [
        {"allowed": CAUSAL},
        {"allowed": WINDOW},
        {"allowed": WINDOW, "softcap": 2.0},
        {"allowed": WINDOW, "sinks": SINKS},
        {"allowed": CAUSAL, "bias": BIAS},
        {"allowed": torch.ones(1, 1, 13, 13, dtype=torch.bool), "bias": BIAS[:, :, :1]},
    ],
    ids=["causal", "window", "softcap", "sinks", "bias", "one bias for all queries"],
)
def test_blocks_of_rows_equal_the_unblocked_formula(
    options: dict[str, Tensor],
    block_scores: int,
    queries: tuple[int, ...] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_reading, "BLOCK_SCORES", block_scores)
    query, key = random_heads()
    heads = (3, 0, 2)
    rows = list(range(13) if queries is None else queries)
    out = np.full((3, len(rows), 13), np.nan, np.float32)
    writer = MapWriter({7: list(out)})
    read_probabilities(query, key, 7, heads, writer, queries=queries, scaling=0.7, **options)
    expected = unblocked(query, key, scaling=0.7, **options)[list(heads)][:, rows]
    np.testing.assert_allclose(out, expected, atol=TOLERANCE, rtol=0)


def test_looking_back_only_needs_no_mask() -> None:
    query, key = random_heads()
    with_mask, without = np.empty((2, 4, 13, 13), np.float32)
    writers = [MapWriter({0: list(maps)}) for maps in (with_mask, without)]
    read_probabilities(query, key, 0, range(4), writers[0], allowed=CAUSAL)
    read_probabilities(query, key, 0, range(4), writers[1], causal=True)
    np.testing.assert_array_equal(with_mask, without)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_every_family_equal_eager_output_attentions(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_reading, "BLOCK_SCORES", 40)
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    heads = (Head(2, 3), Head(0, 1), Head(2, 0))
    maps = model.attention(prompt, heads, queries=(-1, 2, 6))
    assert maps.queries == (len(prompt) - 1, 2, 6)
    theirs = attentions(family, prompt.ids).numpy()  # [n_layers, n_heads, query, key]
    expected = [theirs[head.layer, head.head, list(maps.queries)] for head in heads]
    np.testing.assert_allclose(maps.values, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_blocks_stay_small_and_hold_each_row_of_each_head_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_reading, "BLOCK_SCORES", 40)
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    seen = np.zeros((model.n_layers, model.n_heads, len(prompt)), int)

    class Counter:
        def take(self, block: AttentionBlock) -> None:
            assert block.probabilities.numel() <= 40
            assert block.n_key == len(prompt)
            assert block.queries.tolist() == list(range(len(prompt)))[block.rows]
            seen[block.layer, block.heads, block.rows] += 1

    model.read_attention(prompt, Counter())
    np.testing.assert_array_equal(seen, 1)


def test_a_reader_that_raises_ends_the_pass_and_leaves_the_model_as_it_was(
    llama: LanguageModel,
) -> None:
    prompt = llama.tokenize("The key to the cabinets")
    before = llama.predict(prompt).log_probs
    layers = []

    class Stopping:
        def take(self, block: AttentionBlock) -> None:
            layers.append(block.layer)
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        llama.read_attention(prompt, Stopping())
    assert layers == [0]
    np.testing.assert_array_equal(llama.predict(prompt).log_probs, before)


def test_a_head_asked_for_twice_is_there_twice(llama: LanguageModel) -> None:
    prompt = llama.tokenize("The key to the cabinets")
    maps = llama.attention(prompt, [Head(1, 2), Head(0, 0), Head(1, 2)])
    np.testing.assert_array_equal(maps.values[0], maps.values[2])
    assert not np.array_equal(maps.values[0], maps.values[1])


def test_a_query_outside_the_prompt_is_refused(llama: LanguageModel) -> None:
    prompt = llama.tokenize("The key to the cabinets")
    with pytest.raises(UserError) as caught:
        llama.attention(prompt, [Head(0, 0)], queries=[len(prompt)])
    assert caught.value.kind == ErrorKind.POSITION


def test_maps_of_some_rows_say_which(llama: LanguageModel) -> None:
    prompt = llama.tokenize("The key to the cabinets")
    maps = llama.attention(prompt, [Head(0, 0)], queries=[3, 1])
    assert list(maps.rows) == [3, 1]
    assert maps.to_json()["queries"] == [3, 1]
    frame = maps.to_frame()
    assert frame["query"].unique().tolist() == [3, 1]
    assert frame["query_token"].unique().tolist() == [prompt.labels[3], prompt.labels[1]]
    whole = llama.attention(prompt, [Head(0, 0)])
    assert list(whole.rows) == list(range(len(prompt)))
    assert "queries" not in whole.to_json()


@pytest.mark.parametrize(
    ("queries", "rows"), [(None, 2), ((0,), 2), ((0, 3), 2), ((-1,), 1)], ids=str
)
def test_maps_of_another_shape_are_refused(
    queries: tuple[int, ...] | None, rows: int, llama: LanguageModel
) -> None:
    prompt = llama.tokenize("The")
    values = np.zeros((1, rows, len(prompt)), np.float32)
    with pytest.raises(ValueError, match="must be"):
        AttentionMaps((Head(0, 0),), values, prompt, queries=queries)


LOG_PROBS = 1e-5  # two correct float32 passes differ by about 1e-6 in a log-probability here


class Nothing:
    """A reader that keeps nothing."""

    def take(self, block: AttentionBlock) -> None:
        pass


@pytest.mark.parametrize("ablated", [False, True], ids=["clean", "ablated"])
@pytest.mark.parametrize("block_scores", [1, 40, 10_000], ids=["row", "some rows", "all rows"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_pass_that_reads_all_heads_predicts_as_any_other(
    family: str, block_scores: int, ablated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_reading, "BLOCK_SCORES", block_scores)
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    ablation = Ablation((Head(1, 2), Head(0, 0)), Zero()) if ablated else None
    found = model.read_attention(prompt, Nothing(), ablation, position=3, top_k=4)
    expected = model.predict(prompt, 3, ablation, top_k=4)
    assert found.position == 3
    assert [token.id for token in found.top] == [token.id for token in expected.top]
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=LOG_PROBS, rtol=0)


def test_no_fused_attention_runs_where_all_weights_are_read(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard against a parity test in which z would come from fused attention all the same."""
    ran = []
    fused = attention_tap.run_attention
    monkeypatch.setattr(
        attention_tap, "run_attention", lambda inputs: ran.append(inputs) or fused(inputs)
    )
    prompt = llama.tokenize("The key to the cabinets")
    llama.read_attention(prompt, Nothing())
    assert ran == []
    llama.attention(prompt, llama.all_heads())
    assert len(ran) == llama.n_layers


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "bert", "mistral"])
def test_scores_are_the_logarithms_of_the_weights_up_to_a_number_a_row(family: str) -> None:
    scored = []

    class Scores:
        def take(self, block: AttentionBlock) -> None:
            assert block.scores is not None
            assert block.scores.isfinite().all()
            assert (block.scores.amax(dim=-1) == 0).all()
            on_keys = block.probabilities / block.probabilities.sum(dim=-1, keepdim=True)
            torch.testing.assert_close(block.scores.softmax(-1), on_keys, atol=TOLERANCE, rtol=0)
            scored.append(block.layer)

    model = tiny_model(family)
    model.read_attention(model.tokenize(prompt_text(family)), Scores())
    assert set(scored) == {0, 1, 2}
