"""The simulated table: its rules, its expert, its camera, and the language of its policy."""

from dataclasses import replace

import numpy as np
import pytest

from models.errors import UserError
from models.tabletop.drawing import GRIPPER, PAINT, draw
from models.tabletop.film import Reel, film
from models.tabletop.policy import N_PATCHES, policy_config
from models.tabletop.scenes import EXAMPLES, goal_in_numbers, named_scene, scene_label
from models.tabletop.table import (
    HELD_OUT,
    MOST_STEPS,
    SIZE,
    TOLERANCE,
    Action,
    Scene,
    Table,
    Thing,
    all_pairs,
    expert,
    random_scene,
)
from models.tabletop.words import (
    VOCABULARY,
    action_words,
    description,
    make_tokenizer,
    state_words,
    told,
)


@pytest.mark.parametrize("pairs", ["seen", "held-out"])
def test_the_expert_reaches_every_target(pairs: str) -> None:
    for seed in range(60):
        table = Table(pairs)
        scene, over, reached = table.reset(seed), False, False
        while not over:
            scene, over, reached = table.step(expert(scene))
        assert reached, seed
        assert scene.distance <= TOLERANCE
        pair = (scene.things[scene.target].colour, scene.things[scene.target].shape)
        assert (pair in HELD_OUT) == (pairs == "held-out")


def test_the_same_seed_is_the_same_scene() -> None:
    assert Table().reset(5) == Table().reset(5)
    assert Table().reset(5) != Table().reset(6)


def test_held_out_pairs_are_in_no_seen_scene() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = random_scene(rng)
        pairs = [(thing.colour, thing.shape) for thing in scene.things]
        assert not HELD_OUT & set(pairs)
        assert len(set(pairs)) == len(pairs)
    assert len(all_pairs(False)) + len(all_pairs(True)) == 20


def test_an_episode_ends_when_the_gripper_closes_or_after_so_many_steps() -> None:
    table = Table()
    table.reset(3)
    _, over, reached = table.step(Action(0, 0, close=True))
    assert over
    assert not reached
    table.reset(3)
    for step in range(MOST_STEPS):
        scene, over, _ = table.step(Action(8, 8, close=False))
        assert over == (step == MOST_STEPS - 1)
    assert (scene.x, scene.y) == (SIZE - 1, SIZE - 1)
    with pytest.raises(RuntimeError):
        Table().step(Action(0, 0, close=False))


def test_the_camera_shows_things_where_they_are_and_the_gripper_above() -> None:
    things = (Thing("red", "square", 20, 30), Thing("blue", "cross", 50, 10))
    scene = Scene(things, 1, "reach", 20, 30)
    pictures, shows = draw([scene])
    assert tuple(pictures[0, 10, 50]) == PAINT["blue"]
    assert tuple(pictures[0, 32, 20]) == PAINT["red"]
    assert tuple(pictures[0, 26, 20]) == GRIPPER
    assert shows[0, 26, 20] == 0  # the square is below the bar
    assert shows[0, 10, 50] == 1
    assert shows[0, 60, 60] == -1
    assert scene.instruction == "reach the blue cross"
    closed, _ = draw([Scene(things, 1, "reach", 20, 30, closed=True)])
    assert not np.array_equal(closed, pictures)


def test_every_word_is_one_token() -> None:
    tokenizer = make_tokenizer()
    rng = np.random.default_rng(1)
    for _ in range(50):
        scene = random_scene(rng)
        ids = tokenizer(told(scene))["input_ids"]
        assert len(ids) == 1 + 4 + 3
        assert VOCABULARY.index("<unk>") not in ids
        for word in action_words(expert(scene)):
            assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
        x, y, grip = state_words(scene)
        assert (x, y, grip) == (f"x{int(scene.x) // 2}", f"y{int(scene.y) // 2}", "open")
    values = description()["actions"][0]["tokens"]
    assert list(values.values()) == [-8, -6, -4, -2, 0, 2, 4, 6, 8]


def test_the_policy_is_of_llavas_architecture_and_sees_every_patch() -> None:
    config = policy_config()
    assert config.model_type == "llava"
    assert config.image_seq_length == N_PATCHES == 64
    assert config.text_config.vocab_size == len(VOCABULARY)


def test_scenes_have_names() -> None:
    for name in EXAMPLES:
        scene = named_scene(name)
        assert scene.instruction in scene_label(name)
    held_out = named_scene("tabletop:held-out:3")
    thing = held_out.things[held_out.target]
    assert (thing.colour, thing.shape) in HELD_OUT
    for wrong in ("tabletop:", "tabletop:x", "table:7", "tabletop:held-out:", "tabletop:-1"):
        with pytest.raises(UserError, match="no scene of the table"):
            named_scene(wrong)


