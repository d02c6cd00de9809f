"""From a name to a transformers model and tokenizer: a hub id, a local directory, or a GGUF file.

Hub models are brought into the local cache first (`models.hub`), so that everything is loaded from
a local directory, and the network and code of others have no part in it. Code that comes
with a model is never run, and pickled weights go through torch's weights-only loader.
"""

import atexit
import json
import logging
import os
import pickle
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from models.errors import ErrorKind, UserError
from models.hub import fetch_model

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The dtypes that can be asked for, by name."""

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""What prepares pictures for a model, in newer and in older checkpoints."""

LONGEST_NAME = 1000
"""Characters of a name or path; more is a mistake, and would make messages unreadable."""

SPLITS_DIGITS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva"}
)
"""Values of `tokenizer.ggml.pre` in a GGUF file whose tokenizer takes every digit apart before
GPT-2's splitting. llama.cpp does; transformers reads them as plain GPT-2, and then spaces in front
of a number come out as other tokens than the model was trained on."""

_BUILDING = threading.Lock()
"""transformers changes state of the whole process (the default dtype, its log level) while it
builds a model; one at a time therefore."""

Notify = Callable[[str], None]

DeviceMap = str | dict[str, int | str | torch.device]
"""Where a model's modules go, in accelerate's words: "auto", or module names and devices."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model lies on this machine."""

    name: str
    """What the user called it, for messages."""
    directory: Path
    gguf_file: str | None = None
    """The file's name when the weights, configuration and tokenizer are in one GGUF file."""


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
        name: a hub id (`gpt2`), a directory, or a `.gguf` file. An existing path is preferred.
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
    checkpoint = locate(name, notify, label)
    notify(f"Loading {checkpoint.name}")
    with exclusive_and_quiet():
        config = _read_config(checkpoint)
        model_class = _model_class(checkpoint, config)
        classifies = sees_alone(config)
        if classifies:
            images = _load_image_processor(checkpoint)
        else:
            tokenizer = _load_processor(checkpoint, config) or _load_tokenizer(checkpoint)
        model = _load_weights(checkpoint, config, model_class, torch_dtype, device_map)
        if device_map is None:
            model = _move(model, torch_device, checkpoint.name)
        if classifies:
            from models.picture_classifier import as_language_model, class_processor

            tokenizer = class_processor(model, images)
            model = as_language_model(model, tokenizer, checkpoint.name)
        return model, tokenizer


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


def locate(name: str | Path, notify: Notify, label: str | None = None) -> Checkpoint:
    """Find a model on this machine, fetching it from the hub where needed.

    Raises:
        UserError: nothing of that name, or a path that holds no model or cannot be read.
    """
    text = str(name).strip()
    if not text or "\0" in text:
        raise UserError(
            ErrorKind.MODEL, "No model was named; give builtin, a hub id or a directory."
        )
    if len(text) > LONGEST_NAME:
        raise UserError(
            ErrorKind.MODEL, f"{text[:40]!r}… is too long to be the name of a model or a path."
        )
    try:
        path = Path(text).expanduser()
        is_directory, is_file = path.is_dir(), path.is_file()
        if is_directory:
            os.listdir(path)  # a directory that may not be listed is reported as such
    except RuntimeError:  # a home directory that cannot be found
        raise _no_such_path(text) from None
    except OSError as error:
        raise _unreadable(text, error) from error
    if is_directory:
        return _check_directory(Checkpoint(label or text, path))
    if is_file:
        return _check_file(text, path)
    if isinstance(name, Path) or _looks_like_path(text):
        raise _no_such_path(text)
    return Checkpoint(text, fetch_model(text, notify))


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


# --- finding ------------------------------------------------------------------------------


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~", "\\")) or text.endswith(".gguf") or text.count("/") > 1


