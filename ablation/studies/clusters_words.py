"""What the study of head clusters found, in sentences and as a table."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ablation.studies.clusters_found import HeadClusters, Joint
from ablation.studies.columns import HeadSet
from ablation.studies.phrases import NO_ANSWER_CAVEAT, counted, few_prompts, on_set
from ablation.studies.prompts import PromptSet
from ablation.studies.statistics import mean_interval, rank_agreement

BY: Mapping[str, str] = {
    "all": "all measures together",
    "effects": "effects on predictions",
    "outputs": "what heads write",
    "composition": "composition",
}
"""What heads are clustered by, in words: a value of the option "by" -> how sentences say it."""
NAMED_CLUSTERS, NAMED_HEADS = 3, 6


def answer(found: HeadClusters, prompts: PromptSet, n_done: int) -> tuple[str, ...]:
    """Return the answer in sentences.

    Args:
        n_done: how many prompts were run.
    """
    n_held = n_done - len(found.effects)
    return (
        _lead(found, prompts),
        *_counts(found, prompts, n_held),
        *_apart(found),
        *_largest(found),
        *_removed(found),
        *_in_other_ways(found),
        *_measures(found),
        *_composition(found),
    )


def _lead(found: HeadClusters, prompts: PromptSet) -> str:
    """Answer whether there are clusters: whether they come back, and whether they lie apart."""
    total = len(found.heads) + len(found.silent)
    on = on_set(len(found.effects), "prompts", prompts.name)
    agreement = found.chosen.mean if found.again is None else found.again
    said = (
        f"By {BY[found.by]}, {len(found.heads)} of {total} heads that change predictions on {on} "
        f"part into {counted(found.n_clusters, 'clusters')}, which other prompts give again to "
        f"{agreement:.2f} (adjusted Rand index; 1: the same, 0: chance)"
    )
    if found.separation is None:
        return f"{said}."
    if found.separation.holds:
        return f"{said}, and they lie farther apart than parts of one cloud would."
    return (
        f"{said}; but they lie no farther apart than parts of one cloud would: heads differ by "
        "degrees."
    )


def _counts(found: HeadClusters, prompts: PromptSet, n_held: int) -> list[str]:
    """Tell why there are so many clusters, and how far they are found again."""
    stable = found.chosen
    low, high = stable.ends
    said = [
        "So many are taken because clusterings of two halves of these prompts agree best there: by "
        f"{stable.mean:.2f} on average of {len(stable.agreement)} halvings ({low:.2f} to "
        f"{high:.2f}), with heads shuffled at most {stable.by_chance:.2f}."
    ]
    if found.again is not None:
        shared = ", which share no template with these" if len(prompts.templates) > 1 else ""
        said.append(f"The other prompts are {n_held}{shared}; there heads were clustered anew.")
    return said


def _apart(found: HeadClusters) -> list[str]:
    """Tell how far apart the clusters lie, beside parts of a single cloud."""
    apart = found.separation
    if apart is None:
        return []
    return [
        f"How far apart they lie, by mean silhouette: {apart.silhouette:.3f}; single clouds of the "
        f"same spectrum, cut into as many, {apart.clouds.min():.3f} to {apart.clouds.max():.3f}."
    ]


def _names(heads: HeadSet) -> str:
    named = ", ".join(str(head) for head in heads[:NAMED_HEADS])
    return named if len(heads) <= NAMED_HEADS else f"{named} and {len(heads) - NAMED_HEADS} more"


def _largest(found: HeadClusters) -> list[str]:
    """Tell how large the clusters are, and which heads are in those with the largest effects."""
    clusters = list(found.several.values())
    alone = found.n_clusters - len(clusters)
    if not clusters:
        return ["No cluster has more than one head."]
    sizes = sorted((len(heads) for heads in clusters), reverse=True)
    told = "; ".join(_told(heads) for heads in clusters[:NAMED_CLUSTERS])
    lonely = f", {counted(alone, 'heads')} {'is' if alone == 1 else 'are'} alone" if alone else ""
    return [
        f"Their sizes: {', '.join(str(size) for size in sizes)}{lonely}. Those with the largest "
        f"effects: {told}."
    ]


def _told(heads: HeadSet) -> str:
    layers = [head.layer for head in heads]
    where = (
        f"layer {layers[0]}"
        if min(layers) == max(layers)
        else f"between layers {min(layers)} and {max(layers)}"
    )
    return f"{_names(heads)} ({where})"


def _removed(found: HeadClusters) -> list[str]:
    """Tell what removing clusters does, beside the sum of their heads and random heads."""
    joints = found.joints
    if not joints:
        return []
    n_random = len(joints[0].random_departures)
    far = [joint for joint in joints if joint.reached == 0]
    n = len(joints[0].together)
    low = sum(bool(joint.beyond_interval.high < 0) for joint in joints)
    high = sum(bool(joint.beyond_interval.low > 0) for joint in joints)
    said = [
        f"Removed whole on {counted(n, 'held-out prompts')}, {len(far)} of "
        f"{counted(len(joints), 'clusters')} depart farther from the sum of their heads alone than "
        f"each of {n_random} random sets of as many heads of the same layers "
        f"({len(joints) / (n_random + 1):.1f} would by chance). {_farthest(far or list(joints))}"
    ]
    if n > 1:
        said.append(
            f"With 95 % confidence {low} of them lower the right token's logit by more than the "
            f"sum of their heads does (these stand in for each other or add to each other's "
            f"effect), and {high} by less (these overlap, or are one path)."
        )
    return said


def _farthest(joints: list[Joint]) -> str:
    """Tell of the cluster that departs most."""
    joint = max(joints, key=lambda one: one.departure)
    together = mean_interval(joint.together).of(())
    chance = joint.random_departures
    return (
        f"Farthest is {_names(joint.heads)}: without it the right token's logit changes by "
        f"{together}, the sum of each alone is {joint.alone.sum(axis=1).mean():.3g}. Summed over "
        f"prompts, it departs by {100 * joint.departure:.0f} % of the sizes of its single effects, "
        f"random sets by {100 * chance.mean():.0f} % on average and {100 * chance.max():.0f} % at "
        "most."
    )


def _in_other_ways(found: HeadClusters) -> list[str]:
    """Tell what the same clusters do when they are removed otherwise."""
    if not found.others:
        return []
    own = np.array([joint.together.mean() for joint in found.joints])
    told = []
    for name, values in found.others:
        mean = values.mean(axis=0)
        alike = "" if len(mean) < 3 else f" (ranks correlate by {rank_agreement(own, mean):.2f})"
        told.append(f"by {mean.mean():.3g} with {name}{alike}")
    return [
        f"Removed by other interventions the same clusters change that logit, on average over "
        f"clusters, {'; '.join(told)}, instead of by {own.mean():.3g} with {found.intervention}."
    ]


def _measures(found: HeadClusters) -> list[str]:
    """Tell how far the measures agree about which heads belong together."""
    said = []
    known = {pair: value for pair, value in found.agreements.items() if not np.isnan(value)}
    if known:
        told = ", ".join(f"{BY[a]} and {BY[b]} {value:.2f}" for (a, b), value in known.items())
        said.append(f"Over pairs of heads the measures correlate so far (Spearman): {told}.")
    alone = [way for way in found.stable if way not in (found.by, "all")]
    if alone:
        told = ", ".join(f"by {BY[way]} {_best(found, way)}" for way in alone)
        said.append(f"Clustered by one measure alone, halves agree best {told}.")
    return said


def _best(found: HeadClusters, way: str) -> str:
    stable = found.stable[way]
    return f"on {counted(stable.count, 'clusters')} ({stable.mean:.2f})"


def _composition(found: HeadClusters) -> list[str]:
    """Tell which heads feed which most."""
    if not found.links:
        return []
    told = ", ".join(
        f"{link.earlier} into the {link.kind} of {link.later} ({link.score:.2f})"
        for link in found.links
    )
    return [f"The strongest composition: {told}; independent directions score {found.chance:.3f}."]


def table(found: HeadClusters) -> pd.DataFrame:
    """Return one row a head, cluster by cluster; heads in none last.

    `right` is the mean change of the right token's logit without the head, `likeness` its mean rank
    of likeness with the other heads of its cluster.
    """
    interval = mean_interval(found.effects)
    place = {head: i for i, head in enumerate(found.heads)}
    rows: list[dict[str, Any]] = []
    for number, heads in enumerate(found.clusters, start=1):
        for head in heads:
            others = [place[other] for other in heads if other != head]
            own = place[head]
            rows.append({
                "cluster": number,
                "head": str(head),
                "layer": head.layer,
                "index": head.head,
                "right": interval.mean[own],
                "right_low": interval.low[own],
                "right_high": interval.high[own],
                "likeness": found.ranks[own, others].mean() if others else np.nan,
            })  # fmt: skip
    for head in found.silent:
        rows.append({"cluster": None, "head": str(head), "layer": head.layer, "index": head.head})
    return pd.DataFrame(rows)


def caveats(
    prompts: PromptSet,
    found: HeadClusters | None,
    intervention: str,
    missing: Mapping[str, str],
    stopped: str,
) -> tuple[str, ...]:
    """Return what the answer must not be taken for."""
    if found is None:
        return (_cancelled(found),)
    said = [
        f"Ablated by {intervention}, at every position; prompts from: {prompts.source}. Logits are "
        "taken less their mean over the vocabulary.",
        "Composition is read off the weights and is the same on all prompts, which makes clusters "
        "that rest on it agree between halves; rotary embeddings are left out of it (both tokens "
        "at one position), and so are norms' scales.",
        "By effects and outputs, heads that work against each other are the least alike: a head "
        "and one that undoes it are in different clusters.",
    ]
    said += [f"Without {BY[measure]}: {why}" for measure, why in missing.items()]
    if not all(prompt.answer for prompt in prompts.prompts):
        said.append(NO_ANSWER_CAVEAT)
    if found.joints:
        said += few_prompts(len(found.joints[0].together))
    if found.chosen.count == found.chosen.counts[-1]:
        said.append(
            f"{found.chosen.count} clusters are the most that were tried: halves might agree "
            "better on more."
        )
    if stopped != "complete":
        said.append(_cancelled(found))
    return tuple(said)


def _cancelled(found: HeadClusters | None) -> str:
    if found is None:
        return "Cancelled before two prompts were done."
    if not found.joints:
        return f"Cancelled after {len(found.effects)} prompts: the clusters were not tested."
    if found.untested:
        return "Cancelled before all clusters were removed."
    return "Cancelled before the clusters were removed by other interventions."
