"""A flow-matching policy (PI0, tiny and random) in a wrapper, against plain hooks on its output
projections, in float32: 1e-5 of the action."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_pi0 import (
    CHUNK,
    IMAGE_ID,
    N_NUMBERS,
    make_policy,
    parts_of,
    projections,
    scale_head,
)
from torch import Tensor, nn

from ablation.wrapped import search_policy, sweep_policy
from models.errors import UserError
from models.types import Head
from models.wrapped_policy import WrappedPolicy

TOLERANCE = 1e-5
N_CAMERAS = 2


def observation() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[IMAGE_ID] * 16 * N_CAMERAS + [2, 5, 9, 11]])
    return {
        "state": torch.randn(1, N_NUMBERS, generator=generator),
        "input_ids": ids,
        "pixel_values": torch.randn(1, N_CAMERAS, 3, 32, 32, generator=generator),
        "attention_mask": torch.ones_like(ids),
        "pixel_attention_mask": torch.ones(1, N_CAMERAS, dtype=torch.bool),
    }


def runs(policy: Any) -> Any:
    given = observation()

    def act(rows: int, draw: int) -> Tensor:
        noise = torch.randn(1, CHUNK, N_NUMBERS, generator=torch.Generator().manual_seed(draw))
        expanded = {name: value.expand(rows, *value.shape[1:]) for name, value in given.items()}
        return policy.sample_actions(noise=noise.expand(rows, -1, -1), **expanded)

    return act


def stacks(policy: Any) -> dict[str, nn.Module]:
    parts = parts_of(policy)
    return {"vision": parts["vision"], "language": parts[""], "expert": parts["expert"]}


@pytest.fixture(scope="module")
def wrapped() -> WrappedPolicy:
    policy = make_policy()
    return WrappedPolicy(policy, runs(policy), stacks(policy), "pi0")


def plainly(head: Head | None = None, draw: int = 0) -> np.ndarray:
    """Return the action of an untouched copy, with a head zeroed by a plain hook."""
    policy = make_policy()
    policy.set_attn_implementation("eager")
    if head is not None:
        scale_head(projections(stacks(policy)[head.stack])[head.layer], head.head, 0)
    with torch.inference_mode():
        return np.asarray(runs(policy)(1, draw)[0].numpy())


def test_stacks_are_found_by_their_modules(wrapped: WrappedPolicy) -> None:
    found = {name: (len(s.layers), s.n_heads[0], s.n_calls) for name, s in wrapped.stacks.items()}
    assert found == {"vision": (2, 4, 1), "language": (3, 4, 1), "expert": (3, 4, 3)}
    assert len(wrapped.heads()) == 4 * 8
    assert wrapped.shape == (CHUNK, N_NUMBERS)


def test_every_head_zeroed_equals_a_plain_hook(wrapped: WrappedPolicy) -> None:
    clean = plainly()
    np.testing.assert_allclose(wrapped.actions()[0], clean, atol=TOLERANCE)
    heads = wrapped.heads()
    found = wrapped.actions([(head,) for head in heads])
    moved = {}
    for action, head in zip(found, heads, strict=True):
        expected = plainly(head)
        np.testing.assert_allclose(action, expected, atol=TOLERANCE, err_msg=str(head))
        moved[head] = float(np.abs(expected - clean).max())
    for stack in wrapped.stacks:
        assert max(moved[head] for head in heads if head.stack == stack) > 100 * TOLERANCE
    # Of the last prefix layer only keys and values are read: its heads' outputs go nowhere.
    assert all(moved[head] == 0 for head in heads if (head.stack, head.layer) == ("language", 2))


def test_attention_is_read_at_every_step_of_denoising(wrapped: WrappedPolicy) -> None:
    maps = wrapped.attention([Head(1, 2, "expert"), Head(0, 1, "language"), Head(1, 0, "vision")])
    n_prefix = 16 * N_CAMERAS + 4
    assert maps[Head(1, 2, "expert")].shape == (3, 1 + CHUNK, n_prefix + 1 + CHUNK)
    assert maps[Head(0, 1, "language")].shape == (1, n_prefix, n_prefix)
    assert maps[Head(1, 0, "vision")].shape == (1, 16, 16)
    for found in maps.values():
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    expert = maps[Head(1, 2, "expert")]
    assert np.abs(expert[0] - expert[2]).max() > 1e-4  # the noise has become less
    # The state's token looks at the prefix and itself, the actions' at all.
    assert expert[:, 0, n_prefix + 1 :].max() == 0
    assert expert[:, 1:, n_prefix + 1 :].min() > 0


def test_a_sweep_is_in_parts_of_reach_and_over_several_noises(wrapped: WrappedPolicy) -> None:
    heads = wrapped.heads("expert")
    reach = np.array([1.0, 2.0, 4.0, 1.0, 1.0, 0.5])
    found = sweep_policy(wrapped, heads, reach=reach, draws=(0, 1, 2))
    assert found.distances.shape == (3, 12)
    head, draw = heads[5], 1
    change = (plainly(head, draw) - plainly(None, draw)) / reach
    assert found.distances[draw, 5] == pytest.approx(np.sqrt((change**2).sum()), rel=1e-3)
    assert (found.errors > 0).all()
    assert np.isnan(sweep_policy(wrapped, heads[:2]).errors).all()
    assert found.ranked()[0][1] == pytest.approx(found.means.max())
    assert found.to_json()["n_draws"] == 3


def test_searches_are_greedy_and_stop_at_the_goal(wrapped: WrappedPolicy) -> None:
    heads = wrapped.heads("expert")
    generic = search_policy(wrapped, heads=heads, max_heads=2)
    alone = sweep_policy(wrapped, heads)
    assert (generic[0].head, generic[0].score) == (
        alone.ranked()[0][0],
        pytest.approx(alone.ranked()[0][1]),
    )
    [clean] = wrapped.actions()
    pairs = [(generic[0].head, h) for h in heads if h != generic[0].head]
    away = [np.linalg.norm(action - clean) for action in wrapped.actions(pairs)]
    assert generic[1].score == pytest.approx(max(away), rel=1e-5)
    wanted = float(clean[0, 0]) - 0.5 * abs(float(generic[0].action[0, 0] - clean[0, 0])) - 0.01
    steps = search_policy(wrapped, lambda a: float(a[0, 0]) - wanted, max_heads=8)
    scores = [step.score for step in steps]
    assert scores == sorted(scores, reverse=True)
    if scores[-1] <= 0:
        after = wrapped.actions([[step.head for step in steps]])[0]
        assert after[0, 0] <= wanted + TOLERANCE
    with pytest.raises(UserError, match="does what is wanted already"):
        search_policy(wrapped, lambda action: -1.0)


def test_what_cannot_be_is_said_in_a_sentence(wrapped: WrappedPolicy) -> None:
    with pytest.raises(UserError, match="no stack 'hands'; its stacks are vision, language, exp"):
        wrapped.heads("hands")
    with pytest.raises(UserError, match="no head expert:L3H0 in pi0"):
        wrapped.actions([(Head(3, 0, "expert"),)])
    with pytest.raises(UserError, match="at least one draw"):
        sweep_policy(wrapped, draws=())
    policy = make_policy()
    given = observation()

    def careless(rows: int, _draw: int) -> Tensor:
        expanded = {name: value.expand(rows, *value.shape[1:]) for name, value in given.items()}
        return policy.sample_actions(noise=torch.randn(rows, CHUNK, N_NUMBERS), **expanded)

    with pytest.raises(UserError, match="answers two equal rows differently"):
        WrappedPolicy(policy, careless, stacks(policy))
    with pytest.raises(UserError, match="No attention layer of the stack 'hands'"):
        WrappedPolicy(policy, runs(policy), {"hands": policy.action_out_proj})
    with pytest.raises(UserError, match="gave 1 actions for 2 rows"):
        WrappedPolicy(policy, lambda _rows, draw: runs(policy)(1, draw), stacks(policy))


def test_what_moves_nothing_is_told_so_whatever_a_batch_rounds_to() -> None:
    """As half precision does it, by far more: numbers depend on how many rows there are."""
    policy = make_policy()
    own = runs(policy)
    wrapped = WrappedPolicy(policy, own, stacks(policy), "pi0")
    wrapped._act = lambda rows, draw: own(rows, draw) + 0.001 * rows
    scores = sweep_policy(wrapped, [Head(2, head, "language") for head in range(4)])
    assert scores.means.max() < 1e-5
