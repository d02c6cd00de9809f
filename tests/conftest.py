"""Fixtures that all tests share."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

# Set before transformers is imported: tests never look for a hub that may not be there.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Of every thread, those of the page's server among them; see below.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from tiny import tiny_model

from models.language_model import LanguageModel
from models.registry import load_model

# Tiny models are faster on one thread, by far when something else runs on the machine.
torch.set_num_threads(1)

# How long an example takes says more about what else the machine does than about the program.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


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


def chromium_path() -> str | None:
    """Return a Chromium of this machine; Debian's, Chrome, or the one Playwright fetched."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    fetched = sorted(Path.home().glob(".cache/ms-playwright/chromium-*/chrome-linux*/chrome"))
    return str(fetched[-1]) if fetched else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip browser tests where there is no browser, unless the run requires one; let those that
    fail try once more, and the summary say so: two busy cores can make any wait too short. Files
    with browser tests come first, which take longest: at the end, all processes have work."""
    n_tests = Counter(item.path for item in items)
    in_browser = {item.path for item in items if "browser" in item.keywords}
    items.sort(key=lambda item: (item.path not in in_browser, -n_tests[item.path]))
    for item in items:
        if "browser" in item.keywords:
            item.add_marker(pytest.mark.flaky(reruns=1))
    if chromium_path() is not None or os.environ.get("REQUIRE_BROWSER"):
        return
    skip = pytest.mark.skip(reason="no Chromium on this machine; install one to run these")
    for item in items:
        if "browser" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """How Chromium starts: as root in a container too, and without talking to other hosts."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    args = ["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
    return {"executable_path": chromium_path(), "args": args}


@pytest.fixture(scope="session")
def base_url() -> None:
    """None: each test knows its own address. The plugin's fixture warns under pytest 9."""
