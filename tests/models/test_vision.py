"""Models that read pictures, held against transformers' own eager run with plain hooks on the
output projections; and each position of a picture against the pixels that it comes from."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vision import (
    FAMILIES,
    QUESTION,
    noise_picture,
    tiny_vision_directory,
    tiny_vision_model,
    zeroed,
)
from torch import nn
from transformers import AutoModelForImageTextToText

from ablation import (
    Ablation,
    Knockout,
    Zero,
    compare,
    head_dossier,
    parse_intervention,
    run_study,
    search_heads,
    sweep_heads,
    sweep_positions,
)
from ablation.attention_change import attention_change, with_model, with_prompt
from ablation.paired_reading import map_change
from models.attention_tap import ATTENTION_NAME
from models.errors import ErrorKind, UserError
from models.forward_pass import beside
from models.packed import call_once
from models.picture import Picture
from models.registry import load_model
from models.types import Head, TokenizedPrompt
from models.vision import Sight
from viz.standalone import attention_html

TOLERANCE = 3e-5
"""Of probabilities and log-probabilities: float32 rounding is up to 1.4e-5 here, a real mistake of
order 0.1."""

EVERY = pytest.mark.parametrize("name", list(FAMILIES))
SEEING = [name for name, family in FAMILIES.items() if family.tower]


def prompt_of(name: str, seed: int = 0) -> TokenizedPrompt:
    family = FAMILIES[name]
    model = tiny_vision_model(name)
    return model.tokenize(QUESTION, pictures=[noise_picture(family.picture, seed)])


def eager(name: str) -> Any:
    return AutoModelForImageTextToText.from_pretrained(
        tiny_vision_directory(name), attn_implementation="eager"
    ).eval()


def inputs(prompt: TokenizedPrompt) -> dict[str, torch.Tensor]:
    given = {k: torch.from_numpy(np.asarray(v)) for k, v in beside(prompt).items()}
    return {"input_ids": torch.tensor([prompt.ids]), **given}


def projections(model: Any, vision: bool) -> list[nn.Linear]:
    """Return the output projections of the language model's layers, or of the tower's, in order."""
    inside = set(model.get_decoder().modules())
    names = ("o_proj", "out_proj", "proj", "projection_layer")
    found = [
        module
        for path, module in model.named_modules()
        if path.rsplit(".", 1)[-1] in names and "att" in path and isinstance(module, nn.Linear)
    ]
    return [module for module in found if (module in inside) != vision]


def log_probs(model: Any, prompt: TokenizedPrompt) -> np.ndarray:
    with torch.inference_mode():
        logits = model(**inputs(prompt)).logits[0, -1]
    return torch.log_softmax(logits.double(), -1).numpy()


@EVERY
def test_attention_is_that_of_an_eager_run(name: str) -> None:
    model, prompt = tiny_vision_model(name), prompt_of(name)
    with torch.inference_mode():
        expected = eager(name)(**inputs(prompt), output_attentions=True).attentions
    maps = model.attention(prompt, model.all_heads())
    found = maps.values.reshape(model.n_layers, model.n_heads, *maps.values.shape[1:])
    for layer, pattern in enumerate(expected[-model.n_layers :]):
        np.testing.assert_allclose(found[layer], pattern[0].numpy(), atol=TOLERANCE)
    assert model.stacks.named("").causal is FAMILIES[name].causal


@EVERY
def test_every_head_of_the_language_model_zeroed_equals_a_plain_hook(name: str) -> None:
    model, prompt, reference = tiny_vision_model(name), prompt_of(name), eager(name)
    assert model.branches is FAMILIES[name].branches
    heads = model.all_heads()
    found = model.ablated_logprobs(prompt, [[head] for head in heads], Zero()).numpy()
    clean = log_probs(reference, prompt)
    np.testing.assert_allclose(model.predict(prompt).log_probs, clean, atol=TOLERANCE)
    layers = projections(reference, vision=False)
    moved = 0.0
    for row, head in zip(found, heads, strict=True):
        with zeroed(layers[head.layer], head.head, model.n_heads):
            expected = log_probs(reference, prompt)
        np.testing.assert_allclose(row, expected, atol=TOLERANCE)
        moved = max(moved, float(np.abs(expected - clean).max()))
    assert moved > 100 * TOLERANCE


@pytest.mark.parametrize("name", SEEING)
def test_every_head_of_the_tower_zeroed_equals_a_plain_hook(name: str) -> None:
    model, prompt, reference = tiny_vision_model(name), prompt_of(name), eager(name)
    tower = model.stacks.named("vision")
    heads = model.all_heads("vision")
    assert len(heads) == tower.n_layers * tower.n_heads
    both = [[head] for head in heads] + [[heads[0], Head(1, 2)], [Head(1, 2)]]
    found = model.ablated_logprobs(prompt, both, Zero()).numpy()
    layers = projections(reference, vision=True)
    inside = projections(reference, vision=False)
    for row, head in zip(found, heads, strict=False):
        with zeroed(layers[head.layer], head.head, tower.n_heads):
            expected = log_probs(reference, prompt)
        np.testing.assert_allclose(row, expected, atol=TOLERANCE)
    with zeroed(inside[1], 2, model.n_heads):
        np.testing.assert_allclose(found[-1], log_probs(reference, prompt), atol=TOLERANCE)
        with zeroed(layers[0], 0, tower.n_heads):
            np.testing.assert_allclose(found[-2], log_probs(reference, prompt), atol=TOLERANCE)


def tower_patterns(reference: Any, prompt: TokenizedPrompt) -> np.ndarray:
    """Return the weights of every head of a tower in an eager run, [head, query, key]: tiles, and
    windows, see themselves alone."""
    paths = {id(module): path for path, module in reference.named_modules()}
    layers = [
        reference.get_submodule(paths[id(projection)].rsplit(".", 1)[0])
        for projection in projections(reference, vision=True)
    ]
    seen: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in layers}
    code = sys.modules[type(layers[0]).__module__]
    plain = code.eager_attention_forward

    def keeping(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        z, weights = plain(module, *args, **kwargs)
        if module in seen:
            seen[module] += list(weights)
        return z, weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "eager_attention_forward", keeping)
        log_probs(reference, prompt)
    maps = [
        torch.block_diag(*heads) for parts in seen.values() for heads in zip(*parts, strict=True)
    ]
    return torch.stack(maps).numpy()


@pytest.mark.parametrize("name", SEEING)
def test_the_tower_shows_its_attention_among_patches(name: str) -> None:
    model, prompt, reference = tiny_vision_model(name), prompt_of(name), eager(name)
    assert prompt.seen is not None
    maps = model.attention(prompt, model.all_heads("vision"))
    assert maps.prompt == prompt.seen
    expected = tower_patterns(reference, prompt)
    np.testing.assert_allclose(maps.values, expected, atol=TOLERANCE)
    rows = model.attention(prompt, model.all_heads("vision"), queries=[-1, 0, 9])
    np.testing.assert_allclose(rows.values, expected[:, [-1, 0, 9]], atol=TOLERANCE)


def test_padded_tiles_are_not_taken_for_shown_ones() -> None:
    """Of two pictures one has fewer tiles; what pads it is handed over, but the tower does not run
    on it, so which positions are whose is not known."""
    model = tiny_vision_model("llava-next")
    pictures = [noise_picture((64, 64), 0), noise_picture((64, 32), 1)]
    prompt = model.tokenize(QUESTION, pictures=pictures)
    assert prompt.seen is None
    assert all(not head.stack for head in model.heads_on(prompt))
    with pytest.raises(UserError, match="can be looked at where"):
        model.attention(prompt, [Head(0, 0, "vision")])


def test_changes_of_tiled_heads_are_those_of_whole_maps() -> None:
    model, prompt = tiny_vision_model("llava-next"), prompt_of("llava-next")
    pixels = prompt.pictures[0].pixels.copy()
    pixels[40:, 40:] = 255
    other = model.tokenize(QUESTION, pictures=[Picture(pixels, "corner")])
    found = attention_change(with_prompt(model, prompt, other, "vision")).values
    heads = model.all_heads("vision")
    maps = [model.attention(one, heads).values for one in (prompt, other)]
    expected = [map_change(one, two) for one, two in zip(*maps, strict=True)]
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-6)
    assert max(expected) > 1e-3


PACKED = ["qwen2-vl", "qwen2.5-vl", "qwen3-vl", "pixtral", "mistral3"]
"""Towers that are given the patches of all pictures in one row."""


@pytest.mark.parametrize("sizes", [[(80, 48)], [(64, 32), (48, 96)]])
@pytest.mark.parametrize("name", PACKED)
def test_packed_towers_are_those_of_an_eager_run(name: str, sizes: list[tuple[int, int]]) -> None:
    """With windows that are cut off at the edges, and with pictures of different sizes."""
    model, reference = tiny_vision_model(name), eager(name)
    pictures = [noise_picture(size, seed) for seed, size in enumerate(sizes)]
    prompt = model.tokenize(QUESTION, pictures=pictures)
    assert prompt.seen is not None
    assert len(prompt.seen) == sum(width * height // 64 for width, height in sizes)
    heads = model.all_heads("vision")
    maps = model.attention(prompt, heads)
    np.testing.assert_allclose(maps.values, tower_patterns(reference, prompt), atol=TOLERANCE)
    layers = projections(reference, vision=True)
    found = model.ablated_logprobs(prompt, [[head] for head in heads], Zero()).numpy()
    for row, head in zip(found, heads, strict=True):
        with zeroed(layers[head.layer], head.head, 4):
            np.testing.assert_allclose(row, log_probs(reference, prompt), atol=TOLERANCE)


@pytest.mark.parametrize("size", [(64, 64), (80, 48)])
@pytest.mark.parametrize("name", PACKED)
def test_a_bright_patch_comes_out_where_the_tower_has_it(name: str, size: tuple[int, int]) -> None:
    """Every patch in turn, seen by what the first layer of an eager run is given."""
    model, reference = tiny_vision_model(name), eager(name)
    dark = np.zeros((size[1], size[0], 3), np.uint8)
    prompt = model.tokenize(QUESTION, pictures=[Picture(dark, "dark")])
    assert prompt.seen is not None
    assert prompt.seen.cells is not None
    before = given_to_tower(reference, prompt)
    for k, cell in enumerate(prompt.seen.cells):
        assert cell is not None
        pixels = dark.copy()
        left, top = round(cell.left), round(cell.top)
        assert (left, top) == (8 * cell.column, 8 * cell.row)
        pixels[top : round(cell.bottom), left : round(cell.right)] = 255
        lit = model.tokenize(QUESTION, pictures=[Picture(pixels, "lit")])
        change = (given_to_tower(reference, lit) - before).norm(dim=-1)
        assert change.nonzero().ravel().tolist() == [k]


def test_windows_of_the_size_that_trained_models_have_are_told_of_rightly() -> None:
    """8 x 8 patches a window: a picture of less than one would not show their order."""
    name = "qwen2.5-vl as trained"
    model, reference = tiny_vision_model(name), eager(name)
    dark = np.zeros((280, 308, 3), np.uint8)
    prompt = model.tokenize(QUESTION, pictures=[Picture(dark, "dark")])
    assert prompt.seen is not None
    assert prompt.seen.cells is not None
    assert len(prompt.seen) == 20 * 22
    before = given_to_tower(reference, prompt)
    for k in range(0, len(prompt.seen), 23):
        cell = prompt.seen.cells[k]
        assert cell is not None
        pixels = dark.copy()
        left, top = round(cell.left), round(cell.top)
        pixels[top : round(cell.bottom), left : round(cell.right)] = 255
        lit = model.tokenize(QUESTION, pictures=[Picture(pixels, "lit")])
        change = (given_to_tower(reference, lit) - before).norm(dim=-1)
        assert change.nonzero().ravel().tolist() == [k]
    head = Head(0, 1, "vision")
    [found] = model.attention(prompt, [head]).values
    np.testing.assert_allclose(found, tower_patterns(reference, prompt)[1], atol=TOLERANCE)


def test_towers_are_told_of_stretches_once_however_often_they_are_opened() -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_vision_directory("qwen2.5-vl")).eval()
    model.set_attn_implementation(ATTENTION_NAME)
    prompt, reference = prompt_of("qwen2.5-vl"), eager("qwen2.5-vl")
    for _ in range(2):
        call_once(model)
        np.testing.assert_allclose(
            log_probs(model, prompt), log_probs(reference, prompt), atol=TOLERANCE
        )


def given_to_tower(model: Any, prompt: TokenizedPrompt) -> torch.Tensor:
    """Return what the first attention layer of a tower is given, [position, d]."""
    paths = {id(module): path for path, module in model.named_modules()}
    path = paths[id(projections(model, vision=True)[0])].rsplit(".", 1)[0]
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append([*args, *kwargs.values()][0])

    handle = model.get_submodule(path).register_forward_pre_hook(keep, with_kwargs=True)
    log_probs(model, prompt)
    handle.remove()
    return kept[0].reshape(-1, kept[0].shape[-1])


def test_interventions_act_within_the_windows_of_a_tower() -> None:
    """Of 4 x 4 patches each, but in layer 1, where all see all."""
    model, prompt = tiny_vision_model("qwen2.5-vl"), prompt_of("qwen2.5-vl")
    windowed, whole = Head(0, 2, "vision"), Head(1, 2, "vision")
    [clean, wide] = model.attention(prompt, [windowed, whole]).values
    window = np.arange(64) // 16
    np.testing.assert_array_equal(clean > 0, window[:, None] == window[None])
    assert (wide > 0).all()
    inside = Ablation((windowed,), Knockout((20,), (25,)))
    [after] = model.attention(prompt, [windowed], inside).values
    others = np.arange(64) != 25
    assert after[20, 25] == 0
    np.testing.assert_allclose(
        after[20, others], clean[20, others] / clean[20, others].sum(), atol=TOLERANCE
    )
    outside = Ablation((windowed,), Knockout((20,), (50,)))  # which it does not see anyway
    before = model.predict(prompt).log_probs
    np.testing.assert_allclose(
        model.predict(prompt, ablation=outside).log_probs, before, atol=TOLERANCE
    )
    assert np.abs(model.predict(prompt, ablation=inside).log_probs - before).max() > TOLERANCE
    with pytest.raises(UserError, match="leaves position 20 nothing to attend to"):
        model.predict(prompt, ablation=Ablation((windowed,), Knockout((20,), tuple(range(16, 32)))))
    for spec in ("mean", "permute:0", "sparsify:fraction=0.5", "scale:2"):
        one = model.predict(
            prompt, ablation=Ablation((windowed,), parse_intervention(spec))
        ).log_probs
        sets = [[windowed], [whole], [windowed, whole]]
        rows = model.ablated_logprobs(prompt, sets, parse_intervention(spec)).numpy()
        np.testing.assert_allclose(rows[0], one, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen2.5-vl"])
def test_searches_are_screened_through_the_tower(name: str) -> None:
    model, prompt = tiny_vision_model(name), prompt_of(name)
    for intervention in (Zero(), Knockout((2,), (3,))):
        screened = search_heads(
            model, prompt, None, intervention, max_heads=2, strategy="screened", screen=3
        )
        exact = search_heads(model, prompt, None, intervention, max_heads=1)
        assert screened.steps[0].head == exact.steps[0].head  # the first step is exact
        assert len(screened.steps) == 2


def test_interventions_act_within_the_tiles_of_a_tower() -> None:
    """Each has 17 positions: position 20 is in the second, 40 in the third."""
    model, prompt = tiny_vision_model("llava-next"), prompt_of("llava-next")
    assert prompt.seen is not None
    assert len(prompt.seen) == 5 * 17
    head = Head(1, 2, "vision")
    [clean] = model.attention(prompt, [head]).values
    cut = Ablation((head,), Knockout((20, 40), (25, 34)))
    [after] = model.attention(prompt, [head], cut).values
    assert after[20, 25] == after[40, 34] == 0 < clean[20, 25]
    for query, key in ((20, 25), (40, 34)):
        others = np.arange(len(clean)) != key
        expected = clean[query, others] / clean[query, others].sum()
        np.testing.assert_allclose(after[query, others], expected, atol=TOLERANCE)
    rest = ~np.isin(np.arange(len(clean)), (20, 40))
    np.testing.assert_array_equal(after[rest], clean[rest])
    moved = model.predict(prompt, ablation=cut).log_probs - model.predict(prompt).log_probs
    assert np.abs(moved).max() > 10 * TOLERANCE
    # Acting at all positions of all tiles is acting on the whole of each.
    everywhere = Ablation((head,), Zero(), tuple(range(5 * 17)))
    np.testing.assert_allclose(
        model.predict(prompt, ablation=everywhere).log_probs,
        model.predict(prompt, ablation=Ablation((head,), Zero())).log_probs,
        atol=TOLERANCE,
    )


@EVERY
def test_a_bright_cell_comes_out_where_it_is(name: str) -> None:
    """A picture is black but for what one cell covers: of what the language model is given at the
    picture's positions, that cell's changes most."""
    family, model = FAMILIES[name], tiny_vision_model(name)
    reference = eager(name)
    width, height = family.picture
    dark = Picture(np.zeros((height, width, 3), np.uint8), "dark")
    prompt = model.tokenize(QUESTION, pictures=[dark])
    assert prompt.cells is not None
    at = [i for i, kind in enumerate(prompt.kinds) if kind == "image"]
    cells = [prompt.cells[i] for i in at]
    assert sum(cell is None for cell in cells) == family.blank
    before = embedded(reference, prompt)[at]
    last = max(cell.tile for cell in cells if cell)
    whole = [k for k, cell in enumerate(cells) if cell and cell.tile == last]
    assert len(whole) == family.side**2  # of the whole picture, where it is shown in tiles too
    for k in (whole[0], whole[1], whole[family.side], whole[-1]):
        cell = cells[k]
        assert cell is not None
        pixels = dark.pixels.copy()
        rows = slice(round(cell.top), round(cell.bottom))
        pixels[rows, round(cell.left) : round(cell.right)] = 255
        lit = model.tokenize(QUESTION, pictures=[Picture(pixels, "lit")])
        change = (embedded(reference, lit)[at] - before).norm(dim=-1)
        brightest = whole[int(change[whole].argmax())]
        assert brightest == k, (cells[brightest], cell)


def embedded(model: Any, prompt: TokenizedPrompt) -> torch.Tensor:
    """Return what the language model is given, [position, d_model]."""
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        kept.append(kwargs["inputs_embeds"][0])

    handle = model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    log_probs(model, prompt)
    handle.remove()
    return kept[0]


@EVERY
def test_cells_cover_the_picture_once(name: str) -> None:
    """Each cell begins where the one before it ends, at the exact pixel, from edge to edge."""
    family = FAMILIES[name]
    prompt = prompt_of(name)
    assert prompt.cells is not None
    cells = [cell for cell in prompt.cells if cell is not None]
    width, height = family.picture
    last = max(cell.tile for cell in cells)
    whole = {(cell.row, cell.column): cell for cell in cells if cell.tile == last}
    assert set(whole) == {(i, j) for i in range(family.side) for j in range(family.side)}
    for (row, column), cell in whole.items():
        expected = [column * width, row * height, (column + 1) * width, (row + 1) * height]
        found = [cell.left, cell.top, cell.right, cell.bottom]
        np.testing.assert_allclose(found, np.array(expected) / family.side, atol=0.1)


@pytest.mark.parametrize("size", [(2800, 1400), (640, 480), (333, 517), (100, 900)])
@pytest.mark.parametrize("name", ["qwen2-vl", "llava-siglip"])
def test_cells_of_any_picture_are_exact(name: str, size: tuple[int, int]) -> None:
    """To a part in 2,000 of a side: what a straight line through shades of 256 can say."""
    model = tiny_vision_model(name)
    prompt = model.tokenize(QUESTION, pictures=[noise_picture(size)])
    assert prompt.cells is not None
    cells = [cell for cell in prompt.cells if cell is not None]
    rows, columns = (1 + max(getattr(c, side) for c in cells) for side in ("row", "column"))
    assert len(cells) == rows * columns
    for cell in cells:
        found = [cell.left, cell.right, cell.top, cell.bottom]
        across, down = size[0] / columns, size[1] / rows
        expected = [
            cell.column * across,
            (cell.column + 1) * across,
            cell.row * down,
            (cell.row + 1) * down,
        ]
        np.testing.assert_allclose(found, expected, atol=max(size) / 2000)


@pytest.mark.parametrize("name", ["qwen2-vl", "idefics3", "llava-siglip"])
def test_pictures_of_different_sizes_have_their_own_cells(name: str) -> None:
    model, sizes = tiny_vision_model(name), ((64, 64), (128, 64))
    pictures = [noise_picture(size, seed) for seed, size in enumerate(sizes)]
    prompt = model.tokenize(QUESTION, pictures=pictures)
    assert prompt.cells is not None
    cells = [cell for cell in prompt.cells if cell is not None]
    for index, (width, height) in enumerate(sizes):
        own = [cell for cell in cells if cell.picture == index]
        assert max(cell.right for cell in own) == pytest.approx(width, abs=0.1)
        assert max(cell.bottom for cell in own) == pytest.approx(height, abs=0.1)
    assert [cell.picture for cell in cells] == sorted(cell.picture for cell in cells)


@pytest.mark.parametrize(
    "size", [(64, 64), (64, 32), (32, 64), (96, 54), (54, 96), (100, 37), (61, 200), (1920, 1080)]
)
def test_llava_next_shows_pictures_of_any_shape(size: tuple[int, int]) -> None:
    model = tiny_vision_model("llava-next")
    prompt = model.tokenize(QUESTION, pictures=[noise_picture(size)])
    assert prompt.cells is not None
    fine = [cell for cell in prompt.cells if cell is not None and cell.tile == 1]
    n_lines, n_across = (len({getattr(c, side) for c in fine}) for side in ("row", "column"))
    assert n_lines * n_across >= len(fine) >= 0.7 * n_lines * n_across  # lines of padding may stay
    # Of the narrower side whole lines are dropped where they are but partly shown.
    covered = (max(c.right for c in fine) - min(c.left for c in fine)) / size[0]
    assert covered > 0.7


def test_a_wide_picture_is_cropped_as_its_processor_does() -> None:
    """CLIP's resizes the shorter side and cuts out the middle: of 64 x 32 the middle half."""
    model = tiny_vision_model("llava")
    prompt = model.tokenize(QUESTION, pictures=[noise_picture((64, 32))])
    assert prompt.cells is not None
    cells = [cell for cell in prompt.cells if cell is not None]
    assert min(cell.left for cell in cells) == pytest.approx(16, abs=0.6)
    assert max(cell.right for cell in cells) == pytest.approx(48, abs=0.6)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "llava-next", "gemma3"])
