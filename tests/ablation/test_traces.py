"""A policy along a recorded episode, held against asking it frame by frame."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from recorded import expert_recording, write_dataset
from tiny_policy import policy_directory

from ablation import Ablation, Knockout, Zero
from ablation.actions import act, compare_actions, space_of
from ablation.traces import frame_prompt, trace, unmatched
from models import load_model
from models.errors import UserError
from models.language_model import LanguageModel
from models.recordings import Recording, open_recording
from models.types import Head

HEADS = (Head(1, 2), Head(3, 5))


@pytest.fixture(scope="module")
def policy() -> LanguageModel:
    return load_model(policy_directory(), device="cpu")


@pytest.fixture(scope="module")
def recording() -> Recording:
    return expert_recording()


def test_each_frame_is_asked_as_if_alone(policy: LanguageModel, recording: Recording) -> None:
    ablation = Ablation(policy.all_heads()[:12], Zero())
    found = trace(policy, recording, ablation, HEADS)
    assert found.n_done == len(recording)
    assert found.stopped == "complete"
    changed = 0
    for i, frame in enumerate(recording.frames):
        assert isinstance(frame.state, str)
        told = f"{recording.instruction} {frame.state}"
        prompt = policy.tokenize(told, pictures=recording.pictures(i))
        assert prompt.ids == frame_prompt(policy, recording, i).ids
        change = compare_actions(policy, prompt, ablation)
        np.testing.assert_array_equal(found.before[i], act(policy, prompt).values)
        assert found.after is not None
        assert found.kl is not None
        assert found.moved is not None
        np.testing.assert_array_equal(found.after[i], change.after.values)
        np.testing.assert_array_equal(found.kl[i], change.kl)
        assert found.moved[i] == pytest.approx(change.l2)
        np.testing.assert_array_equal(found.recorded[i], frame.action)
        changed += change.l2 > 0
    assert changed


def test_where_heads_look_is_their_attention_on_each_things_cells(
    policy: LanguageModel, recording: Recording
) -> None:
    found = trace(policy, recording, heads=HEADS)
    assert found.after is found.kl is found.moved is None
    assert found.objects == recording.object_names
    prompt = frame_prompt(policy, recording, 2)
    row = policy.attention(prompt, HEADS).values[:, -1]  # [head, key]
    on_image = row[:, [kind == "image" for kind in prompt.kinds]].sum(axis=1)
    np.testing.assert_allclose(found.on_image[:, 2], on_image, atol=1e-6)
    for k, name in enumerate(found.objects):
        left, top, right, bottom = recording.frames[2].objects[name]
        covered = np.zeros((64, 64))  # which part of each pixel, then of each 8 x 8 cell
        edges = np.arange(64)
        across = np.clip(np.minimum(edges + 1, right) - np.maximum(edges, left), 0, 1)
        down = np.clip(np.minimum(edges + 1, bottom) - np.maximum(edges, top), 0, 1)
        covered = down[:, None] * across[None]
        parts = covered.reshape(8, 8, 8, 8).mean(axis=(1, 3)).ravel()
        patches = row[:, [kind == "image" for kind in prompt.kinds]]
        expected = patches[:, parts >= 0.25].sum(axis=1)  # cells are smaller than things here
        np.testing.assert_allclose(found.on_objects[:, k, 2], expected, atol=1e-6)


def test_a_trace_is_cut_short(policy: LanguageModel, recording: Recording) -> None:
    cancel = threading.Event()

    def stop_after_two(progress: object) -> None:
        if getattr(progress, "done", 0) == 2:
            cancel.set()

    found = trace(policy, recording, progress=stop_after_two, cancel=cancel)
    assert found.n_done == 2
    assert found.stopped == "cancelled"
    assert np.isnan(found.before[2:]).all()
    assert found.to_json()["before"]["dx"][2] is None


def test_words_for_positions_hold_at_every_frame(
    policy: LanguageModel, recording: Recording
) -> None:
    blind = Ablation(policy.all_heads(), Knockout(None, ("image",)))
    found = trace(policy, recording, blind)
    assert found.kl is not None
    assert found.kl.sum() > 0


def test_a_state_of_numbers_is_told_by_the_policys_own_pattern(
    tmp_path_factory: pytest.TempPathFactory, policy: LanguageModel, recording: Recording
) -> None:
    directory = tmp_path_factory.mktemp("recorded") / "set"
    write_dataset(directory, [recording], 3, video=False)
    dataset = open_recording(directory)
    assert frame_prompt(policy, dataset, 1).text == recording.instruction
    told = policy.actions
    assert told is not None
    object.__setattr__(told, "prompt_pattern", "{instruction} x{state[0]:.0f} y{state[1]:.0f} open")
    try:
        frame = recording.frames[1]
        assert frame_prompt(policy, dataset, 1).text == f"{recording.instruction} {frame.state}"
        object.__setattr__(told, "prompt_pattern", "{instruction} {state[5]}")
        with pytest.raises(UserError, match=r"does not fit that; change `prompt` in actions\.json"):
            frame_prompt(policy, dataset, 1)
    finally:
        object.__setattr__(told, "prompt_pattern", None)


def test_names_that_do_not_match_are_told(policy: LanguageModel, recording: Recording) -> None:
    space = space_of(policy)
    assert unmatched(space, recording) == ""
    other = replace(recording, action_names=("a", "b", "c"))
    assert "(a, b, c) have none of the policy's names (dx, dy, gripper)" in unmatched(space, other)
    assert np.isnan(trace(policy, other).recorded).all()


def test_more_cameras_than_the_policy_takes(policy: LanguageModel, recording: Recording) -> None:
    two = replace(
        recording,
        cameras=("top", "wrist"),
        pictures=lambda i: (*recording.pictures(i), *recording.pictures(0)),
    )
    with pytest.raises(UserError, match=r"2 cameras \(top, wrist\).*Choose the cameras"):
        trace(policy, two)
    found = trace(policy, two.seen_by(["top"]))
    np.testing.assert_array_equal(found.before, trace(policy, recording).before)


def test_what_cannot_be_traced(
    policy: LanguageModel, recording: Recording, llama: LanguageModel
) -> None:
    with pytest.raises(UserError, match="choose heads of another one"):
        trace(policy, recording, heads=[Head(0, 1, "vision")])
    with pytest.raises(UserError, match="Along a recording positions are named by words"):
        trace(policy, recording, Ablation(HEADS, Zero(), (3,)))
    with pytest.raises(UserError, match="does not say which of its tokens are actions"):
        trace(llama, recording)


@pytest.mark.parametrize("whose", ["its own", "wrapped"])
def test_a_policy_that_answers_with_numbers_is_followed(whose: str) -> None:
    from tiny_pi0 import tiny_pi0
    from tiny_vision import noise_picture
    from tiny_wrapped import flow, reach

    from ablation.chunk_actions import act_chunk, compare_chunks
    from models.picture import Picture
    from models.recordings import Frame, Recording
    from models.types import RobotInput

    model = tiny_pi0() if whose == "its own" else flow()
    states = ((1.0, -1.0), (2.0, 0.5), (0.0, 0.0))
    frames = tuple(Frame(i / 2, state, (0.1, 0.2)) for i, state in enumerate(states))

    def pictures(index: int) -> tuple[Picture, ...]:
        return (noise_picture((32, 32), index), noise_picture((32, 32), 10 + index))

    recording = Recording("r", "push it", frames, ("front", "wrist"), ("dy", "other"), pictures)
    heads = (Head(1, 2, "expert"), Head(0, 1))
    ablation = Ablation((Head(0, 3, "expert"),), Zero())
    found = trace(model, recording, ablation, heads)
    assert found.unit == ("σ" if whose == "its own" else "parts of range")
    assert found.kl is None
    assert found.moved is not None
    assert found.after is not None
    for i, state in enumerate(states):
        prompt = model.tokenize("push it", pictures=pictures(i), robot=RobotInput(state))
        change = compare_chunks(model, prompt, ablation)
        np.testing.assert_allclose(found.before[i], change.before.values[0, 0], atol=1e-5)
        np.testing.assert_allclose(found.after[i], change.after.values[0, 0], atol=1e-5)
        assert found.moved[i] == pytest.approx(change.moved, abs=1e-5)
        row = model.attention(prompt, heads[:1]).values[0, 1]  # the first action's
        assert found.on_image[0, i] == pytest.approx(row[:32].sum(), abs=1e-5)
    np.testing.assert_array_equal(found.recorded[:, 1], 0.1)
    assert np.isnan(found.recorded[:, 0]).all()
    plain = trace(model, recording)
    assert plain.moved is None
    np.testing.assert_allclose(
        plain.before[0],
        act_chunk(
            model, model.tokenize("push it", pictures=pictures(0), robot=RobotInput(states[0]))
        ).values[0, 0],
        atol=1e-5,
    )
    with pytest.raises(UserError, match="choose heads of another one"):
        trace(model, recording, heads=[Head(0, 0, "vision")])
    if whose == "wrapped":  # of another, nobody says which positions show the pictures
        stateless = replace(recording, frames=tuple(Frame(f.time, None, None) for f in frames))
        unknown = trace(reach(), stateless, heads=[Head(1, 1)])
        assert np.isnan(unknown.on_image).all()
