"""Tiny random models that read pictures, made from configs, with the processors of their families.

Written as checkpoint directories, so that tests load them through the front door and can load a
second, untouched copy of the same weights as an independent reference.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from models.language_model import LanguageModel
from models.picture import Picture
from models.registry import load_model

WORDS = ["what", "is", "in", "this", "picture", "a", "red", "square", "or", "the", "blue", "circle"]
QUESTION = "what is in this picture"

_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
_SIGLIP = {**_CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
_LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


_QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}


def _mrope(*section: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(section)}


@dataclass(frozen=True, slots=True)
class VisionFamily:
    """How to make one architecture small."""

    model_type: str
    vision: dict[str, Any]
    text: dict[str, Any]
    processor: Callable[[Any], Any]
    """tokenizer -> the family's processor"""
    tokens: dict[str, str] = field(default_factory=lambda: {"image_token": "<image>"})
    """What the tokenizer's special tokens are called, and how they are written."""
    config: dict[str, Any] = field(default_factory=dict)
    more_words: tuple[str, ...] = ()
    image_id: str = "<image>"
    """The token that stands for a part of a picture."""
    picture: tuple[int, int] = (32, 32)
    """Width and height of what tests show it."""
    side: int = 4
    """Positions along each side of that picture, or of its whole view."""
    tower: bool = True
    """Whether the tower's heads are a stack."""
    causal: bool = True
    blank: int = 0
    """Positions that show nothing of that picture: the ends of lines."""
    branches: bool = True
    """Whether sets of heads branch off; not where pictures enter behind several layers."""


def _llava(tokenizer: Any) -> Any:
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )


def _llava_siglip(tokenizer: Any) -> Any:
    from transformers import LlavaProcessor, SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        image_token="<image>",
    )


def _paligemma(tokenizer: Any) -> Any:
    from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    return PaliGemmaProcessor(images, tokenizer)


def _gemma3(tokenizer: Any) -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    return Gemma3Processor(images, tokenizer, image_seq_length=4)


def _qwen(tokenizer: Any) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return _ImagesAlone(
        Qwen2VLImageProcessorPil(
            size={"shortest_edge": 256, "longest_edge": 65536},
            patch_size=8,
            merge_size=2,
            temporal_patch_size=2,
        ),
        tokenizer,
    )


@dataclass(frozen=True, slots=True)
class _ImagesAlone:
    """Writes what a checkpoint has whose own processor cannot be made without a video library."""

    image_processor: Any
    tokenizer: Any
    settings: dict[str, Any] = field(default_factory=dict)
    """The processor's own."""

    def save_pretrained(self, directory: Path) -> None:
        self.image_processor.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        if self.settings:
            (directory / "processor_config.json").write_text(json.dumps(self.settings))


def _idefics3(tokenizer: Any) -> Any:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    return Idefics3Processor(images, tokenizer, image_seq_len=4)


def _llava_next(tokenizer: Any) -> Any:
    from transformers import LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
    )
    return LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _smolvlm(tokenizer: Any) -> Any:
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    images = SmolVLMImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    return _ImagesAlone(images, tokenizer, {"image_seq_len": 4})


def _internvl(tokenizer: Any) -> Any:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    images = GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4
    )
    return _ImagesAlone(images, tokenizer, {"image_seq_length": 4})


