"""Weights as 16-bit codes: how exact, and how small. The browser's decoder is held against this
one in tests/app/test_maps_in_browser.py."""

import base64
import json

import numpy as np
import pytest

from viz.coding import FLOOR, RELATIVE_ERROR, decode, encode


def there_and_back(values: np.ndarray) -> np.ndarray:
    return decode(json.loads(json.dumps(encode(values))))


def test_weights_keep_three_digits_and_more_from_1_down_to_the_floor() -> None:
    weights = np.geomspace(FLOOR, 1, 500_000).astype(np.float32).reshape(500, 1000)
    error = np.abs(there_and_back(weights) - weights) / weights
    assert error.max() <= RELATIVE_ERROR
    # Half a unit of the third digit is at least this much of the weight.
    assert RELATIVE_ERROR < 0.5e-3


def test_zero_one_and_blank_are_exact() -> None:
    values = np.array([[0, 1, np.nan, 0.0], [np.nan, 1, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(there_and_back(values), values)
    assert there_and_back(values).dtype == np.float32


def test_what_is_smaller_than_the_floor_is_0_and_a_rounded_up_1_is_1() -> None:
    values = np.array([[1e-30, FLOOR / 2, 1.0000002]], np.float32)
    np.testing.assert_array_equal(there_and_back(values), [[0, 0, 1]])


@pytest.mark.parametrize("largest", [1.5, 60.7, 1e6])
def test_norms_keep_three_digits_too(largest: float) -> None:
    norms = np.geomspace(largest * FLOOR, largest, 10_000).astype(np.float32).reshape(100, 100)
    norms[3, 99] = np.nan
    found = there_and_back(norms)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(norms))
    np.testing.assert_allclose(found, norms, rtol=1.1 * RELATIVE_ERROR)  # a quotient's rounding


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 2)])
def test_cells_without_any_value(shape: tuple[int, int]) -> None:
    blank = np.full(shape, np.nan, np.float32)
    np.testing.assert_array_equal(there_and_back(blank), blank)
    assert encode(blank)["codes"] == ""


def test_blank_ends_of_rows_are_not_sent() -> None:
    n = 1024
    values = np.where(np.tri(n, dtype=bool), 0.5, np.nan).astype(np.float32)
    n_codes = len(base64.urlsafe_b64decode(encode(values)["codes"])) // 2
    assert n_codes == n * (n + 1) // 2
    assert len(json.dumps(encode(values))) < 1_410_000
