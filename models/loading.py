"""From a name to a transformers model and tokenizer: a hub id, a local directory, or a GGUF file.

Hub models are brought into the local cache first (`models.hub`), so that everything is loaded from
a local directory, and the network and code of others have no part in it. Code that comes
with a model is never run, and pickled weights go through torch's weights-only loader.
"""

import atexit
import logging
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from models.checkpoints import PROCESSOR_FILES, Checkpoint, Notify, failing_as, locate
from models.errors import ErrorKind, UserError
from models.line_prompts import read_line_processor, reads_lines
from models.model_classes import (
    answers_with_numbers,
    compares_texts,
    model_class_of,
    read_config,
    reads_pictures,
    sees_alone,
    unsupported,
)
from models.picture_texts import FIRST_TEXTS, PictureAmongTexts, parted_name

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The dtypes that can be asked for, by name."""

SPLITS_DIGITS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva"}
)
"""Values of `tokenizer.ggml.pre` in a GGUF file whose tokenizer takes every digit apart before
GPT-2's splitting. llama.cpp does; transformers reads them as plain GPT-2, and then spaces in front
of a number come out as other tokens than the model was trained on."""

_BUILDING = threading.Lock()
"""transformers changes state of the whole process (the default dtype, its log level) while it
builds a model; one at a time therefore."""

DeviceMap = str | dict[str, int | str | torch.device]
"""Where a model's modules go, in accelerate's words: "auto", or module names and devices."""


def load_pretrained(
    name: str | Path,
    *,
    label: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    progress: Notify | None = None,
) -> tuple[Any, Any]:
    """Load a model and its tokenizer, ready to be wrapped in a `LanguageModel`.

    Args:
        name: a hub id (`gpt2`), a directory, or a `.gguf` file. An existing path is preferred. What
            a picture is compared with may stand behind it (`models.picture_texts`).
        label: what messages call the model; its name if None.
        device: "auto" (cuda, else mps, else cpu) or a torch device.
        dtype: "float32" (also for None), "bfloat16" or "float16".
        device_map: "auto" spreads the model over all devices, and what does not fit over main
            memory and disk; or accelerate's map of module names to devices. Takes the place of
            `device`.
        progress: called with sentences that say what is going on.

    Returns:
        The torch model, in evaluation mode on its device, and the tokenizer; of a model that reads
        pictures, the processor that holds it.

    Raises:
        UserError: nothing by that name can be loaded; the message says why.
    """
    torch_device, torch_dtype = resolve_device(device), resolve_dtype(dtype)
    notify = progress or _say_nothing
    place, texts = parted_name(name)
    checkpoint = locate(place, notify, label)
    notify(f"Loading {checkpoint.name}")
    with exclusive_and_quiet():
        config = read_config(checkpoint)
        model_class = model_class_of(checkpoint, config)
        classifies, compares = sees_alone(config), compares_texts(config)
        if texts and not compares:
            raise UserError(
                ErrorKind.MODEL,
                f"{checkpoint.name} compares no pictures with texts, so no texts go behind its "
                "name; leave them out.",
            )
        acts = answers_with_numbers(config)
        if classifies or compares:
            images = _load_image_processor(checkpoint)
            tokenizer = _load_tokenizer(checkpoint) if compares else None
        elif acts:
            tokenizer = _load_tokenizer(checkpoint)
        else:
            tokenizer = _load_processor(checkpoint, config) or _load_tokenizer(checkpoint)
        model = _load_weights(checkpoint, config, model_class, torch_dtype, device_map)
        if device_map is None:
            model = _move(model, torch_device, checkpoint.name)
        if classifies or compares:
            return _classifier(checkpoint, model, images, tokenizer, texts)
        return _policy(checkpoint, model, tokenizer) if acts else (model, tokenizer)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the torch device that a name stands for.

    Raises:
        UserError: no such device, or this machine does not have it.
    """
    if str(device) == "auto":
        return torch.device(_best_device())
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise UserError(
            ErrorKind.DEVICE, f"There is no device {str(device)!r}; use auto, cpu, cuda or mps."
        ) from None
    if not _has_device(resolved):
        raise UserError(
            ErrorKind.DEVICE,
            f"This machine has no device {str(device)!r} that torch can use; use auto or "
            f"{_best_device()}.",
        )
    return resolved


