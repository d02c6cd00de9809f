"""Image classifiers, held against transformers' own eager run with plain hooks on the output
projections; and each position against the pixels that it comes from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vision import (
    CLASSES,
    CLASSIFIERS,
    classifier_directory,
    noise_picture,
    tiny_classifier,
    zeroed,
)
from torch import nn
from transformers import AutoModelForImageClassification

from ablation import (
    Ablation,
    Mean,
    Zero,
    compare,
    parse_intervention,
    search_heads,
    sweep_heads,
    sweep_positions,
)
from models import load_model
from models.errors import ErrorKind, UserError
from models.picture import Picture
from models.picture_classifier import class_names
from models.types import Head, TokenizedPrompt

TOLERANCE = 3e-5
"""As of models that read text too: float32 rounding is up to 1.4e-5, a mistake of order 0.1."""
WHOLE = [name for name in CLASSIFIERS if name != "Swin"]
EVERY = pytest.mark.parametrize("name", WHOLE)
SPECIAL = {
    "ViT": 1,
    "DeiT": 2,
    "DINOv2": 1,
    "DINOv2WithRegisters": 5,
    "BEiT": 1,
    "I-JEPA": 0,
    "SigLIP": 0,
    "CLIP": 1,
}


def prompt_of(name: str, seed: int = 0) -> TokenizedPrompt:
    return tiny_classifier(name).tokenize("", pictures=[noise_picture(seed=seed)])


def eager(name: str) -> Any:
    return AutoModelForImageClassification.from_pretrained(
        classifier_directory(name), attn_implementation="eager"
    ).eval()


def pixels(prompt: TokenizedPrompt) -> torch.Tensor:
    assert prompt.given is not None
    return torch.from_numpy(np.asarray(prompt.given["pixel_values"]))


def log_probs(model: Any, prompt: TokenizedPrompt) -> np.ndarray:
    with torch.inference_mode():
        return torch.log_softmax(model(pixel_values=pixels(prompt)).logits[0].double(), -1).numpy()


def projections(model: Any) -> list[nn.Linear]:
    """Return the output projections of the layers, in order."""
    names = ("attention.output.dense", "out_proj", "o_proj")
    return [
        module
        for path, module in model.named_modules()
        if path.endswith(names) and isinstance(module, nn.Linear)
    ]


@EVERY
def test_classes_and_attention_are_those_of_an_eager_run(name: str) -> None:
    model, prompt, reference = tiny_classifier(name), prompt_of(name), eager(name)
    assert model.kind == model.info.kind == "classifier"
    assert len(prompt) == 16 + SPECIAL[name]
    assert model.resolve_position(prompt) == 0
    prediction = model.predict(prompt)
    np.testing.assert_allclose(prediction.log_probs, log_probs(reference, prompt), atol=TOLERANCE)
    assert {one.label for one in prediction.top} == {
        "cat",
        "dog",
        "crane (2)",
        "crane (3)",
        "Egyptian cat, a cat",
    }
    with torch.inference_mode():
        run = reference(pixel_values=pixels(prompt), output_attentions=True)
    assert run.attentions is not None
    maps = model.attention(prompt, model.all_heads())
    found = maps.values.reshape(model.n_layers, model.n_heads, len(prompt), len(prompt))
    for layer, pattern in enumerate(run.attentions):
        np.testing.assert_allclose(found[layer], pattern[0].numpy(), atol=TOLERANCE)


@EVERY
def test_every_head_zeroed_equals_a_plain_hook(name: str) -> None:
    model, prompt, reference = tiny_classifier(name), prompt_of(name), eager(name)
    heads = model.all_heads()
    both = [[head] for head in heads] + [[heads[0], heads[-1]]]
    found = model.ablated_logprobs(prompt, both, Zero()).numpy()
    layers, clean, moved = projections(reference), log_probs(reference, prompt), 0.0
    assert len(layers) == model.n_layers
    for row, head in zip(found, heads, strict=False):
        with zeroed(layers[head.layer], head.head, model.n_heads):
            expected = log_probs(reference, prompt)
        np.testing.assert_allclose(row, expected, atol=TOLERANCE)
        moved = max(moved, float(np.abs(expected - clean).max()))
    assert moved > 100 * TOLERANCE
    with zeroed(layers[0], 0, 4), zeroed(layers[-1], 3, 4):
        np.testing.assert_allclose(found[-1], log_probs(reference, prompt), atol=TOLERANCE)


@EVERY
def test_a_bright_cell_comes_out_where_it_is(name: str) -> None:
    model = tiny_classifier(name)
    for row, column in ((0, 0), (1, 2), (3, 3)):
        shown = np.zeros((64, 64, 3), np.uint8)  # twice what the model sees
        shown[16 * row : 16 * (row + 1), 16 * column : 16 * (column + 1)] = 255
        prompt = model.tokenize("", pictures=[Picture(shown, "cell")])
        given = pixels(prompt)[0].numpy()
        assert prompt.cells is not None
        for cell in prompt.cells[: SPECIAL[name]]:
            assert cell is None
        for cell in prompt.cells[SPECIAL[name] :]:
            assert cell is not None
            seen = given[:, 8 * cell.row : 8 * cell.row + 8, 8 * cell.column : 8 * cell.column + 8]
            is_bright = (cell.row, cell.column) == (row, column)
            assert (seen.mean() > 0.5) == is_bright
            assert abs(cell.left - 16 * cell.column) < 0.1
            assert abs(cell.bottom - 16 * (cell.row + 1)) < 0.1


def test_what_stands_in_front_of_the_picture_has_its_name() -> None:
    assert prompt_of("ViT").labels[:2] == ("class", "▦0,0")
    assert prompt_of("DeiT").labels[:3] == ("class", "distillation", "▦0,0")
    registers = tuple(f"register {i}" for i in range(1, 5))
    assert prompt_of("DINOv2WithRegisters").labels[:6] == ("class", *registers, "▦0,0")
    assert prompt_of("I-JEPA").labels[0] == "▦0,0"
    assert class_names({0: "a", 1: "b", 2: "a"}) == ["a (0)", "b", "a (2)"]


def test_sweeps_searches_and_positions_work_on_classes() -> None:
    model, prompt = tiny_classifier("ViT"), prompt_of("ViT")
    swept = sweep_heads(model, prompt)
    head = Head(*map(int, np.unravel_index(int(np.argmax(swept.values)), swept.values.shape)))
    clean = model.predict(prompt)
    expected = compare(clean, model.predict(prompt, ablation=Ablation((head,), Zero()))).kl
    assert swept.values[head.layer, head.head] == pytest.approx(expected, abs=1e-6)
    other = clean.top[1]
    found = search_heads(model, prompt, other.text, max_heads=6)
    assert found.target is not None
    assert found.target.label == other.label
    words = sweep_heads(model, prompt, positions=("image",))
    numbers = sweep_heads(model, prompt, positions=range(1, 17))
    np.testing.assert_array_equal(words.values, numbers.values)
    grid = sweep_positions(model, prompt, [Head(0, 0)])
    assert grid.values.shape == (1, 17)
    assert model.ablated_logprobs(prompt, [[Head(1, 1)]], Mean()).shape == (1, len(CLASSES))


def refused(said: str, kind: ErrorKind) -> Any:
    class Refusing:
        def __enter__(self) -> None:
            self.raises = pytest.raises(UserError)
            self.caught = self.raises.__enter__()

        def __exit__(self, *error: Any) -> bool:
            left = bool(self.raises.__exit__(*error))
            assert said in str(self.caught.value)
            assert self.caught.value.kind == kind
            return left

    return Refusing()


def test_what_cannot_be_classified(tmp_path: Path) -> None:
    model, prompt = tiny_classifier("ViT"), prompt_of("ViT")
    with refused("says of one picture what it shows, and 0 were given", ErrorKind.PICTURE):
        model.tokenize("a cat")
    with refused("and 2 were given; give one", ErrorKind.PICTURE):
        model.tokenize("", pictures=[noise_picture(), noise_picture(seed=1)])
    for spec in ("resample:a cat", "mean:a cat||a dog"):
        ablation = Ablation((Head(0, 0),), parse_intervention(spec))
        with refused("is given pictures, not text", ErrorKind.INTERVENTION):
            model.predict(prompt, ablation=ablation)
    with refused("reads pictures", ErrorKind.MODEL):
        model.check_one_stack("The logit lens")
    with refused("do not all see the same positions of one picture", ErrorKind.MODEL):
        load_model(classifier_directory("Swin"), device="cpu")
    assert model.resolve_token("egyptian cat") == model.resolve_token("Egyptian cat, a cat") == 4
    assert model.resolve_token("cat") == 0
    with refused(
        "There is no one class 'crane'; like it are: crane (2); crane (3)", ErrorKind.TARGET
    ):
        model.resolve_token("crane")
    with refused("There is no one class 'fish'; classes are: cat; dog", ErrorKind.TARGET):
        model.resolve_token("fish")
    for file in classifier_directory("ViT").iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with refused("has no processor for pictures", ErrorKind.MODEL):
        load_model(tmp_path, device="cpu")
    assert len(prompt) == 17
