"""How long a roboticist waits for each question about the policy that ships.

    .venv/bin/python -m benchmarks.policy [--threads 2] [--rounds 5]

Everything is asked of one scene, or along one recorded episode of it, in turns; medians. Beside
each stands how many actions the plain policy would find in that time, by three forward passes of
transformers each, without this program.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: nothing is fetched

import numpy as np
import torch
from rich.console import Console
from transformers import LlavaForConditionalGeneration

from ablation import Ablation, Zero
from ablation.actions import act, compare_actions, search_action, search_most_change, sweep_actions
from ablation.closed_loop import run_episode
from ablation.modalities import knock_out_modalities
from ablation.traces import trace
from app.films import recording_film
from benchmarks.machine import seconds
from benchmarks.report import table
from models import load_model
from models.language_model import LanguageModel
from models.picture import Picture
from models.tabletop import WEIGHTS
from models.tabletop.drawing import draw
from models.tabletop.recording import recording_of
from models.tabletop.rollouts import plain_actions
from models.tabletop.table import Scene, random_scene
from models.tabletop.words import told
from models.types import Head

ABLATED = Ablation((Head(1, 2), Head(2, 2)), Zero())
"""The two heads that look at the thing that is named."""

Question = tuple[str, int, Callable[[], object]]
"""What is asked, of how many frames or steps, and the asking."""


def questions(model: LanguageModel, scene: Scene) -> list[Question]:
    """Return what is timed, the plain policy first."""
    plain = LlavaForConditionalGeneration.from_pretrained(WEIGHTS).eval()
    prompt = model.tokenize(told(scene), pictures=[Picture(draw([scene])[0][0], "table")])
    episode = run_episode(model, scene)
    recording = recording_of(episode.scenes, episode.actions, "episode")
    n = len(recording)
    watched = ABLATED.heads
    followed = trace(model, recording, ABLATED, watched)
    return [
        ("the plain policy's action", 1, lambda: plain_actions(plain, [scene])),
        ("an action", 1, lambda: act(model, prompt)),
        ("an action, whole and ablated", 1, lambda: compare_actions(model, prompt, ABLATED)),
        ("attention of 6 heads", 1, lambda: model.attention(prompt, model.all_heads()[:6])),
        ("every head of the language model ablated", 1, lambda: sweep_actions(model, prompt)),
        ("every head of the tower", 1, lambda: sweep_actions(model, prompt, stack="vision")),
        ("modalities hidden", 1, lambda: knock_out_modalities(model, prompt)),
        (
            "the heads that move it most, 5",
            1,
            lambda: search_most_change(model, prompt, max_heads=5),
        ),
        ("heads that make dx negative", 1, lambda: search_action(model, prompt, "dx<0")),
        ("a recorded frame followed", n, lambda: trace(model, recording)),
        (
            "the same, ablated too, 2 heads watched",
            n,
            lambda: trace(model, recording, ABLATED, watched),
        ),
        ("a frame of the film (GIF)", n, lambda: recording_film(recording, followed, 0, "gif")),
        ("a step in closed loop", n, lambda: run_episode(model, scene)),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model("tabletop")
    asked = questions(model, random_scene(np.random.default_rng(7), (3, 3)))
    times: dict[str, list[float]] = {what: [] for what, _, _ in asked}
    for turn in range(options.rounds + 1):
        for what, n, ask in asked:
            took = seconds(ask) / n
            if turn:  # the first warms up
                times[what].append(took)
    medians = {what: statistics.median(found) for what, found in times.items()}
    made = table("The policy of the table", ("", "ms", "plain actions"))
    plain = medians[asked[0][0]]
    for what, median in medians.items():
        made.add_row(what, f"{1000 * median:,.1f}", f"{median / plain:.1f}")
    console = Console(width=100)
    console.print(made)
    console.print(
        f"Medians of {options.rounds} rounds, {options.threads} threads, torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()
