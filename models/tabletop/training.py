"""How the policy's weights were made: it clones an expert on random scenes.

    python -m models.tabletop.training --out models/tabletop/weights [--steps 5000] [--seed 0]

A scene is all there is to know of a state, so states are drawn at random, many of them with the
gripper near a thing, instead of being visited by rollouts. Each picture is learned from under
several instructions at once, packed into one sequence behind it. Beside the actions, layers that
are thrown away afterwards learn to read from the tower's patches what they show, from the last word
of the prompt where the target is, and from the words which patches show what they name. Without the
last of these a thousand steps taught it to reach a single thing (96 of 100 moves), but not to tell
several apart.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from models.tabletop.drawing import draw
from models.tabletop.files import save_policy
from models.tabletop.policy import N_PATCHES, PATCH, new_policy
from models.tabletop.rollouts import pixel_values, plain_actions, run_episodes
from models.tabletop.table import COLOURS, SHAPES, SIZE, VERBS, Scene, expert, random_scene
from models.tabletop.words import (
    BOS,
    VOCABULARY,
    action_words,
    state_words,
)

N_ASKED = 4
"""Instructions a picture is learned from at once."""
NEAR_SHARE = 0.6
"""Part of the scenes whose gripper is near a thing."""
SPREAD = 5.0
"""Standard deviation of how near, pixels."""
LEAST_SHOWN = 10
"""Pixels of a patch that a thing must cover for the patch to show it."""
PLACE_CELL = 2
D_MATCH = 64
SHAPE_WORD, LAST_WORD = 3, 6
"""Of the words of an instruction with its state: the one that names the shape, and the last."""
NAMED_AFTER = ((1, SHAPE_WORD), (2, LAST_WORD))
"""(blocks, word): after so many blocks that word should know what is named."""
ID = {word: i for i, word in enumerate(VOCABULARY)}


@dataclass(frozen=True, slots=True)
class Batch:
    """Scenes as the policy learns from them."""

    pixels: Tensor
    """float [image, 3, SIZE, SIZE]."""
    words: Tensor
    """int64 [image, asked, 9]: instruction, state, and the first two words of the answer."""
    answers: Tensor
    """int64 [image, asked, 3]."""
    targets: Tensor
    """bool [image, asked, patch]: whether a patch shows the thing that is named."""
    places: Tensor
    """int64 [image, asked, 2]: the target's centre in cells of `PLACE_CELL` pixels."""
    colours: Tensor
    """int64 [image, patch]; `len(COLOURS)` where a patch shows nothing. Likewise `shapes`."""
    shapes: Tensor
    centres: Tensor
    """int64 [image, patch, 2]: of the thing that a patch shows, in cells of `PLACE_CELL` pixels."""


