"""Tiny random models of every supported family, made from configs and seeds, never from a hub.

`tiny_directory` writes a family as a checkpoint directory (weights and a tokenizer trained on a
few sentences), so that tests load it through the front door, and can load a second, untouched
copy of the same weights as an independent reference.
"""

import atexit
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

from models.language_model import LanguageModel
from models.registry import load_model

VOCAB = 320
PROMPT = "When Mary and John went to the store, John gave a drink to"
MASKED_PROMPT = "When Mary and John went to the [MASK], John gave a drink to Mary"
CORPUS = [
    PROMPT + " Mary.",
    "The key to the cabinets is on the table.",
    "The trophy doesn't fit in the brown suitcase because it's too big.",
    "The cat sat on the mat. The cat sat on the mat.",
    "Two students went to the school and gave the teacher a drink.",
]


@dataclass(frozen=True, slots=True)
class Family:
    """How to make one architecture small. `scale` widens the random weights, so that heads
    differ and an error in one of them is far above rounding."""

    model_type: str
    config: dict[str, Any]
    masked: bool = False
    scale: float = 0.2
    encoder_decoder: bool = False


_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_WIDE = {**_LLAMA, "head_dim": 16}
_MHA = {**_LLAMA, "num_key_value_heads": 4}
_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
}

FAMILIES: dict[str, Family] = {
    "gpt2": Family("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "llama": Family("llama", {**_LLAMA, "attention_bias": True}),
    "mistral": Family("mistral", {**_WIDE, "sliding_window": 5}),
    "qwen2": Family("qwen2", _LLAMA),
    "qwen3": Family("qwen3", _WIDE),
    "gemma2": Family(
        "gemma2",
        {
            **_WIDE,
            "sliding_window": 5,
            "attn_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 16,
        },
    ),
    "gemma3": Family(
        "gemma3_text",
        {
            **_WIDE,
            "sliding_window": 5,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "phi3": Family("phi3", {**_LLAMA, "pad_token_id": 0}),
    "gpt_neox": Family("gpt_neox", _MHA),
    "opt": Family(
        "opt",
        {
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
        },
    ),
    "olmo2": Family("olmo2", _LLAMA),
    "stablelm": Family("stablelm", _LLAMA),
    "cohere": Family("cohere", _LLAMA),
    "granite": Family("granite", _LLAMA),
    "gpt_oss": Family(
        "gpt_oss",
        {
            **_WIDE,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gpt_bigcode": Family(
        "gpt_bigcode", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
    ),
    "gptj": Family(
        "gptj", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "rotary_dim": 4}
    ),
    "gpt_neo": Family(
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 3,
            "num_heads": 4,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 5,
            "max_position_embeddings": 128,
        },
    ),
    "bloom": Family("bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "falcon": Family(
        "falcon",
        {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "bias": True,
            "max_position_embeddings": 128,
        },
    ),
    "falcon_alibi": Family(
        "falcon",
        {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "multi_query": True,
            "alibi": True,
            "max_position_embeddings": 128,
        },
    ),
    "bert": Family("bert", _ENCODER, masked=True),
    "roberta": Family("roberta", _ENCODER, masked=True),
}

_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
}
_T5 = {
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}

_T5GEMMA = {
    **_LLAMA,
    "head_dim": 8,
    "vocab_size": VOCAB,
    "query_pre_attn_scalar": 8,
    "attn_logit_softcapping": 2.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}

ENCODER_DECODERS: dict[str, Family] = {
    # T5 does not scale q.k: with wider weights its gated form rounds to several 1e-5 (to 1e-14 in
    # float64, so that it is rounding).
    "mt5": Family(
        "mt5", {**_T5, "feed_forward_proj": "gated-gelu"}, scale=0.12, encoder_decoder=True
    ),
} | {
    name: Family(name, config, encoder_decoder=True)
    for name, config in {
        "t5": _T5,
        "umt5": _T5,
        "switch_transformers": {
            **_T5,
            "num_experts": 2,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "expert_capacity": 64,
        },
        "t5gemma": {
            "encoder": {**_T5GEMMA, "num_hidden_layers": 2},
            "decoder": {**_T5GEMMA, "num_hidden_layers": 3},
            # It masks padding in the decoder too, so that no decoder can start with it.
            "decoder_start_token_id": 2,
        },
        "bart": _BART,
        "mbart": _BART,
        "pegasus": _BART,
        "marian": _BART,
        "m2m_100": _BART,
        "blenderbot": _BART,
        "plbart": _BART,
    }.items()
}
"""Encoder and decoder differ in their number of layers, and BART's in their number of heads, so
that taking one for the other shows."""

CAUSAL = tuple(name for name, family in FAMILIES.items() if not family.masked)
MASKED = tuple(name for name, family in FAMILIES.items() if family.masked)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer, as GPT-2's, trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        model_max_length=128,
    )


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer, as BERT's, with its [CLS] ... [SEP] template."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=VOCAB, special_tokens=special)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    )


def _family(name: str) -> Family:
    return ENCODER_DECODERS.get(name) or FAMILIES[name]


def _auto_class(made: Family) -> Any:
    if made.encoder_decoder:
        return AutoModelForSeq2SeqLM
    return AutoModelForMaskedLM if made.masked else AutoModelForCausalLM


def tiny_torch_model(family: str, seed: int = 0, **overrides: Any) -> Any:
    """Return a family's random model, straight from its config."""
    made = _family(family)
    small = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    if made.encoder_decoder:
        small |= {"pad_token_id": 1, "decoder_start_token_id": 1}
    config = AutoConfig.for_model(made.model_type, **{**small, **made.config, **overrides})
    if made.masked:
        config.pad_token_id = 0
    torch.manual_seed(seed)
    model = _auto_class(made).from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator) * made.scale
            # Norm gains stay around what they were (0 for Gemma, 1 elsewhere); all else is random.
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(parameter + noise * 0.5 if is_gain else noise)
    return model


@cache
def tiny_directory(family: str, seed: int = 0) -> Path:
    """Write a family's random model and tokenizer as a checkpoint directory, once a run."""
    directory = Path(mkdtemp(prefix=f"tiny-{family}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    tiny_torch_model(family, seed).save_pretrained(directory)
    made = _family(family)
    tokenizer = wordpiece_tokenizer() if made.masked else byte_level_tokenizer()
    tokenizer.save_pretrained(directory)
    return directory


@cache
def tiny_model(family: str = "llama", seed: int = 0) -> LanguageModel:
    """Return a family loaded as the program loads it; shared and read-only."""
    return load_model(str(tiny_directory(family, seed)), device="cpu")


def reference_model(family: str, seed: int = 0) -> Any:
    """Return an untouched copy of the same weights, with eager attention and plain hooks only."""
    auto = _auto_class(_family(family))
    directory = tiny_directory(family, seed)
    return auto.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()


def prompt_text(family: str) -> str:
    """Return a prompt that suits the family: one with a mask token for encoders."""
    return MASKED_PROMPT if FAMILIES[family].masked else PROMPT


ModelMaker = Callable[..., LanguageModel]
