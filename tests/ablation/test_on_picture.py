"""Where every head looks on a picture, and the figure of it."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_vision import QUESTION, noise_picture, tiny_classifier, tiny_vision_model

from ablation import Ablation, Zero
from ablation.on_picture import on_picture
from models.errors import UserError
from models.types import Head
from viz.over_picture import mosaic, over_picture_figure


def test_rows_are_those_of_the_attention_maps() -> None:
    model = tiny_vision_model("llava")
    prompt = model.tokenize(QUESTION, pictures=[noise_picture()])
    at = [i for i, kind in enumerate(prompt.kinds) if kind == "image"]
    maps = model.attention(prompt, model.all_heads()).values.reshape(3, 4, len(prompt), -1)
    found = on_picture(model, prompt)
    assert found.query == len(prompt) - 1
    np.testing.assert_allclose(found.weights, maps[:, :, -1][:, :, at], atol=1e-6)
    np.testing.assert_allclose(found.share.values, maps[:, :, -1][:, :, at].sum(-1), atol=1e-6)
    other = on_picture(model, prompt, query=at[-1])
    np.testing.assert_allclose(other.weights, maps[:, :, at[-1]][:, :, at], atol=1e-6)
    ablated = on_picture(model, prompt, ablation=Ablation(model.all_heads()[:2], Zero()))
    assert np.abs(ablated.weights[1:] - found.weights[1:]).max() > 1e-4


def test_a_tower_and_a_classifier() -> None:
    model = tiny_vision_model("llava")
    prompt = model.tokenize(QUESTION, pictures=[noise_picture()])
    tower = on_picture(model, prompt, "vision")
    maps = model.attention(prompt, model.all_heads("vision")).values
    assert tower.query is None
    assert tower.share.stack == "vision"
    expected = maps[:, 1:, 1:].mean(axis=1).reshape(tower.weights.shape)
    np.testing.assert_allclose(tower.weights, expected, atol=1e-6)
    classifier = tiny_classifier("ViT")
    seen = classifier.tokenize("", pictures=[noise_picture()])
    maps = classifier.attention(seen, classifier.all_heads()).values
    found = on_picture(classifier, seen)
    assert found.query == 0
    expected = maps[:, 0, 1:].reshape(found.weights.shape)
    np.testing.assert_allclose(found.weights, expected, atol=1e-6)
    with pytest.raises(UserError, match="There is no picture in this prompt"):
        on_picture(model, model.tokenize(QUESTION))


def test_the_figure_has_each_head_where_it_belongs() -> None:
    model = tiny_vision_model("llava")
    picture = noise_picture()
    prompt = model.tokenize(QUESTION, pictures=[picture])
    found = on_picture(model, prompt)
    weights = np.zeros_like(found.weights)
    weights[2, 1, 5] = 1.0  # layer 2, head 1 looks at row 1, column 1 of 4 x 4 parts
    side = 40
    sheet = mosaic(weights, found.cells, picture, side).astype(int)
    assert sheet.shape == (3 * side, 4 * side, 3)
    plain = mosaic(np.zeros_like(weights), found.cells, picture, side).astype(int)
    rows, columns = np.nonzero(np.abs(sheet - plain).sum(axis=-1) > 30)
    assert rows.min() >= 10
    assert rows.max() < 20  # the last layer stands on top
    assert columns.min() >= side + 10
    assert columns.max() < side + 20
    cells = [None if cell is None else replace(cell, picture=1) for cell in found.cells]
    second = mosaic(weights, cells, picture, side, which=1).astype(int)
    np.testing.assert_array_equal(second, sheet)
    np.testing.assert_array_equal(mosaic(weights, cells, picture, side).astype(int), plain)
    figure = over_picture_figure(found, picture, [Head(1, 2)], width=400)
    [image] = figure.layout.images
    assert (image.x, image.y, image.sizex, image.sizey) == (-0.5, 2.5, 4, 3)
    content = base64.b64decode(image.source.partition(",")[2])
    assert Image.open(io.BytesIO(content)).size[0] <= 400
    assert figure.layout.shapes[0].path == "M1.5,0.5H2.5V1.5H1.5Z"
