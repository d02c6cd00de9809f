"""Parting heads into clusters: trees, how well halves agree, and whether clusters lie apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.studies import partition
from ablation.studies.likeness import ranked
from models.types import FloatArray

TEMPLATES = ["a", "b", "c", "d", "e", "f"]


def symmetric(rng: np.random.Generator, n: int) -> FloatArray:
    drawn = rng.random((n, n))
    return (drawn + drawn.T) / 2


def blocks(n_each: int = 12, n: int = 2) -> FloatArray:
    side = np.repeat(np.arange(n), n_each)
    return np.where(side[:, None] == side, 0.9, 0.1)


def blurred(alike: FloatArray, rng: np.random.Generator, size: float = 0.05) -> FloatArray:
    noise = rng.normal(scale=size, size=alike.shape)
    return np.clip(alike + (noise + noise.T) / 2, 0, 1)


@given(st.integers(0, 10**6), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_a_cut_makes_at_most_so_many_clusters_whatever_the_order(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    alike = symmetric(rng, 7)
    labels = partition.cut(partition.tree(alike), n)
    assert 1 <= len(set(labels.tolist())) <= n
    order = rng.permutation(7)
    other = partition.cut(partition.tree(alike[np.ix_(order, order)]), n)
    same = labels[order][:, None] == labels[order]
    np.testing.assert_array_equal(same, other[:, None] == other)


def test_halves_of_noise_agree_as_shuffled_heads_do() -> None:
    rng = np.random.default_rng(1)
    found = partition.stability(
        lambda _prompts, heads: symmetric(rng, len(heads)), 40, TEMPLATES, 0, n_nulls=5
    )
    assert abs(found.mean) < 0.1
    assert abs(found.by_chance) < 0.15


def test_two_blocks_are_found_as_two_clusters_and_lie_apart() -> None:
    alike, rng = blocks(), np.random.default_rng(2)
    found = partition.stability(
        lambda _prompts, heads: blurred(alike[np.ix_(heads, heads)], rng), 24, TEMPLATES, 0,
        n_nulls=5,
    )  # fmt: skip
    assert found.count == 2
    assert found.mean == 1 > found.by_chance
    ranks = np.nan_to_num(ranked(blurred(alike, rng)))
    apart = partition.separation(ranks, partition.cut(partition.tree(ranks), 2), 0)
    assert apart is not None
    assert apart.holds


@pytest.mark.parametrize("n_dimensions", [5, 20])
def test_a_single_cloud_is_found_again_but_does_not_lie_apart(n_dimensions: int) -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(60, n_dimensions))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cloud = points @ points.T

    def same_in_both(_prompts: object, heads: FloatArray) -> FloatArray:
        return np.nan_to_num(ranked(cloud[np.ix_(heads, heads)]))

    found = partition.stability(same_in_both, 60, TEMPLATES, 0, n_nulls=5)
    assert found.mean > found.by_chance  # the same tree each time
    ranks = np.nan_to_num(ranked(cloud))
    apart = partition.separation(ranks, partition.cut(partition.tree(ranks), found.count), 0)
    assert apart is not None
    assert not apart.holds


def test_what_is_not_parted_agrees_with_nothing_and_lies_nowhere() -> None:
    one = np.ones(5, dtype=int)
    assert partition.agreement_of(one, one) == 0
    assert partition.agreement_of(np.array([1, 1, 2, 2]), np.array([2, 2, 1, 1])) == 1
    assert partition.separation(blocks(), np.ones(24, dtype=int), 0) is None
    assert partition.separation(blocks(), np.arange(24), 0) is None
