"""Cells of long maps: each the largest of its weights, none that attention can't reach."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viz.cells import MAX_CELLS, Region, cells_of, fitting_step, is_causal, sent_step


def weights_of(n: int, causal: bool) -> np.ndarray:
    weights = np.random.default_rng(n).random((n, n)).astype(np.float32)
    return np.tril(weights) if causal else weights


def largest(weights: np.ndarray, causal: bool, region: Region, step: int) -> np.ndarray:
    """The definition, cell by cell and weight by weight."""
    queries = range(region.query, region.query_end, step)
    keys = range(region.key, region.key_end, step)
    cells = np.full((len(queries), len(keys)), np.nan, np.float32)
    for i, first_query in enumerate(queries):
        for j, first_key in enumerate(keys):
            inside = [
                weights[query, key]
                for query in range(first_query, min(first_query + step, region.query_end))
                for key in range(first_key, min(first_key + step, region.key_end))
                if key <= query or not causal
            ]
            cells[i, j] = max(inside, default=np.nan)
    return cells


@given(
    n=st.integers(1, 12),
    causal=st.booleans(),
    step=st.integers(1, 5),
    ends=st.tuples(*[st.integers(0, 11)] * 4),
)
def test_a_cell_is_the_largest_of_its_weights(
    n: int, causal: bool, step: int, ends: tuple[int, int, int, int]
) -> None:
    query, key = ends[0] % n, ends[1] % n
    region = Region(query, query + 1 + ends[2] % (n - query), key, key + 1 + ends[3] % (n - key))
    weights = weights_of(n, causal)
    before = weights.copy()
    cells = cells_of(weights, causal, region, step)
    np.testing.assert_array_equal(cells.values, largest(weights, causal, region, step))
    np.testing.assert_array_equal(weights, before)
    assert (cells.region, cells.step, cells.pooled) == (region, step, step > 1)


def test_looking_ahead_once_is_not_causal() -> None:
    weights = weights_of(5, causal=True)
    assert is_causal(weights)
    weights[3, 4] = 1e-9
    assert not is_causal(weights)


@pytest.mark.parametrize(("side", "dots", "step"), [(14, 300, 1), (300, 300, 1), (301, 300, 2)])
def test_cells_are_no_smaller_than_a_pixel(side: int, dots: int, step: int) -> None:
    assert fitting_step(side, dots) == step


@pytest.mark.parametrize(
    ("region", "causal", "step"),
    [
        (Region.whole(1024), True, 1),
        (Region.whole(1025), True, 4),
        (Region.whole(4096), True, 14),
        (Region(3000, 3700, 0, 700), True, 1),
        (Region.whole(724), False, 1),
        (Region.whole(1024), False, 4),
    ],
)
def test_as_many_cells_are_sent_as_a_map_of_1024_tokens_has(
    region: Region, causal: bool, step: int
) -> None:
    assert sent_step(region, causal, dots=300) == step


@pytest.mark.parametrize("dots", [1, 300, 100_000])
def test_never_more_cells_are_sent(dots: int) -> None:
    weights = weights_of(1500, causal=True)
    step = sent_step(Region.whole(1500), True, dots)
    assert np.isfinite(cells_of(weights, True, step=step).values).sum() <= MAX_CELLS


@pytest.mark.parametrize("ends", [(0, 0, 0, 1), (3, 2, 0, 1), (-1, 2, 0, 1), (0, 1, 5, 5)])
def test_an_empty_region_is_refused(ends: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="a region needs"):
        Region(*ends)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 130])
def test_one_weight_ahead_makes_a_map_not_causal(n: int) -> None:
    chance = np.random.default_rng(n)
    weights = np.tril(chance.random((n, n))).astype(np.float32)
    assert is_causal(weights)
    for query, key in zip(*np.triu_indices(n, 1), strict=True):
        weights[query, key] = 1e-30
        assert not is_causal(weights), (query, key)
        weights[query, key] = 0
