"""Figures of the study of linguistic heads."""

import numpy as np

from ablation.studies.relations.types import EVERY, AgreementEffect, LinguisticHeads, Verdict
from ablation.studies.types import StudyResult
from ablation.types import MetricInfo
from viz.studies.figure import StudyFigure, bars, by_intervention, framed, head_map

_EXCESS = MetricInfo(
    "excess",
    "Above a fixed key",
    "share",
    diverging=False,
    needs_target=False,
    description="held-out share of related words less that of the best fixed key, for the "
    "relation where it is largest; 0 where it is never larger. Outlined: the heads that count.",
)


def figures(result: StudyResult, dark: bool) -> tuple[StudyFigure, ...]:
    """Draw the best head of each relation, where such heads are, and what ablating them does."""
    found: LinguisticHeads = result.details
    judged = [verdict for verdict in found.verdicts if verdict.judged]
    if not judged:
        return ()
    drawn = [_shares(judged, dark), _map(found, judged, dark), _by_distance(found, judged, dark)]
    if found.agreement is not None:
        drawn.append(_agreement(found, found.agreement, dark))
        if found.agreement.others:
            drawn.append(_interventions(found.agreement, dark))
    return tuple(drawn)


def _shares(judged: list[Verdict], dark: bool) -> StudyFigure:
    first = [(verdict.winners or verdict.candidates)[0] for verdict in judged]
    labels = [
        f"{verdict.relation}<br>{one.head}{'' if one.counts else ' (does not count)'}"
        for verdict, one in zip(judged, first, strict=True)
    ]
    none = [np.nan] * len(judged)
    shares = np.array([one.held_out for one in first])
    # The interval is of the excess: drawn around the share that it is the excess of. There is no
    # share above 1.
    low = [one.held_out - one.excess + one.low for one in first]
    high = [min(1.0, one.held_out - one.excess + one.high) for one in first]
    fixed = [verdict.hindsight_held_out for verdict in judged]
    traces = [
        bars(labels, shares, low, high, "best head", 0, dark=dark),
        bars(labels, fixed, none, none, "best fixed key", 2, dark=dark),
    ]
    return StudyFigure(
        "shares",
        "How often the strongest key is the related word",
        "On held-out templates, first token aside. The interval is of what the head has above the "
        "fixed key, widened for all heads judged: it counts where the interval is above that bar.",
        framed(traces, "relation, head", "share", dark=dark, barmode="group"),
    )


def _map(found: LinguisticHeads, judged: list[Verdict], dark: bool) -> StudyFigure:
    values = np.full(found.n_layers * found.n_heads, np.nan, dtype=np.float32)
    marks, columns = found.marks, list(found.heads)
    for verdict in judged:
        hits = marks.hits[marks.of(verdict.relation, held_out=True)].mean(axis=0)
        excess = hits[columns] - verdict.hindsight_held_out
        values[columns] = np.fmax(values[columns], np.maximum(excess, 0))
    by_head = {head: float(values[column]) for column, head in found.heads.items()}
    grid = (found.n_layers, found.n_heads)
    title = "Where such heads are"
    return head_map(grid, _EXCESS, by_head, "map", title, dark=dark, marked=found.winners)


def _by_distance(found: LinguisticHeads, judged: list[Verdict], dark: bool) -> StudyFigure:
    """Draw, for the relation that is read best, the share of hits by distance."""
    verdict = max(judged, key=lambda v: (v.winners or v.candidates)[0].low)
    one, marks = (verdict.winners or verdict.candidates)[0], found.marks
    at = marks.of(verdict.relation, held_out=True)
    column = next(i for i, head in found.heads.items() if head == one.head)
    distances = np.unique(marks.distances[at])
    groups = [at[marks.distances[at] == distance] for distance in distances]
    shares = [float(marks.hits[group, column].mean()) for group in groups]
    labels = [
        f"{distance} ({len(group)})" for distance, group in zip(distances, groups, strict=True)
    ]
    none = [np.nan] * len(labels)
    figure = framed(
        [bars(labels, shares, none, none, str(one.head), 0, dark=dark)],
        "tokens back (number of marks)",
        "share",
        dark=dark,
        height=420,
        xaxis={"type": "category"},
    )
    figure.update_layout(width=430)
    return StudyFigure(
        "by-distance",
        f"{one.head}, {verdict.relation}, by distance",
        "Share of held-out marks at which its strongest key is the related word.",
        figure,
        wide=False,
    )


def _interventions(effect: AgreementEffect, dark: bool) -> StudyFigure:
    own = np.stack([margins for _, margins in effect.groups.values()], axis=1)
    values = {
        name: margins - effect.clean[:, None]
        for name, margins in {effect.intervention: own, **effect.others}.items()
    }
    labels = [
        f"{len(heads)} that count" if name == EVERY else f"{len(heads)} {name}"
        for name, (heads, _) in effect.groups.items()
    ]
    return by_intervention(
        labels, values, "heads ablated", "change of the margin (nats)", dark=dark
    )


def _agreement(found: LinguisticHeads, effect: AgreementEffect, dark: bool) -> StudyFigure:
    heads = [head for head in found.winners if head in effect.singles]
    moved = [effect.change(effect.singles[head]) for head in heads]
    traces = [
        bars(
            [str(head) for head in heads],
            [one.mean[0] for one in moved],
            [one.low[0] for one in moved],
            [one.high[0] for one in moved],
            "the head alone",
            0,
            dark=dark,
        )
    ]
    mates = [effect.layer_mates(head, found.winners) for head in heads]
    changes = [
        np.array([(effect.singles[mate] - effect.clean).mean() for mate in own] or [np.nan])
        for own in mates
    ]
    traces.append(
        bars(
            [str(head) for head in heads],
            [own.mean() for own in changes],
            [own.min() for own in changes],
            [own.max() for own in changes],
            "other heads of its layer, lowest to highest",
            2,
            dark=dark,
        )
    )
    together = []
    for name, (members, margins) in effect.groups.items():
        which = f"{len(members)} that count" if name == EVERY else f"{len(members)} {name}"
        chance = (effect.random[name] - effect.clean[:, None]).mean(axis=0)
        together.append((which, effect.change(margins), chance))
    names = [which for which, _, _ in together]
    traces.append(
        bars(
            names,
            [one.mean[0] for _, one, _ in together],
            [one.low[0] for _, one, _ in together],
            [one.high[0] for _, one, _ in together],
            "heads together",
            1,
            dark=dark,
        )
    )
    traces.append(
        bars(
            names,
            [chance.mean() for _, _, chance in together],
            [chance.min() for _, _, chance in together],
            [chance.max() for _, _, chance in together],
            "as many random heads of these layers",
            2,
            dark=dark,
        )
    )
    return StudyFigure(
        "agreement",
        "Subject-verb agreement without them",
        f"Change of the right verb's lead over the wrong one, mean over {effect.n_prompts} minimal "
        "pairs, ablated less clean.",
        framed(traces, "heads ablated", "change of the margin (nats)", dark=dark, barmode="group"),
    )
