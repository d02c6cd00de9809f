"""What the study of head clusters found, in sentences and as a table."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ablation.studies.clusters_found import HeadClusters, RemovedCluster
from ablation.studies.columns import HeadSet
from ablation.studies.likeness import ALL, COMPOSITION, EFFECTS, OUTPUTS
from ablation.studies.phrases import NO_ANSWER_CAVEAT, counted, few_prompts, on_set
from ablation.studies.prompts import PromptSet
from ablation.studies.statistics import mean_interval, rank_agreement

BY: Mapping[str, str] = {
    ALL: "all measures together",
    EFFECTS: "effects on predictions",
    OUTPUTS: "what heads write",
    COMPOSITION: "composition",
}
"""What heads are clustered by, in words: a value of the option "by" -> how sentences say it."""
NAMED_CLUSTERS, NAMED_HEADS = 3, 6


def answer(found: HeadClusters, prompts: PromptSet) -> tuple[str, ...]:
    """Return the answer in sentences."""
    return (
        _lead(found, prompts),
        *_counts(found, prompts),
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
    again = found.chosen.mean if found.again is None else found.again
    where = _two_parts(found) if found.again is None else "other prompts"
    said = (
        f"{len(found.heads)} of {total} heads change predictions on {on}; by {BY[found.by]} they "
        f"part into {counted(found.n_clusters, 'clusters')}, which {where} give again to "
        f"{again:.2f} (adjusted Rand index; 1: the same, 0: chance)"
    )
    if found.separation is None:
        return f"{said}."
    if found.separation.holds:
        return f"{said}, and they lie farther apart than parts of one cloud would."
    return (
        f"{said}; but they lie no farther apart than parts of one cloud would: heads differ by "
        "degrees."
    )


def _two_parts(found: HeadClusters) -> str:
    """Return what was clustered twice to see how many clusters to take."""
    if found.by == COMPOSITION:  # which is the same on all prompts
        return "two random parts of the heads"
    return "two halves of these prompts"


def _counts(found: HeadClusters, prompts: PromptSet) -> list[str]:
    """Tell why there are so many clusters, and how far they are found again."""
    stable = found.chosen
    low, high = stable.ends
    said = [
        f"So many are taken because clusterings of {_two_parts(found)} agree best there: by "
        f"{stable.mean:.2f} on average of {len(stable.agreement)} draws ({low:.2f} to "
        f"{high:.2f}), with heads shuffled at most {stable.by_chance:.2f}."
    ]
    if found.again is not None:
        shared = ", which share no template with these" if len(prompts.templates) > 1 else ""
        said.append(
            f"The other prompts are {found.n_held}{shared}; there heads were clustered anew."
        )
    return said


def _apart(found: HeadClusters) -> list[str]:
    """Tell how far apart the clusters lie, beside parts of a single cloud."""
    apart = found.separation
    if apart is None:
        return []
    return [
        f"How far apart they lie, by mean silhouette: {apart.silhouette:.3f}; single clouds made "
        f"from their spectrum, cut into as many, {apart.clouds.min():.3f} to "
        f"{apart.clouds.max():.3f}."
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
    joints = found.removed
    if not joints:
        return []
    n_random = len(joints[0].random_departures)
    far = [joint for joint in joints if joint.reached == 0]
    n = len(joints[0].together)
    more, less = (sum(joint.more == way for joint in joints) for way in (1, -1))
    said = [
        f"Removed whole on {counted(n, 'held-out prompts')}, {len(far)} of "
        f"{counted(len(joints), 'clusters')} depart farther from the sum of their heads alone than "
        f"each of {n_random} random sets of as many heads of the same layers "
        f"({len(joints) / (n_random + 1):.1f} would by chance). {_farthest(far or list(joints))}"
    ]
    if n > 1:
        said.append(
            "With 95 % confidence the effect on the right token's logit is larger than the sum of "
            f"the heads' for {more} of them (these stand in for each other, or strengthen each "
            f"other), and smaller for {less} (these overlap, undo each other, or are one path)."
        )
    return said


def _farthest(joints: list[RemovedCluster]) -> str:
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
    own = np.array([joint.together.mean() for joint in found.removed])
    told = []
    for name, values in found.others.items():
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
    alone = [way for way in found.stable if way not in (found.by, COMPOSITION)]
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
    missing: Mapping[str, str],
    stopped: str,
) -> tuple[str, ...]:
    """Return what the answer must not be taken for."""
    if found is None:
        return (_cancelled(found),)
    said = [
        f"Ablated by {found.intervention}, at every position; prompts from: {prompts.source}. "
        "Logits are taken less their mean over the vocabulary.",
        "Composition is read off the weights and is the same on all prompts, which makes clusters "
        "that rest on it agree between halves and with other prompts; rotary embeddings are left "
        "out of it (both tokens at one position), and so are norms' scales.",
        "By effects and outputs, heads that work against each other are the least alike: a head "
        "and one that undoes it are in different clusters.",
    ]
    said += [f"Without {BY[measure]}: {why}" for measure, why in missing.items()]
    if not all(prompt.answer for prompt in prompts.prompts):
        said.append(NO_ANSWER_CAVEAT)
    said += few_prompts(min(len(found.effects), found.n_held or len(found.effects)))
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
    if not found.removed:
        return f"Cancelled after {len(found.effects)} prompts: the clusters were not tested."
    if found.untested:
        return "Cancelled before all clusters were removed."
    return "Cancelled before the clusters were removed by other interventions."
