"""Models of the Hugging Face hub: fetch one into the hub's local cache, list those already there.

A model found whole in the local cache is used as it is, without a request to the hub. Nothing but
configuration, tokenizer and weights is fetched: no code ever is.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from models.builtin import BUILTIN_NAME
from models.errors import ErrorKind, UserError
from models.tabletop import NAME as TABLETOP_NAME

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's answer before it counts as unreachable."""

TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")
"""Endings of configuration and tokenizer files."""

LARGEST_TEXT_FILE = 100_000_000
"""Bytes. Larger files with these endings are training data, not a tokenizer."""

MEGABYTE = 1_000_000

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a hub repository."""

    name: str
    size: int
    """In bytes; 0 where the hub does not say."""


def fetch_model(model_id: str, notify: Notify, *, endpoint: str | None = None) -> Path:
    """Return the local directory of a hub model, downloading it first where needed.

    Args:
        endpoint: address of the hub; None for the configured one (`HF_ENDPOINT`).

    Raises:
        UserError: not a hub id, no such model, a gated one, or the hub cannot be reached.
    """
    check_model_id(model_id)
    cached = cached_snapshot(model_id)
    if cached is not None and is_complete(cached):
        return cached
    files = _list_files(model_id, endpoint)
    chosen = choose_files(files)
    if not any(is_weight_file(file.name) for file in chosen):
        raise UserError(ErrorKind.MODEL, _no_weights_sentence(model_id, files))
    return _download(model_id, chosen, notify, endpoint)


def check_model_id(model_id: str) -> None:
    """Raise `UserError` for a text that cannot be a hub id."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model_id)
    except HFValidationError:
        raise UserError(
            ErrorKind.MODEL,
            f"{model_id!r} is neither a directory, nor a .gguf file, nor a model id of the "
            "Hugging Face hub such as gpt2 or EleutherAI/pythia-160m.",
        ) from None


def cached_snapshot(model_id: str) -> Path | None:
    """Return the directory of a model in the hub's local cache, None when it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model_id, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def is_complete(directory: Path) -> bool:
    """Return whether a snapshot holds all its weights and a tokenizer."""
    return _weights_complete(directory) and any(
        file.name != "config.json" and _is_tokenizer_file(file.name) for file in directory.iterdir()
    )


def models_to_offer() -> list[str]:
    """Return the names of models that load without a network: the built-in one first."""
    return [BUILTIN_NAME, TABLETOP_NAME, *hub_models()]


def hub_models() -> list[str]:
    """Return the ids of the models found whole in the hub's local cache, sorted."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError):
        return []
    candidates = sorted(repo.repo_id for repo in repositories if repo.repo_type == "model")
    return [name for name in candidates if _is_offered(name)]


def choose_files(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Pick what is needed of a repository: one set of weights, configuration and tokenizer."""
    top_level = [file for file in files if "/" not in file.name]
    weights = [file for file in top_level if is_weight_file(file.name)]
    safe = [file for file in weights if file.name.endswith(".safetensors")]
    texts = [
        file
        for file in top_level
        if file.name.endswith(TEXT_SUFFIXES)
        and file.size <= LARGEST_TEXT_FILE
        and not file.name.endswith(".bin.index.json" if safe else ".safetensors.index.json")
    ]
    return texts + (safe or weights)


def is_weight_file(name: str) -> bool:
    """Return whether transformers would read weights from a file of this name."""
    stem, _, suffix = name.rpartition(".")
    stem = stem.split("-0")[0]  # shards: model-00001-of-00002
    return (stem, suffix) in {("model", "safetensors"), ("pytorch_model", "bin")}


def _weights_complete(directory: Path) -> bool:
    """Whether all weights are there: a single file, or every shard that an index names."""
    import json

    for single in ("model.safetensors", "pytorch_model.bin"):
        if (directory / single).exists():
            return True
        index = directory / f"{single}.index.json"
        if index.exists():
            try:
                shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            except (ValueError, KeyError, AttributeError, OSError):
                return False
            return all((directory / shard).exists() for shard in shards)
    return False


def _is_tokenizer_file(name: str) -> bool:
    return name.startswith(("tokenizer", "vocab", "merges", "spiece", "sentencepiece"))


def _is_offered(model_id: str) -> bool:
    import json

    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    directory = cached_snapshot(model_id)
    if directory is None:
        return False
    try:
        config = json.loads((directory / "config.json").read_text("utf-8"))
        complete = is_complete(directory)
    except (OSError, ValueError):
        return False
    if not complete or not isinstance(config, dict) or config.get("is_encoder_decoder"):
        return False
    known = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    if "vision_config" in config:
        return config.get("model_type") in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return config.get("model_type") in known


def _list_files(model_id: str, endpoint: str | None) -> list[RemoteFile]:
    """Ask the hub what the repository holds; one request, so that failure is quick and clear."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi(endpoint=endpoint).model_info(
            model_id, timeout=HUB_TIMEOUT, files_metadata=True
        )
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise UserError(ErrorKind.MODEL, _sentence(model_id, error)) from error
    return [RemoteFile(file.rfilename, file.size or 0) for file in info.siblings or ()]


