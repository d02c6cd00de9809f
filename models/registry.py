"""Names to loaded models: each loaded once, shared by all who ask, within a memory budget."""

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from models.actions import ACTIONS_FILE
from models.builtin import BUILTIN_NAME, ensure_builtin
from models.errors import ErrorKind, UserError
from models.hub import models_to_offer
from models.language_model import LanguageModel
from models.loading import DeviceMap, load_pretrained, resolve_device, resolve_dtype
from models.memory_reuse import keep_freed_memory
from models.picture_texts import parted_name
from models.policy_files import is_policy_file, load_policy_file
from models.tabletop import NAME as TABLETOP_NAME
from models.tabletop import WEIGHTS as TABLETOP_WEIGHTS

MEMORY_SHARE = 0.6
"""Share of the memory free at the start that loaded models may take together."""

GIGABYTE = 1e9

Notify = Callable[[str], None]


def load_model(
    name: str | Path = BUILTIN_NAME,
    *,
    run_python: bool = False,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    pass_memory_gb: float | None = None,
    progress: Notify | None = None,
) -> LanguageModel:
    """Load a model and make it prove itself.

    Args:
        name: "builtin", "tabletop" (a policy for a simulated robot), a hub id such as "gpt2", a
            directory, or a `.gguf` file.
        run_python: whether the name may be one of a file of Python that wraps a policy
            (`models.policy_adapter`): its code is run. Only for names that a person wrote for
            that, never for what a page or a file holds.
        device: "auto" (cuda, else mps, else cpu) or a torch device.
        dtype: "float32" (also for None), "bfloat16" or "float16".
        device_map: "auto" spreads a large model over all devices, and what does not fit over main
            memory and disk (accelerate); takes the place of `device`.
        pass_memory_gb: gigabytes (10^9 bytes) that one pass over many sets of heads may take,
            beside the weights; None for half of what is free then.
        progress: called with sentences that say what is going on.

    Raises:
        UserError: it cannot be loaded, or it failed its self-check; the message says why.
    """
    keep_freed_memory()
    if is_policy_file(name):
        return _load_own(name, run_python, device, dtype, device_map, pass_memory_gb, progress)
    torch_device, torch_dtype = resolve_device(device), resolve_dtype(dtype)
    place, label = name, str(name)
    own, texts = parted_name(name)
    if texts and str(own) in (BUILTIN_NAME, TABLETOP_NAME):
        raise UserError(
            ErrorKind.MODEL,
            f"{own} compares no pictures with texts, so no texts go behind its name; leave them "
            "out.",
        )
    if label == BUILTIN_NAME:
        place, label = ensure_builtin(progress), "the built-in model"
    elif label == TABLETOP_NAME:
        place, label = TABLETOP_WEIGHTS, "the tabletop policy"
    model, tokenizer = load_pretrained(
        place,
        label=label,
        device=torch_device,
        dtype=torch_dtype,
        device_map=device_map,
        progress=progress,
    )
    return LanguageModel(
        model,
        tokenizer,
        name=str(name),
        memory_gb=pass_memory_gb,
        actions=Path(model.name_or_path) / ACTIONS_FILE,  # where its files were found
    )


def _load_own(
    name: str | Path,
    run_python: bool,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    device_map: DeviceMap | None,
    pass_memory_gb: float | None,
    progress: Notify | None,
) -> LanguageModel:
    """Load a policy that a person wrapped in a file of Python."""
    if not run_python:
        raise UserError(
            ErrorKind.MODEL,
            f"{str(name)!r} is a file of Python, which is run only if it is named on the command "
            "line; start this program with --model and its path.",
        )
    if str(device) != "auto" or dtype is not None or device_map is not None:
        raise UserError(
            ErrorKind.OPTION,
            f"{name} loads its model itself, so --device, --device-map and --dtype say nothing; "
            "leave them out, and let the file choose.",
        )
    if progress is not None:
        progress(f"Running {name}")
    model, processor = load_policy_file(name)
    return LanguageModel(model, processor, name=str(name), memory_gb=pass_memory_gb)


