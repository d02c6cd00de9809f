"""Metrics, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ablation.metrics import METRICS, compare, metric_named, top_token
from models.errors import ErrorKind, UserError
from models.types import Prediction, TokenProbability

EXACT = 1e-12  # float64 sums of a few terms


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


CLEAN = logs(0.5, 0.25, 0.25)
ABLATED = torch.stack([logs(0.25, 0.5, 0.25), logs(0.5, 0.25, 0.25), logs(0.125, 0.125, 0.75)])
LN2, LN3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        # sum p ln(p/q): 0.5 ln 2 - 0.25 ln 2; nothing; 0.5 ln 4 + 0.25 ln 2 - 0.25 ln 3.
        ("kl", None, [0.25 * LN2, 0.0, 1.25 * LN2 - 0.25 * LN3]),
        ("total_variation", None, [0.25, 0.0, 0.5]),
        # The clean entropy is 1.5 ln 2; the last one 0.25 ln 8 + 0.75 ln(4/3).
        ("entropy", None, [0.0, 0.0, 0.75 * LN2 + 0.75 * (2 * LN2 - LN3) - 1.5 * LN2]),
        ("top_prob", None, [-0.25, 0.0, -0.375]),
        ("target_prob", 2, [0.0, 0.0, 0.5]),
        ("target_logprob", 2, [0.0, 0.0, LN3]),
        # Token 2 shares rank 2 with token 1 at first.
        ("target_rank", 2, [0.0, 0.0, -1.0]),
        ("logit_diff", 2, [LN2, 0.0, LN2 + LN3 + LN2]),
        # The target is itself the clean top token: its rival is token 1.
        ("logit_diff", 0, [-2 * LN2, 0.0, -LN2]),
    ],
)
def test_hand_computed_values(name: str, target: int | None, expected: list[float]) -> None:
    values = METRICS[name].compute(CLEAN, ABLATED, target)
    assert values.dtype == torch.float64
    torch.testing.assert_close(
        values, torch.tensor(expected, dtype=torch.float64), atol=EXACT, rtol=0
    )


def test_every_metric_has_a_hand_computed_value_here() -> None:
    marks = test_hand_computed_values.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(METRICS)


def test_target_rank_grows_when_tokens_overtake_it() -> None:
    values = METRICS["target_rank"].compute(CLEAN, ABLATED, 0)
    assert values.tolist() == [1.0, 0.0, 1.0]


def test_an_impossible_token_adds_nothing_to_kl_and_entropy() -> None:
    clean = logs(0.5, 0.5, 0.0)
    ablated = logs(0.25, 0.25, 0.5)[None]
    assert METRICS["kl"].compute(clean, ablated, None).item() == pytest.approx(LN2, abs=EXACT)
    assert METRICS["entropy"].compute(clean, ablated, None).item() == pytest.approx(
        0.5 * LN2, abs=EXACT
    )


def test_kl_is_infinite_where_only_the_ablated_run_finds_a_token_impossible() -> None:
    assert METRICS["kl"].compute(CLEAN, logs(0.5, 0.5, 0.0)[None], None).item() == math.inf


def test_kl_of_a_run_that_is_no_number_is_none() -> None:
    broken = torch.full((1, 3), math.nan, dtype=torch.float64)
    assert math.isnan(METRICS["kl"].compute(logs(0.5, 0.5, 0.0), broken, None).item())


def test_kl_of_one_hundred_nats_is_not_lost_to_underflow() -> None:
    logits = torch.tensor([[0.0, 200.0]], dtype=torch.float64)
    clean, ablated = logits[0].log_softmax(-1), (-logits).log_softmax(-1)
    assert METRICS["kl"].compute(clean, ablated, None).item() == pytest.approx(200.0, abs=1e-9)


def test_a_tie_for_the_top_goes_to_the_lowest_id() -> None:
    assert top_token(logs(0.2, 0.4, 0.4)) == 1


def test_metrics_that_need_a_target_say_so() -> None:
    needing = {name for name, metric in METRICS.items() if metric.info.needs_target}
    assert needing == {"target_prob", "target_logprob", "target_rank", "logit_diff"}
    for name in needing:
        with pytest.raises(ValueError, match="target"):
            METRICS[name].compute(CLEAN, ABLATED, None)


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"'klv'; choose one of kl, total_variation") as raised:
        metric_named("klv")
    assert raised.value.kind is ErrorKind.OPTION


log_prob_rows = st.lists(st.floats(-30, 30), min_size=5, max_size=5).map(
    lambda row: torch.tensor(row, dtype=torch.float64).log_softmax(-1)
)


@given(log_prob_rows, log_prob_rows)
def test_distances_are_not_negative_and_pinsker_holds(clean: Tensor, ablated: Tensor) -> None:
    kl = METRICS["kl"].compute(clean, ablated[None], None).item()
    distance = METRICS["total_variation"].compute(clean, ablated[None], None).item()
    assert kl >= 0
    assert 0 <= distance <= 1 + EXACT
    # Squared: a KL of 1e-16, which is rounding, has a root of 1e-8.
    assert 2 * distance**2 <= kl + EXACT


@given(log_prob_rows, st.integers(0, 4))
def test_no_change_is_zero_in_every_metric(clean: Tensor, target: int) -> None:
    for metric in METRICS.values():
        assert metric.compute(clean, clean[None], target).abs().item() <= EXACT


def prediction(log_probs: Tensor) -> Prediction:
    row = log_probs.numpy()
    order = np.argsort(-row, kind="stable")
    top = tuple(
        TokenProbability(int(i), f"t{i}", f"t{i}", float(np.exp(row[i])), float(row[i]))
        for i in order
    )
    return Prediction(0, top, float(-(np.exp(row) * row).sum()), row)


def test_compare_puts_the_metrics_side_by_side() -> None:
    comparison = compare(prediction(CLEAN), prediction(ABLATED[2]))
    assert comparison.kl == pytest.approx(1.25 * LN2 - 0.25 * LN3, abs=EXACT)
    assert comparison.total_variation == pytest.approx(0.5, abs=EXACT)
    assert comparison.top_prob_change == pytest.approx(-0.375, abs=EXACT)
    assert comparison.entropy_before == pytest.approx(1.5 * LN2, abs=EXACT)
    assert comparison.top_before.id == 0
    assert comparison.top_after.id == 2
    assert comparison.top_after.prob == pytest.approx(0.75)
