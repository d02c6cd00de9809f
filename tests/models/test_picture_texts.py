"""Models that compare pictures with texts, held against transformers' own likeness, with plain
hooks on the output projections of the tower that sees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_picture_classifier import TOLERANCE, pixels
from tiny_vision import (
    COMPARING,
    TEXTS,
    classifier_directory,
    comparing_directory,
    noise_picture,
    tiny_comparing,
    zeroed,
)
from torch import nn
from transformers import AutoModel, AutoTokenizer

from ablation import Zero, search_heads
from models import load_model
from models.errors import UserError
from models.picture_texts import FIRST_TEXTS, parted_name
from models.types import TokenizedPrompt

EVERY = pytest.mark.parametrize("name", list(COMPARING))


def likeness(name: str, prompt: TokenizedPrompt, model: Any) -> np.ndarray:
    """Return the log-probabilities of the texts by the model itself, both towers running."""
    tokenizer = AutoTokenizer.from_pretrained(comparing_directory(name))
    given = tokenizer(list(TEXTS), padding="max_length", max_length=12, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**given, pixel_values=pixels(prompt)).logits_per_image[0]
    return torch.log_softmax(logits.double(), -1).numpy()


@EVERY
def test_likeness_and_every_head_zeroed_are_those_of_an_eager_run(name: str) -> None:
    model = tiny_comparing(name)
    prompt = model.tokenize("", pictures=[noise_picture()])
    reference = AutoModel.from_pretrained(
        comparing_directory(name), attn_implementation="eager"
    ).eval()
    clean = likeness(name, prompt, reference)
    prediction = model.predict(prompt)
    np.testing.assert_allclose(prediction.log_probs, clean, atol=TOLERANCE)
    assert {token.label for token in prediction.top} == set(TEXTS)
    assert model.info.architecture == type(reference).__name__
    heads = model.all_heads()
    found = model.ablated_logprobs(prompt, [[head] for head in heads], Zero()).numpy()
    layers = [
        module
        for path, module in reference.vision_model.named_modules()
        if path.endswith("out_proj") and "encoder" in path and isinstance(module, nn.Linear)
    ]
    assert len(layers) == model.n_layers == 3
    moved = 0.0
    for row, head in zip(found, heads, strict=True):
        with zeroed(layers[head.layer], head.head, 4):
            expected = likeness(name, prompt, reference)
        np.testing.assert_allclose(row, expected, atol=TOLERANCE)
        moved = max(moved, float(np.abs(expected - clean).max()))
    assert moved > 100 * TOLERANCE


def test_heads_are_searched_that_make_a_picture_like_another_text() -> None:
    model = tiny_comparing("CLIP")
    prompt = model.tokenize("", pictures=[noise_picture()])
    target = model.predict(prompt).top[1]
    found = search_heads(model, prompt, target.text, max_heads=4)
    assert found.target is not None
    assert found.target.text == target.text


def test_texts_stand_behind_the_name(tmp_path: Path) -> None:
    assert parted_name("gpt2") == ("gpt2", ())
    assert parted_name("clip#a cat | a dog") == ("clip", ("a cat", "a dog"))
    odd = tmp_path / "odd#name"
    odd.mkdir()
    assert parted_name(str(odd)) == (str(odd), ())
    assert parted_name(f"{odd}#a|b") == (str(odd), ("a", "b"))
    for wrong in ("clip#", "clip#a cat", "clip#a|a", "clip#" + "|".join(map(str, range(300)))):
        with pytest.raises(UserError, match=r"stand 2 to 200 different texts"):
            parted_name(wrong)
    assert load_model(comparing_directory("CLIP"), device="cpu").n_vocab == len(FIRST_TEXTS)
    with pytest.raises(UserError, match="tabletop compares no pictures with texts"):
        load_model("tabletop#a|b", device="cpu")
    with pytest.raises(UserError, match="compares no pictures with texts"):
        load_model(f"{classifier_directory('ViT')}#a|b", device="cpu")
