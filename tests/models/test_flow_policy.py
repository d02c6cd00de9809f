"""Policies that answer with numbers (PI0, tiny and random), opened as any model, against plain
hooks on an eager copy: 2e-5 of attention and of actions, which float32 rounding stays below."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pi0 import (
    CHUNK,
    IMAGE_ID,
    N_NUMBERS,
    N_STEPS,
    STATISTICS,
    chunk_of,
    make_tokenizer,
    parts_of,
    plain_policy,
    projections,
    scale_head,
    tiny_pi0,
    write_policy,
)
from tiny_vision import noise_picture
from torch import Tensor, nn
from transformers import PI0Processor

from ablation import Ablation, Knockout, Mean, Scale, Zero, compare, head_dossier, run_study
from ablation.attention_change import attention_change, with_prompt
from ablation.on_picture import on_picture
from ablation.paired_reading import map_change
from models.errors import UserError
from models.policy_prompts import PolicyImages
from models.registry import load_model
from models.types import EXPERT, MAIN, VISION, Head, RobotInput, TokenizedPrompt
from viz.standalone import attention_html

TOLERANCE = 2e-5
INSTRUCTION = "pick up the red cup"
ROBOT = RobotInput((1.5, -1.25), draw=3)


def prompt_of(n_cameras: int = 2, robot: RobotInput = ROBOT) -> TokenizedPrompt:
    pictures = [noise_picture((32, 32), seed) for seed in range(n_cameras)]
    return tiny_pi0().tokenize(INSTRUCTION, pictures=pictures, robot=robot)


def plainly(policy: Any, prompt: TokenizedPrompt) -> np.ndarray:
    """Return the chunk of a plain policy, flat."""
    return chunk_of(policy, prompt).flatten()


def projections_of(policy: Any, stack: str) -> list[nn.Module]:
    return projections(parts_of(policy)[stack])


def test_three_stacks_are_found() -> None:
    model = tiny_pi0()
    found = [(s.name, s.n_layers, s.n_heads, s.queries, s.keys) for s in model.stacks.stacks]
    assert found == [
        (VISION, 2, 4, "picture", "picture"),
        (MAIN, 3, 4, "prompt", "prompt"),
        (EXPERT, 3, 4, "acting", "all"),
    ]
    assert model.kind == "policy"
    assert model.n_vocab == CHUNK * N_NUMBERS
    assert model.info.self_check.passed


@pytest.mark.parametrize("n_cameras", [1, 2])
def test_every_head_zeroed_equals_a_plain_hook(n_cameras: int) -> None:
    model, prompt, policy = tiny_pi0(), prompt_of(n_cameras), plain_policy()
    clean = plainly(policy, prompt)
    np.testing.assert_allclose(model.predict(prompt).log_probs, clean, atol=TOLERANCE)
    heads = model.all_heads(None)
    found = model.ablated_logprobs(prompt, [[head] for head in heads], Zero()).numpy()
    moved = {}
    for row, head in zip(found, heads, strict=True):
        handle = scale_head(projections_of(policy, head.stack)[head.layer], head.head, 0)
        expected = plainly(policy, prompt)
        handle.remove()
        np.testing.assert_allclose(row, expected, atol=TOLERANCE, err_msg=str(head))
        moved[head] = float(np.abs(expected - clean).max())
    for stack in (VISION, MAIN, EXPERT):
        assert max(moved[head] for head in heads if head.stack == stack) > 100 * TOLERANCE
    # Of the last layer of the language model only keys and values are read.
    assert all(moved[head] == 0 for head in heads if (head.stack, head.layer) == (MAIN, 2))


def test_heads_of_all_stacks_are_ablated_together() -> None:
    model, prompt, policy = tiny_pi0(), prompt_of(), plain_policy()
    heads = (Head(1, 0, VISION), Head(0, 3), Head(2, 1, EXPERT))
    found = model.predict(prompt, ablation=Ablation(heads, Scale(0.25))).log_probs
    for head in heads:
        scale_head(projections_of(policy, head.stack)[head.layer], head.head, 0.25)
    np.testing.assert_allclose(found, plainly(policy, prompt), atol=TOLERANCE)


@pytest.mark.parametrize("step", [0, 1, None])
def test_attention_is_that_of_an_eager_run(step: int | None) -> None:
    model, policy = tiny_pi0(), plain_policy()
    prompt = prompt_of(robot=RobotInput((1.5, -1.25), 3, step))
    assert prompt.seen is not None
    assert prompt.acting is not None
    seen: dict[str, list[np.ndarray]] = {stack: [] for stack in (VISION, MAIN, EXPERT)}

    def keep(stack: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            seen[stack].append(torch.block_diag(*output[1][:, 0]).numpy())
            for head in range(1, output[1].shape[1]):
                seen[stack].append(torch.block_diag(*output[1][:, head]).numpy())

        return hook

    for stack, part in parts_of(policy).items():
        for _, module in part.named_modules():
            if type(module).__name__.endswith("Attention"):
                module.register_forward_hook(keep(stack))
    plainly(policy, prompt)
    at = N_STEPS - 1 if step is None else step
    own = len(seen[EXPERT]) // N_STEPS
    seen[EXPERT] = seen[EXPERT][at * own : (at + 1) * own]
    for stack in (VISION, MAIN, EXPERT):
        maps = model.attention(prompt, model.all_heads(stack))
        np.testing.assert_allclose(maps.values, np.stack(seen[stack]), atol=TOLERANCE)
    assert maps.prompt == prompt.acting
    assert len(maps.keys) == len(prompt) + 1 + CHUNK
    assert maps.keys.kinds[-CHUNK - 1 :] == ("state", *["action"] * CHUNK)
    [row] = model.attention(prompt, [Head(1, 2, EXPERT)], queries=[-1]).values
    np.testing.assert_allclose(row[0], maps.values[1 * 4 + 2, -1], atol=1e-6)


def test_an_ablation_is_seen_in_the_attention_of_the_step_that_is_read() -> None:
    model, prompt = tiny_pi0(), prompt_of()
    late, early = Head(2, 0, EXPERT), Ablation((Head(0, 1, EXPERT),), Zero())
    clean = model.attention(prompt, [late]).values
    after = model.attention(prompt, [late], early).values
    assert np.abs(after - clean).max() > 1e-4
    np.testing.assert_allclose(after.sum(-1), 1, atol=1e-5)


def test_the_expert_can_be_kept_from_looking_at_the_pictures() -> None:
    model, prompt = tiny_pi0(), prompt_of()
    head = Head(1, 2, EXPERT)
    cut = Ablation((head,), Knockout(("action",), ("image",)))
    [after] = model.attention(prompt, [head], cut).values
    at = np.array([kind == "image" for kind in prompt.with_acting().kinds])
    assert np.all(after[1:, at] == 0)
    assert after[0, at].sum() > 0.01  # the state's own row stays


def test_cells_are_told_for_every_camera() -> None:
    prompt = prompt_of()
    assert prompt.cells is not None
    shown = [cell for cell in prompt.cells if cell is not None]
    assert [cell.picture for cell in shown] == [0] * 16 + [1] * 16
    assert (shown[5].row, shown[5].column, shown[5].left, shown[5].bottom) == pytest.approx(
        (1, 1, 8, 16), abs=0.1
    )
    wide = tiny_pi0().tokenize(INSTRUCTION, pictures=[noise_picture((64, 32))])
    assert wide.cells is not None
    # Fitted into the upper half of the square; the lower half is padding.
    assert [cell is not None for cell in wide.cells[:16]] == [True] * 8 + [False] * 8
    assert wide.seen is not None


def test_prompts_are_those_of_the_policys_own_processor() -> None:
    """transformers' processor, with images prepared by Pillow as it insists on torchvision else."""
    images = PolicyImages(
        size={"max_height": 32, "max_width": 32}, pad_size={"height": 32, "width": 32}
    )
    images.image_seq_length = 16
    processor = PI0Processor(
        images, make_tokenizer(), max_state_dim=N_NUMBERS, chunk_size=CHUNK, **STATISTICS
    )
    pictures = [noise_picture((48, 32), seed) for seed in range(2)]
    expected = processor(
        images=[[picture.pixels for picture in pictures]],
        text=INSTRUCTION,
        state=[ROBOT.state],
        padding=False,
    )
    prompt = tiny_pi0().tokenize(INSTRUCTION, pictures=pictures, robot=ROBOT)
    given = prompt.given or {}
    np.testing.assert_allclose(given["state"], expected["state"].numpy(), atol=1e-6)
    np.testing.assert_array_equal(given["pixel_values"], expected["pixel_values"].numpy())
    np.testing.assert_array_equal(
        given["pixel_attention_mask"], expected["pixel_attention_mask"].numpy()
    )
    ids = np.array(prompt.ids)
    ids[ids == IMAGE_ID] = processor.image_token_id
    np.testing.assert_array_equal(ids, np.asarray(expected["input_ids"])[0])


