"""What the study of sparsification found, in sentences and as a table."""

from itertools import pairwise

import numpy as np
import pandas as pd

from ablation.studies.columns import KL, RIGHT, SAME
from ablation.studies.phrases import counted, few_prompts, layers_words
from ablation.studies.prompts import PromptSet
from ablation.studies.sparsification_found import FRACTIONS, N_SHUFFLES, Core, SparseHeads
from ablation.studies.statistics import rank_agreement

NAMED = 8
"""Heads of the core that the answer names."""


def answer(found: SparseHeads, prompts: PromptSet) -> tuple[str, ...]:
    """Return the answer in sentences."""
    core = found.core
    if core is None:
        return _learned_only(found)
    return (
        *_core(found, core, prompts),
        *_against(found, core),
        *_in_other_ways(found),
        *_where(found, core),
        *_activations(found),
    )


def _learned_only(found: SparseHeads) -> tuple[str, ...]:
    told = ", ".join(
        f"{count} at {strength:g} nats a head"
        for strength, count in zip(found.strengths, found.open_counts, strict=True)
    )
    return (f"Of {len(found.heads)} gates so many stay open: {told}; nothing was judged yet.",)


def _core(found: SparseHeads, core: Core, prompts: PromptSet) -> list[str]:
    """Tell how large the core is, and what the penalty leaves."""
    n, total = len(found.kept["learned"]), len(found.heads)
    size = len(core.heads)
    interval = "" if n == 1 else f", {core.low} to {core.high} with 95 % confidence"
    ranked = [found.heads[i] for i in found.order_for(size)[: min(NAMED, size)]]
    first = ", ".join(str(head) for head in ranked)
    tried = [(size, i) for i, size in enumerate(found.sizes) if size in found.open_counts]
    shares = found.shares(found.kept["learned"])
    told = "; ".join(
        f"{counted(count, 'heads')} at {_strengths(found, count)} nats a head keep "
        f"{100 * shares[i]:.0f} %"
        for count, i in reversed(tried)
    )
    asked = f"{found.share:g} % of what the heads do to the predictions"
    where = f"{counted(n, 'held-out prompts')} ({prompts.name})"
    if size == total:
        largest = counted(max(found.sizes, default=0), "heads")
        said = [
            f"No smaller core: with {largest} of {total}, less than {asked} is kept on {where}."
        ]
    else:
        said = [
            f"The essential core is {size} of {total} heads ({100 * size / total:.0f} %"
            f"{interval}): they keep {100 * core.share:.1f} % of what the heads do to the "
            f"predictions on {where}, {found.share:g} % being asked for. The first are {first}."
        ]
    if told:
        said.append(f"Gates learned at several strengths of the penalty: {told}.")
    return said


def _strengths(found: SparseHeads, count: int) -> str:
    """Return at which strengths so many gates are open: "0.01", "0.01 to 0.1"."""
    own = [s for s, n in zip(found.strengths, found.open_counts, strict=True) if n == count]
    return f"{own[0]:g}" if len(own) == 1 else f"{own[0]:g} to {own[-1]:g}"


def _against(found: SparseHeads, core: Core) -> list[str]:
    """Set the learned gates against other choices of as many heads."""
    size = len(core.heads)
    if size not in found.sizes:
        return []
    at = found.sizes.index(size)
    means = {way: effects[:, at].mean(axis=0) for way, effects in found.kept.items()}
    fewest = min((n for n in found.sizes if n in found.open_counts), default=size)
    first = found.sizes.index(fewest)
    few = {way: effects[:, first, KL].mean() for way, effects in found.kept.items()}
    needed = found.core_size("single")
    by_chance = found.core_size("random")
    own = means["learned"]
    return [
        f"With {size} heads the KL is {own[KL]:.3g} nats by learned gates, "
        f"{means['single'][KL]:.3g} with the heads of the largest effect alone and "
        f"{means['random'][KL]:.3g} with random ones; for {found.share:g} % these need {needed} "
        f"and {by_chance}. With {counted(fewest, 'heads')} it is {few['learned']:.3g}, "
        f"{few['single']:.3g} and {few['random']:.3g} nats. "
        f"With the core the likeliest token stays in {100 * own[SAME]:.0f} % of the prompts and "
        f"the right token's log-probability changes by {own[RIGHT]:.3g} nats."
    ]


def _in_other_ways(found: SparseHeads) -> list[str]:
    """Tell what the core keeps when the other heads are closed otherwise."""
    if not found.others:
        return []
    told = []
    for name, values in found.others.items():
        nothing, core = values.mean(axis=0)
        kept = f"{100 * (1 - core / nothing):.0f} %" if nothing > 0 else "all"
        told.append(f"by {name} it keeps {kept} (KL {core:.3g} of {nothing:.3g} nats)")
    return [
        f"With the other heads closed otherwise than by {found.intervention}, the same core: "
        f"{'; '.join(told)}."
    ]


