"""The policy in closed loop: what it does in a scene, and how often it reaches its target."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from models.tabletop.drawing import draw
from models.tabletop.policy import N_PATCHES
from models.tabletop.table import Action, Scene, Table
from models.tabletop.words import BOS, GRIPS, IMAGE, MOVES, VOCABULARY, move_word, state_words

_ID = {word: i for i, word in enumerate(VOCABULARY)}
_MOVE_IDS = [_ID[move_word(pixels)] for pixels in MOVES]
_GRIP_IDS = [_ID[word] for word in GRIPS]


def pixel_values(pictures: np.ndarray) -> Tensor:
    """Return pictures, uint8 [image, y, x, 3], as the tower takes them: float [image, 3, y, x]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def actions(policy: LlavaForConditionalGeneration, scenes: Sequence[Scene]) -> list[Action]:
    """Return the policy's most likely actions, one word after another."""
    ids = torch.tensor(
        [
            [_ID[BOS], *[_ID[IMAGE]] * N_PATCHES, *(_ID[w] for w in _words(scene))]
            for scene in scenes
        ]
    )
    pixels = pixel_values(draw(scenes)[0])
    chosen = []
    with torch.inference_mode():
        for allowed in (_MOVE_IDS, _MOVE_IDS, _GRIP_IDS):
            logits = policy(
                input_ids=ids, pixel_values=pixels, use_cache=False, logits_to_keep=1
            ).logits[:, -1, allowed]
            best = torch.tensor(allowed)[logits.argmax(-1)]
            chosen.append(logits.argmax(-1).tolist())
            ids = torch.cat([ids, best[:, None]], dim=1)
    return [
        Action(float(MOVES[dx]), float(MOVES[dy]), bool(grip))
        for dx, dy, grip in zip(*chosen, strict=True)
    ]


def _words(scene: Scene) -> list[str]:
    return [*scene.instruction.split(), *state_words(scene)]


@dataclass(frozen=True, slots=True)
class Success:
    """How often the target was reached."""

    n_episodes: int
    n_reached: int

    @property
    def rate(self) -> float:
        return self.n_reached / self.n_episodes


def success_rate(
    policy: LlavaForConditionalGeneration, pairs: str, n_episodes: int, seed: int = 1_000_000
) -> Success:
    """Run episodes side by side, with targets of `pairs`: "seen" or "held-out"."""
    tables = [Table(pairs) for _ in range(n_episodes)]
    scenes = [table.reset(seed + i) for i, table in enumerate(tables)]
    running, n_reached = list(range(n_episodes)), 0
    while running:
        left = []
        for i, action in zip(running, actions(policy, [scenes[i] for i in running]), strict=True):
            scenes[i], over, reached = tables[i].step(action)
            n_reached += reached
            if not over:
                left.append(i)
        running = left
    return Success(n_episodes, n_reached)