def _download(
    model_id: str, files: Sequence[RemoteFile], notify: Notify, endpoint: str | None
) -> Path:
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    total = sum(file.size for file in files)
    meter = _Meter(model_id, total, notify)
    directory = None
    for file in files:
        try:
            local = hf_hub_download(
                model_id,
                file.name,
                endpoint=endpoint,
                etag_timeout=HUB_TIMEOUT,
                tqdm_class=partial(_Bar, meter),
            )
        except (HfHubHTTPError, httpx2.HTTPError, EntryNotFoundError, OSError) as error:
            raise UserError(ErrorKind.MODEL, _sentence(model_id, error)) from error
        meter.file_done(file)
        if file.name == "config.json":
            directory = Path(local).parent
    if directory is None:
        raise UserError(
            ErrorKind.MODEL,
            f"{model_id} has no config.json on the hub, so it cannot be loaded as a model.",
        )
    return directory


class _Meter:
    """Adds up what was downloaded and says so now and then."""

    def __init__(self, model_id: str, total: int, notify: Notify) -> None:
        self._model_id, self._total, self._notify = model_id, total, notify
        self._finished = 0
        self._said = -1

    def file_done(self, file: RemoteFile) -> None:
        self._finished += file.size
        self.report(0)

    def report(self, current: float) -> None:
        """Say how far the download is, in steps of five per cent."""
        done = min(self._finished + current, self._total)
        step = int(20 * done / self._total) if self._total else 0
        if step > self._said:
            self._said = step
            self._notify(
                f"Downloading {self._model_id} from the Hugging Face hub: "
                f"{done / MEGABYTE:.0f} of {self._total / MEGABYTE:.0f} MB"
            )


class _Bar:
    """The part of a tqdm bar that the hub's client uses; feeds the meter, draws nothing."""

    def __init__(self, meter: _Meter, *_: Any, initial: float = 0, **__: Any) -> None:
        self._meter, self._done = meter, initial or 0

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def update(self, n: float | None = 1) -> None:
        self._done += n or 0
        self._meter.report(self._done)

    def update_transfer(self, n: float | None = 1) -> None: ...

    def set_postfix_str(self, *_: Any, **__: Any) -> None: ...

    def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None: ...


def _sentence(model_id: str, error: Exception) -> str:
    """Say in one sentence why the hub did not give the model."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return (
            f"{model_id} is gated: accept its terms at https://huggingface.co/{model_id} and log "
            "in with `hf auth login`, then try again."
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"There is no directory {model_id!r} here and no public model of that id on the "
            "Hugging Face hub; check the spelling (for a private model, log in with "
            "`hf auth login`)."
        )
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{model_id} is not in the local hub cache, and offline mode is on; unset "
            "HF_HUB_OFFLINE to download it, or give a local directory."
        )
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", "an error")
        return f"The Hugging Face hub answered {status} for {model_id}; try again later."
    if isinstance(error, OSError) and error.errno is not None:
        return (
            f"{model_id} cannot be stored in the hub's local cache "
            f"({os.strerror(error.errno)}); free space there or set HF_HOME to another directory."
        )
    return (
        f"{model_id} is neither a local directory nor in the local hub cache, and the Hugging Face "
        "hub cannot be reached; check the network, or give a local directory."
    )


def _no_weights_sentence(model_id: str, files: Sequence[RemoteFile]) -> str:
    if any(file.name.endswith(".gguf") for file in files):
        return (
            f"{model_id} holds GGUF files only; download one of them and give its path as the "
            "model."
        )
    return f"{model_id} holds no weights that can be read (model.safetensors or pytorch_model.bin)."
