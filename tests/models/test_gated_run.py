"""Gates on heads of several prompts at once, against one scaled head a run and finite differences.

TOLERANCE: two correct float32 computations differ by about 1e-7 here, and a step of the finite
differences of 1e-2 is good to about 1e-4 of the largest slope.
"""

import numpy as np
import pytest
import torch
from tiny import PROMPT, tiny_model

from ablation import Knockout, Mean, Permute, Scale, Zero
from models.errors import UserError

TEXTS = (PROMPT, "The key to the cabinets", "Two students went")
MASKED = ("The cat sat on the [MASK]", "The [MASK] sat on the mat. The cat sat", "A [MASK] went")
TOLERANCE, STEP = 2e-5, 1e-2


def posed_of(family: str, intervention: object) -> list:
    model = tiny_model(family)
    texts = MASKED if family == "bert" else TEXTS
    return [model.head_sets.pose(model.tokenize(text), intervention) for text in texts]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma2", "gptj", "bert"])
def test_one_gate_is_one_scaled_head(family: str) -> None:
    model = tiny_model(family)
    run = model.head_sets.gated(posed_of(family, Zero()))
    clean = run.log_probs(torch.ones(3, *run.shape))
    for head in (model.all_heads()[1], model.all_heads()[-2]):
        gates = torch.ones(3, *run.shape)
        gates[:, head.layer, head.head] = 0.3
        ours = run.log_probs(gates)
        for row, text in enumerate(MASKED if family == "bert" else TEXTS):
            alone = model.ablated_logprobs(model.tokenize(text), [[], [head]], Scale(0.3))
            torch.testing.assert_close(clean[row], alone[0], atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(ours[row], alone[1], atol=TOLERANCE, rtol=0)
        assert float((ours - clean).abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize("intervention", [Zero(), Permute(1), Mean(("The cat sat",)), Mean()])
def test_closed_gates_are_the_intervention(intervention: object) -> None:
    model = tiny_model("llama")
    run = model.head_sets.gated(posed_of("llama", intervention))
    closed = [model.all_heads()[i] for i in (0, 5, 6)]
    gates = torch.ones(3, *run.shape)
    for head in closed:
        gates[:, head.layer, head.head] = 0
    ours = run.log_probs(gates)
    for row, text in enumerate(TEXTS):
        [alone] = model.ablated_logprobs(model.tokenize(text), [closed], intervention)
        torch.testing.assert_close(ours[row], alone, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_gradients_equal_finite_differences_anywhere(family: str) -> None:
    run = tiny_model(family).head_sets.gated(posed_of(family, Zero()))
    gates = torch.rand(2, *run.shape, generator=torch.Generator().manual_seed(0))
    chosen = [2, 0]

    def score(_indices: object, log_probs: torch.Tensor) -> torch.Tensor:
        return log_probs[:, 5].sum()

    def value(moved: torch.Tensor) -> float:
        everyone = torch.ones(3, *run.shape)
        everyone[chosen] = moved
        return float(run.log_probs(everyone)[chosen, 5].sum())

    total, slopes = run.gradient(gates, score, chosen)
    assert total == pytest.approx(value(gates), abs=TOLERANCE)
    for row, layer, head in ((0, 0, 1), (1, 1, 3), (1, 2, 0)):
        step = torch.zeros_like(gates)
        step[row, layer, head] = STEP
        expected = (value(gates + step) - value(gates - step)) / (2 * STEP)
        assert float(slopes[row, layer, head]) == pytest.approx(expected, abs=2e-3, rel=1e-2)
    assert np.abs(slopes.numpy()).max() > 0.01


def test_a_knockout_has_no_gate() -> None:
    with pytest.raises(UserError, match="choose another intervention"):
        tiny_model("llama").head_sets.gated(posed_of("llama", Knockout((2,), (1,))))
