"""Operations are counted as one counts them by hand, and as the model multiplies them."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import reference_model
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import (
    ModelShape,
    born_in_search,
    growing_batch_flops,
    needed_flops,
)

SMALL = ModelShape(
    n_layers=2, d_model=6, n_heads=2, n_kv_heads=1, d_head=3, n_mlp_weights=60, n_vocab=10
)
T = 4
# By hand, in operations of one row: 2 a multiply-add.
QUERY = 2 * 4 * 6 * 6  # 4 positions, 6 -> 2 heads of 3; the output projection is as large
KEYS_AND_VALUES = 2 * (2 * 4 * 6 * 3)
ATTENTION = 2 * (2 * 10 * 3) * 2  # scores and sums; 1 + 2 + 3 + 4 pairs; width 3; 2 heads
OUTPUT_AND_MLP = QUERY + 2 * 4 * 60
BLOCK = 288 + 288 + 240 + 768
LAST_BLOCK = 288 + 72 + 96 + 192  # keys and values; one query; its 4 keys; one output and MLP
UNEMBEDDING = 2 * 6 * 10


def test_the_parts_are_those_counted_by_hand() -> None:
    assert SMALL.query(T) == QUERY == 288
    assert SMALL.keys_and_values(T) == KEYS_AND_VALUES == 288
    assert SMALL.causal_attention(T) == ATTENTION == 240
    assert SMALL.output_and_mlp(T) == OUTPUT_AND_MLP == 768
    assert SMALL.block(T) == BLOCK
    assert SMALL.last_block(T) == LAST_BLOCK
    assert SMALL.forward(T) == 2 * BLOCK + UNEMBEDDING


def test_the_growing_batch_runs_every_row_in_full_from_its_birth_on() -> None:
    # 3 rows in block 0 (the clean one and two heads), 5 in block 1; all are unembedded.
    assert growing_batch_flops(SMALL, T, [2, 2]) == 8 * BLOCK + 5 * UNEMBEDDING
    assert growing_batch_flops(SMALL, T, [0, 1]) == 3 * BLOCK + 2 * UNEMBEDDING


def test_what_is_needed_leaves_out_what_rows_share_and_what_nobody_reads() -> None:
    clean = BLOCK + LAST_BLOCK
    early = 2 * (OUTPUT_AND_MLP + LAST_BLOCK)  # two heads of block 0, read in block 1
    late = 2 * 192  # two heads of block 1, at the last position only
    assert needed_flops(SMALL, T, [2, 2]) == clean + early + late + 5 * UNEMBEDDING


def test_a_search_has_fewer_heads_left_at_every_step() -> None:
    assert born_in_search(SMALL, [1, 0, 1]) == [[2, 2], [2, 1], [1, 1]]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        # GPT-2: 4 heads of 8, two MLP matrices of 32 x 128.
        ("gpt2", ModelShape(3, 32, 4, 4, 8, 2 * 32 * 128, 320)),
        # Llama: 2 key-value heads, three MLP matrices of 32 x 48.
        ("llama", ModelShape(3, 32, 4, 2, 8, 3 * 32 * 48, 320)),
        # Qwen 3: heads wider than d_model / n_heads.
        ("qwen3", ModelShape(3, 32, 4, 2, 16, 3 * 32 * 48, 320)),
    ],
)
def test_shapes_are_read_from_the_weights(family: str, expected: ModelShape) -> None:
    assert ModelShape.of(reference_model(family)) == expected


def test_a_model_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="attention weights"):
        ModelShape.of(reference_model("gpt_neox"))


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_a_forward_pass_counts_what_torch_counts(family: str) -> None:
    model, n = reference_model(family), 9
    counted = _torch_flops(model, list(range(n)))
    shape = ModelShape.of(model)
    # Eager attention multiplies all n x n pairs, of which the causal half are n (n + 1) / 2.
    all_pairs = 4 * shape.n_heads * shape.d_head * n * n
    extra = shape.n_layers * (all_pairs - shape.causal_attention(n))
    assert counted == shape.forward(n) + extra


def _torch_flops(model: Any, ids: Sequence[int]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]), use_cache=False, logits_to_keep=1)
    return counter.get_total_flops()
