"""Questions asked of a policy that answers with numbers, against plain hooks and by hand."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from tiny_pi0 import (
    CHUNK,
    STATISTICS,
    chunk_of,
    parts_of,
    plain_policy,
    projections,
    scale_head,
    tiny_pi0,
)
from tiny_vision import noise_picture, tiny_vision_model

from ablation import Ablation, Scale, Zero, search_heads, sweep_heads
from ablation.chunk_actions import (
    ChunkGoal,
    _without_what_is_not_needed,
    act_chunk,
    chunk_space_of,
    compare_chunks,
    hide_modalities,
    search_chunk,
    sweep_chunk,
)
from ablation.chunk_types import ChunkAction
from ablation.types import HeadScores, Progress
from models.errors import UserError
from models.types import EXPERT, MAIN, VISION, Head, RobotInput, TokenizedPrompt

TOLERANCE = 2e-5


def prompt_of(draw: int = 0) -> TokenizedPrompt:
    pictures = [noise_picture((32, 32), seed) for seed in range(2)]
    return tiny_pi0().tokenize(
        "pick up the red cup", pictures=pictures, robot=RobotInput((1.0, -1.0), draw)
    )


def plain_chunk(draw: int, head: Head | None = None) -> np.ndarray:
    """Return a plain policy's chunk, [step, dimension], σ, with a head zeroed by a plain hook."""
    policy, prompt = plain_policy(), prompt_of(draw)
    if head is not None:
        scale_head(projections(parts_of(policy)[head.stack])[head.layer], head.head, 0)
    return np.asarray(chunk_of(policy, prompt)[:, :3], dtype=float)


def test_an_action_is_in_units_and_said_in_words() -> None:
    action = act_chunk(tiny_pi0(), prompt_of(4), n_draws=2)
    assert action.normalised.shape == (2, CHUNK, 3)
    for draw in (0, 1):
        expected = plain_chunk(4 + draw)
        np.testing.assert_allclose(action.normalised[draw], expected, atol=TOLERANCE)
    by_hand = action.normalised * STATISTICS["actions_std"] + np.array(STATISTICS["actions_mean"])
    np.testing.assert_allclose(action.values, by_hand, atol=1e-6)
    assert action.summary[0] == pytest.approx(by_hand[..., 0].mean())
    assert action.summary[2] == pytest.approx(by_hand[:, -1, 2].mean())  # a choice: at the end
    assert action.to_json()["dimensions"] == ["dx", "dy", "gripper"]


@pytest.mark.parametrize("stack", [VISION, MAIN, EXPERT])
def test_a_sweep_equals_plain_hooks(stack: str) -> None:
    model = tiny_pi0()
    scores = sweep_chunk(model, prompt_of(), stack=stack, n_draws=2)
    assert scores.values.shape == (model.stacks.named(stack).n_layers, 4)
    for head in model.all_heads(stack)[::3]:
        apart = []
        for draw in (0, 1):
            change = plain_chunk(draw, head) - plain_chunk(draw)
            apart.append(np.sqrt((change**2).sum(-1).mean()))
        assert scores.values[head.layer, head.head] == pytest.approx(np.mean(apart), abs=TOLERANCE)
    if stack == MAIN:
        assert scores.values[-1].max() < 1e-6  # rows of a batch round otherwise
        assert scores.values[:-1].min() > 0


def test_a_change_is_told_in_all_its_parts() -> None:
    model, prompt = tiny_pi0(), prompt_of()
    everything = Ablation(model.all_heads(EXPERT), Scale(-3.0))
    change = compare_chunks(model, prompt, everything, n_draws=3)
    assert change.by_draw.shape == (3,)
    assert change.moved == pytest.approx(change.by_draw.mean())
    assert change.error == pytest.approx(change.by_draw.std(ddof=1) / 3**0.5)
    means = [one.values.mean((0, 1)) for one in (change.before, change.after)]
    flips = [name for i, name in enumerate(("dx", "dy")) if means[0][i] * means[1][i] < 0]
    assert list(change.sign_flips) == flips
    told = change.to_json()
    assert told["moved"] == pytest.approx(change.moved)
    assert set(told["by_dimension"]) == {"dx", "dy", "gripper"}
    assert np.isnan(compare_chunks(model, prompt, everything).error)


def test_the_generic_search_takes_the_head_that_moves_most() -> None:
    model, prompt = tiny_pi0(), prompt_of()
    found = search_chunk(model, prompt, max_heads=2)
    best = max(
        (float(sweep_chunk(model, prompt, stack=stack).values.max()), stack)
        for stack in (VISION, MAIN, EXPERT)
    )
    assert found.steps[0].moved == pytest.approx(best[0], abs=1e-5)
    assert found.steps[0].head.stack == best[1]
    assert found.stopped == "max_heads"
    both = Ablation(found.heads, Zero())
    assert compare_chunks(model, prompt, both).moved == pytest.approx(
        found.steps[1].moved, abs=1e-5
    )