@pytest.mark.parametrize("position", [-2, 6])
def test_any_position_can_be_read(name: str, position: int) -> None:
    model, prompt, reference = tiny_vision_model(name), prompt_of(name), eager(name)
    heads = model.all_heads()[::3]
    found = model.ablated_logprobs(prompt, [[h] for h in heads], Zero(), position).numpy()
    layers = projections(reference, vision=False)
    for row, head in zip(found, heads, strict=True):
        with zeroed(layers[head.layer], head.head, model.n_heads), torch.inference_mode():
            logits = reference(**inputs(prompt)).logits[0, position]
        expected = torch.log_softmax(logits.double(), -1).numpy()
        np.testing.assert_allclose(row, expected, atol=TOLERANCE)


def test_positions_are_swept_one_by_one() -> None:
    model, prompt = tiny_vision_model("llava"), prompt_of("llava")
    head = Head(1, 2)
    found = sweep_positions(model, prompt, [head], position=18)
    clean = model.predict(prompt, 18)
    for at in (0, 7, 17, 18, 19):
        after = model.predict(prompt, 18, Ablation((head,), Zero(), (at,)))
        expected = compare(clean, after).kl
        assert found.values[0, at] == pytest.approx(expected, abs=1e-6)
    assert found.values[0, 19] == 0


