"""Which heads look at related words more often than any fixed key does.

Chosen on training templates, judged on held-out ones, whose words are others too. A few candidates
a relation are judged, and the intervals are widened for their number (Bonferroni), so that among
many heads none passes by luck.
"""

import numpy as np
from numpy.typing import NDArray

from ablation.studies.relations import RELATIONS
from ablation.studies.relations.strongest import rule_name
from ablation.studies.relations.types import Candidate, ReadMarks, Verdict
from ablation.studies.statistics import CONFIDENCE, mean_interval
from models.types import FloatArray, Head

CANDIDATES = 5
"""Heads of each relation that are judged on held-out templates: the first on training ones."""
LEAST_STRUCTURES = 6
LEAST_MARKS = 20
"""In each half, below which a relation is not judged."""
JOINT_CONFIDENCE = 1 - (1 - CONFIDENCE) / (CANDIDATES * len(RELATIONS))
"""Of each interval, so that all of them hold together with 95 % confidence."""
N_RESAMPLES = 20_000


def shares(values: NDArray[np.bool_], structures: NDArray[np.str_]) -> FloatArray:
    """Return the share of hits within each structure.

    Args:
        values: [n_marks, n].

    Returns:
        float64 [n_structures, n].
    """
    own = [values[structures == one].mean(axis=0) for one in np.unique(structures)]
    return np.array(own, dtype=np.float64).reshape(len(own), values.shape[1])


def judge(marks: ReadMarks, heads: dict[int, Head]) -> tuple[Verdict, ...]:
    """Judge every relation.

    Args:
        heads: column of `marks.hits` -> the head that it is of.
    """
    return tuple(_judge(marks, relation, heads) for relation in RELATIONS)


def _judge(marks: ReadMarks, relation: str, heads: dict[int, Head]) -> Verdict:
    halves = [marks.of(relation, held_out=held_out) for held_out in (False, True)]
    n_marks = (len(halves[0]), len(halves[1]))
    counted = [len(np.unique(marks.structures[half])) for half in halves]
    n_structures = (counted[0], counted[1])
    if min(n_marks) < LEAST_MARKS or min(n_structures) < LEAST_STRUCTURES:
        return Verdict(relation, n_marks, n_structures)
    training, held_out = (
        (shares(marks.hits[half], at), shares(marks.rules[half], at))
        for half, at in ((half, marks.structures[half]) for half in halves)
    )
    rules = [rows.mean(axis=0) for _, rows in (training, held_out)]
    chosen, best = int(rules[0].argmax()), int(rules[1].argmax())
    own = training[0].mean(axis=0)
    columns = [i for i in np.argsort(-own, kind="stable") if int(i) in heads][:CANDIDATES]
    # Against each of the two fixed keys; what counts is the one that leaves less.
    against = held_out[1][:, [chosen, best]]
    excess = held_out[0][:, columns, None] - against[:, None]  # [n_structures, n_columns, 2]
    found = mean_interval(excess, 0, JOINT_CONFIDENCE, N_RESAMPLES)
    least = found.low.argmin(axis=1)
    candidates = [
        Candidate(
            heads[int(column)],
            float(own[column]),
            float(held_out[0][:, column].mean()),
            *(float(values[i, least[i]]) for values in (found.mean, found.low, found.high)),
        )
        for i, column in enumerate(columns)
    ]
    candidates.sort(key=lambda one: -one.held_out)
    return Verdict(
        relation, n_marks, n_structures,
        rule_name(chosen), float(rules[0][chosen]), float(rules[1][chosen]),
        rule_name(best), float(rules[1][best]), tuple(candidates),
    )  # fmt: skip
