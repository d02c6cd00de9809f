"""What the study of redundant heads found, in sentences and as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablation.studies.columns import KL
from ablation.studies.phrases import counted, few_prompts
from ablation.studies.prompts import PromptSet
from ablation.studies.redundant_found import THRESHOLDS, Joint, Reach, RedundantHeads
from models.types import FloatArray

NAMED = 2
"""Pairs of each kind that the answer names."""


def answer(found: RedundantHeads, prompts: PromptSet) -> tuple[str, ...]:
    """Return the answer in sentences."""
    return (
        *_counts(found, prompts),
        *_against(found),
        *_in_other_ways(found),
        *_pairs(found),
        *_groups(found),
    )


def _counts(found: RedundantHeads, prompts: PromptSet) -> list[str]:
    """Tell how many heads go before each threshold."""
    if not found.steps:
        return []
    n_fitted, held = len(found.singles), found.held_out
    total = len(found.heads)
    counts = " and ".join(
        f"{'at least ' if reach.open_ended else ''}{reach.n_heads}" for reach in found.reaches
    )
    levels = " and ".join(f"{threshold:g}" for threshold in THRESHOLDS)
    told = "; ".join(_reach(reach, total) for reach in found.reaches)
    if held is None:
        where = f"the {counted(n_fitted, 'prompts')} that they were chosen on"
    else:
        where = f"{counted(len(held), 'held-out prompts')} ({prompts.name})"
    said = [
        f"Of {total} heads, removed from the least costly on, {counts} go before the mean KL "
        f"reaches {levels} nats on {where}.",
        f"Before each threshold: {told}. With all heads the right token has rank "
        f"{found.clean_rank:g}.",
    ]
    if held is not None:
        own = " and ".join(f"{reach.n_heads}" for reach in found.reaches_fitted[1:])
        levels = " and ".join(f"{threshold:g}" for threshold in THRESHOLDS[1:])
        said.append(
            f"On the {counted(n_fitted, 'prompts')} that they were chosen on, {own} go before "
            f"{levels} nats: the difference is redundant for these prompts only."
        )
    return said


def _reach(reach: Reach, total: int) -> str:
    name = f"{reach.threshold:g} nats"
    if reach.n_heads == 0:
        return f"{name}, none"
    share = 100 * reach.n_heads / total
    interval = "" if reach.low == reach.high else f", {reach.low} to {reach.high}"
    count = f"at least {reach.n_heads}" if reach.open_ended else f"{reach.n_heads}"
    return (
        f"{name}, {count} ({share:.0f} %{interval}), with the right token at rank "
        f"{reach.rank:g} (median) and the likeliest token unchanged in {100 * reach.same:.0f} % "
        "of the prompts"
    )


def _against(found: RedundantHeads) -> list[str]:
    """Set the elimination against other orders, at the last sizes before the two thresholds."""
    if found.held_out is None or not found.compared:
        return []
    told = {}
    for reach in found.reaches[1:]:
        sizes = [size for size in found.compared_sizes if 0 < size <= reach.n_heads]
        if not sizes:
            continue
        at, step = found.compared_sizes.index(sizes[-1]), found.sizes.index(sizes[-1])
        own = found.held_out[:, step, KL].mean()
        single, chance = (found.compared[way][:, at].mean() for way in ("single", "random"))
        told[sizes[-1]] = (
            f"with {counted(sizes[-1], 'heads')} removed, {own:.3g} nats by elimination, "
            f"{single:.3g} by removing the heads of least effect alone, and {chance:.3g} by "
            "removing random ones"
        )
    if not told:
        return []
    return [f"Against other orders on the same prompts: {'; '.join(told.values())}."]


def _in_other_ways(found: RedundantHeads) -> list[str]:
    """Tell what the same heads cost when they are removed otherwise."""
    if not found.others:
        return []
    sizes = [len(heads) for heads in found.reached]
    own = found.judged[:, found.reached_at, KL].mean(axis=0)
    told = "; ".join(
        f"by {name} {_nats(values.mean(axis=0))}" for name, values in found.others.items()
    )
    which = " and ".join(f"{size}" for size in sizes)
    return [
        f"The same {which} heads by other interventions, instead of {_nats(own)} by "
        f"{found.intervention}: {told}."
    ]


def _nats(values: Sequence[float] | FloatArray) -> str:
    return " and ".join(f"{value:.3g}" for value in values) + " nats"


def _sure(joint: Joint) -> int:
    """Return the sign of what is beyond the sum, 0 where the interval holds 0 or there is none."""
    interval = joint.interval
    if np.isnan(interval.low):
        return 0
    return int(interval.low > 0) - int(interval.high < 0)


def _named(pairs: list[Joint]) -> str:
    return ", ".join(f"{pair.names} {pair.interval.of(())} nats" for pair in pairs[:NAMED])


def _pairs(found: RedundantHeads) -> list[str]:
    """Tell which of the leading heads overlap, and which stand in for each other."""
    pairs = found.pairs
    if not pairs:
        return []
    if len(found.singles) == 1:
        extreme = max(pairs, key=lambda pair: abs(pair.beyond.mean()))
        return [
            f"Of {len(pairs)} pairs of leading heads, {extreme.names} together cost "
            f"{extreme.beyond.mean():.3g} nats more than the sum of each alone (one prompt: no "
            "interval)."
        ]
    overlap = sorted((p for p in pairs if _sure(p) < 0), key=lambda p: p.beyond.mean())
    backup = sorted((p for p in pairs if _sure(p) > 0), key=lambda p: -p.beyond.mean())
    said = (
        f"Of {len(pairs)} pairs of the heads with the largest effect alone, {len(overlap)} cost "
        f"less together than the sum of both (their effects overlap) and {len(backup)} more "
        f"(they stand in for each other or push the same way), with 95 % confidence on "
        f"{counted(len(found.singles), 'prompts')}"
    )
    if overlap:
        said += f"; most overlap: {_named(overlap)}"
    if backup:
        said += f"; most backup: {_named(backup)}"
    return [f"{said}."]


def _groups(found: RedundantHeads) -> list[str]:
    """Tell which heads of one key-value group stand in for each other."""
    if not found.groups:
        return []
    many = len(found.singles) > 1
    total = len(found.groups)
    standing = sum(_sure(group) > 0 for group in found.groups)
    overlapping = sum(_sure(group) < 0 for group in found.groups)
    said = []
    if many:
        said.append(
            f"Of {total} groups that share a key-value head, {standing} cost more when removed "
            f"whole than the sum of their heads alone, and {overlapping} less."
        )
    best = sorted(found.group_pairs, key=lambda pair: -pair.beyond.mean())
    best = [pair for pair in best if _sure(pair) > 0 or (not many and pair.beyond.mean() > 0)]
    if best:
        said.append(f"Within a group these pairs cost most beyond the sum: {_named(best)}.")
    elif many and found.group_pairs:
        said.append(
            f"None of {len(found.group_pairs)} pairs within a group costs more than the sum of "
            "both with 95 % confidence."
        )
    return said


def table(found: RedundantHeads) -> pd.DataFrame:
    """Return one row a head, in the order of removal, those that stayed last.

    `kl_fitted` and `kl` are of all that was removed with or before the head, on the prompts fitted
    on and held out; `kl_alone` is of the head alone.
    """
    alone = dict(zip(found.heads, found.singles[..., KL].mean(axis=0), strict=True))
    held = None if found.held_out is None else found.held_out[..., KL].mean(axis=0)
    rows: list[dict[str, Any]] = []
    for number, step in enumerate(found.steps):
        for head in step.removed:
            rows.append({
                "removed": len(rows) + 1,
                "head": str(head),
                "layer": head.layer,
                "index": head.head,
                "step": number + 1,
                "kl_fitted": step.kl,
                "kl": np.nan if held is None else held[number],
                "kl_alone": alone[head],
            })  # fmt: skip
    gone = set(found.order)
    for head in found.heads:
        if head not in gone:
            rows.append({
                "removed": None,
                "head": str(head),
                "layer": head.layer,
                "index": head.head,
                "kl_alone": alone[head],
            })  # fmt: skip
    return pd.DataFrame(rows)


def caveats(
    prompts: PromptSet, found: RedundantHeads | None, intervention: str, strategy: str
) -> tuple[str, ...]:
    """Return what the answer must not be taken for."""
    said = [
        f"Removed by {intervention}, at every position; prompts from: {prompts.source}.",
        "Greedy elimination finds one order of many: other sets of as many heads may cost less, "
        "and a head that stays is not thereby needed on other prompts.",
        "KL grows with the square of a small change: two heads that push the prediction the same "
        "way cost more together than the sum even if neither makes up for the other, and two that "
        "push opposite ways less. The difference shows that they interact, not how.",
    ]
    if strategy == "screened":
        said.append(
            "Screened: an estimate ranks the heads of a step, several may go at once, and counts "
            "are of the sets that were run; the exact strategy tries every head."
        )
    if found is not None:
        said += few_prompts(len(found.judged))
    if len(prompts) == 1:
        said.append("One prompt: nothing is held out, so that the counts are too high elsewhere.")
    if found is not None and found.steps and found.held_out is None and len(prompts) > 1:
        said.append("Cancelled before the held-out prompts: the counts are of those fitted on.")
    if found is not None and found.reaches and found.reaches[-1].open_ended:
        said.append(
            f"On the prompts judged, {THRESHOLDS[-1]:g} nats were not reached when it ended."
        )
    return tuple(said)
