"""The table: coloured shapes, a gripper, an instruction; reset, step, and an expert that solves it.

Distances are in pixels of the camera's picture, x to the right and y down. Everything random comes
from the seed that `reset` is given.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

SIZE = 64
"""Width and height of the table, pixels."""
COLOURS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("square", "circle", "triangle", "cross")
HELD_OUT = frozenset(
    {("red", "circle"), ("green", "triangle"), ("blue", "cross"), ("yellow", "square")}
)
"""Pairs of colour and shape that the policy never saw in training, in no picture."""
VERBS = ("reach", "find", "touch")
"""An instruction is one of these, "the", a colour and a shape ("reach the red cross"); or names its
target by one of the two ("reach the red one", "reach the only cross")."""
RADIUS = 5.5
"""Half the width of a shape."""
MARGIN = 7
"""Nearest to the edge of the table that a centre lies."""
APART = 13.0
"""Least distance between the centres of two shapes."""
STEP = 2
"""Moves are whole multiples of this along each axis."""
REACH = 8
"""Largest move along an axis in one step."""
NEAR = 2.0
"""So near, along each axis, the expert closes the gripper."""
TOLERANCE = 4.0
"""A target counts as reached if the gripper closes within this distance of its centre."""
MOST_STEPS = 16


NamedBy = Literal["both", "colour", "shape"]


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape on the table."""

    colour: str
    shape: str
    x: float
    y: float
    paint: tuple[int, int, int] | None = None
    """RGB, where no word names its colour."""

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """What the camera sees, and what the policy is told."""

    things: tuple[Thing, ...]
    target: int
    """Which thing the instruction names."""
    verb: str
    x: float
    """Of the gripper."""
    y: float
    closed: bool = False
    named_by: NamedBy = "both"
    """What the instruction says of the target; one word is enough if no other thing is so."""

    @property
    def instruction(self) -> str:
        goal = self.things[self.target]
        told = {"both": goal.name, "colour": f"{goal.colour} one", "shape": f"only {goal.shape}"}
        return f"{self.verb} the {told[self.named_by]}"

    @property
    def distance(self) -> float:
        """From the gripper to the target's centre."""
        goal = self.things[self.target]
        return float(np.hypot(goal.x - self.x, goal.y - self.y))

    def to_json(self) -> dict[str, Any]:
        return {
            "instruction": self.instruction,
            "state": {"x": self.x, "y": self.y, "gripper": int(self.closed)},
            "things": [{"name": t.name, "x": t.x, "y": t.y} for t in self.things],
        }


@dataclass(frozen=True, slots=True)
class Action:
    """A move and what the gripper does after it."""

    dx: float
    dy: float
    close: bool


class Table:
    """One episode: `reset`, then `step` until it is over.

    It is over when the gripper closes (a success if within `TOLERANCE` of the target) or after
    `MOST_STEPS`.
    """

    def __init__(self, pairs: str = "seen", n_things: tuple[int, int] = (2, 4)) -> None:
        """Args:
        pairs: which targets: "seen" in training, or "held-out". Other things are of any pair in
            the latter case, of seen ones in the former.
        n_things: fewest and most things on the table.
        """
        self._pairs = pairs
        self._n_things = n_things
        self.scene: Scene | None = None
        self.steps = 0

    @staticmethod
    def at(scene: Scene) -> "Table":
        """Return a table on which an episode begins with a scene."""
        table = Table()
        table.scene = scene
        return table

    def reset(self, seed: int) -> Scene:
        """Start an episode."""
        rng = np.random.default_rng(seed)
        self.scene = random_scene(rng, self._n_things, self._pairs == "held-out")
        self.steps = 0
        return self.scene

    def step(self, action: Action) -> tuple[Scene, bool, bool]:
        """Move, then open or close the gripper.

        Returns:
            The scene, whether the episode is over, whether the target was reached.
        """
        if self.scene is None:
            raise RuntimeError("reset the table first")
        x = float(np.clip(self.scene.x + action.dx, 0, SIZE - 1))
        y = float(np.clip(self.scene.y + action.dy, 0, SIZE - 1))
        self.scene = replace(self.scene, x=x, y=y, closed=action.close)
        self.steps += 1
        reached = action.close and self.scene.distance <= TOLERANCE
        return self.scene, action.close or self.steps >= MOST_STEPS, reached


def expert(scene: Scene) -> Action:
    """Return the move straight towards the target; the gripper closes once it is near."""
    goal = scene.things[scene.target]
    away = np.array([goal.x - scene.x, goal.y - scene.y])
    dx, dy = np.clip(np.rint(away / STEP) * STEP, -REACH, REACH)
    return Action(float(dx), float(dy), bool(np.abs(away).max() <= NEAR))


def all_pairs(held_out: bool) -> list[tuple[str, str]]:
    """Return the pairs of colour and shape that were seen in training, or those held out."""
    return [
        (colour, shape)
        for colour in COLOURS
        for shape in SHAPES
        if ((colour, shape) in HELD_OUT) == held_out
    ]


def random_scene(
    rng: np.random.Generator, n_things: tuple[int, int] = (2, 4), held_out: bool = False
) -> Scene:
    """Return a random scene; no two of its things are of the same colour and shape.

    Args:
        held_out: whether the target is of a pair held out from training; other things are then of
            any pair.
    """
    n = int(rng.integers(n_things[0], n_things[1] + 1))
    seen, kept = all_pairs(False), all_pairs(True)
    target = kept[rng.integers(len(kept))] if held_out else seen[rng.integers(len(seen))]
    others = [pair for pair in (seen + kept if held_out else seen) if pair != target]
    chosen = [target, *(others[i] for i in rng.choice(len(others), n - 1, replace=False))]
    order = rng.permutation(n)
    places = random_places(rng, n)
    things = tuple(
        Thing(chosen[i][0], chosen[i][1], float(x), float(y))
        for i, (x, y) in zip(order, places, strict=True)
    )
    x, y = rng.uniform(2, SIZE - 3, size=2).round()
    verb = VERBS[rng.integers(len(VERBS))]
    return Scene(things, int(np.flatnonzero(order == 0)[0]), verb, float(x), float(y))


def random_places(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return centres that are far enough apart, whole pixels [n, 2]."""
    while True:
        found = rng.integers(MARGIN, SIZE - MARGIN, size=(n, 2)).astype(float)
        gaps = np.hypot(*(found[:, None] - found[None]).transpose(2, 0, 1))
        if (gaps[~np.eye(n, dtype=bool)] >= APART).all():
            return found
