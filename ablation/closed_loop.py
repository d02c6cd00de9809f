"""A policy in closed loop on the simulated table, whole or with heads ablated.

One step that changes tells little of an episode: errors add up, or are made good in the next step.
So the measure here is success, over whole episodes from the same starts, with the interval of a
proportion (Wilson 1927); and what ablating some heads does is held against ablating as many others
of the same layers, drawn at random.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from ablation.actions import space_of
from ablation.evaluation import stop_if
from ablation.interventions import Intervention, Scale, Zero
from ablation.types import Ablation, Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.picture import Picture
from models.places import Place
from models.tabletop.drawing import draw
from models.tabletop.rollouts import Outcomes, run_episodes
from models.tabletop.table import Action, Scene, Table
from models.tabletop.words import told
from models.types import Head

TRIES = 20
"""Draws for each set that is wanted: some come twice."""
CONFIDENCE = 0.95
PAIRS = ("seen", "held-out")


@dataclass(frozen=True, slots=True)
class Success:
    """How many of some episodes reached their target."""

    outcomes: Outcomes

    @property
    def rate(self) -> float:
        return self.outcomes.n_reached / self.outcomes.n_episodes

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson interval of the rate, at `CONFIDENCE`."""
        test = binomtest(self.outcomes.n_reached, self.outcomes.n_episodes)
        found = test.proportion_ci(CONFIDENCE, "wilson")
        return float(found.low), float(found.high)

    def said(self) -> str:
        low, high = self.interval
        return f"{self.rate:.0%} ({low:.0%} to {high:.0%})"

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {
            "episodes": self.outcomes.n_episodes,
            "reached": self.outcomes.n_reached,
            "closed": self.outcomes.n_closed,
            "rate": self.rate,
            "interval": [low, high],
        }


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Success whole, with heads ablated, and with random heads of the same layers ablated."""

    pairs: str
    clean: Success
    ablated: Success | None
    random: tuple[Success, ...]
    """One for each set drawn, all from the same starts; none where a layer has too few others."""

    def said_of_random(self) -> str:
        """Say how random heads do: the mean over the sets drawn, and their range."""
        if not self.random:
            return "" if self.ablated is None else "too few others to draw from"
        rates = [one.rate for one in self.random]
        draws = f"{len(rates)} draws" if len(rates) > 1 else "1 draw"
        return f"{np.mean(rates):.0%} ({min(rates):.0%} to {max(rates):.0%} in {draws})"

    def to_json(self) -> dict[str, Any]:
        return {
            "pairs": self.pairs,
            "clean": self.clean.to_json(),
            "ablated": None if self.ablated is None else self.ablated.to_json(),
            "random": [one.to_json() for one in self.random],
        }


def closed_loop(
    model: LanguageModel,
    heads: Sequence[Head] = (),
    intervention: Intervention = Zero(),  # noqa: B008 - a frozen value
    *,
    positions: Sequence[Place] | None = None,
    pairs: str = "seen",
    n_episodes: int = 100,
    n_draws: int = 3,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> ClosedLoop:
    """Run episodes with a policy as it is, without some heads, and without random ones.

    Args:
        positions: those acted on; None for all.
        pairs: which targets: "seen" in training, or "held-out".
        n_episodes: of each kind of run; all start alike.
        n_draws: how many sets of random heads, each over all episodes.

    Raises:
        UserError: the model is no policy of the table, or an intervention that depends on the
            prompt.
        Cancelled: `cancel` was set.
    """
    _refuse_others(model, intervention, pairs, n_episodes)
    heads = model.check_heads(heads)
    draws = _random_like(model, heads, n_draws, seed)
    sets = [(), *([tuple(heads)] if heads else []), *draws]
    counted = _Counted(len(sets) * n_episodes, progress)
    found = []
    for chosen in sets:
        where = None if positions is None else tuple(positions)
        ablation = Ablation(chosen, intervention, where) if chosen else None
        actor = _Actor(model, ablation, cancel)
        found.append(Success(run_episodes(actor.act, pairs, n_episodes, counted.add)))
    return ClosedLoop(pairs, found[0], found[1] if heads else None, tuple(found[2:]))


@dataclass(frozen=True, slots=True)
class _Actor:
    """Acts by the policy until it is cancelled."""

    model: LanguageModel
    ablation: Ablation | None
    cancel: threading.Event | None

    def act(self, scenes: Sequence[Scene]) -> list[Action]:
        stop_if(self.cancel)
        return act_in(self.model, scenes, self.ablation)


@dataclass(slots=True)
class _Counted:
    total: int
    progress: Callable[[Progress], None] | None
    done: int = 0

    def add(self, n: int) -> None:
        self.done += n
        if self.progress is not None:
            message = f"{self.done} of {self.total} episodes of all kinds"
            self.progress(Progress(self.done, self.total, message, None))


def _refuse_others(
    model: LanguageModel, intervention: Intervention, pairs: str, n_episodes: int
) -> None:
    names = [dimension.name for dimension in space_of(model).dimensions]
    if names != ["dx", "dy", "gripper"] or not model.reads_pictures:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name} is no policy of the simulated table; choose tabletop.",
        )
    if not isinstance(intervention, Zero | Scale):
        raise UserError(
            ErrorKind.INTERVENTION,
            "Many episodes run side by side, each with its own picture, so only what is the same "
            "for all of them can be done in closed loop: zero or scale; choose one of these.",
        )
    if pairs not in PAIRS:
        raise UserError(ErrorKind.OPTION, f"There are no pairs {pairs!r}; choose seen or held-out.")
    if n_episodes < 1:
        raise UserError(ErrorKind.OPTION, "At least one episode is needed; ask for more than 0.")


def _random_like(
    model: LanguageModel, heads: Sequence[Head], n_draws: int, seed: int
) -> list[tuple[Head, ...]]:
    """Return different sets of as many other heads of each layer: fewer where there are no more,
    none where a layer has too few others."""
    rng = np.random.default_rng(seed)
    everything, chosen = model.all_heads(None), set(heads)
    pools = []
    for stack, layer in dict.fromkeys((head.stack, head.layer) for head in heads):
        mates = [h for h in everything if (h.stack, h.layer) == (stack, layer)]
        others = [h for h in mates if h not in chosen]
        pools.append((others, len(mates) - len(others)))
    if not pools or any(len(others) < n for others, n in pools):
        return []
    drawn: dict[tuple[Head, ...], None] = {}
    for _ in range(TRIES * n_draws):
        if len(drawn) == n_draws:
            break
        found = [o[i] for o, n in pools for i in rng.choice(len(o), n, replace=False)]
        drawn[tuple(sorted(found))] = None
    return list(drawn)


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode, from its first scene to its last."""

    scenes: tuple[Scene, ...]
    actions: tuple[Action, ...]
    """What was done in each scene but the last."""
    reached: bool

    @property
    def outcome(self) -> str:
        """How it ended, in a few words."""
        last = self.scenes[-1]
        if self.reached:
            return f"reached in {len(self.scenes) - 1} steps"
        away = f"{last.distance:.0f} px away"
        return f"closed {away}" if last.closed else f"never closed, {away}"


