"""Norms are known by what they compute; frozen, they give the same numbers and are linear."""

import pytest
import torch
from tiny import CAUSAL, tiny_torch_model
from torch import nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm

from models.frozen_norms import Norm, find_norms, freezing, recognise, replaying

TOLERANCE = 1e-5
"""Float32 rounding is about 1e-6 of the values, which are of order 1."""

LIKE = torch.zeros(2, 7, 16)


def filled(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.eval()


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.3


@pytest.mark.parametrize(
    ("module", "gain", "centred"),
    [
        (nn.LayerNorm(16), lambda w: w, True),
        (nn.LayerNorm(16, elementwise_affine=False), lambda _: torch.ones(16), True),
        (LlamaRMSNorm(16), lambda w: w, False),
        (GemmaRMSNorm(16), lambda w: 1 + w, False),
        (Llama4TextL2Norm(eps=1e-6), lambda _: torch.ones(16), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_norms_are_recognised(module: nn.Module, gain: object, centred: bool) -> None:
    norm = recognise(filled(module), LIKE)
    assert isinstance(norm, Norm)
    assert norm.centred is centred
    weight = next(module.parameters(), None)
    torch.testing.assert_close(norm.gain, gain(weight), atol=TOLERANCE, rtol=0)  # type: ignore[operator]


def test_a_norm_with_a_gain_for_each_head_is_recognised() -> None:
    norm = recognise(filled(CohereLayerNorm(hidden_size=(4, 16))), torch.zeros(1, 7, 4, 16))
    assert norm is not None
    assert norm.gain.shape == (4, 16)


@pytest.mark.parametrize(
    "module",
    [nn.SiLU(), nn.GELU(), nn.Identity(), nn.Softmax(-1), nn.Linear(16, 16), nn.Dropout()],
    ids=lambda module: type(module).__name__,
)
def test_other_modules_are_not(module: nn.Module) -> None:
    assert recognise(module.eval(), LIKE) is None


def test_a_norm_over_another_axis_is_not() -> None:
    class OverPositions(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.square().mean(-2, keepdim=True).rsqrt()

    assert recognise(OverPositions(), LIKE) is None


@pytest.mark.parametrize("module", [nn.LayerNorm(16), LlamaRMSNorm(16), GemmaRMSNorm(16)])
def test_frozen_norms_give_the_same_numbers_and_are_linear(module: nn.Module) -> None:
    norm = recognise(filled(module), LIKE)
    assert norm is not None
    x, dx = random(2, 7, 16), random(2, 7, 16, seed=2)
    before = module(x).detach()
    with freezing({module: norm}) as scales:
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        towards = random(2, 7, 16, seed=4)
        (gradient,) = torch.autograd.grad(y, leaf, towards)
    assert torch.equal(y, before)
    with replaying({module: norm}, scales):
        moved = module(x + dx)
    # Linear: a step of any size changes the output by what the gradient says.
    change = (towards * (moved - before)).sum()
    torch.testing.assert_close((gradient * dx).sum(), change, atol=1e-3, rtol=TOLERANCE)
    # And the gradient of the norm itself is another.
    leaf = x.clone().requires_grad_()
    (own,) = torch.autograd.grad(module(leaf), leaf, towards)
    assert float((own - gradient).abs().max()) > 0.1


def test_nothing_is_left_on_the_norms() -> None:
    module = nn.LayerNorm(16)
    norm = recognise(module, LIKE)
    assert norm is not None
    with pytest.raises(RuntimeError), freezing({module: norm}):
        module(torch.zeros(3, 5))
    assert not module._forward_hooks


@pytest.mark.parametrize("family", CAUSAL)
def test_every_norm_of_a_family_is_found(family: str) -> None:
    """Those that transformers names so; that nothing else is taken for one."""
    model = tiny_torch_model(family)
    with torch.no_grad():
        found = find_norms(model, lambda: model(input_ids=torch.arange(7)[None]))
    named = {module for module in model.modules() if type(module).__name__.endswith("Norm")}
    assert set(found) == named
    assert len(named) >= 4