def test_references_keep_the_pictures() -> None:
    model, prompt = tiny_vision_model("llava"), prompt_of("llava")
    heads = (Head(1, 2), Head(0, 1, "vision"))
    same = parse_intervention(f"resample:{QUESTION}")
    after = model.predict(prompt, ablation=Ablation(heads[:1], same))
    np.testing.assert_allclose(after.log_probs, model.predict(prompt).log_probs, atol=1e-5)
    other = parse_intervention("resample:what is in this circle")
    changed = model.predict(prompt, ablation=Ablation(heads[:1], other))
    assert np.abs(changed.log_probs - after.log_probs).max() > 1e-4


def test_two_models_are_compared_on_a_picture() -> None:
    model, prompt = tiny_vision_model("llava"), prompt_of("llava")
    pair = with_model(model, prompt, model, "vision")
    change = attention_change(pair)
    assert float(np.nanmax(change.values)) == pytest.approx(0, abs=1e-6)


def test_a_page_of_its_own_holds_heads_of_both_stacks() -> None:
    model, prompt = tiny_vision_model("llava"), prompt_of("llava")
    run = model.run(prompt, heads=[Head(1, 2), Head(0, 1, "vision")])
    page = attention_html(*run.maps)
    assert "vision:L0H1" in page
    assert "class" in page