def test_the_same_noise_gives_the_same_action_and_another_another() -> None:
    model = tiny_pi0()
    one, same, other = (
        model.predict(prompt_of(robot=RobotInput(draw=draw))).log_probs for draw in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1
    contents = {prompt_of(robot=RobotInput(draw=draw)).content for draw in (1, 2)}
    assert len(contents) == 2


def test_numbers_come_back_in_units() -> None:
    model, prompt = tiny_pi0(), prompt_of()
    space = model.chunk
    assert space is not None
    row = model.predict(prompt).log_probs
    values = space.in_units(space.normalised(row))
    assert values.shape == (CHUNK, 3)
    first = row.reshape(CHUNK, N_NUMBERS)[0, 1]
    assert values[0, 1] == pytest.approx(first * (0.3 + 1e-8))
    assert [d.said(v) for d, v in zip(space.dimensions, (0.25, -1, 0.8), strict=True)] == [
        "+0.25 m",
        "-1 m",
        "closed",
    ]


@pytest.mark.parametrize(
    ("text", "n_pictures", "robot", "said"),
    [
        (" ", 1, None, "instruction is empty"),
        (INSTRUCTION, 0, None, "1 to 8 cameras, and 0 pictures"),
        (INSTRUCTION, 1, RobotInput((1.0,)), "a state of 2 numbers, and 1 were"),
        (INSTRUCTION, 1, RobotInput((1.0, 2.0, 3.0)), "at most 2 finite numbers"),
        (INSTRUCTION, 1, RobotInput((1.0, float("nan"))), "at most 2 finite numbers"),
        (INSTRUCTION, 1, RobotInput(step=3), "no step 3 of denoising; they are 0 to 2"),
    ],
)
def test_bad_input_is_said_in_a_sentence(
    text: str, n_pictures: int, robot: RobotInput | None, said: str
) -> None:
    pictures = [noise_picture()] * n_pictures
    with pytest.raises(UserError, match=said):
        tiny_pi0().tokenize(text, pictures=pictures, robot=robot)


@pytest.mark.parametrize("stack", [VISION, MAIN, EXPERT])
def test_changes_of_heads_are_those_of_whole_maps(stack: str) -> None:
    model, prompt = tiny_pi0(), prompt_of()
    other = model.tokenize(
        INSTRUCTION, pictures=[prompt.pictures[0], noise_picture((32, 32), 9)], robot=ROBOT
    )
    found = attention_change(with_prompt(model, prompt, other, stack)).values
    heads = model.all_heads(stack)
    maps = [model.attention(one, heads).values for one in (prompt, other)]
    expected = [map_change(one, two) for one, two in zip(*maps, strict=True)]
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-6)
    assert max(expected) > 1e-4