def test_a_goal_can_be_another_thing() -> None:
    """In tabletop:7 the gripper is at (32, 30), the target to the upper right."""
    scene = named_scene("tabletop:7")
    for i, thing in enumerate(scene.things):
        if i == scene.target:
            with pytest.raises(UserError, match="Beside what the instruction names there is no"):
                goal_in_numbers(f"towards {thing.name}", "tabletop:7")
            continue
        goal = goal_in_numbers(f"towards {thing.name}", "tabletop:7")
        own, other = expert(scene), expert(replace(scene, target=i))
        axis = goal[:2]
        differs = {"dx": abs(other.dx - own.dx), "dy": abs(other.dy - own.dy)}
        assert differs[axis] == max(differs.values()) > 0
        assert goal.endswith(f"={getattr(other, axis):g}")
    assert goal_in_numbers("dx<0", "tabletop:7") == "dx<0"
    with pytest.raises(UserError, match="needs a scene of the table"):
        goal_in_numbers("towards red cross", "frog.png")


def test_a_film_has_a_frame_a_step() -> None:
    import io

    from PIL import Image

    table = Table()
    scenes = [table.reset(2)]
    for _ in range(3):
        scenes.append(table.step(expert(scenes[-1]))[0])
    weights = [np.eye(8)] * 4
    reels = [Reel("whole", scenes, outcome="reached"), Reel("without", scenes[:2], weights)]
    with Image.open(io.BytesIO(film(reels))) as image:
        assert image.n_frames == 4
        assert image.width == 2 * 192 + 8


def test_lessons_show_no_held_out_pair_and_nothing_like_one() -> None:
    from models.tabletop.lessons import UNLIKE, strange_scene, ways_to_name
    from models.tabletop.table import COLOURS, SHAPES

    rng = np.random.default_rng(2)
    seen: set[str] = set()
    for _ in range(400):
        scene = strange_scene(rng, (2, 4))
        for thing in scene.things:
            assert (thing.colour, thing.shape) not in HELD_OUT
            named = (thing.colour in COLOURS, thing.shape in SHAPES)
            assert any(named)
            assert (thing.paint is None) == named[0]
            seen.add(f"{named}")
            if thing.paint is not None:
                away = [np.linalg.norm(np.subtract(thing.paint, other)) for other in PAINT.values()]
                assert min(away) >= UNLIKE
        for thing, ways in zip(scene.things, ways_to_name(scene), strict=True):
            assert ("both" in ways) == (thing.colour in COLOURS and thing.shape in SHAPES)
            alike = [other.colour for other in scene.things].count(thing.colour)
            assert ("colour" in ways) == (thing.colour in COLOURS and alike == 1)
    assert len(seen) == 3


def test_one_word_can_name_a_target() -> None:
    things = (Thing("red", "square", 20, 30), Thing("blue", "cross", 50, 10))
    scene = Scene(things, 1, "reach", 20, 30, named_by="colour")
    assert scene.instruction == "reach the blue one"
    assert Scene(things, 0, "find", 20, 30, named_by="shape").instruction == "find the only square"
    ids = make_tokenizer()(told(scene))["input_ids"]
    assert VOCABULARY.index("<unk>") not in ids
    assert len(ids) == 1 + 4 + 3


def test_training_learns_from_what_the_picture_shows() -> None:
    import torch

    from models.tabletop.lessons import make_batch
    from models.tabletop.policy import new_policy
    from models.tabletop.training import Readers, losses

    torch.manual_seed(0)
    batch = make_batch(np.random.default_rng(0), 3, (2, 4))
    assert batch.words.shape == (3, 4, 9)
    assert int((batch.colours < 5).sum()) > 3
    named = batch.colours[(batch.colours >= 0) & (batch.colours < 5)]
    assert len(named.unique()) > 1
    policy = new_policy()
    readers = Readers(96, 128)
    before = losses(policy, readers, batch)
    optimiser = torch.optim.AdamW([*policy.parameters(), *readers.parameters()], lr=2e-3)
    for _ in range(12):
        optimiser.zero_grad()
        torch.stack(list(losses(policy, readers, batch).values())).sum().backward()
        optimiser.step()
    after = losses(policy, readers, batch)
    assert sum(after.values()) < 0.8 * sum(before.values())


def test_packed_instructions_are_answered_as_if_each_stood_alone() -> None:
    """The mask of training against the policy run on one instruction at a time, 1e-4: rounding."""
    import torch

    from models.tabletop.lessons import make_batch
    from models.tabletop.policy import new_policy
    from models.tabletop.rollouts import pixel_values
    from models.tabletop.training import Readers, losses
    from models.tabletop.words import BOS, IMAGE

    torch.manual_seed(0)
    policy, readers = new_policy().eval(), Readers(96, 128)
    batch = make_batch(np.random.default_rng(3), 2, (2, 4))
    packed = losses(policy, readers, batch)
    alone = []
    for pixels, asked, answers in zip(
        pixel_values(batch.pictures), batch.words, batch.answers, strict=True
    ):
        for words, answer in zip(asked, answers, strict=True):
            opening = [VOCABULARY.index(BOS), *[VOCABULARY.index(IMAGE)] * N_PATCHES]
            ids = torch.tensor([[*opening, *words.tolist()]])
            logits = policy(input_ids=ids, pixel_values=pixels[None]).logits[0, -3:]
            alone.append(torch.nn.functional.cross_entropy(logits, answer, reduction="none"))
    mean = torch.stack(alone).mean(0)
    for i, name in enumerate(("dx", "dy", "gripper")):
        assert packed[name].item() == pytest.approx(mean[i].item(), abs=1e-4)