class Readers(nn.Module):
    """Layers that are thrown away: they read what the policy's parts should know."""

    def __init__(self, d_vision: int, d_text: int) -> None:
        super().__init__()
        self.colour = nn.Linear(d_vision, len(COLOURS) + 1)
        self.shape = nn.Linear(d_vision, len(SHAPES) + 1)
        self.centre_x = nn.Linear(d_vision, SIZE // PLACE_CELL)
        self.centre_y = nn.Linear(d_vision, SIZE // PLACE_CELL)
        self.named = nn.ModuleList(nn.Linear(d_text, D_MATCH) for _ in NAMED_AFTER)
        self.shown = nn.ModuleList(nn.Linear(d_vision, D_MATCH) for _ in NAMED_AFTER)
        self.x = nn.Linear(d_text, SIZE // PLACE_CELL)
        self.y = nn.Linear(d_text, SIZE // PLACE_CELL)


def make_batch(rng: np.random.Generator, n_images: int, n_things: tuple[int, int]) -> Batch:
    """Draw random scenes and what the expert does in them."""
    scenes = [_with_gripper(rng, random_scene(rng, n_things)) for _ in range(n_images)]
    pictures, shows = draw(scenes)
    asked = [_instructions(rng, scene) for scene in scenes]
    words, answers, places = [], [], []
    shown = _shown_things(scenes, shows)
    targets = np.stack(
        [
            np.stack([patches == scene.target for scene in variants])
            for variants, patches in zip(asked, shown, strict=True)
        ]
    )
    for variants in asked:
        for scene in variants:
            answer = [ID[word] for word in action_words(expert(scene))]
            text = [*scene.instruction.split(), *state_words(scene)]
            words.append([*(ID[word] for word in text), *answer[:2]])
            answers.append(answer)
            goal = scene.things[scene.target]
            places.append([int(goal.x) // PLACE_CELL, int(goal.y) // PLACE_CELL])
    shape = (n_images, N_ASKED, -1)
    colours, shapes, centres = _patch_labels(scenes, shown)
    return Batch(
        pixel_values(pictures),
        torch.tensor(words).view(shape),
        torch.tensor(answers).view(shape),
        torch.from_numpy(targets),
        torch.tensor(places).view(shape),
        colours,
        shapes,
        centres,
    )


def _with_gripper(rng: np.random.Generator, scene: Scene) -> Scene:
    if rng.random() > NEAR_SHARE:
        return scene
    thing = scene.things[rng.integers(len(scene.things))]
    x, y = np.clip(rng.normal((thing.x, thing.y), SPREAD).round(), 0, SIZE - 1)
    return replace(scene, x=float(x), y=float(y))


def _instructions(rng: np.random.Generator, scene: Scene) -> list[Scene]:
    """Return a scene under several instructions, each thing named as often as another."""
    n = len(scene.things)
    order = np.concatenate([rng.permutation(n) for _ in range(-(-N_ASKED // n))])[:N_ASKED]
    return [replace(scene, target=int(i), verb=VERBS[rng.integers(len(VERBS))]) for i in order]


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
            colours[i, at] = COLOURS.index(thing.colour)
            shapes[i, at] = SHAPES.index(thing.shape)
            centres[i, at] = (int(thing.x) // PLACE_CELL, int(thing.y) // PLACE_CELL)
    return torch.from_numpy(colours), torch.from_numpy(shapes), torch.from_numpy(centres)


def losses(
    policy: LlavaForConditionalGeneration, readers: Readers, batch: Batch
) -> dict[str, Tensor]:
    """Return what is minimised, by name."""
    core = policy.model
    n_images = len(batch.pixels)
    # What LLaVA hands on: the last layer's output, without the tower's final norm.
    seen = core.vision_tower(batch.pixels, output_hidden_states=True).hidden_states[-1]
    embed = core.get_input_embeddings()
    opening = embed(torch.full((n_images, 1), ID[BOS]))
    words = embed(batch.words.flatten(1))
    stream = torch.cat([opening, core.multi_modal_projector(seen), words], dim=1)
    mask, positions = _packing(batch.words.shape[-1])
    run = core.language_model(
        inputs_embeds=stream,
        attention_mask=mask,
        position_ids=positions,
        output_hidden_states=True,
    )
    hidden = _of_words(run.last_hidden_state)[:, :, -3:]
    logits = policy.lm_head(hidden)
    asking = hidden[:, :, 0]
    found = {
        name: functional.cross_entropy(
            logits[:, :, i].flatten(0, 1), batch.answers[..., i].flatten()
        )
        for i, name in enumerate(("dx", "dy", "gripper"))
    }
    for i, name in enumerate(("x", "y")):
        said = getattr(readers, name)(asking).flatten(0, 1)
        found[name] = 0.5 * functional.cross_entropy(said, batch.places[..., i].flatten())
    for name, labels in (("colour", batch.colours), ("shape", batch.shapes)):
        said = getattr(readers, name)(seen).flatten(0, 1)
        found[name] = functional.cross_entropy(said, labels.flatten())
    for i, (blocks, word) in enumerate(NAMED_AFTER):
        asked = readers.named[i](_of_words(run.hidden_states[blocks])[:, :, word])
        scores = (asked @ readers.shown[i](seen).transpose(1, 2)).log_softmax(-1)
        visible = batch.targets.any(-1)  # the gripper may hide a thing, but never all of it
        on_target = scores.masked_fill(~batch.targets, -torch.inf)[visible].logsumexp(-1)
        found[f"named_{i}"] = -0.5 * on_target.mean()
    shown = batch.colours < len(COLOURS)
    for i, name in enumerate(("centre_x", "centre_y")):
        said = getattr(readers, name)(seen)[shown]
        found[name] = 0.5 * functional.cross_entropy(said, batch.centres[shown][:, i])
    return found


def _of_words(hidden: Tensor) -> Tensor:
    """Return the states of the instructions' words, [image, asked, word, d_text]."""
    return hidden[:, 1 + N_PATCHES :].unflatten(1, (N_ASKED, -1))


def _packing(n_words: int) -> tuple[Tensor, Tensor]:
    """Return the mask, bool [1, 1, n, n], and the position ids of instructions packed behind one
    picture: each sees the picture and itself."""
    prefix = 1 + N_PATCHES
    part = torch.cat([torch.zeros(prefix), torch.arange(N_ASKED).repeat_interleave(n_words) + 1])
    causal = torch.ones(len(part), len(part), dtype=torch.bool).tril()
    mask = causal & ((part[:, None] == part) | (part == 0))
    within = torch.arange(prefix, prefix + n_words).repeat(N_ASKED)
    return mask[None, None], torch.cat([torch.arange(prefix), within])[None]


def train(
    n_steps: int, n_images: int, rate: float, seed: int, out: Path, n_few: int = 400
) -> LlavaForConditionalGeneration:
    """Train a policy; the weights are written every 500 steps, and at the end.

    Args:
        n_steps: optimiser's steps.
        n_images: pictures a step.
        rate: the highest learning rate; it rises over 300 steps and falls to a hundredth.
        n_few: so many first steps show one or two things only.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    policy = new_policy()
    config = policy.config
    readers = Readers(config.vision_config.hidden_size, config.text_config.hidden_size)
    parameters = [*policy.parameters(), *readers.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: _pace(i, n_steps))
    console, began = Console(), time.monotonic()
    running: dict[str, float] = {}
    for step in range(1, n_steps + 1):
        batch = make_batch(rng, n_images, (1, 2) if step <= n_few else (2, 4))
        found = losses(policy, readers, batch)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(found.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        for name, loss in found.items():
            running[name] = 0.98 * running.get(name, loss.item()) + 0.02 * loss.item()
        if step % 100 == 0:
            told = "  ".join(f"{name} {value:.3f}" for name, value in running.items())
            console.print(f"{step:6d}  {time.monotonic() - began:6.0f} s  {told}", highlight=False)
        if step % 500 == 0 or step == n_steps:
            policy.eval()
            rates = {}
            for pairs in ("seen", "held-out"):
                ended = run_episodes(partial(plain_actions, policy), pairs, 100)
                rates[pairs] = ended.n_reached / ended.n_episodes
            console.print(f"{step:6d}  {rates}", highlight=False)
            save_policy(policy, out)
            policy.train()
    return policy.eval()


def _pace(step: int, n_steps: int) -> float:
    warm = min(1.0, (step + 1) / 300)
    return warm * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / n_steps)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--images", type=int, default=64, help="pictures a step")
    parser.add_argument("--rate", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.steps, options.images, options.rate, options.seed, options.out)


if __name__ == "__main__":
    main()
