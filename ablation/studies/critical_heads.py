"""Which attention heads are critical for predicting the next token?

Each head is ablated alone on every prompt: the KL divergence from the clean prediction, and the
change of the right token's log-probability, mean over the prompts with bootstrap intervals. The
leading heads are then ablated together, one more at a time, beside all heads of the model and
random heads of the same layers (a null: any heads of these layers might do as much). A finding that
holds on some templates only is told by comparing halves of the prompts that share none.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablation.evaluation import Cancelled
from ablation.studies.asked import ROW_COST, AskedPrompt, Report, ask, seconds_of_pass
from ablation.studies.columns import KL, RIGHT
from ablation.studies.phrases import NO_ANSWER_CAVEAT, few_prompts, on_set
from ablation.studies.prompts import PromptSet
from ablation.studies.removals import random_sets, removal_effects
from ablation.studies.side_by_side import in_other_ways, others_than
from ablation.studies.statistics import Interval, halves, mean_interval, rank_agreement
from ablation.studies.types import StudyPlan, StudyResult, means, plain
from ablation.types import Progress
from models.language_model import LanguageModel
from models.types import FloatArray, Head

LEADERS = 10
"""Heads that are told by name, set against random ones, and compared between halves."""
COMPARED = 20
"""Leading heads that the other interventions are tried on."""
N_RANDOM = 20
"""Random sets of as many heads in the same layers."""
LONGEST_LIST = 30
"""Leading heads that are added one by one; beyond, by `GROWTH` more each time, and one by one again
where these make `SHARE` for the first time."""
GROWTH = 1.2
SHARE = 0.8
"""Of the effect of removing all heads: what the shortest list has to make."""


@dataclass(frozen=True, slots=True, eq=False)
class CriticalHeads:
    """What was measured."""

    n_layers: int
    n_heads: int
    heads: tuple[Head, ...]
    intervention: str
    effects: FloatArray
    """float64 [n_prompts, n_heads_in_all, 4] (`columns`), by prompt."""
    order: tuple[int, ...]
    """Indices of heads, the largest mean KL first."""
    sizes: tuple[int, ...]
    """How many of the leading heads were ablated together."""
    joint: FloatArray
    """float64 [n_prompts, n_sizes, 4]; the last size is all heads."""
    random: FloatArray
    """float64 [n_prompts, N_RANDOM], KL without as many random heads of the leaders' layers."""
    others: dict[str, FloatArray]
    """Other interventions -> float64 [n_prompts, n_compared], KL of the leading heads alone."""
    agreement: tuple[float, int] | None
    """Between halves that share no template: rank correlation of all heads, and how many of the
    leaders they have in common; None where the prompts cannot be parted."""

    @property
    def interval(self) -> Interval:
        """Of the effects, [n_heads_in_all, 4]."""
        return mean_interval(self.effects)

    @property
    def leaders(self) -> tuple[Head, ...]:
        return tuple(self.heads[i] for i in self.order[:LEADERS])

    @property
    def shortest(self) -> int | None:
        """How many leading heads make `SHARE` of the effect of removing all; None if none were
        ablated together yet."""
        if not self.sizes:
            return None
        mean = self.joint[..., KL].mean(axis=0)
        return self.sizes[_first_enough(mean)]

    def to_json(self) -> dict[str, Any]:
        joint = self.joint.mean(axis=0)
        return plain({
            "intervention": self.intervention,
            "leaders": [head.to_json() for head in self.leaders],
            "joint": [
                {"n_heads": size, "kl": joint[i, KL], "right": joint[i, RIGHT]}
                for i, size in enumerate(self.sizes)
            ],
            "random_kl": self.random.mean(axis=0),
            "shortest": self.shortest,
            "other_interventions": means(self.others),
            "agreement": self.agreement,
        })  # fmt: skip


def plan(
    model: LanguageModel, prompts: PromptSet, *, intervention: str = "zero", **_others: Any
) -> StudyPlan:
    """Say what the study takes; see `run`."""
    n_heads = len(model.all_heads())
    compared = len(others_than(intervention, len(prompts))) * min(COMPARED, n_heads)
    n_rows = n_heads + len(_sizes(n_heads)) + N_RANDOM + compared
    passes = n_rows * len(prompts)
    seconds = ROW_COST * passes * seconds_of_pass(model, prompts)
    return StudyPlan(
        passes,
        seconds,
        f"Each of {n_heads} heads alone on {len(prompts)} prompts, then sets of the leading ones.",
    )