class Registry:
    """The models that are loaded. All methods may be called from any thread."""

    def __init__(
        self,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        memory_gb: float | None = None,
        pass_memory_gb: float | None = None,
        device_map: DeviceMap | None = None,
        own: str | None = None,
    ) -> None:
        """Make a registry whose models all go to one device, in one dtype.

        Args:
            own: the model that was named on the command line; where that is a file of Python it is
                run when it is asked for, and no other ever is.
            memory_gb: gigabytes (10^9 bytes) that the weights of all loaded models may take;
                None for a share of what is free now. The model asked for last is always kept.
            pass_memory_gb, device_map: for each of them, see `load_model`.

        Raises:
            UserError: no such device or dtype.
        """
        self._device, self._dtype = resolve_device(device), resolve_dtype(dtype)
        self._own = None if own is None or not is_policy_file(own) else _key(own)
        self._asked: tuple[str | torch.device, str | torch.dtype | None] = (device, dtype)
        self._pass_memory_gb = pass_memory_gb
        self._device_map = device_map
        self._budget = memory_gb * GIGABYTE if memory_gb is not None else self._free_share()
        self._lock = threading.Lock()
        self._models: OrderedDict[str, LanguageModel] = OrderedDict()  # least recently used first
        self._loading: dict[str, Future[LanguageModel]] = {}

    def get(self, name: str = BUILTIN_NAME, progress: Notify | None = None) -> LanguageModel:
        """Return a model, loading it if it is not loaded.

        Whoever asks for a model that is being loaded waits for that load and gets its outcome.

        Raises:
            UserError: see `load_model`. A later call tries again.
        """
        key = _key(name)
        with self._lock:
            if key in self._models:
                self._models.move_to_end(key)
                return self._models[key]
            outcome = self._loading.get(key)
            if outcome is None:
                mine: Future[LanguageModel] = Future()
                self._loading[key] = mine
        if outcome is not None:
            return outcome.result()
        return self._load(key, name, mine, progress)

    def loaded_names(self) -> list[str]:
        """Return the names of the loaded models, least recently used first."""
        with self._lock:
            return [model.name for model in self._models.values()]

    def available(self) -> list[str]:
        """Return the names to offer: the embedded model, then those in the local hub cache."""
        return models_to_offer()

    def _load(
        self, key: str, name: str, outcome: "Future[LanguageModel]", progress: Notify | None
    ) -> LanguageModel:
        try:
            own = key == self._own
            model = load_model(
                name,
                run_python=own,
                device=self._asked[0] if own else self._device,
                dtype=self._asked[1] if own else self._dtype,
                pass_memory_gb=self._pass_memory_gb,
                device_map=self._device_map,
                progress=progress,
            )
        except BaseException as error:
            with self._lock:
                del self._loading[key]
            outcome.set_exception(error)
            raise
        with self._lock:
            del self._loading[key]
            self._models[key] = model
            evicted = self._evict()
        outcome.set_result(model)
        if evicted:
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        return model

    def _evict(self) -> bool:
        """Forget least recently used models until the rest fits; never the newest.

        One that is still in use lives on until its user lets go of it.
        """
        before = len(self._models)
        while len(self._models) > 1 and self._bytes_in_use() > self._budget:
            self._models.popitem(last=False)
        return len(self._models) < before

    def _bytes_in_use(self) -> int:
        return sum(model.n_bytes for model in self._models.values())

    def _free_share(self) -> float:
        if self._device.type == "cuda":
            return MEMORY_SHARE * torch.cuda.mem_get_info(self._device)[0]
        return MEMORY_SHARE * psutil.virtual_memory().available


def _key(name: str) -> str:
    """One key for all spellings of a path; ids are their own."""
    if name in (BUILTIN_NAME, TABLETOP_NAME):  # also where a directory of that name lies about
        return name
    path = Path(name).expanduser()
    try:
        return str(path.resolve()) if path.exists() else name
    except (OSError, ValueError):
        return name