def test_an_intervention_takes_from_every_step_its_own() -> None:
    """The mean over positions, which differs from step to step, on a head of the expert."""
    model, prompt, policy = tiny_pi0(), prompt_of(), plain_policy()
    head = Head(1, 2, EXPERT)

    def mean(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].clone()
        own = slice(8 * head.head, 8 * (head.head + 1))
        z[..., own] = z[..., own].mean(dim=1, keepdim=True)
        return (z,)

    projections_of(policy, EXPERT)[head.layer].register_forward_pre_hook(mean)
    found = model.predict(prompt, ablation=Ablation((head,), Mean())).log_probs
    np.testing.assert_allclose(found, plainly(policy, prompt), atol=TOLERANCE)


def test_runs_are_told_apart_by_the_state_to_the_last_digit() -> None:
    one, other = (
        prompt_of(robot=RobotInput((state, 0.0))).content for state in (1_000_000.0, 1_000_003.0)
    )
    assert one != other


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    import json

    directory = write_policy(tmp_path / "policy")
    path = directory / "processor_config.json"
    for statistics, said in (
        ({"state_mean": [0.0] * 8, "state_std": [1.0] * 8}, "tells state of 8 numbers"),
        ({"actions_mean": [0.0] * 8, "actions_std": [1.0] * 8}, "tells actions of 8 numbers"),
        ({"state_mean": [0.0], "state_std": [1.0, 2.0]}, "does not have the form"),
        ({"image_processor": "x", "actions_mean": [0.0] * 2, "actions_std": [1.0] * 2}, "names 3"),
    ):
        path.write_text(json.dumps(statistics))
        with pytest.raises(UserError, match=said):
            load_model(directory, device="cpu")
    path.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_model(directory, device="cpu")
    path.unlink()
    plain = load_model(directory, device="cpu")  # no statistics: numbers as the policy has them
    assert plain.chunk is not None
    assert [d.unit for d in plain.chunk.dimensions] == ["m", "m", "σ"]


