"""Which class of transformers' loads a checkpoint, told from its configuration."""

import json
from typing import Any

from models.checkpoints import Checkpoint, failing_as, unreadable
from models.errors import ErrorKind, UserError


def read_config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    if checkpoint.gguf_file is None:
        _check_config_file(checkpoint)
    what = "its configuration cannot be used"
    if checkpoint.gguf_file is not None:
        what = "the GGUF file is damaged, cut short, or of an architecture that cannot be read"
    with failing_as(checkpoint.name, what):
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
        raise unreadable(str(path), error) from error
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


def model_class_of(checkpoint: Checkpoint, config: Any) -> Any:
    """Choose the class that predicts tokens, or say why there is none."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
    )

    stated = tuple(config.architectures or ())
    shown = stated[0] if stated else config.model_type
    other = sorted(set(config.sub_configs) - {"text_config", "encoder", "decoder"})
    if answers_with_numbers(config):
        from transformers import PI0ForConditionalGeneration

        return PI0ForConditionalGeneration
    if sees_alone(config):
        return _classifier_class(checkpoint, config)
    if compares_texts(config):
        return _first(MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING[type(config)])
    if reads_pictures(config):
        return _first(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)])
    if other:
        kinds = ", ".join(name.removesuffix("_config") for name in other)
        raise unsupported(checkpoint.name, shown, f"a model of more than text ({kinds})")
    if getattr(config, "is_encoder_decoder", False):
        if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            return _first(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)])
        raise unsupported(checkpoint.name, shown, "an encoder-decoder that predicts no tokens")
    causal = config if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else None
    masked = config if type(config) in MODEL_FOR_MASKED_LM_MAPPING else None
    if masked is not None and (causal is None or _states_masked(stated, config)):
        return _first(MODEL_FOR_MASKED_LM_MAPPING[type(config)])
    if causal is not None:
        return _first(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    raise unsupported(checkpoint.name, shown, "no language model that predicts tokens")


def answers_with_numbers(config: Any) -> bool:
    """Whether a model is a policy that finds the numbers of an action by flow matching."""
    return bool(config.model_type == "pi0")


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


def compares_texts(config: Any) -> bool:
    """Whether a model says how alike a picture and a text are, each read by a tower of its own."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
    )

    return (
        type(config) in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING
        and type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        and not sees_alone(config)
        and {"text_config", "vision_config"} <= set(config.sub_configs)
    )


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
        raise unsupported(
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


def unsupported(name: str, architecture: str, what: str) -> UserError:
    return UserError(
        ErrorKind.MODEL,
        f"{name} ({architecture}) is {what}, which is not supported yet; choose a decoder such as "
        "gpt2, an encoder such as bert-base-uncased, or an encoder-decoder such as t5-small.",
    )