def run_episode(model: LanguageModel, scene: Scene, ablation: Ablation | None = None) -> Episode:
    """Run one episode from a scene.

    Raises:
        UserError: the model is no policy of the table, or the ablation does not fit.
    """
    intervention = Zero() if ablation is None else ablation.intervention
    _refuse_others(model, intervention, "seen", 1)
    table = Table.at(scene)
    scenes, over, reached = [scene], False, False
    actions: list[Action] = []
    while not over:
        actions += act_in(model, [scenes[-1]], ablation)
        now, over, reached = table.step(actions[-1])
        scenes.append(now)
    return Episode(tuple(scenes), tuple(actions), reached)


def act_in(
    model: LanguageModel, scenes: Sequence[Scene], ablation: Ablation | None = None
) -> list[Action]:
    """Return what the policy of the table does in each scene, all in one batch.

    Args:
        ablation: of an intervention that is the same for all scenes.
    """
    pictures = draw(scenes)[0]
    prompts = [
        model.tokenize(told(scene), pictures=[Picture(pixels, "table")])
        for scene, pixels in zip(scenes, pictures, strict=True)
    ]
    answers: list[list[int]] = [[] for _ in scenes]
    values = []
    for dimension in space_of(model).dimensions:
        so_far = [model.followed_by(p, a) for p, a in zip(prompts, answers, strict=True)]
        log_probs = model.batch_log_probs(so_far, ablation)
        chosen = log_probs[:, list(dimension.token_ids)].argmax(dim=1).tolist()
        for answer, place in zip(answers, chosen, strict=True):
            answer.append(dimension.token_ids[place])
        values.append([float(dimension.values[place]) for place in chosen])
    return [Action(dx, dy, bool(close)) for dx, dy, close in zip(*values, strict=True)]