def _llava_onevision(tokenizer: Any) -> Any:
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    images = LlavaOnevisionImageProcessorPil(
        size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]]
    )
    return _ImagesAlone(
        images, tokenizer, {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    )


def _pixtral(tokenizer: Any, merge: int = 1) -> Any:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    images = PixtralImageProcessorPil(
        size={"longest_edge": 128}, patch_size={"height": 8, "width": 8}
    )
    settings = {"patch_size": 8, "spatial_merge_size": merge, "processor_class": "PixtralProcessor"}
    return _ImagesAlone(images, tokenizer, settings)


def _mistral3(tokenizer: Any) -> Any:
    return _pixtral(tokenizer, merge=2)


_PIXTRAL = {**_CLIP, "model_type": "pixtral", "head_dim": 8, "image_size": 128}
_LINE_TOKENS = {
    "image_token": "[IMG]",
    "image_break_token": "[IMG_BREAK]",
    "image_end_token": "[IMG_END]",
}


FAMILIES = {
    "llava": VisionFamily("llava", _CLIP, _LLAMA, _llava),
    "llava-siglip": VisionFamily(
        "llava",
        _SIGLIP,
        _LLAMA,
        _llava_siglip,
        config={"vision_feature_select_strategy": "full", "vision_feature_layer": -1},
    ),
    "paligemma": VisionFamily(
        "paligemma",
        {**_SIGLIP, "projection_dim": 32},
        {**_LLAMA, "model_type": "gemma", "head_dim": 8},
        _paligemma,
        config={"projection_dim": 32, "hidden_size": 32},
        causal=False,
    ),
    "gemma3": VisionFamily(
        "gemma3",
        _SIGLIP,
        {**_LLAMA, "model_type": "gemma3_text", "head_dim": 8},
        _gemma3,
        tokens={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        config={"mm_tokens_per_image": 4},
        image_id="<image_soft_token>",
        side=2,
        causal=False,
    ),
    "qwen2-vl": VisionFamily(
        "qwen2_vl",
        {
            "depth": 3,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 4,
            "patch_size": 8,
            "mlp_ratio": 2,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        {
            **_LLAMA,
            "model_type": "qwen2_vl_text",
            "rope_parameters": _mrope(1, 1, 2),
        },
        _qwen,
        tokens=_QWEN_TOKENS,
        image_id="<|image_pad|>",
        picture=(64, 64),
        side=4,
    ),
    "qwen2.5-vl": VisionFamily(
        "qwen2_5_vl",
        {
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        {
            **_LLAMA,
            "model_type": "qwen2_5_vl_text",
            "rope_parameters": _mrope(1, 1, 2),
        },
        _qwen,
        tokens=_QWEN_TOKENS,
        image_id="<|image_pad|>",
        picture=(64, 64),
        side=4,
    ),
    "llava-next": VisionFamily(
        "llava_next",
        _CLIP,
        _LLAMA,
        _llava_next,
        config={"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]},
        picture=(64, 64),
        side=8,
        blank=8,
    ),
    "qwen3-vl": VisionFamily(
        "qwen3_vl",
        {
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        {
            **_LLAMA,
            "model_type": "qwen3_vl_text",
            "head_dim": 8,
            "rope_parameters": _mrope(2, 1, 1),
        },
        _qwen,
        tokens=_QWEN_TOKENS,
        image_id="<|image_pad|>",
        picture=(64, 64),
        side=4,
        branches=False,
    ),
    "idefics3": VisionFamily(
        "idefics3",
        {**_CLIP, "model_type": "idefics3_vision"},
        _LLAMA,
        _idefics3,
        tokens={"image_token": "<image>"},
        config={"scale_factor": 2},
        more_words=(
            "<fake_token_around_image>",
            "<global-img>",
            "<end_of_utterance>",
            *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)),
        ),
        picture=(64, 64),
        side=2,
    ),
    "smolvlm": VisionFamily(
        "smolvlm",
        {**_CLIP, "model_type": "smolvlm_vision"},
        _LLAMA,
        _smolvlm,
        tokens={"image_token": "<image>", "video_token": "<video>"},
        config={"scale_factor": 2},
        more_words=(
            "<fake_token_around_image>",
            "<global-img>",
            "<end_of_utterance>",
            *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)),
        ),
        picture=(64, 64),
        side=2,
    ),
    "internvl": VisionFamily(
        "internvl",
        {**_CLIP, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8]},
        _LLAMA,
        _internvl,
        tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        config={"image_seq_length": 4, "downsample_ratio": 0.5},
        image_id="<IMG_CONTEXT>",
        side=2,
    ),
    "llava-onevision": VisionFamily(
        "llava_onevision",
        _SIGLIP,
        _LLAMA,
        _llava_onevision,
        tokens={"image_token": "<image>", "video_token": "<video>"},
        config={"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]},
        picture=(64, 64),
        side=8,
        blank=8,
    ),
    "pixtral": VisionFamily(
        "llava",
        _PIXTRAL,
        _LLAMA,
        _pixtral,
        tokens=_LINE_TOKENS,
        config={"vision_feature_select_strategy": "full", "vision_feature_layer": -1},
        image_id="[IMG]",
    ),
    "mistral3": VisionFamily(
        "mistral3",
        _PIXTRAL,
        {**_LLAMA, "model_type": "mistral", "head_dim": 8},
        _mistral3,
        tokens=_LINE_TOKENS,
        config={"spatial_merge_size": 2, "vision_feature_layer": -1},
        image_id="[IMG]",
        picture=(64, 64),
    ),
}


def _qwen_as_trained(tokenizer: Any) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2)
    return _ImagesAlone(images, tokenizer)


_TINY_QWEN = FAMILIES["qwen2.5-vl"]
OTHERS = {
    "qwen2.5-vl as trained": replace(
        _TINY_QWEN,
        vision={**_TINY_QWEN.vision, "patch_size": 14, "window_size": 112},
        processor=_qwen_as_trained,
    ),
}
"""With the patches and windows that trained ones have: larger pictures, so not for every test."""


CLASSES = {0: "cat", 1: "dog", 2: "crane", 3: "crane", 4: "Egyptian cat, a cat"}
"""Two are called alike, as two are in ImageNet."""
_PLAIN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("vit", _PLAIN),
    "DeiT": ("deit", {**_PLAIN, "architectures": ["DeiTForImageClassification"]}),
    "DINOv2": ("dinov2", _PLAIN),
    "DINOv2WithRegisters": ("dinov2_with_registers", _PLAIN),
    "BEiT": ("beit", _PLAIN),
    "I-JEPA": ("ijepa", _PLAIN),
    "SigLIP": (
        "siglip",
        {"vision_config": {**_PLAIN, "vision_use_head": False}, "text_config": {"vocab_size": 9}},
    ),
    "CLIP": ("clip", {"vision_config": _PLAIN, "text_config": {"vocab_size": 9}}),
    "Swin": (
        "swin",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "window_size": 4,
            "depths": [1, 1],
            "num_heads": [2, 2],
        },
    ),
}
"""Name -> transformers' type of model, and its settings."""


