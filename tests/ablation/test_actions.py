"""A policy's actions: held against answers that transformers itself generates, token by token."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_policy import policy_directory
from tiny_vision import tiny_vision_directory
from transformers import AutoModelForImageTextToText

from ablation import Ablation, Scale, Zero, search_heads
from ablation.action_goals import read_goal
from ablation.actions import (
    act,
    answers_of,
    compare_actions,
    distances,
    search_action,
    search_most_change,
    sweep_actions,
)
from app.images import table_picture, table_text
from models import load_model
from models.actions import ACTIONS_FILE, read_actions
from models.errors import UserError
from models.language_model import LanguageModel
from models.types import Head, TokenizedPrompt

SCENE = "tabletop:7"
HEADS = (Head(1, 2), Head(0, 1, "vision"))


@pytest.fixture(scope="module")
def policy() -> LanguageModel:
    return load_model(policy_directory(), device="cpu")


@pytest.fixture(scope="module")
def prompt(policy: LanguageModel) -> TokenizedPrompt:
    return policy.tokenize(table_text(SCENE), pictures=[table_picture(SCENE)])


def plainly(directory: Path, prompt: TokenizedPrompt, heads: tuple[Head, ...] = ()) -> list[int]:
    """Return the tokens of an action by the model itself, heads zeroed by plain hooks."""
    model = AutoModelForImageTextToText.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    ).eval()
    space = json.loads((directory / ACTIONS_FILE).read_text())["actions"]
    words = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    for head in heads:
        tower = model.model.vision_tower.encoder.layers if head.stack else None
        layers = model.model.language_model.layers if tower is None else tower
        attention = layers[head.layer].self_attn
        projection = attention.o_proj if tower is None else attention.out_proj
        width = attention.head_dim

        def hook(_module: Any, args: Any, at: int = head.head, width: int = width) -> Any:
            z = args[0].clone()
            z[..., at * width : (at + 1) * width] = 0
            return (z,)

        projection.register_forward_pre_hook(hook)
    ids = list(prompt.ids)
    assert prompt.given is not None
    pixels = torch.from_numpy(prompt.given["pixel_values"])
    answered = []
    for dimension in space:
        allowed = [words[token] for token in dimension["tokens"]]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, -1]
        answered.append(allowed[int(logits[allowed].argmax())])
        ids.append(answered[-1])
    return answered


def test_an_action_is_what_the_model_answers_token_by_token(
    policy: LanguageModel, prompt: TokenizedPrompt
) -> None:
    action = act(policy, prompt)
    assert list(action.token_ids) == plainly(policy_directory(), prompt)
    ablated = act(policy, prompt, Ablation(HEADS, Zero()))
    assert list(ablated.token_ids) == plainly(policy_directory(), prompt, HEADS)
    assert [d.name for d in action.space.dimensions] == ["dx", "dy", "gripper"]
    for row, dimension in zip(action.log_probs, action.space.dimensions, strict=True):
        assert len(row) == len(dimension.token_ids)
        assert np.exp(row).sum() == pytest.approx(1)


def test_a_change_of_action_is_in_parts_of_reach(
    policy: LanguageModel, prompt: TokenizedPrompt
) -> None:
    change = compare_actions(policy, prompt, Ablation(HEADS, Zero()))
    reach = np.array([16, 16, 1])
    expected = np.linalg.norm((change.after.values - change.before.values) / reach)
    assert change.l2 == pytest.approx(expected)
    assert (change.kl >= 0).all()
    assert change.kl.max() > 1e-4
    nothing = compare_actions(policy, prompt, Ablation(HEADS, Scale(1.0)))
    assert nothing.l2 == 0
    np.testing.assert_allclose(nothing.kl, 0, atol=1e-8)
    assert nothing.sign_flips == nothing.choice_flips == ()


def test_flips_are_named() -> None:
    from ablation.actions import ActionChange, PolicyAction
    from models.actions import ActionDimension, ActionSpace

    space = ActionSpace(
        (
            ActionDimension("dx", "px", (0, 1, 2), np.array([-2.0, 0.0, 2.0]), {}, "x"),
            ActionDimension("grip", "", (3, 4), np.array([0.0, 1.0]), {0.0: "open", 1.0: "shut"}),
        )
    )

    def action(*values: float) -> PolicyAction:
        return PolicyAction(space, (0, 3), np.array(values), ())

    change = ActionChange(action(2, 0), action(-2, 1), np.zeros(2))
    assert change.sign_flips == ("dx",)
    assert change.choice_flips == ("grip",)
    assert change.l2 == pytest.approx(2**0.5)
    assert ActionChange(action(2, 0), action(0, 0), np.zeros(2)).sign_flips == ()
    assert [space.dimensions[1].said(v) for v in (0.0, 1.0)] == ["open", "shut"]
    assert [space.dimensions[0].said(v) for v in (2.0, 0.0)] == ["+2 px", "0 px"]


@pytest.mark.parametrize("stack", ["", "vision"])
def test_a_sweep_is_one_ablation_a_head(
    policy: LanguageModel, prompt: TokenizedPrompt, stack: str
) -> None:
    seen: list[int] = []
    scores = sweep_actions(policy, prompt, stack=stack, progress=lambda p: seen.append(p.done))
    clean = act(policy, prompt)
    for head in policy.all_heads(stack):
        after = act(policy, prompt, Ablation((head,), Zero()))
        expected = distances(clean.space, clean.values, after.values[None])[0]
        assert scores.values[head.layer, head.head] == pytest.approx(expected), head
    assert np.nanmax(scores.values) > 0
    assert seen == sorted(seen)
    assert seen[-1] == 3 * len(policy.all_heads(stack))


def test_the_generic_search_is_greedy(policy: LanguageModel, prompt: TokenizedPrompt) -> None:
    heads = policy.all_heads()[:12]
    steps, _ = search_most_change(policy, prompt, max_heads=2, candidates=heads)
    clean = act(policy, prompt)
    alone = answers_of(policy, prompt, [(h,) for h in heads], Zero())
    first = [act(policy, prompt, Ablation((h,), Zero())).token_ids for h in heads]
    assert alone == first
    pairs = [(steps[0].head, h) for h in heads if h != steps[0].head]
    away = [
        distances(clean.space, clean.values, act(policy, prompt, Ablation(p, Zero())).values[None])[
            0
        ]
        for p in pairs
    ]
    assert steps[1].l2 == pytest.approx(max(away))
    assert steps[1].head == pairs[int(np.argmax(away))][1]


def test_a_goal_is_reached_by_the_heads_found(
    policy: LanguageModel, prompt: TokenizedPrompt
) -> None:
    clean = act(policy, prompt)
    dx = clean.values[0]
    goal = "dx<0" if dx >= 0 else "dx>0"
    found = search_action(policy, prompt, goal, max_heads=12)
    assert found.stopped == "target_reached"
    after = act(policy, prompt, Ablation(found.heads, Zero()))
    assert (after.values[0] < 0) if dx >= 0 else (after.values[0] > 0)
    ids = read_goal(clean.space, goal).token_ids
    among = clean.space.dimensions[0].token_ids
    again = search_heads(policy, prompt, any_of=ids, among=among, max_heads=12)
    assert again.heads == found.heads
    for head in found.heads:  # none can be missed
        fewer = tuple(h for h in found.heads if h != head)
        left = act(policy, prompt, Ablation(fewer, Zero())).values[0] if fewer else dx
        assert not (left < 0 if dx >= 0 else left > 0)


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ("dx", "Cannot read 'dx' as a goal"),
        ("dz<0", "no action 'dz'; its actions are dx, dy, gripper"),
        ("dx<-20", "No value of dx is <-20"),
        ("dx<20", "Every value of dx is <20"),
        ("gripper=ajar", "'ajar' is no value of gripper; give a number or open, close"),
    ],
)
def test_goals_that_cannot_be_are_refused(policy: LanguageModel, goal: str, said: str) -> None:
    assert policy.actions is not None
    with pytest.raises(UserError, match=said):
        read_goal(policy.actions, goal)


def test_a_goal_that_is_fulfilled_is_refused(
    policy: LanguageModel, prompt: TokenizedPrompt
) -> None:
    clean = act(policy, prompt)
    sign = ">" if clean.values[0] > 0 else "<="
    with pytest.raises(UserError, match="is fulfilled already"):
        search_action(policy, prompt, f"dx{sign}0")


def test_the_best_token_sought_already_is_refused(
    policy: LanguageModel, prompt: TokenizedPrompt
) -> None:
    top = policy.predict(prompt).top[0].id
    with pytest.raises(UserError, match="one of those sought"):
        search_heads(policy, prompt, any_of=[top])


def test_a_model_without_actions_says_so() -> None:
    model = load_model(tiny_vision_directory("llava"), device="cpu")
    with pytest.raises(UserError, match="does not say which of its tokens are actions"):
        act(model, model.tokenize("what is this"))


def test_followed_by_lengthens_what_is_given(
    policy: LanguageModel, prompt: TokenizedPrompt
) -> None:
    longer = policy.followed_by(prompt, [85, 90])
    assert longer.ids[-2:] == (85, 90)
    assert longer.kinds[-2:] == ("action", "action")
    assert longer.cells is not None
    assert longer.cells[-1] is None
    assert policy.followed_by(prompt, []) is prompt
    gemma = load_model(tiny_vision_directory("gemma3"), device="cpu")
    short = gemma.tokenize("what is this", pictures=[table_picture(SCENE)])
    assert short.given is not None
    grown = gemma.followed_by(short, [9])
    assert grown.given is not None
    assert grown.given["token_type_ids"].shape[1] == len(short) + 1
    expected = gemma.predict(short)
    assert np.isfinite(gemma.predict(grown).log_probs).all()
    assert gemma.predict(short).top == expected.top


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1 is not valid JSON"),
        ('{"actions": []}', "must list 1 to 64 actions"),
        ('{"actions": [{"name": "dx"}]}', "does not have the form"),
        ('{"actions": [{"name": "dx", "tokens": {"<+2>": 2}}]}', "at least two tokens"),
        ('{"actions": [{"name": "dx", "tokens": {"no such": 2, "<0>": 0}}]}', "'no such'"),
        (
            '{"actions": [{"name": "x", "bins": '
            '{"first": 90, "count": 20, "low": -1, "high": 1}}]}',
            "names the token 96, and ids end at 95",
        ),
        (
            '{"actions": [{"name": "x", "axis": "z", "tokens": {"<+2>": 2, "<0>": 0}}]}',
            "the axis of 'x' must be x or y",
        ),
        (
            '{"actions": [{"name": "x", "tokens": {"<+2>": 2, "<0>": 0}}], '
            '"origin": {"pattern": "x"}}',
            "needs two groups",
        ),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    policy: LanguageModel, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / ACTIONS_FILE
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_actions(path, policy._reader, policy.n_vocab)


def test_bins_are_the_middles_of_even_parts(policy: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / ACTIONS_FILE
    bins = {"first": 80, "count": 4, "low": -1, "high": 1}
    path.write_text(json.dumps({"actions": [{"name": "x", "unit": "m", "bins": bins}]}))
    space = read_actions(path, policy._reader, policy.n_vocab)
    assert space is not None
    [dimension] = space.dimensions
    assert dimension.token_ids == (80, 81, 82, 83)
    np.testing.assert_allclose(dimension.values, [-0.75, -0.25, 0.25, 0.75])
    assert dimension.reach == pytest.approx(1.5)
    assert read_actions(tmp_path / "none.json", policy._reader, policy.n_vocab) is None
