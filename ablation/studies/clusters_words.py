"""What the study of head clusters found, in sentences and as a table."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ablation.studies.clusters_found import HeadClusters, Joint
from ablation.studies.columns import HeadSet
from ablation.studies.options import CLUSTERED_BY
from ablation.studies.phrases import counted, layers_words
from ablation.studies.prompts import PromptSet
from ablation.studies.statistics import mean_interval

BY: Mapping[str, str] = {
    "all": "all measures together",
    "effects": "effects on predictions",
    "outputs": "what heads write",
    "composition": "composition",
}
"""What heads are clustered by, in words: a value of the option "by" -> how sentences say it."""
NAMED_CLUSTERS, NAMED_HEADS = 3, 6

assert set(BY) == {value for value, _ in CLUSTERED_BY.choices}


def answer(found: HeadClusters, prompts: PromptSet) -> tuple[str, ...]:
    """Return the answer in sentences."""
    return (*_counts(found, prompts), *_largest(found), *_measures(found), *_removed(found))


def _counts(found: HeadClusters, prompts: PromptSet) -> list[str]:
    """Tell into how many clusters heads fall, and whether these are found again."""
    n, total = len(found.effects), len(found.heads) + len(found.silent)
    stable = found.chosen
    low, high = stable.ends
    figures = (
        f"adjusted Rand index {stable.mean:.2f} on average, {low:.2f} to {high:.2f}; with heads "
        f"shuffled at most {stable.by_chance:.2f}"
    )
    on = f"{counted(n, 'prompts')} ({prompts.name})"
    moving = f"{len(found.heads)} of {total} heads that change predictions on {on}"
    if not stable.holds:
        return [
            f"By {BY[found.by]}, the {moving} have no clusters that two halves of the prompts "
            f"share: at the best number, {found.n_clusters}, halves agree no more than by chance "
            f"({figures})."
        ]
    said = [
        f"By {BY[found.by]}, the {moving} fall into {counted(found.n_clusters, 'clusters')}, the "
        f"number at which clusterings of two halves of these prompts agree best ({figures})."
    ]
    if found.again is not None:
        said.append(
            f"On prompts held out, as many clusters agree with them to {found.again:.2f} (1 would "
            "be the same clusters, 0 as much as chance)."
        )
    return said


def _names(heads: HeadSet) -> str:
    named = ", ".join(str(head) for head in heads[:NAMED_HEADS])
    return named if len(heads) <= NAMED_HEADS else f"{named} and {len(heads) - NAMED_HEADS} more"


def _largest(found: HeadClusters) -> list[str]:
    """Tell how large the clusters are, and which heads are in those with the largest effects."""
    said = []
    if found.rest is not None:
        at = np.flatnonzero(found.labels == found.rest)
        within = found.ranks[np.ix_(at, at)][~np.eye(len(at), dtype=bool)].mean()
        said.append(
            f"One of them, of {len(at)} heads, is rather the rest: its heads are alike by a mean "
            f"rank of {within:.2f}, where any two have 0.5."
        )
    clusters = found.several.values()
    if not clusters:
        return [*said, "No other has more than one head."]
    told = []
    for heads in list(clusters)[:NAMED_CLUSTERS]:
        layers = sorted(head.layer for head in heads)
        where = layers_words(range(layers[0], layers[-1] + 1))
        told.append(f"{_names(heads)} ({counted(len(heads), 'heads')}, {where})")
    sizes = sorted(len(heads) for heads in clusters)
    size = (
        counted(sizes[0], "heads") if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]} heads"
    )
    said.append(
        f"{counted(len(sizes), 'clusters')} {'has' if len(sizes) == 1 else 'have'} {size}; with "
        f"the largest effects: {'; '.join(told)}."
    )
    return said


def _measures(found: HeadClusters) -> list[str]:
    """Tell how far the measures agree about which heads belong together."""
    if not found.agreements:
        return []
    told = ", ".join(
        f"{value:.2f} between {BY[a]} and {BY[b]}" for (a, b), value in found.agreements.items()
    )
    said = (
        f"Do the measures agree which heads belong together? Rank correlation over pairs: {told}."
    )
    alone = [way for way in found.stable if way not in (found.by, "all")]
    if alone:
        clusters = ", ".join(f"by {BY[way]} {_best(found, way)}" for way in alone)
        said += f" Alone they part heads otherwise: {clusters}."
    return [said]


def _best(found: HeadClusters, way: str) -> str:
    stable = found.stable[way]
    count = counted(stable.counts[stable.best], "clusters")
    return f"into {count} (halves agree to {stable.mean:.2f})"


def _removed(found: HeadClusters) -> list[str]:
    """Tell what removing clusters does, beside the sum of their heads and random heads."""
    joints = found.joints
    if not joints:
        return []
    n = len(joints[0].together)
    sure = [joint for joint in joints if joint.interacts]
    said = (
        f"Removed whole on {counted(n, 'held-out prompts')}, {len(sure)} of "
        f"{counted(len(joints), 'clusters')} "
        f"{'is' if len(sure) == 1 else 'are'} farther from the sum of their heads alone than "
        "random heads of the same layers are, with 95 % confidence"
    )
    strongest = max(joints, key=lambda joint: float(joint.more.mean))
    return [f"{said}; farthest: {_joint((sure and max(sure, key=_size)) or strongest)}."]


def _size(joint: Joint) -> float:
    return float(joint.more.mean)


def _joint(joint: Joint) -> str:
    together = mean_interval(joint.together).of(())
    return (
        f"the right token's log-probability without {_names(joint.heads)} changes by {together} "
        f"nats, where the sum of each alone is {joint.alone.sum(axis=1).mean():.3g}; for random "
        f"heads {joint.random_together.mean():.3g} and {joint.random_sum.mean():.3g}"
    )


def table(found: HeadClusters) -> pd.DataFrame:
    """Return one row a head, cluster by cluster; heads in none last.

    `right` is the mean change of the right token's log-probability without the head (nats),
    `likeness` its mean rank of likeness with the other heads of its cluster.
    """
    mean = found.effects.mean(axis=0)
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
                "right": mean[own],
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
) -> tuple[str, ...]:
    """Return what the answer must not be taken for."""
    said = [
        f"Ablated by {intervention}, at every position; prompts from: {prompts.source}.",
        "Composition is read off the weights and is the same on all prompts, which makes clusters "
        "that rest on it agree between halves; rotary embeddings are left out of it (both tokens "
        "at one position), and so are norms' scales.",
        "Any tree can be cut into clusters: what speaks for them is that other prompts give the "
        "same ones, and that their heads interact when removed together.",
        "A cluster that costs less than the sum of its heads overlaps or is one path; one that "
        "costs more has heads that stand in for each other. The difference shows that they "
        "interact, not how.",
    ]
    for measure, why in missing.items():
        said.append(f"Without {BY[measure]}: {why}")
    if found is not None and found.again is None:
        said.append("Cancelled before the held-out prompts: the clusters were not tested.")
    elif found is not None and found.untested:
        said.append("Cancelled before all clusters were removed.")
    return tuple(said)