def resolve_dtype(dtype: str | torch.dtype | None = None) -> torch.dtype:
    """Return the torch dtype that a name stands for; float32 for None."""
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(
            ErrorKind.DEVICE, f"There is no dtype {name!r} here; use {', '.join(DTYPES)}."
        )
    return DTYPES[name]


@contextmanager
def exclusive_and_quiet(converted: Callable[[int, int], None] | None = None) -> Iterator[None]:
    """Let one thread at a time build a model, with the libraries silent meanwhile.

    Args:
        converted: called with (tensors done, tensors in all) while a GGUF file is read.
    """
    with _BUILDING, _quiet_libraries(converted):
        yield


@contextmanager
def _quiet_libraries(converted: Callable[[int, int], None] | None) -> Iterator[None]:
    """Keep the libraries' warnings, reports and progress bars off the terminal.

    What they would say is either raised as a `UserError` here or about the library itself.
    """

    def counted(items: Any, **_: Any) -> Iterator[Any]:
        for done, item in enumerate(items):
            if converted is not None:
                converted(done, len(items))
            yield item

    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import disable_progress_bars as disable_hub_bars
    from huggingface_hub.utils import enable_progress_bars as enable_hub_bars
    from transformers import modeling_gguf_pytorch_utils as gguf_reading
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    gguf_bar = gguf_reading.tqdm
    library.set_verbosity(logging.CRITICAL)
    library.disable_progress_bar()
    disable_hub_bars()
    # This one bar asks neither the library's switch nor an argument.
    gguf_reading.tqdm = counted
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gguf_reading.tqdm = gguf_bar
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
        if hub_bars:
            enable_hub_bars()
        else:
            disable_hub_bars()


# --- tokenizer and weights ----------------------------------------------------------------


def _load_processor(checkpoint: Checkpoint, config: Any) -> Any:
    """Return what prepares text and pictures for a model; None for a model that reads text."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    if not reads_pictures(config):
        return None
    if type(config) not in PROCESSOR_MAPPING:
        raise unsupported(checkpoint.name, config.model_type, "a model without a processor")
    if not any((checkpoint.directory / name).exists() for name in PROCESSOR_FILES):
        raise UserError(
            ErrorKind.MODEL,
            f"{checkpoint.name} has no processor for pictures; put its files "
            f"({' or '.join(PROCESSOR_FILES)}) beside config.json.",
        )
    with failing_as(checkpoint.name, "what prepares its pictures cannot be loaded"):
        if reads_lines(checkpoint.directory, checkpoint.name, config):
            tokenizer = _load_tokenizer(checkpoint)
            return read_line_processor(checkpoint.directory, checkpoint.name, config, tokenizer)
        return _of_images_alone(PROCESSOR_MAPPING[type(config)]).from_pretrained(
            checkpoint.directory, trust_remote_code=False, local_files_only=True
        )


def _load_image_processor(checkpoint: Checkpoint) -> Any:
    """Return what prepares pictures for a classifier."""
    from transformers import AutoImageProcessor

    if not any((checkpoint.directory / name).exists() for name in PROCESSOR_FILES):
        raise UserError(
            ErrorKind.MODEL,
            f"{checkpoint.name} has no processor for pictures; put its preprocessor_config.json "
            "beside config.json.",
        )
    with failing_as(checkpoint.name, "what prepares its pictures cannot be loaded"):
        return AutoImageProcessor.from_pretrained(
            checkpoint.directory, trust_remote_code=False, local_files_only=True
        )


def _of_images_alone(processor_class: Any) -> Any:
    """Return a class of processors without the part that prepares videos, which asks for a library
    that nothing here needs."""

    def get_attributes(_own: Any) -> list[str]:
        return [name for name in processor_class.get_attributes() if "video" not in name]

    def from_args_and_dict(own: Any, args: list[Any], settings: dict[str, Any], **more: Any) -> Any:
        taken = list(signature(processor_class.__init__).parameters)[1:]  # without self
        if taken[len(args) : len(args) + 1] == ["video_processor"]:  # some insist on one
            args = [*args, None]
        return processor_class.from_args_and_dict.__func__(own, args, settings, **more)

    parts = {
        "get_attributes": classmethod(get_attributes),
        "from_args_and_dict": classmethod(from_args_and_dict),
    }
    return type(processor_class.__name__, (processor_class,), parts)


def _load_tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    with failing_as(checkpoint.name, "its tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.directory,
            gguf_file=checkpoint.gguf_file,
            trust_remote_code=False,
            local_files_only=True,
        )
        if checkpoint.gguf_file is not None:
            correct_gguf_tokenizer(tokenizer, checkpoint.directory / checkpoint.gguf_file)
            return tokenizer
    # Without its files transformers makes an empty tokenizer of the right class and says nothing.
    wanted = set(type(tokenizer).vocab_files_names.values()) | {"tokenizer.json"}
    if not any((checkpoint.directory / name).exists() for name in wanted):
        raise UserError(
            ErrorKind.MODEL,
            f"{checkpoint.name} has no tokenizer; put its files ({', '.join(sorted(wanted))}) "
            "beside config.json.",
        )
    return tokenizer


def correct_gguf_tokenizer(tokenizer: Any, gguf_path: Path) -> None:
    """Make a tokenizer read from a GGUF file split numbers as its model was trained."""
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.reader import read_gguf_metadata

    metadata, _ = read_gguf_metadata(str(gguf_path))
    if metadata.get("tokenizer.ggml.pre") in SPLITS_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def _classifier(
    checkpoint: Checkpoint, model: Any, images: Any, tokenizer: Any, texts: tuple[str, ...]
) -> tuple[Any, Any]:
    """Return a model that sees alone as everything else takes it, and its processor.

    Args:
        tokenizer: of a model that compares pictures with texts; None for a classifier.
        texts: what it compares them with.
    """
    from models.picture_classifier import as_language_model, class_processor

    labels = model.config.id2label
    if tokenizer is not None:
        with failing_as(checkpoint.name, "it cannot compare pictures with texts"):
            model = PictureAmongTexts(model, tokenizer, texts or FIRST_TEXTS)
        labels = model.labels
    processor = class_processor(labels, images)
    return as_language_model(model, processor, checkpoint.name), processor


def _policy(checkpoint: Checkpoint, model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Return a policy that answers with numbers as everything else takes it, and its processor."""
    from models.flow_policy import FlowPolicy
    from models.policy_prompts import read_policy_processor

    vision = model.config.vlm_config.vision_config
    processor = read_policy_processor(checkpoint.directory, checkpoint.name, tokenizer, vision)
    return FlowPolicy(model), processor