def test_answers_of_a_prefix_model_are_those_it_generates() -> None:
    """PaliGemma's positions see each other up to what is answered: its own `generate` is right."""
    for name in ("paligemma", "gemma3", "llava"):
        model, prompt, reference = tiny_vision_model(name), prompt_of(name), eager(name)
        given = inputs(prompt)
        made = reference.generate(
            **given,
            max_new_tokens=3,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        answered = [int(i) for i in made.sequences[0, len(prompt) :]]
        for n, logits in enumerate(made.logits):
            so_far = model.followed_by(prompt, answered[:n])
            expected = torch.log_softmax(logits[0].double(), -1).numpy()
            found = model.predict(so_far).log_probs
            np.testing.assert_allclose(found, expected, atol=TOLERANCE, err_msg=f"{name} {n}")


def test_roles_and_the_corpus_are_of_text() -> None:
    model = tiny_vision_model("llava")
    assert head_dossier(model, length=8).values.shape[-1] == model.n_heads
    with pytest.raises(UserError, match="random text, which the heads of the vision tower"):
        head_dossier(model, length=8, stack="vision")
    with pytest.raises(UserError, match="corpus is text"):
        run_study("heads", model, stack="vision")


def test_sweep_and_search_work_on_pictures() -> None:
    model, prompt = tiny_vision_model("llava"), prompt_of("llava")
    scores = sweep_heads(model, prompt)
    singles = {head: float(scores.values[head.layer, head.head]) for head in model.all_heads()}
    tower = sweep_heads(model, prompt, stack="vision")
    singles |= {
        head: float(tower.values[head.layer, head.head]) for head in model.all_heads("vision")
    }
    found = search_heads(model, prompt, max_heads=2)
    assert found.steps[0].head == max(singles, key=lambda head: singles[head])
    text = search_heads(model, model.tokenize(QUESTION), max_heads=2)
    assert all(head.stack == "" for head in text.heads)
    screened = search_heads(model, prompt, max_heads=2, strategy="screened", screen=40)
    assert screened.heads == found.heads


def test_an_ablation_knows_another_picture() -> None:
    model = tiny_vision_model("llava")
    heads = Ablation((Head(1, 1), Head(1, 0, "vision")), Zero())
    one, other = (model.predict(prompt_of("llava", seed), ablation=heads) for seed in (0, 1))
    assert not np.allclose(one.log_probs, other.log_probs, atol=1e-3)
    assert prompt_of("llava", 0).content != prompt_of("llava", 1).content


def test_several_pictures_stand_where_the_text_says() -> None:
    model = tiny_vision_model("llava")
    pictures = [noise_picture(seed=1), noise_picture(seed=2)]
    prompt = model.tokenize("is <image> or <image> red", pictures=pictures)
    kinds = "".join("i" if kind == "image" else "t" for kind in prompt.kinds)
    assert kinds == "t" + 16 * "i" + "t" + 16 * "i" + "t"
    assert prompt.cells is not None
    assert prompt.cells[20] is not None
    assert prompt.cells[20].picture == 1
    assert prompt.seen is not None
    assert prompt.seen.labels[0] == "class/0"
    assert prompt.seen.labels[17] == "class/1"
    assert prompt.seen.cells is not None
    assert [cell.picture for cell in prompt.seen.cells if cell] == [0] * 16 + [1] * 16
    sweep = sweep_heads(model, prompt)
    assert np.isfinite(sweep.values).all()


@pytest.mark.parametrize(
    ("text", "n_pictures", "said"),
    [
        ("", 1, "The prompt is empty"),
        ("<image> ", 1, "The prompt is empty"),
        ("is <image> or <image> red", 1, "names 2 pictures"),
        (QUESTION, 9, "9 pictures were given; at most 8"),
    ],
)
def test_text_and_pictures_that_do_not_fit_are_refused(
    text: str, n_pictures: int, said: str
) -> None:
    model = tiny_vision_model("llava")
    with pytest.raises(UserError, match=said):
        model.tokenize(text, pictures=[noise_picture()] * n_pictures)


def test_too_many_positions_are_refused() -> None:
    model = tiny_vision_model("llava")
    words = " ".join(["red"] * 600)
    with pytest.raises(UserError, match="with its pictures has 616 tokens"):
        model.tokenize(words, pictures=[noise_picture()])


def test_a_model_of_text_refuses_a_picture(llama: Any) -> None:
    with pytest.raises(UserError, match="reads text alone") as refused:
        llama.tokenize("Hello", pictures=[noise_picture()])
    assert refused.value.kind is ErrorKind.PICTURE


def test_what_needs_text_alone_says_so() -> None:
    model = tiny_vision_model("llava")
    with pytest.raises(UserError, match="reads text alone, and"):
        _ = model.residual


def test_heads_of_the_tower_need_a_picture() -> None:
    model = tiny_vision_model("llava")
    with pytest.raises(UserError, match="a picture in the prompt"):
        model.attention(model.tokenize(QUESTION), [Head(0, 0, "vision")])


def test_cells_that_do_not_come_out_even_are_no_cells() -> None:
    from models.picture_geometry import image_cells

    model = tiny_vision_model("llava")
    assert model._sight is not None
    reader = model._sight.reader
    assert image_cells(reader.images_alone, [noise_picture()], 15) is None
    assert image_cells(reader.images_alone, [noise_picture()], 17) is None


def test_text_kept_from_looking_at_the_picture_equals_a_mask_given_to_an_eager_run() -> None:
    model, prompt, reference = tiny_vision_model("llava"), prompt_of("llava"), eager("llava")
    n, is_text = len(prompt), np.array([kind == "text" for kind in prompt.kinds])
    for words, looked_at in (
        ("image", np.array([kind == "image" for kind in prompt.kinds])),
        (
            "image[1-2,*]",
            np.array([cell is not None and cell.row in (1, 2) for cell in prompt.cells or ()]),
        ),
    ):
        blocked = is_text[:, None] & looked_at[None]
        allowed = np.tril(np.ones((n, n), bool)) & ~blocked
        mask = torch.zeros(1, 1, n, n).masked_fill(~torch.from_numpy(allowed), -torch.inf)
        with torch.inference_mode():
            logits = reference(**inputs(prompt), attention_mask=mask).logits[0, -1]
        intervention = parse_intervention(f"knockout:text>{words}")
        assert intervention == Knockout(("text",), (words,))
        found = model.predict(prompt, ablation=Ablation(model.all_heads(), intervention))
        expected = torch.log_softmax(logits.double(), -1).numpy()
        np.testing.assert_allclose(found.log_probs, expected, atol=TOLERANCE)
        assert np.abs(found.log_probs - model.predict(prompt).log_probs).max() > 100 * TOLERANCE


def test_heads_are_zeroed_where_the_picture_stands() -> None:
    model, prompt = tiny_vision_model("llava"), prompt_of("llava")
    numbers = tuple(i for i, kind in enumerate(prompt.kinds) if kind == "image")
    named = sweep_heads(model, prompt, positions=("image",))
    numbered = sweep_heads(model, prompt, positions=numbers)
    np.testing.assert_array_equal(named.values, numbered.values)
    # In the tower the word means the tower's positions, all but its class token.
    [head] = model.all_heads("vision")[:1]
    of_tower = model.predict(prompt, ablation=Ablation((head,), Zero(), ("image",)))
    patches = model.predict(prompt, ablation=Ablation((head,), Zero(), tuple(range(1, 17))))
    np.testing.assert_array_equal(of_tower.log_probs, patches.log_probs)


def test_words_that_a_tower_lacks_are_nothing_to_it() -> None:
    model, prompt = tiny_vision_model("llava"), prompt_of("llava")
    intervention = parse_intervention("knockout:text>image")
    both = Ablation((*model.all_heads()[:4], *model.all_heads("vision")), intervention)
    alone = Ablation(model.all_heads()[:4], intervention)
    np.testing.assert_allclose(
        model.predict(prompt, ablation=both).log_probs,
        model.predict(prompt, ablation=alone).log_probs,
        atol=1e-6,
    )


@pytest.mark.parametrize("spec", ["zero", "mean", "permute:0", "sparsify:fraction=0.5", "scale:2"])
def test_nothing_is_done_in_a_tower_where_only_text_is_named(spec: str) -> None:
    model, prompt = tiny_vision_model("llava"), prompt_of("llava")
    ablation = Ablation(model.all_heads("vision"), parse_intervention(spec), ("text",))
    np.testing.assert_allclose(
        model.predict(prompt, ablation=ablation).log_probs,
        model.predict(prompt).log_probs,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("state", "The prompt has no state positions; those it has are text, image"),
        ("image[9,0]", "Not all of image[9,0] is on the picture; rows run from 0 to 3 and columns"),
        ("image[2-4,*]", "Not all of image[2-4,*] is on the picture"),
        ("picture", "Cannot read 'picture' as positions"),
        ("text[1,2]", "Cannot read 'text[1,2]' as positions"),
        ("image[1]", "write rows and columns, as in image[2-4,0-3]"),
    ],
)
def test_words_that_name_no_position(word: str, said: str) -> None:
    model, prompt = tiny_vision_model("llava"), prompt_of("llava")
    with pytest.raises(UserError) as caught:
        model.predict(prompt, ablation=Ablation(model.all_heads()[:1], Zero(), (word,)))
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["pixtral", "mistral3"])
def test_pictures_read_line_by_line_are_written_as_by_transformers_own_processor(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It insists on torchvision for its images; here it is handed those that Pillow prepares."""
    from transformers.models.pixtral import image_processing_pil_pixtral as by_pillow

    path = "transformers.models.pixtral.image_processing_pixtral"
    monkeypatch.setitem(sys.modules, path, by_pillow)
    from transformers.models.pixtral.processing_pixtral import PixtralProcessor

    model = tiny_vision_model(name)
    assert isinstance(model._sight, Sight)
    own = model._sight.reader.processor
    settings = json.loads((tiny_vision_directory(name) / "processor_config.json").read_text())
    theirs = PixtralProcessor(
        by_pillow.PixtralImageProcessorPil(size={"longest_edge": 128}),
        own.tokenizer,
        patch_size=settings["patch_size"],
        spatial_merge_size=settings["spatial_merge_size"],
    )
    for sizes in ([(64, 64)], [(300, 170)], [(50, 33), (20, 140)]):
        pictures = [noise_picture(size, seed) for seed, size in enumerate(sizes)]
        text = "[IMG] what is " + "or the [IMG]" * (len(sizes) - 1) + " picture"
        prompt = model.tokenize(text, pictures=pictures)
        made = theirs(images=[one.pixels for one in pictures], text=[text], return_tensors="np")
        assert prompt.ids == tuple(made["input_ids"][0])
        assert prompt.given is not None
        np.testing.assert_array_equal(prompt.given["pixel_values"], made["pixel_values"])
        np.testing.assert_array_equal(prompt.given["image_sizes"], made["image_sizes"])


def test_a_tokenizer_without_the_marks_of_lines_is_refused(tmp_path: Path) -> None:
    shutil.copytree(tiny_vision_directory("pixtral"), tmp_path / "m")
    settings = tmp_path / "m" / "processor_config.json"
    settings.write_text(
        json.dumps({"processor_class": "PixtralProcessor", "image_break_token": "[NEXT_LINE]"})
    )
    with pytest.raises(UserError, match=r"no token \[NEXT_LINE\], with which pictures are written"):
        load_model(tmp_path / "m", device="cpu")
    settings.write_text("{")
    with pytest.raises(
        UserError, match=r"processor_config.json is damaged, it is no JSON of named settings"
    ):
        load_model(tmp_path / "m", device="cpu")
