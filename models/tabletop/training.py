r"""How the policy's weights were made: it clones an expert on random scenes.

    python -m models.tabletop.training --out models/tabletop/weights --steps 4400 --images 192 \
        --rate 1.5e-3 --device cuda --workers 13

made those that ship, with the seed 0 and torch 2.11, in three minutes on one H200.
`lessons` has what it is taught from. The instructions of a picture are packed into one sequence
behind it. Beside the actions, layers that are thrown away afterwards learn to read from the tower's
patches what they show, from the last word of the prompt where the target is, and from the words
which patches show what they name. Without the last of these a thousand steps taught it to reach a
single thing (96 of 100 moves), but not to tell several apart.
"""

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaForConditionalGeneration

from models.tabletop.files import save_policy
from models.tabletop.lessons import ID, N_ASKED, NO_WORD, PLACE_CELL, Batch, make_batch
from models.tabletop.policy import N_PATCHES, new_policy
from models.tabletop.rollouts import pixel_values, plain_actions, run_episodes
from models.tabletop.table import COLOURS, SHAPES, SIZE
from models.tabletop.words import BOS

D_MATCH = 64
SHAPE_WORD, LAST_WORD = 3, 6
"""Of the words of an instruction with its state: the one that names the shape, and the last."""
NAMED_AFTER = ((1, SHAPE_WORD), (2, LAST_WORD))
"""(blocks, word): after so many blocks that word should know what is named."""
TOLD_EVERY = 100
"""Steps between two lines about the losses."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a policy is trained."""

    n_steps: int = 5000
    n_images: int = 64
    """Pictures a step."""
    rate: float = 1.2e-3
    """The highest learning rate; it rises over 300 steps and falls to a hundredth."""
    seed: int = 0
    n_few: int = 400
    """So many first steps show one or two things only."""
    device: str = "cpu"
    n_workers: int = 0
    """Processes that draw the scenes beside this one; they change nothing of what is learned."""
    tried_every: int = 500
    """Steps between two trials in closed loop."""


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


class Lessons(Dataset[Batch]):
    """A batch for each step, the same whoever makes it and in whichever order."""

    def __init__(self, n_steps: int, n_images: int, seed: int, n_few: int) -> None:
        self._n_steps, self._n_images, self._seed, self._n_few = n_steps, n_images, seed, n_few

    def __len__(self) -> int:
        return self._n_steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self._seed, step))
        return make_batch(rng, self._n_images, (1, 2) if step < self._n_few else (2, 4))


def losses(
    policy: LlavaForConditionalGeneration, readers: Readers, batch: Batch
) -> dict[str, Tensor]:
    """Return what is minimised, by name."""
    core = policy.model
    device = batch.pictures.device
    n_images = len(batch.pictures)
    # What LLaVA hands on: the last layer's output, without the tower's final norm.
    pixels = pixel_values(batch.pictures)
    seen = core.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    embed = core.get_input_embeddings()
    opening = embed(torch.full((n_images, 1), ID[BOS], device=device))
    words = embed(batch.words.flatten(1))
    stream = torch.cat([opening, core.multi_modal_projector(seen), words], dim=1)
    mask, positions = (t.to(device) for t in _packing(batch.words.shape[-1]))
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
        # The gripper may hide a thing; then there is nothing to point at, and any patch will do.
        visible = batch.targets.any(-1)
        right = batch.targets | ~visible[..., None]
        on_target = scores.masked_fill(~right, -torch.inf).logsumexp(-1)
        found[f"named_{i}"] = -0.5 * on_target.sum() / visible.sum()
    centres = batch.centres.masked_fill((batch.colours == len(COLOURS))[..., None], NO_WORD)
    for i, name in enumerate(("centre_x", "centre_y")):
        said = getattr(readers, name)(seen).flatten(0, 1)
        found[name] = 0.5 * functional.cross_entropy(said, centres[..., i].flatten())
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


def train(plan: Plan, out: Path) -> LlavaForConditionalGeneration:
    """Train a policy; the weights are written whenever it is tried, and at the end."""
    torch.manual_seed(plan.seed)
    device = torch.device(plan.device)
    policy = new_policy()
    config = policy.config
    readers = Readers(config.vision_config.hidden_size, config.text_config.hidden_size)
    policy, readers = policy.to(device), readers.to(device)
    parameters = [*policy.parameters(), *readers.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: _pace(i, plan.n_steps))
    lessons = Lessons(plan.n_steps, plan.n_images, plan.seed, plan.n_few)
    batches = DataLoader(lessons, batch_size=None, num_workers=plan.n_workers)
    console, began = Console(), time.monotonic()
    names: tuple[str, ...] = ()
    running = torch.zeros((), device=device)
    for step, batch in enumerate(batches, start=1):
        found = losses(policy, readers, batch.to(device))
        each = torch.stack(list(found.values()))
        optimiser.zero_grad(set_to_none=True)
        each.sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        names, running = tuple(found), running.lerp(each.detach(), 1 / min(step, 50))
        if step % TOLD_EVERY == 0:
            told = "  ".join(f"{n} {v:.3f}" for n, v in zip(names, running.tolist(), strict=True))
            console.print(f"{step:6d}  {time.monotonic() - began:6.0f} s  {told}", highlight=False)
        if step % plan.tried_every == 0 or step == plan.n_steps:
            console.print(f"{step:6d}  {_tried(policy)}", highlight=False)
            save_policy(policy, out)
    return policy.eval()


def _tried(policy: LlavaForConditionalGeneration, n_episodes: int = 200) -> dict[str, float]:
    """Return the part of the episodes in which the target is reached."""
    policy.eval()
    actor = partial(plain_actions, policy)
    ended = {pairs: run_episodes(actor, pairs, n_episodes) for pairs in ("seen", "held-out")}
    policy.train()
    return {pairs: found.n_reached / found.n_episodes for pairs, found in ended.items()}


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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the scenes")
    parser.add_argument("--tried-every", type=int, default=500, help="steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = Plan(
        n_steps=options.steps,
        n_images=options.images,
        rate=options.rate,
        seed=options.seed,
        device=options.device,
        n_workers=options.workers,
        tried_every=options.tried_every,
    )
    train(plan, options.out)


if __name__ == "__main__":
    main()