def test_text_alone_is_refused() -> None:
    model = tiny_pi0()
    with pytest.raises(UserError, match="does nothing without pictures"):
        model.prompt_of_ids([3, 4])
    with pytest.raises(UserError, match="does nothing without pictures"):
        head_dossier(model, length=8)
    with pytest.raises(UserError, match="does nothing without pictures"):
        run_study("heads", model)
    prompt = prompt_of()
    with pytest.raises(UserError, match="predicts no tokens to compare"):
        compare(model.predict(prompt), model.predict(prompt))


def test_a_page_of_its_own_holds_heads_of_the_expert() -> None:
    model, prompt = tiny_pi0(), prompt_of()
    alone = attention_html(model.attention(prompt, [Head(1, 2, EXPERT)]))
    assert "expert:L1H2" in alone
    about = json.loads(alone.partition('id="about">')[2].partition("</script")[0])
    assert about["maps"][0]["sides"] == ["prompt", "source"]  # the actions, and all before them
    assert about["sides"]["source"]["labels"][-CHUNK:] == about["labels"][-CHUNK:]
    run = model.run(prompt, heads=[Head(1, 2, EXPERT), Head(0, 1), Head(0, 0, VISION)])
    assert "action 3" in attention_html(*run.maps, prompt=prompt)


def test_metrics_of_the_expert_are_those_that_mean_something() -> None:
    from ablation.head_metrics import metrics_of

    stacks = tiny_pi0().stacks
    expert, language = (metrics_of(stacks.named(name)) for name in (EXPERT, MAIN))
    assert "self" not in str(expert.keys())
    assert set(expert) < set(language)


def test_all_heads_of_the_expert_are_drawn_on_the_picture() -> None:
    model, prompt = tiny_pi0(), prompt_of()
    found = on_picture(model, prompt, EXPERT)
    rows = model.attention(prompt, model.all_heads(EXPERT)).values[:, 1:]  # without the state's
    expected = rows.mean(axis=1)[:, :32].reshape(3, 4, 32)
    np.testing.assert_allclose(found.weights, expected, atol=1e-6)
