"""What the policy is taught from: scenes, instructions, what the expert does, what patches show.

A scene is all there is to know of a state, so states are drawn at random, many of them with the
gripper near a thing, instead of being visited by rollouts. Each picture is learned from under
several instructions at once.

The policy has to do with pairs of colour and shape that it never saw. Taught from seen pairs only
it learned some things as wholes: it found no green triangle, knowing greens and triangles. So in
half of the scenes things are strange: a shape in a paint that no word names, or a named colour on a
shape that has no name; and where one word is enough ("the green one", "the only triangle") it may
be the only one. No strange paint is near a colour that has a name, so that what is held out stays
so.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from models.tabletop.drawing import GRIPPER, GROUND, PAINT, STRANGE_SHAPES, draw
from models.tabletop.policy import N_PATCHES, PATCH
from models.tabletop.table import (
    COLOURS,
    SHAPES,
    SIZE,
    VERBS,
    NamedBy,
    Scene,
    Thing,
    all_pairs,
    expert,
    random_places,
    random_scene,
)
from models.tabletop.words import VOCABULARY, action_words, state_words

N_ASKED = 4
"""Instructions a picture is learned from at once."""
NEAR_SHARE = 0.6
"""Part of the scenes whose gripper is near a thing."""
SPREAD = 5.0
"""Standard deviation of how near, pixels."""
STRANGE_SHARE = 0.5
"""Part of the scenes in which things may be strange."""
IN_FULL = 0.6
"""Part of the instructions that name both colour and shape, where either would do."""
UNLIKE = 70.0
"""How far a strange paint is from every named one, from the ground and the gripper, in RGB."""
NO_THING, NO_WORD = "", -100
"""A colour or a shape without a name, and its label, which cross-entropy leaves out."""
LEAST_SHOWN = 10
"""Pixels of a patch that a thing must cover for the patch to show it."""
PLACE_CELL = 2
"""Pixels to a cell of the places that are learned."""
ID = {word: i for i, word in enumerate(VOCABULARY)}


@dataclass(frozen=True, slots=True)
class Batch:
    """Scenes as the policy learns from them."""

    pictures: Tensor
    """uint8 [image, SIZE, SIZE, 3]."""
    words: Tensor
    """int64 [image, asked, 9]: instruction, state, and the first two words of the answer."""
    answers: Tensor
    """int64 [image, asked, 3]."""
    targets: Tensor
    """bool [image, asked, patch]: whether a patch shows the thing that is named."""
    places: Tensor
    """int64 [image, asked, 2]: the target's centre in cells of `PLACE_CELL` pixels."""
    colours: Tensor
    """int64 [image, patch]; `len(COLOURS)` where a patch shows nothing, `NO_WORD` where no word
    names what it shows. Likewise `shapes`."""
    shapes: Tensor
    centres: Tensor
    """int64 [image, patch, 2]: of the thing that a patch shows, in cells of `PLACE_CELL` pixels."""

    def to(self, device: torch.device) -> "Batch":
        moved = (getattr(self, f.name).to(device, non_blocking=True) for f in fields(self))
        return Batch(*moved)


