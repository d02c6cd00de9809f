"""Episodes of the table side by side: whatever acts, how often it reaches its target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from models.tabletop.drawing import draw
from models.tabletop.policy import N_PATCHES
from models.tabletop.table import Action, Scene, Table
from models.tabletop.words import BOS, GRIPS, IMAGE, MOVES, VOCABULARY, move_word, state_words

FIRST_SEED = 1_000_000
"""Of the episodes; training draws its scenes otherwise."""
AT_ONCE = 64
"""Episodes that run side by side."""

Actor = Callable[[Sequence[Scene]], Sequence[Action]]
"""Scenes -> what is done in each."""

_ID = {word: i for i, word in enumerate(VOCABULARY)}
_MOVE_IDS = [_ID[move_word(pixels)] for pixels in MOVES]
_GRIP_IDS = [_ID[word] for word in GRIPS]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How some episodes ended."""

    n_episodes: int
    n_reached: int
    n_closed: int
    """Episodes in which the gripper closed at all: elsewhere too."""


def run_episodes(
    actor: Actor, pairs: str, n_episodes: int, ended: Callable[[int], Any] | None = None
) -> Outcomes:
    """Run episodes, all from the same starts whoever acts.

    Args:
        pairs: which targets: "seen" or "held-out".
        ended: called with how many episodes have ended since the last call; what it raises ends
            the run.
    """
    n_reached = n_closed = 0
    for start in range(0, n_episodes, AT_ONCE):
        n = min(AT_ONCE, n_episodes - start)
        tables = [Table(pairs) for _ in range(n)]
        scenes = [table.reset(FIRST_SEED + start + i) for i, table in enumerate(tables)]
        running = list(range(n))
        while running:
            actions = actor([scenes[i] for i in running])
            left = []
            for i, action in zip(running, actions, strict=True):
                scenes[i], over, reached = tables[i].step(action)
                n_reached += reached
                n_closed += action.close
                if not over:
                    left.append(i)
            if ended is not None:
                ended(len(running) - len(left))
            running = left
    return Outcomes(n_episodes, n_reached, n_closed)


def pixel_values(pictures: Tensor) -> Tensor:
    """Return pictures, uint8 [image, y, x, 3], as the tower takes them: float [image, 3, y, x]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def plain_actions(policy: LlavaForConditionalGeneration, scenes: Sequence[Scene]) -> list[Action]:
    """Return what a bare policy does, as in training: its most likely words one after another."""
    ids = torch.tensor(
        [
            [
                _ID[BOS],
                *[_ID[IMAGE]] * N_PATCHES,
                *(_ID[word] for word in (*scene.instruction.split(), *state_words(scene))),
            ]
            for scene in scenes
        ]
    )
    device = policy.device
    ids = ids.to(device)
    pixels = pixel_values(torch.from_numpy(draw(scenes)[0]).to(device))
    chosen = []
    with torch.inference_mode():
        for allowed in (_MOVE_IDS, _MOVE_IDS, _GRIP_IDS):
            logits = policy(
                input_ids=ids, pixel_values=pixels, use_cache=False, logits_to_keep=1
            ).logits[:, -1, allowed]
            best = logits.argmax(-1)
            chosen.append(best.tolist())
            ids = torch.cat([ids, torch.tensor(allowed, device=device)[best][:, None]], dim=1)
    return [
        Action(float(MOVES[dx]), float(MOVES[dy]), bool(grip))
        for dx, dy, grip in zip(*chosen, strict=True)
    ]
