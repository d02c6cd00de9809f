"""Fixtures that all tests share."""

import os

# Set before transformers is imported: tests never look for a hub that may not be there.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tiny import tiny_model

from models.language_model import LanguageModel
from models.registry import load_model

# Tiny models are faster on one thread, by far when something else runs on the machine.
torch.set_num_threads(1)


@pytest.fixture
def llama() -> LanguageModel:
    """A tiny grouped-query model; read-only, shared by the whole run."""
    return tiny_model("llama")


@pytest.fixture
def gpt2() -> LanguageModel:
    """A tiny GPT-2; read-only, shared by the whole run."""
    return tiny_model("gpt2")


@pytest.fixture(scope="session")
def builtin() -> LanguageModel:
    """The built-in SmolLM2-135M on the CPU; fetched once if the cache has it not."""
    return load_model("builtin", device="cpu")