def run(
    model: LanguageModel,
    prompts: PromptSet,
    *,
    intervention: str = "zero",
    least: float = 0.05,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Ablate heads alone and together.

    Args:
        prompts: with the right next tokens, if they are known.
        intervention: a name of `options.INTERVENTION`.
        least: the KL from which a head counts as critical, with 95 % confidence.
        seed: of permutations and random heads.
        progress: called after each prompt.
        cancel: once set, what was found on the prompts done is returned.

    Returns:
        `details` are `CriticalHeads`, `table` has one row a head; both are empty if it was
        cancelled before the first prompt was done.

    Raises:
        UserError: a prompt that does not fit, or an intervention that cannot be made of them.
    """
    started = time.monotonic()
    model.check_one_stack("The study of critical heads")
    heads = model.all_heads()
    others = others_than(intervention, len(prompts))
    report = Report(len(prompts) * (2 + len(others)), progress)
    asked: list[AskedPrompt] = []
    singles: list[FloatArray] = []
    stopped = "complete"
    try:
        for index in range(len(prompts)):
            one = ask(model, prompts, index, intervention, seed, cancel)
            singles.append(one.effects([(head,) for head in heads]))
            asked.append(one)
            report(f"Each head alone: prompt {index + 1} of {len(prompts)}")
        found = _together(
            model, prompts, asked, np.stack(singles), intervention, seed, report, cancel
        )
    except Cancelled:
        stopped, found = "cancelled", None
        if singles:
            found = _details(model, intervention, prompts, np.stack(singles[: len(asked)]))
    return StudyResult.of(
        "critical-heads",
        found,
        lambda found: _answer(found, prompts, least),
        lambda found: _table(found, least),
        caveats=_caveats(prompts, len(asked), intervention),
        n_prompts=len(asked),
        started=started,
        stopped=stopped,
    )


def _sizes(n_heads: int) -> tuple[int, ...]:
    sizes = [*range(1, min(LONGEST_LIST, n_heads) + 1)]
    while sizes[-1] < n_heads:
        sizes.append(min(n_heads, int(np.ceil(GROWTH * sizes[-1]))))
    return tuple(sizes)


def _details(
    model: LanguageModel,
    intervention: str,
    prompts: PromptSet,
    effects: FloatArray,
    sizes: tuple[int, ...] = (),
    joint: FloatArray | None = None,
    random: FloatArray | None = None,
    others: dict[str, FloatArray] | None = None,
) -> CriticalHeads:
    n = len(effects)
    order = np.argsort(-effects[..., KL].mean(axis=0), kind="stable")
    return CriticalHeads(
        model.n_layers,
        model.n_heads,
        model.all_heads(),
        intervention,
        effects,
        tuple(order.tolist()),
        sizes,
        np.zeros((n, 0, 4)) if joint is None else joint,
        np.zeros((n, 0)) if random is None else random,
        others or {},
        _agreement(effects, [p.template for p in prompts.prompts[:n]]),
    )


def _together(
    model: LanguageModel,
    prompts: PromptSet,
    asked: Sequence[AskedPrompt],
    effects: FloatArray,
    intervention: str,
    seed: int,
    report: Report,
    cancel: threading.Event | None,
) -> CriticalHeads:
    """Ablate the leading heads together, random ones, and the leading ones in other ways."""
    heads = model.all_heads()
    first = _details(model, intervention, prompts, effects)
    ranked = [heads[i] for i in first.order]
    sizes = _sizes(len(heads))
    sets = [tuple(ranked[:size]) for size in sizes]
    sets += random_sets(model, first.leaders, N_RANDOM, seed)
    found = []
    for index, one in enumerate(asked):
        found.append(one.effects(sets))
        report(f"Leading heads together: prompt {index + 1} of {len(prompts)}")
    together = np.stack(found)
    joint, random = together[:, : len(sizes)], together[:, len(sizes) :, KL]
    at = _first_enough(joint[..., KL].mean(axis=0))
    between = tuple(range(sizes[at - 1] + 1, sizes[at])) if at else ()
    if between:
        more = removal_effects(asked, [tuple(ranked[:size]) for size in between])
        joint = np.concatenate([joint[:, :at], more, joint[:, at:]], axis=1)
        sizes = (*sizes[:at], *between, *sizes[at:])
    compared = [(head,) for head in ranked[:COMPARED]]
    others = in_other_ways(
        model, prompts, range(len(prompts)), intervention,
        lambda one: one.effects(compared)[:, KL], seed=seed, report=report, cancel=cancel,
    )  # fmt: skip
    return _details(model, intervention, prompts, effects, sizes, joint, random, others)


def _first_enough(mean: FloatArray) -> int:
    """Return the index of the first size that makes `SHARE` of the last one, all heads."""
    return int(np.flatnonzero(mean >= SHARE * mean[-1])[0])


def _agreement(effects: FloatArray, templates: list[str]) -> tuple[float, int] | None:
    first, second = halves(templates)
    if not first or not second:
        return None
    means = [effects[half, :, KL].mean(axis=0) for half in (first, second)]
    leading = [set(np.argsort(-mean, kind="stable")[:LEADERS].tolist()) for mean in means]
    return rank_agreement(*means), len(leading[0] & leading[1])


def _table(found: CriticalHeads, least: float) -> pd.DataFrame:
    interval = found.interval
    rows = []
    for rank, i in enumerate(found.order, start=1):
        head = found.heads[i]
        rows.append({
            "rank": rank,
            "head": str(head),
            "layer": head.layer,
            "index": head.head,
            "kl": interval.mean[i, KL],
            "kl_low": interval.low[i, KL],
            "kl_high": interval.high[i, KL],
            "right": interval.mean[i, RIGHT],
            "right_low": interval.low[i, RIGHT],
            "right_high": interval.high[i, RIGHT],
            "critical": bool(interval.low[i, KL] >= least),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _answer(found: CriticalHeads, prompts: PromptSet, least: float) -> tuple[str, ...]:
    interval, n = found.interval, len(found.effects)
    critical = [i for i in found.order if interval.low[i, KL] >= least]
    total = len(found.heads)
    on = on_set(n, "prompts", prompts.name)
    leading = ", ".join(
        f"{found.heads[i]} {interval.of((i, KL))}" for i in (critical or found.order)[:3]
    )
    if n == 1:
        said = [f"On one prompt no interval can be given; the largest effects (nats): {leading}."]
    elif critical:
        said = [
            f"{len(critical)} of {total} heads {'is' if len(critical) == 1 else 'are'} critical: "
            f"ablated alone, each moves the prediction by at least {least:g} nats with 95 % "
            f"confidence on {on}. The first are {leading}."
        ]
    else:
        said = [
            f"No head of {total} is critical: none moves the prediction by {least:g} nats with "
            f"95 % confidence on {on}. The largest effects are {leading}."
        ]
    return (*said, *_jointly(found), *_beyond(found, bool(prompts.templates)))


def _jointly(found: CriticalHeads) -> list[str]:
    """Tell of the leading heads ablated together."""
    if found.shortest is None:
        return []
    mean = found.joint[..., KL].mean(axis=0)
    kl = mean[found.sizes.index(found.shortest)]
    said = [
        f"{found.shortest} of the leading heads together make {kl:.3g} nats, at least "
        f"{100 * SHARE:.0f} % of the {mean[-1]:.3g} nats of removing all {len(found.heads)}."
    ]
    size = min(LEADERS, len(found.heads))
    leaders, chance = mean[found.sizes.index(size)], found.random.mean(axis=0)
    above = int((chance >= leaders).sum())
    said.append(
        f"The {size} leading heads together: {leaders:.3g} nats; as many random heads of the same "
        f"layers: {chance.mean():.3g} on average, {chance.max():.3g} at most ({above} of "
        f"{len(chance)} draws reach the leaders)."
    )
    return said


def _beyond(found: CriticalHeads, parted: bool) -> list[str]:
    """Tell what holds on other prompts, and with other interventions.

    Args:
        parted: whether the prompts have templates that the halves keep apart.
    """
    said = []
    if found.agreement is not None:
        rho, shared = found.agreement
        halved = "Halves of the prompts that share no template" if parted else "Two halves of them"
        said.append(
            f"{halved} have {shared} of {LEADERS} leaders in common; the ranks of all heads "
            f"correlate by {rho:.2f} (Spearman)."
        )
    leading = list(found.order[:COMPARED])
    for name, values in found.others.items():
        mean = values.mean(axis=0)
        rho = rank_agreement(found.effects[:, leading, KL].mean(axis=0), mean)
        first = found.heads[leading[int(mean.argmax())]]
        said.append(
            f"By {name} instead of {found.intervention} the {len(leading)} leaders' effects are "
            f"{mean.mean():.3g} nats on average, {first} first; their ranks correlate by {rho:.2f}."
        )
    return said


def _caveats(prompts: PromptSet, n_done: int, intervention: str) -> tuple[str, ...]:
    caveats = [
        f"Ablated by {intervention}, at every position; prompts from: {prompts.source}.",
        "A head is judged alone: where others make up for it, it seems less critical than it is.",
    ]
    caveats += few_prompts(n_done)
    if n_done < len(prompts):
        caveats.append(f"Cancelled: {n_done} of {len(prompts)} prompts were done.")
    if not all(prompt.answer for prompt in prompts.prompts):
        caveats.append(NO_ANSWER_CAVEAT)
    return tuple(caveats)