def _where(found: SparseHeads, core: Core) -> list[str]:
    """Tell in which layers and key-value groups the core is."""
    counts = found.by_layer
    thirds = np.array_split(np.arange(found.n_layers), min(3, found.n_layers))
    told = ", ".join(
        f"{int(counts[part].sum())} of {_heads_in(found, part)} in "
        + layers_words(range(part[0], part[-1] + 1))
        for part in thirds
    )
    empty = int((counts == 0).sum())
    if len(core.heads) == len(found.heads):
        return []
    said = [f"The core has {told}; {empty} of {found.n_layers} layers have none of it."]
    grouping = found.grouping(core)
    if grouping is not None:
        said.append(
            f"It leaves {grouping.empty} of {grouping.n_groups} key-value groups without a head; "
            f"as many random heads leave {grouping.chance:.1f} ({_chance(grouping.p)})."
        )
    if found.ranking is not None and len(found.heads) > 1:
        order = np.array(found.order_for(len(core.heads)))
        place = np.empty(len(order))
        place[order] = np.arange(len(order))
        rho = rank_agreement(-place, found.ranking)
        if not np.isnan(rho):
            said.append(
                f"Rank by learned gate and effect alone correlate by {rho:.2f} (Spearman, all "
                "heads)."
            )
    return said


def _chance(p: float) -> str:
    return f"p = {p:.2g}" if p > 0 else f"p < {1 / N_SHUFFLES:g}"


def _heads_in(found: SparseHeads, layers: np.ndarray) -> int:
    return sum(head.layer in layers for head in found.heads)


def _activations(found: SparseHeads) -> list[str]:
    """Tell how sparse z is."""
    if found.sparse is None or found.entries is None:
        return []
    shares = found.shares(found.sparse)
    told = ", ".join(
        f"{100 * fraction:g} % of the entries keep {100 * share:.0f} %"
        for fraction, share in zip(FRACTIONS, shares, strict=True)
    )
    where = counted(len(found.sparse), "held-out prompts")
    said = f"With only the largest entries of each head's z, on {where}: {told} of what heads do"
    middle = np.nanmedian(found.entries) if np.isfinite(found.entries).any() else np.nan
    if not np.isnan(middle):
        said += f"; the median head has 90 % of its squared z in {100 * middle:.0f} % of them"
    return [f"{said}."]


def table(found: SparseHeads) -> pd.DataFrame:
    """Return one row a head: at which strengths its gate is open, whether it is in the core."""
    core = found.core
    members = set() if core is None else set(core.heads)
    group = {head: number for number, one in enumerate(found.groups) for head in one}
    rows = []
    for i, head in enumerate(found.heads):
        open_at = [s for s, row in zip(found.strengths, found.learned, strict=True) if row[i] > 0]
        rows.append({
            "head": str(head),
            "layer": head.layer,
            "index": head.head,
            "core": head in members if core is not None else None,
            "open_up_to": max(open_at, default=0.0),
            **{
                f"gate_{strength:g}": row[i]
                for strength, row in zip(found.strengths, found.learned, strict=True)
            },
            "kl_alone": None if found.ranking is None else found.ranking[i],
            "kv_group": group.get(head),
            "entries_90": None if found.entries is None else found.entries[i],
        })  # fmt: skip
    return pd.DataFrame(rows)


def caveats(
    prompts: PromptSet, found: SparseHeads | None, intervention: str, steps: int
) -> tuple[str, ...]:
    """Return what the answer must not be taken for."""
    said = [
        f"A closed gate puts {'0' if intervention == 'zero' else 'the mean over the set'} in the "
        f"place of z at every position; prompts from: {prompts.source}.",
        "Inessential is what can be spared together with the other closed heads on prompts like "
        "these; another seed or another half may choose other heads.",
        f"Gates are learned in {steps} steps a strength, one strength after the other: more steps "
        "may find smaller cores, and until then a strength does not say what each open head is "
        "worth. What is between the sizes tried is not known.",
        "The part kept is 1 - KL / KL without any head, the KL being means over the prompts.",
    ]
    if found is not None and found.nothing is not None:
        said += few_prompts(len(found.nothing))
    if found is None or found.sparse is None:
        said.append("Cancelled before all of it was done.")
    elif not all(a >= b for a, b in pairwise(found.open_counts)):
        said.append("A stronger penalty did not always leave fewer gates open.")
    return tuple(said)
