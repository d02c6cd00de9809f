"""The policy's architecture: LLaVA's, small. A SigLIP tower sees, a Llama decides."""

from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from models.tabletop.table import SIZE
from models.tabletop.words import BOS, IMAGE, PADDING, VOCABULARY

PATCH = 8
N_PATCHES = (SIZE // PATCH) ** 2


def policy_config() -> LlavaConfig:
    """Return the configuration of the policy that ships."""
    vision = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=6,
        image_size=SIZE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=VOCABULARY.index(BOS),
        eos_token_id=None,
        pad_token_id=VOCABULARY.index(PADDING),
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=VOCABULARY.index(IMAGE),
        image_seq_length=N_PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        pad_token_id=VOCABULARY.index(PADDING),
    )


def new_policy() -> LlavaForConditionalGeneration:
    """Return the policy with random weights."""
    return LlavaForConditionalGeneration(policy_config())