def _check_directory(checkpoint: Checkpoint) -> Checkpoint:
    if (checkpoint.directory / "config.json").exists():
        return checkpoint
    names = sorted(entry.name for entry in checkpoint.directory.glob("*.gguf"))
    hint = f"; to load a GGUF file, name it: {checkpoint.directory / names[0]}" if names else ""
    raise UserError(
        ErrorKind.MODEL,
        f"The directory {checkpoint.name!r} holds no model: it has no config.json{hint}.",
    )


def _check_file(text: str, path: Path) -> Checkpoint:
    if path.suffix.lower() != ".gguf":
        raise UserError(
            ErrorKind.MODEL,
            f"{text!r} is a file; give a .gguf file or the directory that holds config.json.",
        )
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise _unreadable(text, error) from error
    if magic != b"GGUF":
        raise UserError(ErrorKind.MODEL, f"{text!r} is not a GGUF file; its content is damaged.")
    return Checkpoint(text, path.parent, path.name)


def _no_such_path(text: str) -> UserError:
    return UserError(
        ErrorKind.MODEL, f"There is no directory or file {text!r}; check the path of the model."
    )


def _unreadable(text: str, error: OSError) -> UserError:
    reason = os.strerror(error.errno) if error.errno else "it cannot be read"
    return UserError(ErrorKind.MODEL, f"{text!r} cannot be read as a model: {reason}.")


# --- configuration ------------------------------------------------------------------------


def _read_config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    if checkpoint.gguf_file is None:
        _check_config_file(checkpoint)
    what = "its configuration cannot be used"
    if checkpoint.gguf_file is not None:
        what = "the GGUF file is damaged, cut short, or of an architecture that cannot be read"
    with _failing_as(checkpoint.name, what):
        return AutoConfig.from_pretrained(
            checkpoint.directory,
            gguf_file=checkpoint.gguf_file,
            trust_remote_code=False,
            local_files_only=True,
        )