def make_batch(rng: np.random.Generator, n_images: int, n_things: tuple[int, int]) -> Batch:
    """Draw random scenes and what the expert does in them."""
    scenes = [_with_gripper(rng, _lesson(rng, n_things)) for _ in range(n_images)]
    pictures, shows = draw(scenes)
    shown = _shown_things(scenes, shows)
    words, answers, targets, places = [], [], [], []
    for scene, patches in zip(scenes, shown, strict=True):
        for asked in _instructions(rng, scene):
            answer = [ID[word] for word in action_words(expert(asked))]
            text = [*asked.instruction.split(), *state_words(asked)]
            words.append([*(ID[word] for word in text), *answer[:2]])
            answers.append(answer)
            targets.append(patches == asked.target)
            goal = asked.things[asked.target]
            places.append([int(goal.x) // PLACE_CELL, int(goal.y) // PLACE_CELL])
    shape = (n_images, N_ASKED, -1)
    return Batch(
        torch.from_numpy(pictures),
        torch.tensor(words).view(shape),
        torch.tensor(answers).view(shape),
        torch.from_numpy(np.stack(targets)).view(shape),
        torch.tensor(places).view(shape),
        *_patch_labels(scenes, shown),
    )


def _lesson(rng: np.random.Generator, n_things: tuple[int, int]) -> Scene:
    if rng.random() > STRANGE_SHARE:
        return random_scene(rng, n_things)
    while True:
        scene = strange_scene(rng, n_things)
        if any(ways_to_name(scene)):
            return scene


def strange_scene(rng: np.random.Generator, n_things: tuple[int, int]) -> Scene:
    """Return a random scene in which a thing's colour or shape may be one that has no name."""
    n = int(rng.integers(n_things[0], n_things[1] + 1))
    pairs = all_pairs(False)
    things = []
    chosen = rng.permutation(len(pairs))[:n]
    for pair, kind, (x, y) in zip(
        chosen, rng.integers(3, size=n), random_places(rng, n), strict=True
    ):
        colour, shape = pairs[pair]
        at = (float(x), float(y))
        if kind == 1:
            things.append(
                Thing(NO_THING, SHAPES[rng.integers(len(SHAPES))], *at, strange_paint(rng))
            )
        elif kind == 2:
            shape = STRANGE_SHAPES[rng.integers(len(STRANGE_SHAPES))]
            things.append(Thing(COLOURS[rng.integers(len(COLOURS))], shape, *at))
        else:
            things.append(Thing(colour, shape, *at))
    x, y = rng.uniform(2, SIZE - 3, size=2).round()
    return Scene(tuple(things), 0, VERBS[rng.integers(len(VERBS))], float(x), float(y))


def strange_paint(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return a colour that is unlike every one that has a name, and that is seen on the table."""
    others = np.array([*PAINT.values(), GROUND, GRIPPER], dtype=float)
    while True:
        paint = rng.integers(256, size=3)
        if np.linalg.norm(others - paint, axis=1).min() >= UNLIKE:
            red, green, blue = paint.tolist()
            return red, green, blue


def ways_to_name(scene: Scene) -> list[list[NamedBy]]:
    """Return, for each thing, by what an instruction can name it and no other thing."""
    colours = Counter(thing.colour for thing in scene.things)
    shapes = Counter(thing.shape for thing in scene.things)
    found: list[list[NamedBy]] = []
    for thing in scene.things:
        has_colour, has_shape = thing.colour in COLOURS, thing.shape in SHAPES
        ways: list[NamedBy] = ["both"] if has_colour and has_shape else []
        if has_colour and colours[thing.colour] == 1:
            ways.append("colour")
        if has_shape and shapes[thing.shape] == 1:
            ways.append("shape")
        found.append(ways)
    return found


def _with_gripper(rng: np.random.Generator, scene: Scene) -> Scene:
    if rng.random() > NEAR_SHARE:
        return scene
    thing = scene.things[rng.integers(len(scene.things))]
    x, y = np.clip(rng.normal((thing.x, thing.y), SPREAD).round(), 0, SIZE - 1)
    return replace(scene, x=float(x), y=float(y))


def _instructions(rng: np.random.Generator, scene: Scene) -> list[Scene]:
    """Return a scene under several instructions, each thing named as often as another."""
    ways = ways_to_name(scene)
    named = [i for i, found in enumerate(ways) if found]
    order = [i for _ in range(-(-N_ASKED // len(named))) for i in rng.permutation(named)]
    return [
        replace(
            scene,
            target=int(i),
            verb=VERBS[rng.integers(len(VERBS))],
            named_by=_one_way(rng, ways[i]),
        )
        for i in order[:N_ASKED]
    ]


def _one_way(rng: np.random.Generator, ways: Sequence[NamedBy]) -> NamedBy:
    if ways[0] == "both" and rng.random() < IN_FULL:
        return "both"
    return ways[int(rng.integers(len(ways)))]


def _shown_things(scenes: Sequence[Scene], shows: np.ndarray) -> np.ndarray:
    """Return which thing each patch shows most of, int [image, patch]; -1 for none."""
    side = SIZE // PATCH
    cells = shows.reshape(-1, side, PATCH, side, PATCH).transpose(0, 1, 3, 2, 4)
    cells = cells.reshape(len(scenes), N_PATCHES, PATCH * PATCH)
    most = max(len(scene.things) for scene in scenes)
    counts = np.stack([(cells == i).sum(-1) for i in range(most)], axis=-1)
    return np.where(counts.max(-1) >= LEAST_SHOWN, counts.argmax(-1), -1)


def _patch_labels(scenes: Sequence[Scene], shown: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return colour, shape and centre of what each patch shows; see `Batch`."""
    colours = np.full((len(scenes), N_PATCHES), len(COLOURS))
    shapes = np.full((len(scenes), N_PATCHES), len(SHAPES))
    centres = np.zeros((len(scenes), N_PATCHES, 2), dtype=np.int64)
    for i, scene in enumerate(scenes):
        for k, thing in enumerate(scene.things):
            at = shown[i] == k
            colours[i, at] = _label(thing.colour, COLOURS)
            shapes[i, at] = _label(thing.shape, SHAPES)
            centres[i, at] = (int(thing.x) // PLACE_CELL, int(thing.y) // PLACE_CELL)
    return torch.from_numpy(colours), torch.from_numpy(shapes), torch.from_numpy(centres)


def _label(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else NO_WORD
