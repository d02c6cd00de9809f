"""What the heads of the policy that ships do: success without each, and what each looks at.

    .venv/bin/python -m benchmarks.tabletop [--episodes 200] [--each 60] [--scenes 60]

First the policy as it is, in closed loop on pairs seen in training and on pairs held out. Then
every head ablated alone (zero): success over episodes from the same starts, and, over single
scenes, how far the first action moves. Beside it what the head looks at from the last word of the
prompt: the words of the instruction, the named thing's patches, other things'.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlavaForConditionalGeneration

from ablation import Ablation, Zero
from ablation.actions import act, sweep_actions
from ablation.closed_loop import Success, closed_loop
from models import load_model
from models.language_model import LanguageModel
from models.picture import Picture
from models.tabletop import WEIGHTS
from models.tabletop.drawing import NOTHING, draw
from models.tabletop.lessons import ways_to_name
from models.tabletop.policy import N_PATCHES, PATCH
from models.tabletop.rollouts import plain_actions, run_episodes
from models.tabletop.table import SIZE, Action, NamedBy, Scene, random_scene
from models.tabletop.words import told
from models.types import Head, TokenizedPrompt

WIDTH = 110
SHOWN = 12
"""Heads listed."""
FIRST_SCENE = 5


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What each head of the language model looks at from the last word, float [n_layers, n_heads]
    each, means over scenes."""

    instruction: np.ndarray
    target: np.ndarray
    others: np.ndarray


def scenes_of(n: int) -> list[Scene]:
    rng = np.random.default_rng(FIRST_SCENE)
    return [random_scene(rng, (3, 3)) for _ in range(n)]


def prompt_of(model: LanguageModel, scene: Scene) -> TokenizedPrompt:
    return model.tokenize(told(scene), pictures=[Picture(draw([scene])[0][0], "table")])


def looks(model: LanguageModel, scenes: Sequence[Scene]) -> Looks:
    heads = model.all_heads()
    sums = np.zeros((3, model.n_layers, model.n_heads))
    for scene in scenes:
        prompt = prompt_of(model, scene)
        rows = model.attention(prompt, heads, queries=[-1]).values[:, 0]
        rows = rows.reshape(model.n_layers, model.n_heads, -1)
        words = [i for i, kind in enumerate(prompt.kinds) if kind == "text"]
        shown = _things(scene)
        patches = rows[..., 1 : 1 + N_PATCHES]
        sums[0] += rows[..., words].sum(-1)
        sums[1] += patches[..., shown == scene.target].sum(-1)
        sums[2] += patches[..., (shown != scene.target) & (shown != NOTHING)].sum(-1)
    return Looks(*(sums / len(scenes)))


def _things(scene: Scene) -> np.ndarray:
    """Return which thing each patch shows any of, int [patch]."""
    _, shows = draw([scene])
    side = SIZE // PATCH
    cells = shows[0].reshape(side, PATCH, side, PATCH).transpose(0, 2, 1, 3).reshape(N_PATCHES, -1)
    found: np.ndarray = cells.max(axis=1)
    return found


def moved_by_each(model: LanguageModel, scenes: Sequence[Scene]) -> dict[Head, float]:
    """Return how far ablating each head alone moves the first action, mean over scenes."""
    total = dict.fromkeys(model.all_heads(None), 0.0)
    for scene in scenes:
        prompt = prompt_of(model, scene)
        for stack in model.stacks.stacks:
            for head, distance in sweep_actions(model, prompt, stack=stack.name).ranked():
                total[head] += distance / len(scenes)
    return total


def closing(model: LanguageModel, scenes: Sequence[Scene]) -> dict[Head, float]:
    """Return how often ablating each head alone keeps the gripper open where it would close: the
    gripper stands on the target."""
    heads = model.all_heads(None)
    stayed, n = np.zeros(len(heads)), 0
    for scene in scenes:
        goal = scene.things[scene.target]
        prompt = prompt_of(model, replace(scene, x=goal.x, y=goal.y))
        clean = act(model, prompt)
        if clean.values[2] != 1:
            continue
        n += 1
        for i, head in enumerate(heads):
            after = act(model, prompt, Ablation((head,), Zero()))
            stayed[i] += after.values[2] != 1
    return dict(zip(heads, (stayed / max(1, n)).tolist(), strict=True))


def named_by_one_word(by: NamedBy, n_episodes: int) -> Success:
    """Return the success in episodes whose instruction is "reach the red one", "the only cross",
    wherever no other thing is so; elsewhere it names both."""
    policy = LlavaForConditionalGeneration.from_pretrained(WEIGHTS, dtype=torch.float32).eval()

    def actor(scenes: Sequence[Scene]) -> Sequence[Action]:
        ways = [ways_to_name(scene)[scene.target] for scene in scenes]
        shorter = [
            replace(scene, named_by=by) if by in found else scene
            for scene, found in zip(scenes, ways, strict=True)
        ]
        return plain_actions(policy, shorter)

    return Success(run_episodes(actor, "seen", n_episodes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=200, help="with the policy as it is")
    parser.add_argument("--each", type=int, default=60, help="episodes without each head")
    parser.add_argument("--scenes", type=int, default=60, help="single scenes")
    options = parser.parse_args()
    console, model = Console(width=WIDTH), load_model("tabletop", device="cpu")
    for pairs in ("seen", "held-out"):
        found = closed_loop(model, pairs=pairs, n_episodes=options.episodes).clean
        console.print(f"{pairs} pairs: {found.said()} of {found.outcomes.n_episodes} episodes")
    for by in ("colour", "shape"):
        found = named_by_one_word(by, options.episodes)
        console.print(f"targets named by their {by} alone, where that is enough: {found.said()}")
    scenes = scenes_of(options.scenes)
    looked, moved = looks(model, scenes), moved_by_each(model, scenes)
    open_still = closing(model, scenes[: options.scenes // 3])
    rates = {}
    for head in model.all_heads(None):
        without = closed_loop(model, [head], n_episodes=options.each, n_draws=0).ablated
        assert without is not None
        rates[head] = without
    table = Table(title="Without each head alone, least success first")
    for column in ("head", "success", "action moved", "stays open", "looks at: words", "target"):
        table.add_column(column, justify="right")
    table.add_column("other things", justify="right")
    order = sorted(rates, key=lambda head: (rates[head].rate, -moved[head]))
    for head in order[:SHOWN]:
        at = (head.layer, head.head)
        parts = (looked.instruction, looked.target, looked.others)
        seen = ["", "", ""] if head.stack else [f"{part[at]:.2f}" for part in parts]
        table.add_row(
            str(head), rates[head].said(), f"{moved[head]:.2f}", f"{open_still[head]:.0%}", *seen
        )
    console.print(table)
    spared = sum(rate.rate >= 0.9 for rate in rates.values())
    console.print(f"{spared} of {len(rates)} heads can be spared alone (success of 90 % or more)")


if __name__ == "__main__":
    main()
