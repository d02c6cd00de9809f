"""Composition scores, against the weights written out by hand, and known paths."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from handwired import wired_circuits
from tiny import tiny_model
from torch import Tensor

from ablation.composition import KINDS, composition_scores
from ablation.evaluation import Cancelled
from models.errors import UserError
from models.language_model import LanguageModel

TOLERANCE = 2e-5
"""Of scores between 0 and 1, in float32."""


def inner(model: LanguageModel) -> Any:
    return model._model


def maps_of_gpt2(model: LanguageModel, layer: int) -> tuple[Tensor, ...]:
    """Return q, k, v [n_heads, d, d_model] and out [n_heads, d_model, d], norm included."""
    block = inner(model).transformer.h[layer]
    d_model, n_heads = block.ln_1.weight.numel(), model.n_heads
    centred = torch.eye(d_model) - 1 / d_model
    qkv = block.attn.c_attn.weight.T @ torch.diag(block.ln_1.weight) @ centred
    query, key, value = qkv.reshape(3, n_heads, -1, d_model)
    out = block.attn.c_proj.weight.T.reshape(d_model, n_heads, -1).transpose(0, 1)
    return query, key, value, out


def maps_of_llama(model: LanguageModel, layer: int) -> tuple[Tensor, ...]:
    block = inner(model).model.layers[layer]
    gain, n_heads = block.input_layernorm.weight, model.n_heads
    found = []
    for part in ("q_proj", "k_proj", "v_proj"):
        weight = getattr(block.self_attn, part).weight * gain
        heads = weight.reshape(-1, block.self_attn.head_dim, gain.numel())
        found.append(heads.repeat_interleave(n_heads // len(heads), dim=0))
    out = block.self_attn.o_proj.weight.reshape(gain.numel(), n_heads, -1).transpose(0, 1)
    return (*found, out)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_scores_are_those_of_the_weights(family: str) -> None:
    model = tiny_model(family)
    maps = {"gpt2": maps_of_gpt2, "llama": maps_of_llama}[family]
    with torch.enable_grad():
        found = composition_scores(model)
    heads = model.all_heads()
    assert found.scores.shape == (3, len(heads), len(heads))
    by_layer = [maps(model, layer) for layer in range(model.n_layers)]
    for i, later in enumerate(heads):
        query, key, value, out = (part[later.head] for part in by_layer[later.layer])
        scored, moved = query.T @ key, out @ value
        for j, earlier in enumerate(heads):
            if earlier.layer >= later.layer:
                assert np.isnan(found.scores[:, i, j]).all()
                continue
            _, _, read, written = (part[earlier.head] for part in by_layer[earlier.layer])
            way = written @ read
            by_hand = [
                torch.linalg.norm(product) / (torch.linalg.norm(left) * torch.linalg.norm(way))
                for product, left in (
                    (scored.T @ way, scored),
                    (scored @ way, scored),
                    (moved @ way, moved),
                )
            ]
            np.testing.assert_allclose(found.scores[:, i, j], by_hand, atol=TOLERANCE)


def test_the_wired_paths_go_into_keys_alone() -> None:
    model = wired_circuits()
    place = {str(head): i for i, head in enumerate(model.all_heads())}
    scores = composition_scores(model).scores
    for later, earlier in (("L1H0", "L0H0"), ("L1H1", "L0H1")):
        by_kind = dict(zip(KINDS, scores[:, place[later], place[earlier]], strict=True))
        assert by_kind["key"] > 0.2
        assert by_kind["query"] < 0.05
        assert by_kind["value"] < 0.05
    # The other circuit's tokens do not pass.
    assert scores[1, place["L1H0"], place["L0H1"]] < 0.05


def test_random_weights_score_about_chance() -> None:
    found = composition_scores(tiny_model("llama"))
    assert found.chance == inner(tiny_model("llama")).config.hidden_size ** -0.5
    assert abs(np.nanmedian(found.scores) / found.chance - 1) < 0.25


@pytest.mark.parametrize(
    ("family", "says"), [("t5", "encoder-decoder"), ("bert", "norm"), ("bloom", "cannot be seen")]
)
def test_models_without_such_weights_are_refused(family: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        composition_scores(tiny_model(family))


def test_it_can_be_cancelled() -> None:
    cancel = threading.Event()
    seen: list[int] = []

    def progress(layer: int) -> None:
        seen.append(layer)
        cancel.set()

    with pytest.raises(Cancelled):
        composition_scores(tiny_model("llama"), progress, cancel)
    assert seen == [0]
