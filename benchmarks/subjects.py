"""The models that are measured, and prompts of a wanted length for them."""

import atexit
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from models import LanguageModel, TokenizedPrompt, load_model
from models.builtin import ensure_builtin

BUILTIN = "builtin"
GPT2_SHAPE = "gpt2-shape"
LABELS = {BUILTIN: "built-in", GPT2_SHAPE: "GPT-2's shape"}

TEXT = " The quick brown fox jumps over the lazy dog while Mary gives a drink to John."

HEAD_GAIN = 5.0
"""Random weights of the attention are widened by this: ablating a head then changes the logits by
far more than rounding does, and a competitor that does something else is found out."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be measured, as a checkpoint on this machine."""

    name: str
    directory: Path

    @property
    def label(self) -> str:
        return LABELS.get(self.name, self.directory.name)

    def load(self, device: str = "cpu") -> LanguageModel:
        """Load it as the program does."""
        return load_model(self.name if self.name == BUILTIN else self.directory, device=device)

    def load_plain(self) -> Any:
        """Load it as anybody does: transformers' own model and attention, float32, on the CPU."""
        return AutoModelForCausalLM.from_pretrained(self.directory, dtype=torch.float32).eval()


def subject_named(name: str) -> Subject:
    """Return the built-in model, GPT-2's shape with random weights, or a checkpoint directory."""
    if name == BUILTIN:
        return Subject(name, ensure_builtin())
    if name == GPT2_SHAPE:
        return Subject(name, gpt2_shape_directory())
    return Subject(name, Path(name))


@cache
def gpt2_shape_directory(seed: int = 0) -> Path:
    """Write a model of GPT-2's shape with random weights, once a run; it goes when the run ends."""
    directory = Path(mkdtemp(prefix="gpt2-shape-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".attn." in name and parameter.ndim == 2:
                parameter.mul_(HEAD_GAIN)
    model.save_pretrained(directory)
    numbered_tokenizer(model.config.vocab_size).save_pretrained(directory)
    return directory


def numbered_tokenizer(n_vocab: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are named after their ids, for models without a language."""
    vocab = {f"w{i}": i for i in range(n_vocab)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="w0")),
        unk_token="w0",
        model_max_length=1024,
    )


def prompt_of_length(model: LanguageModel, n: int) -> TokenizedPrompt:
    """Return a prompt of n tokens: text, or random tokens for a model without a language."""
    ids = model.tokenize(TEXT, bos=False).ids
    if len(set(ids)) > 1:
        return model.prompt_of_ids((ids * (n // len(ids) + 1))[:n])
    generator = torch.Generator().manual_seed(0)
    return model.prompt_of_ids(torch.randint(model.n_vocab, (n,), generator=generator).tolist())