def _check_config_file(checkpoint: Checkpoint) -> None:
    """Refuse by its reason a configuration that transformers would refuse less clearly."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    path = checkpoint.directory / "config.json"
    try:
        raw = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise _unreadable(str(path), error) from error
    except ValueError:
        raise UserError(
            ErrorKind.MODEL, f"{checkpoint.name}: config.json is damaged, it is not valid JSON."
        ) from None
    model_type = raw.get("model_type") if isinstance(raw, dict) else None
    if not isinstance(model_type, str):
        raise UserError(
            ErrorKind.MODEL,
            f"{checkpoint.name}: config.json names no model_type, so this is not a transformers "
            "model.",
        )
    if model_type in CONFIG_MAPPING:
        return
    if raw.get("auto_map"):
        raise UserError(
            ErrorKind.MODEL,
            f"{checkpoint.name} ({model_type}) needs code that comes with the model, and such code "
            "is never run here; choose a model whose architecture is part of transformers.",
        )
    raise UserError(
        ErrorKind.MODEL,
        f"{checkpoint.name}: transformers does not know the architecture {model_type!r}.",
    )


def _model_class(checkpoint: Checkpoint, config: Any) -> Any:
    """Choose the class that predicts tokens, or say why there is none."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    )

    stated = tuple(config.architectures or ())
    shown = stated[0] if stated else config.model_type
    other = sorted(set(config.sub_configs) - {"text_config", "encoder", "decoder"})
    if sees_alone(config):
        return _classifier_class(checkpoint, config)
    if reads_pictures(config):
        return _first(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)])
    if other:
        kinds = ", ".join(name.removesuffix("_config") for name in other)
        raise _unsupported(checkpoint.name, shown, f"a model of more than text ({kinds})")
    if getattr(config, "is_encoder_decoder", False):
        if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            return _first(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)])
        raise _unsupported(checkpoint.name, shown, "an encoder-decoder that predicts no tokens")
    causal = config if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else None
    masked = config if type(config) in MODEL_FOR_MASKED_LM_MAPPING else None
    if masked is not None and (causal is None or _states_masked(stated, config)):
        return _first(MODEL_FOR_MASKED_LM_MAPPING[type(config)])
    if causal is not None:
        return _first(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    raise _unsupported(checkpoint.name, shown, "no language model that predicts tokens")


def reads_pictures(config: Any) -> bool:
    """Whether a model answers to text with pictures in it, and does so with text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    encoders = getattr(config, "is_encoder_decoder", False)
    return (
        type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        and "vision_config" in config.sub_configs
        and not encoders
    )


def sees_alone(config: Any) -> bool:
    """Whether a model says of a picture alone which class it shows."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    answers_text = (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return False
    if "ForImageClassification" in "".join(config.architectures or ()):
        return True
    reads_too = {"text_config", "vision_config"} & set(config.sub_configs)
    return not reads_too and not any(type(config) in mapping for mapping in answers_text)


def _classifier_class(checkpoint: Checkpoint, config: Any) -> Any:
    """Choose the class of an image classifier: the one that the checkpoint names, of those that the
    architecture has."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    from models.attention_tap import dispatches

    entry = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    classes = entry if isinstance(entry, tuple) else (entry,)
    stated = tuple(config.architectures or ())
    chosen = next((one for one in classes if one.__name__ in stated), classes[0])
    if not dispatches(chosen):
        raise _unsupported(
            checkpoint.name,
            chosen.__name__,
            "an image classifier whose attention is not in transformers' registry",
        )
    return chosen


def _states_masked(stated: tuple[str, ...], config: Any) -> bool:
    """For an architecture that can be both: whether this checkpoint predicts at masks."""
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in stated):
        return False
    return not getattr(config, "is_decoder", False)


def _first(entry: Any) -> Any:
    return entry[0] if isinstance(entry, tuple) else entry


def _unsupported(name: str, architecture: str, what: str) -> UserError:
    return UserError(
        ErrorKind.MODEL,
        f"{name} ({architecture}) is {what}, which is not supported yet; choose a decoder such as "
        "gpt2, an encoder such as bert-base-uncased, or an encoder-decoder such as t5-small.",
    )


# --- tokenizer and weights ----------------------------------------------------------------


def _load_processor(checkpoint: Checkpoint, config: Any) -> Any:
    """Return what prepares text and pictures for a model; None for a model that reads text."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    if not reads_pictures(config):
        return None
    if type(config) not in PROCESSOR_MAPPING:
        raise _unsupported(checkpoint.name, config.model_type, "a model without a processor")
    if not any((checkpoint.directory / name).exists() for name in PROCESSOR_FILES):
        raise UserError(
            ErrorKind.MODEL,
            f"{checkpoint.name} has no processor for pictures; put its files "
            f"({' or '.join(PROCESSOR_FILES)}) beside config.json.",
        )
    with _failing_as(checkpoint.name, "what prepares its pictures cannot be loaded"):
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
    with _failing_as(checkpoint.name, "what prepares its pictures cannot be loaded"):
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

    with _failing_as(checkpoint.name, "its tokenizer cannot be loaded"):
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
    with _failing_as(checkpoint.name, "its weights cannot be loaded"):
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
    with _failing_as(name, f"it cannot be moved to {device}"):
        return model.to(device)


@contextmanager
def _failing_as(name: str, what: str) -> Iterator[None]:
    """Turn whatever a library raises about a user's files into one sentence."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(name) from error
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: {what}; a weight file is damaged, cut short, or holds more than plain "
            f"tensors ({_reason(error)}).",
        ) from error
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        StrictDataclassError,
        TypeError,
        ValueError,
    ) as error:
        if "allocate memory" in str(error) or "out of memory" in str(error):
            raise _out_of_memory(name) from error
        raise UserError(ErrorKind.MODEL, f"{name}: {what} ({_reason(error)}).") from error


def _out_of_memory(name: str) -> UserError:
    return UserError(
        ErrorKind.DEVICE,
        f"There is not enough memory to load {name}; close other programs, choose a smaller model, "
        "or load it with --dtype bfloat16.",
    )


def _reason(error: BaseException, longest: int = 200) -> str:
    """The first line of a library's message, without its full stop."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else type(error).__name__
    return text if len(text) <= longest else text[: longest - 1] + "…"


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
