"""Edges patched the slow way, from the weights by formula: an independent reference for tests.

GPT-2 and Llama, written out with plain matrix products, one target at a time: every head's query,
key and value input and every MLP input is summed up from scratch, source by source. It shares no
code with the program, and knows the names of these two architectures' weights.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Kept = Callable[[str, str], bool]
"""(source, target) -> whether the edge carries this run's value: ("L0H1", "L2H3.q")."""

Outputs = Mapping[str, Tensor]
"""source -> [position, d_model]."""


def patched_run(
    model: torch.nn.Module, ids: Tensor, reference: Outputs, kept: Kept
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits [n_vocab] at the last position, and what every source put out.

    Args:
        ids: int64 [position].
        reference: what goes over edges that are not kept.
    """
    maths = _GPT2(model) if model.config.model_type == "gpt2" else _Llama(model)
    own = {"embed": maths.embed(ids)}
    biases: list[Tensor] = []

    def read(target: str, upstream: list[str]) -> Tensor:
        total = torch.zeros_like(own["embed"])
        for source in upstream:
            total = total + (own[source] if kept(source, target) else reference[source])
        for bias in biases:
            total = total + bias
        return total

    upstream = ["embed"]
    for layer in range(maths.n_layers):
        made = {}
        group = maths.n_heads // maths.n_kv_heads
        shared = "KV" if group > 1 else "H"
        for head in range(maths.n_heads):
            at = f"L{layer}{shared}{head // group}"
            query = maths.query(layer, head, read(f"L{layer}H{head}.q", upstream))
            key = maths.key(layer, head // group, read(f"{at}.k", upstream))
            value = maths.value(layer, head // group, read(f"{at}.v", upstream))
            made[f"L{layer}H{head}"] = maths.out(layer, head, _attend(query, key, value))
        own |= made
        biases.append(maths.attention_bias(layer))
        upstream = [*upstream, *made]
        own[f"MLP{layer}"] = maths.mlp(layer, read(f"MLP{layer}", upstream))
        upstream = [*upstream, f"MLP{layer}"]
    return maths.logits(read("logits", upstream)[-1]), own


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.T / query.shape[-1] ** 0.5
    causal = torch.ones(len(query), len(query), dtype=torch.bool).tril()
    return torch.softmax(scores.masked_fill(~causal, -torch.inf), dim=-1) @ value


class _GPT2:
    def __init__(self, model: torch.nn.Module) -> None:
        self.w = {name: tensor.float() for name, tensor in model.state_dict().items()}
        config = model.config
        self.n_layers, self.n_heads = config.n_layer, config.n_head
        self.n_kv_heads, self.d = self.n_heads, config.n_embd // config.n_head
        self.epsilon, self.d_model = config.layer_norm_epsilon, config.n_embd

    def _norm(self, name: str, x: Tensor) -> Tensor:
        gain, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return torch.nn.functional.layer_norm(x, x.shape[-1:], gain, bias, self.epsilon)

    def embed(self, ids: Tensor) -> Tensor:
        return self.w["transformer.wte.weight"][ids] + self.w["transformer.wpe.weight"][: len(ids)]

    def _part(self, layer: int, which: int, head: int, x: Tensor) -> Tensor:
        block = f"transformer.h.{layer}"
        first = which * self.d_model + head * self.d
        weight = self.w[f"{block}.attn.c_attn.weight"][:, first : first + self.d]
        bias = self.w[f"{block}.attn.c_attn.bias"][first : first + self.d]
        return self._norm(f"{block}.ln_1", x) @ weight + bias

    def query(self, layer: int, head: int, x: Tensor) -> Tensor:
        return self._part(layer, 0, head, x)

    def key(self, layer: int, head: int, x: Tensor) -> Tensor:
        return self._part(layer, 1, head, x)

    def value(self, layer: int, head: int, x: Tensor) -> Tensor:
        return self._part(layer, 2, head, x)

    def out(self, layer: int, head: int, z: Tensor) -> Tensor:
        weight = self.w[f"transformer.h.{layer}.attn.c_proj.weight"]
        return z @ weight[head * self.d : (head + 1) * self.d]

    def attention_bias(self, layer: int) -> Tensor:
        return self.w[f"transformer.h.{layer}.attn.c_proj.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = f"transformer.h.{layer}"
        inner = self._norm(f"{block}.ln_2", x) @ self.w[f"{block}.mlp.c_fc.weight"]
        inner = inner + self.w[f"{block}.mlp.c_fc.bias"]
        inner = torch.nn.functional.gelu(inner, approximate="tanh")
        return inner @ self.w[f"{block}.mlp.c_proj.weight"] + self.w[f"{block}.mlp.c_proj.bias"]

    def logits(self, x: Tensor) -> Tensor:
        return self._norm("transformer.ln_f", x) @ self.w["lm_head.weight"].T


class _Llama:
    def __init__(self, model: torch.nn.Module) -> None:
        self.w = {name: tensor.float() for name, tensor in model.state_dict().items()}
        config = model.config
        self.n_layers, self.n_heads = config.num_hidden_layers, config.num_attention_heads
        self.n_kv_heads, self.d = config.num_key_value_heads, config.head_dim
        self.epsilon = config.rms_norm_eps
        self.base = config.rope_parameters["rope_theta"]

    def _norm(self, name: str, x: Tensor) -> Tensor:
        size = torch.sqrt((x * x).mean(-1, keepdim=True) + self.epsilon)
        return x / size * self.w[f"{name}.weight"]

    def embed(self, ids: Tensor) -> Tensor:
        return self.w["model.embed_tokens.weight"][ids]

    def _part(self, layer: int, name: str, head: int, x: Tensor) -> Tensor:
        block = f"model.layers.{layer}"
        weight = self.w[f"{block}.self_attn.{name}_proj.weight"]
        rows = slice(head * self.d, (head + 1) * self.d)
        bias = self.w[f"{block}.self_attn.{name}_proj.bias"]
        return self._norm(f"{block}.input_layernorm", x) @ weight[rows].T + bias[rows]

    def _rotated(self, x: Tensor) -> Tensor:
        half = self.d // 2
        angles = torch.arange(len(x))[:, None] * self.base ** (-torch.arange(half) / half)[None]
        first, second = x[:, :half], x[:, half:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def query(self, layer: int, head: int, x: Tensor) -> Tensor:
        return self._rotated(self._part(layer, "q", head, x))

    def key(self, layer: int, head: int, x: Tensor) -> Tensor:
        return self._rotated(self._part(layer, "k", head, x))

    def value(self, layer: int, head: int, x: Tensor) -> Tensor:
        return self._part(layer, "v", head, x)

    def out(self, layer: int, head: int, z: Tensor) -> Tensor:
        weight = self.w[f"model.layers.{layer}.self_attn.o_proj.weight"]
        return z @ weight[:, head * self.d : (head + 1) * self.d].T

    def attention_bias(self, layer: int) -> Tensor:
        return self.w[f"model.layers.{layer}.self_attn.o_proj.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = f"model.layers.{layer}"
        x = self._norm(f"{block}.post_attention_layernorm", x)
        gate = torch.nn.functional.silu(x @ self.w[f"{block}.mlp.gate_proj.weight"].T)
        up = x @ self.w[f"{block}.mlp.up_proj.weight"].T
        return (gate * up) @ self.w[f"{block}.mlp.down_proj.weight"].T

    def logits(self, x: Tensor) -> Tensor:
        return self._norm("model.norm", x) @ self.w["lm_head.weight"].T
