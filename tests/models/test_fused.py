"""Fused kernels stand in only for functions that they equal."""

import copy

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from tiny import FAMILIES, tiny_torch_model
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from models.fused import fuse


def norm(kind: type[nn.Module]) -> nn.Module:
    module = kind(16, eps=1e-5)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, 1.5, 16))
    return module


@pytest.mark.parametrize("module", [ACT2FN["gelu_new"], ACT2FN["gelu_fast"], norm(LlamaRMSNorm)])
def test_the_same_function_is_fused(module: nn.Module) -> None:
    x = torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(1))
    before = module(x)
    own = module.forward
    assert fuse(nn.Sequential(module)) == 1
    assert module.forward is not own
    torch.testing.assert_close(module(x), before, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "module",
    [
        ACT2FN["gelu"],
        ACT2FN["quick_gelu"],
        ACT2FN["silu"],
        norm(GemmaRMSNorm),  # its gain is 1 + weight
        nn.LayerNorm(16),
        nn.Linear(16, 16, bias=False),
        nn.Dropout(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_another_function_is_left_alone(module: nn.Module) -> None:
    own = module.forward
    assert fuse(nn.Sequential(module.eval())) == 0
    assert module.forward == own


def test_modules_that_accelerate_serves_are_left_alone() -> None:
    module = norm(LlamaRMSNorm)
    add_hook_to_module(module, AlignDevicesHook(torch.device("cpu")))
    assert fuse(nn.Sequential(module)) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_fused_kernels_gives_the_same_logits(family: str) -> None:
    model = tiny_torch_model(family)
    ids = torch.randint(0, 320, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        n_fused = fuse(model)
        after = model(input_ids=ids).logits
    if family in ("llama", "gpt2"):
        assert n_fused >= 3
    # Float32 rounding; the families' logits are of order 1 to 10.
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


MLPS = {"llama": LlamaMLP, "gpt2": GPT2MLP, "phi3": Phi3MLP}


def mlp(family: str) -> nn.Module:
    """Return an MLP of a tiny model."""
    found = next(m for m in tiny_torch_model(family).modules() if isinstance(m, MLPS[family]))
    return copy.deepcopy(found)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_mlps_write_over_what_they_have_made(family: str) -> None:
    module = mlp(family)
    x = torch.randn(4, 3, 32, generator=torch.Generator().manual_seed(1))
    given, before, own = x.clone(), module(x), module.forward
    assert fuse(nn.Sequential(module)) >= 1
    assert module.forward != own
    with torch.inference_mode():
        torch.testing.assert_close(module(x), before, atol=1e-6, rtol=0)
    torch.testing.assert_close(x, given, atol=0, rtol=0)  # what it is given is not its own


def test_fused_modules_keep_what_gradients_need() -> None:
    for module in (mlp("llama"), mlp("gpt2"), norm(LlamaRMSNorm)):
        width = 16 if isinstance(module, LlamaRMSNorm) else 32
        x = torch.randn(4, 3, width, generator=torch.Generator().manual_seed(1)).requires_grad_()
        [expected] = torch.autograd.grad(module(x).square().sum(), x)
        assert fuse(nn.Sequential(module)) >= 1
        [found] = torch.autograd.grad(module(x).square().sum(), x)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_mlps_of_another_form_are_left_alone() -> None:
    module = mlp("phi3")  # gate and up are one map
    own = module.forward
    fuse(nn.Sequential(module))
    assert module.forward == own


def test_mlps_that_clamp_what_random_input_does_not_reach_are_left_alone() -> None:
    class Clamped(LlamaMLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = self.act_fn(self.gate_proj(x).clamp(max=1e3))
            return self.down_proj(gate * self.up_proj(x))  # type: ignore[no-any-return]

    module = mlp("llama")
    module.__class__ = Clamped
    own = module.forward
    fuse(nn.Sequential(module))
    assert module.forward == own


def test_fused_mlps_take_their_argument_by_name() -> None:
    module = mlp("llama")
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    before = module(x)
    fuse(nn.Sequential(module))
    with torch.inference_mode():
        torch.testing.assert_close(module(x=x), before, atol=1e-6, rtol=0)


def test_activations_that_are_clipped_far_out_are_not_written_over() -> None:
    module = mlp("llama")
    module.act_fn = ACT2FN["gelu_10"]
    own = module.forward
    fuse(nn.Sequential(module))
    assert module.forward == own
