"""Estimates of what ablating a head changes, against finite differences of a scaled head.

TOLERANCE: in float32 central differences with a step of 1e-3 are good to about 1e-6 / 1e-3, and a
larger step would cross kinks of OPT's ReLU; a wrong head or sign is off by the derivative itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from reference import log_probs
from tiny import FAMILIES, prompt_text, tiny_model
from torch import Tensor

from ablation import Intervention, Knockout, Mean, Permute, Scale, Sparsify, Zero
from models.errors import UserError
from models.types import Head

STEP = 1e-3
TOLERANCE = 2e-3
CHOSEN = Head(1, 1)


def zero(z: Tensor) -> Tensor:
    return torch.zeros_like(z)


def finite_difference(
    family: str, ids: tuple[int, ...], read: int, head: Head, token: int
) -> float:
    """Return -d log p(token) / d gate, a gate scaling the head's z, by plain hooks."""
    sides = []
    for gate in (1 + STEP, 1 - STEP):
        edits = [
            (CHOSEN.layer, CHOSEN.head, zero),
            (head.layer, head.head, lambda z, gate=gate: z * gate),
        ]
        sides.append(float(log_probs(family, ids, read, edits)[token]))
    return -(sides[0] - sides[1]) / (2 * STEP)


@pytest.mark.parametrize("family", FAMILIES)
def test_estimates_equal_finite_differences(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    read = model.resolve_position(prompt)
    posed = model.head_sets.pose(prompt, Zero())
    ours = model.head_sets.estimate(posed, [CHOSEN], lambda row: row[5])
    assert ours.shape == (model.n_layers, model.n_heads)
    assert ours[CHOSEN.layer, CHOSEN.head] == 0
    expected = np.zeros_like(ours)
    for head in model.all_heads():
        if head != CHOSEN:
            expected[head.layer, head.head] = finite_difference(family, prompt.ids, read, head, 5)
    largest = np.abs(expected).max()
    assert largest > 0.01  # there is something to be right about
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE * max(1, largest), rtol=0)


@dataclass(frozen=True, slots=True)
class Partly:
    """An intervention that goes only a small part of the way."""

    whole: Intervention
    part: float

    def prepare(self, *args: Any) -> "Partly.Editor":
        return Partly.Editor(self.whole.prepare(*args), self.part)

    @dataclass(frozen=True, slots=True)
    class Editor:
        whole: Any
        part: float

        @property
        def blocked(self) -> None:
            return None

        @property
        def mixes_positions(self) -> bool:
            return bool(self.whole.mixes_positions)

        def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
            return z + self.part * (self.whole.edit_z(z, layer, heads, first) - z)


@pytest.mark.parametrize(
    "intervention",
    [Scale(-1.0), Mean(), Mean(("The cat sat",)), Permute(2), Sparsify(fraction=0.5)],
)
@pytest.mark.parametrize("positions", [None, (3, 12, 14)], ids=["everywhere", "some positions"])
def test_estimates_are_the_slope_of_going_part_of_the_way(
    intervention: Intervention, positions: tuple[int, ...] | None
) -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(prompt_text("llama"))
    posed = model.head_sets.pose(prompt, intervention, positions=positions)
    estimates = model.head_sets.estimate(posed, [], lambda row: row[5])
    sets = [[head] for head in model.all_heads()]
    forth, back = (
        model.ablated_logprobs(prompt, sets, Partly(intervention, part), positions=positions)
        for part in (STEP, -STEP)
    )
    expected = ((forth - back)[:, 5] / (2 * STEP)).numpy().reshape(estimates.shape)
    largest = np.abs(expected).max()
    assert largest > 0.01
    np.testing.assert_allclose(estimates, expected, atol=TOLERANCE * max(1, largest), rtol=0)


def test_small_knockouts_are_estimated_well() -> None:
    """A knockout cannot go part of the way; where it changes little, the estimate is close."""
    model = tiny_model("llama")
    prompt = model.tokenize(prompt_text("llama"))
    knockout = Knockout((16,), (13,))
    posed = model.head_sets.pose(prompt, knockout)
    estimates = model.head_sets.estimate(posed, [], lambda row: row[5])
    rows = model.ablated_logprobs(prompt, [[], *([h] for h in model.all_heads())], knockout)
    exact = (rows[1:, 5] - rows[0, 5]).numpy().reshape(estimates.shape)
    assert np.corrcoef(estimates.ravel(), exact.ravel())[0, 1] > 0.8
    assert np.abs(exact).max() > 0.001


def test_a_knockout_that_only_hooks_can_do_is_refused() -> None:
    model = tiny_model("gptj")
    prompt = model.tokenize(prompt_text("gptj"))
    posed = model.head_sets.pose(prompt, Knockout((9,), (3,)))
    with pytest.raises(UserError, match="use the exact strategy"):
        model.head_sets.estimate(posed, [], lambda row: row[5])


def test_nothing_is_left_behind() -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(prompt_text("llama"))
    before = model.predict(prompt).log_probs
    model.head_sets.estimate(model.head_sets.pose(prompt, Zero()), [], lambda row: row[5])
    assert np.array_equal(model.predict(prompt).log_probs, before)
    assert all(p.grad is None for p in model._model.parameters())