def _load_weights(
    checkpoint: Checkpoint,
    config: Any,
    model_class: Any,
    dtype: torch.dtype,
    device_map: DeviceMap | None,
) -> Any:
    from models.attention_tap import ATTENTION_NAME, dispatches

    spread: dict[str, Any] = {}
    if device_map is not None:
        spread = {"device_map": device_map, "offload_folder": _offload_folder()}
    with failing_as(checkpoint.name, "its weights cannot be loaded"):
        model, report = model_class.from_pretrained(
            checkpoint.directory,
            config=None if checkpoint.gguf_file else config,
            gguf_file=checkpoint.gguf_file,
            dtype=dtype,
            attn_implementation=ATTENTION_NAME if dispatches(model_class) else "eager",
            local_files_only=True,
            weights_only=True,
            ignore_mismatched_sizes=True,  # refused below, with the name of one
            output_loading_info=True,
            **spread,
        )
    _check_report(checkpoint, model_class, report)
    return model.eval()


def _check_report(checkpoint: Checkpoint, model_class: Any, report: dict[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights: transformers fills them with random numbers."""
    unfitting = sorted(name for name, *_ in report["mismatched_keys"])
    if unfitting:
        raise UserError(
            ErrorKind.MODEL,
            f"{checkpoint.name}: weights have other sizes than config.json says ({unfitting[0]}); "
            "the two do not belong together.",
        )
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            ErrorKind.MODEL,
            f"{checkpoint.name}: the checkpoint lacks weights that {model_class.__name__} needs "
            f"({missing[0]}{more}); it is incomplete or made for another task.",
        )


def _offload_folder() -> str:
    """Return a new directory for weights that fit nowhere else; it goes when the program ends."""
    directory = tempfile.mkdtemp(prefix="attention-visualizer-offload-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _move(model: Any, device: torch.device, name: str) -> Any:
    with failing_as(name, f"it cannot be moved to {device}"):
        return model.to(device)


# --- devices ------------------------------------------------------------------------------


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _has_device(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def _say_nothing(_: str) -> None: ...