@cache
def classifier_directory(name: str) -> Path:
    """Return a checkpoint directory of a tiny random image classifier; made once a process."""
    from transformers import AutoModelForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    model_type, settings = CLASSIFIERS[name]
    labels = {"id2label": CLASSES, "label2id": {label: i for i, label in CLASSES.items()}}
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(
        AutoConfig.for_model(model_type, **settings, **labels)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    directory = Path(mkdtemp(prefix=f"tiny-{name}-"))
    model.save_pretrained(directory)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(directory)
    return directory


TEXTS = ("a red square", "a blue circle", "what is this picture")
COMPARING: dict[str, tuple[str, dict[str, Any], bool]] = {
    "CLIP": ("clip", {"vision_config": _PLAIN, "projection_dim": 24}, True),
    "SigLIP": ("siglip", {"vision_config": _PLAIN}, False),
    "SigLIP masked": ("siglip", {"vision_config": _PLAIN}, True),
}
"""Models that compare pictures with texts: name -> transformers' type, settings, and whether the
tower that reads is told which positions are padding."""


@cache
def comparing_directory(name: str) -> Path:
    """Return a checkpoint directory of a tiny random model that compares pictures with texts."""
    from transformers import AutoModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    model_type, settings, masks = COMPARING[name]
    tokenizer = _comparing_tokenizer(opens=model_type == "clip", masks=masks)
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 12,
        "projection_size": 32,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(model_type, text_config=text, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    directory = Path(mkdtemp(prefix=f"tiny-comparing-{name.replace(' ', '-')}-"))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(directory)
    return directory


def _comparing_tokenizer(opens: bool, masks: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer that closes each text, and pads it, with the same token, as CLIP's and
    SigLIP's do.

    Args:
        opens: whether a token stands in front of each text too.
        masks: whether it says which positions are padding.
    """
    ids = {word: i for i, word in enumerate(["<s>", "<unk>", *WORDS, "</s>"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if opens else "$A </s>",
        special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        model_input_names=["input_ids", *["attention_mask"] * masks],
    )


@cache
def tiny_comparing(name: str) -> LanguageModel:
    return load_model(f"{comparing_directory(name)}#{'|'.join(TEXTS)}", device="cpu")


@cache
def tiny_classifier(name: str) -> LanguageModel:
    return load_model(classifier_directory(name), device="cpu")


def tokenizer_of(family: VisionFamily) -> PreTrainedTokenizerFast:
    special = ["<s>", "<unk>", "<pad>", *family.tokens.values()]
    words = [*special, *family.more_words, *WORDS]
    ids = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=family.tokens,
        additional_special_tokens=list(family.more_words),
    )


@cache
def tiny_vision_directory(name: str, seed: int = 0) -> Path:
    """Return a checkpoint directory of a family; made once a process."""
    family = {**FAMILIES, **OTHERS}[name]
    directory = Path(mkdtemp(prefix=f"tiny-{name.replace(' ', '-')}-"))
    tokenizer = tokenizer_of(family)
    processor = family.processor(tokenizer)
    image_id = tokenizer.convert_tokens_to_ids(family.image_id)
    text = {
        **family.text,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": None,
    }
    stated = {"image_token_id": image_id, "image_token_index": image_id}
    for kind in ("video", "vision_start", "vision_end"):
        if f"{kind}_token" in family.tokens:
            word = family.tokens[f"{kind}_token"]
            stated[f"{kind}_token_id"] = tokenizer.convert_tokens_to_ids(word)
    config = AutoConfig.for_model(
        family.model_type,
        vision_config=family.vision,
        text_config=text,
        pad_token_id=tokenizer.pad_token_id,
        **stated,
        **family.config,
    )
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


@cache
def tiny_vision_model(name: str) -> LanguageModel:
    return load_model(tiny_vision_directory(name), device="cpu")


def noise_picture(size: tuple[int, int] = (32, 32), seed: int = 0) -> Picture:
    """Return a picture of coloured noise; size is width and height."""
    rng = np.random.default_rng(seed)
    return Picture(rng.integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8), "noise")


@contextmanager
def zeroed(projection: nn.Linear, head: int, n_heads: int) -> Iterator[None]:
    """Let a head of a model add nothing, by a plain hook on its output projection."""
    width = projection.in_features // n_heads

    def hook(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        z = args[0].clone()
        z[..., head * width : (head + 1) * width] = 0
        return (z,)

    handle = projection.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