def test_a_goal_is_reached_by_heads_none_of_which_can_be_missed() -> None:
    model, prompt = tiny_pi0(), prompt_of()
    clean = act_chunk(model, prompt)
    ranked = sweep_chunk(model, prompt, stack=EXPERT).ranked()
    head = ranked[0][0]
    after = compare_chunks(model, prompt, Ablation((head,), Zero())).after
    # Half way to what that head alone does: some set of heads gets there.
    between = (clean.summary[0] + after.summary[0]) / 2
    sign = "<" if after.summary[0] < clean.summary[0] else ">"
    found = search_chunk(model, prompt, f"dx{sign}{between}", max_heads=6)
    assert found.stopped == "target_reached"
    final = compare_chunks(model, prompt, Ablation(found.heads, Zero())).after
    reached = final.summary[0] < between if sign == "<" else final.summary[0] > between
    assert reached
    assert set(found.heads) | set(found.dropped) == {step.head for step in found.steps}
    np.testing.assert_allclose(found.final.normalised, final.normalised, atol=TOLERANCE)
    for head in found.heads if len(found.heads) > 1 else ():
        rest = tuple(other for other in found.heads if other != head)
        missed = compare_chunks(model, prompt, Ablation(rest, Zero())).after.summary[0]
        assert not (missed < between if sign == "<" else missed > between)
    with pytest.raises(UserError, match="fulfilled already"):
        search_chunk(model, prompt, f"dx{'>' if sign == '<' else '<'}{between}")


def test_hiding_a_modality_is_cutting_every_look_at_it() -> None:
    model, prompt = tiny_pi0(), prompt_of()
    found = {one.name: one for one in hide_modalities(model, prompt)}
    assert list(found) == ["image", "instruction", "state"]
    assert found["image"].n_positions == 32
    assert all(one.change.moved > 100 * TOLERANCE for one in found.values())
    # Without sight of the state's position, what the state says is no matter.
    other = model.tokenize(
        "pick up the red cup", pictures=prompt.pictures, robot=RobotInput((-9.0, 4.0))
    )
    hidden = {one.name: one for one in hide_modalities(model, other)}
    np.testing.assert_allclose(
        hidden["state"].change.after.normalised,
        found["state"].change.after.normalised,
        atol=TOLERANCE,
    )


def test_a_sweep_can_be_cancelled() -> None:
    cancel = threading.Event()
    cancel.set()
    scores = sweep_chunk(tiny_pi0(), prompt_of(), cancel=cancel)
    assert scores.stopped == "cancelled"
    assert np.isnan(scores.values).all()
    assert search_chunk(tiny_pi0(), prompt_of(), cancel=cancel).stopped == "cancelled"


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ("dx=0.1", "a quantity, which equals no number exactly"),
        ("arm<0", "no action 'arm'; its actions are dx, dy, gripper"),
        ("dx", "Cannot read 'dx' as a goal"),
        ("gripper=half", "no value of gripper; give a number or open, closed"),
    ],
)
def test_goals_that_make_no_sense(goal: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        search_chunk(tiny_pi0(), prompt_of(), goal)


def test_questions_about_tokens_are_refused_and_the_reverse() -> None:
    with pytest.raises(UserError, match="answers with an action, not with a token"):
        sweep_heads(tiny_pi0(), prompt_of())
    with pytest.raises(UserError, match="answers with an action, not with a token"):
        search_heads(tiny_pi0(), prompt_of())
    llava = tiny_vision_model("llava")
    with pytest.raises(UserError, match="does not answer with the numbers of an action"):
        act_chunk(llava, llava.tokenize("what", pictures=[noise_picture()]))
    with pytest.raises(UserError, match="at least one noise"):
        act_chunk(tiny_pi0(), prompt_of(), n_draws=0)
    layers = tiny_pi0().layers_of([Head(0, 0, EXPERT)])
    with pytest.raises(UserError, match="differs from step to step"):
        tiny_pi0().head_outputs(prompt_of(), layers)


def test_heads_that_are_not_needed_are_dropped_until_none_is_left() -> None:
    """Of three heads chosen the last alone reaches the goal."""
    model, prompt = tiny_pi0(), prompt_of()
    space = chunk_space_of(model)
    clean = act_chunk(model, prompt)
    goal = ChunkGoal(0, "<", float(clean.summary[0]) - 0.5)
    heads = [Head(0, 0), Head(0, 1), Head(0, 2)]
    low = ChunkAction(space, clean.normalised - 10)

    def tried(sets: Sequence[Sequence[Head]]) -> tuple[list[ChunkAction], np.ndarray]:
        return [low if heads[2] in one else clean for one in sets], np.zeros(len(sets))

    dropped, final = _without_what_is_not_needed(heads, goal, tried, low)
    assert dropped == heads[:2]
    assert final is low


def test_several_passes_give_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = tiny_pi0(), prompt_of()
    whole = sweep_chunk(model, prompt, stack=EXPERT, n_draws=2)
    monkeypatch.setattr(model.head_sets, "_rows_at_once", lambda _posed: 4)
    reports: list[Progress] = []
    parts = sweep_chunk(model, prompt, stack=EXPERT, n_draws=2, progress=reports.append)
    np.testing.assert_allclose(parts.values, whole.values, atol=TOLERANCE)
    assert [report.done for report in reports] == [3, 6, 9, 12, 15, 18, 21, 24]
    first = reports[0].partial
    assert isinstance(first, HeadScores)
    assert int(np.isfinite(first.values).sum()) == 3
    cancel = threading.Event()

    def stop(report: Progress) -> None:
        if report.done == 6:
            cancel.set()

    kept = sweep_chunk(model, prompt, stack=EXPERT, progress=stop, cancel=cancel)
    assert kept.stopped == "cancelled"
    assert int(np.isfinite(kept.values).sum()) == 6


def test_goals_need_a_value_that_there_can_be() -> None:
    with pytest.raises(UserError, match="no finite number"):
        search_chunk(tiny_pi0(), prompt_of(), "dx<nan")
    with pytest.raises(UserError, match="gripper is one of 0 \\(open\\), 1 \\(closed\\)"):
        search_chunk(tiny_pi0(), prompt_of(), "gripper=0.3")
