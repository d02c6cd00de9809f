"""What is found of heads and related words: plain data, no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablation.studies.statistics import Interval, mean_interval
from ablation.studies.types import plain
from models.types import FloatArray, Head

SUBJECT_VERB = "subject-verb"
EVERY = "all"
"""The group of all heads that count."""

Hits = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ReadMarks:
    """What was read of marked pairs of words, one entry a mark along the first axis."""

    relations: NDArray[np.str_]
    structures: NDArray[np.str_]
    held_out: Hits
    distances: NDArray[np.int64]
    """From the later word's last token back to the earlier word's nearest, in tokens."""
    hits: Hits
    """bool [n_marks, n_heads_in_all]: whether the head's strongest key, the first token aside, is
    in the earlier word."""
    rules: Hits
    """bool [n_marks, 2 * FARTHEST]: the same of a fixed key: 1, 2... tokens back from the later
    word, then position 1, 2... of the sentence."""
    n_sentences: int
    n_split: int
    """Marks of which a word is split into several tokens."""
    n_lost: int
    """Marks left out, as tokens do not begin or end where the words do."""

    def of(self, relation: str, *, held_out: bool) -> NDArray[np.intp]:
        """Return the indices of a relation's marks in training or in held-out templates."""
        found: NDArray[np.intp] = np.flatnonzero(
            (self.relations == relation) & (self.held_out == held_out)
        )
        return found


@dataclass(frozen=True, slots=True)
class Candidate:
    """One head, judged for one relation."""

    head: Head
    training: float
    held_out: float
    """Shares of marks at which its strongest key is the related word; each structure of sentences
    counts as much as another."""
    excess: float
    """Held-out share, less that of the fixed key (of the two of `Verdict`) that leaves less."""
    low: float
    high: float
    """Between what the excess lies, over held-out structures, at `JOINT_CONFIDENCE`."""

    @property
    def counts(self) -> bool:
        """Whether the head beats the fixed keys."""
        return self.low > 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found on one relation."""

    relation: str
    n_marks: tuple[int, int]
    """In training and in held-out templates."""
    n_structures: tuple[int, int]
    rule: str = ""
    """The fixed key that is best on training templates, in words."""
    rule_training: float = float("nan")
    rule_held_out: float = float("nan")
    hindsight: str = ""
    """The fixed key that would have been best on held-out templates."""
    hindsight_held_out: float = float("nan")
    candidates: tuple[Candidate, ...] = ()
    """The largest held-out share first; none where there are too few marks."""

    @property
    def judged(self) -> bool:
        return bool(self.candidates)

    @property
    def winners(self) -> tuple[Candidate, ...]:
        """The heads that count."""
        return tuple(one for one in self.candidates if one.counts)


@dataclass(frozen=True, slots=True, eq=False)
class AgreementEffect:
    """By how much the right verb is preferred, with heads ablated.

    The margin is the right verb's log-probability less the wrong one's, in nats; the model is
    right where it is above 0.
    """

    intervention: str
    clean: FloatArray
    """float64 [n_prompts], margins of the clean run."""
    singles: Mapping[Head, FloatArray]
    """Head ablated alone -> float64 [n_prompts]: those in question and all others of their
    layers."""
    groups: Mapping[str, tuple[tuple[Head, ...], FloatArray]]
    """Name -> heads ablated together, and float64 [n_prompts]."""
    random: Mapping[str, FloatArray]
    """Name -> float64 [n_prompts, N_RANDOM], with as many random heads of the same layers."""

    others: Mapping[str, FloatArray]
    """Other interventions -> float64 [n_prompts, n_groups], without the heads of each group."""

    @property
    def n_prompts(self) -> int:
        return len(self.clean)

    def change(self, margins: FloatArray) -> Interval:
        """Return by how much margins, and how often the model is right, differ from the clean
        run's, [2]."""
        pairs = [margins - self.clean, (margins > 0).astype(float) - (self.clean > 0)]
        return mean_interval(np.stack(pairs, axis=1))

    def layer_mates(self, head: Head, apart: Sequence[Head]) -> tuple[Head, ...]:
        """Return the other heads of a head's layer, without those set apart."""
        return tuple(h for h in self.singles if h.layer == head.layer and h not in {head, *apart})


@dataclass(frozen=True, slots=True, eq=False)
class LinguisticHeads:
    """What was measured."""

    n_layers: int
    n_heads: int
    heads: dict[int, Head]
    """Column of `marks.hits` -> head."""
    marks: ReadMarks
    verdicts: tuple[Verdict, ...]
    agreement: AgreementEffect | None
    """None where no head counts, or it was cancelled before."""

    @property
    def winners(self) -> tuple[Head, ...]:
        """The heads that count for any relation, those of subject and verb first."""
        ordered = sorted(self.verdicts, key=lambda verdict: verdict.relation != SUBJECT_VERB)
        return tuple(dict.fromkeys(one.head for verdict in ordered for one in verdict.winners))

    def to_json(self) -> dict[str, Any]:
        effect = self.agreement
        return plain({
            "n_sentences": self.marks.n_sentences,
            "relations": [
                {
                    "relation": verdict.relation,
                    "n_marks": list(verdict.n_marks),
                    "rule": verdict.rule,
                    "rule_held_out": verdict.rule_held_out,
                    "hindsight": verdict.hindsight,
                    "hindsight_held_out": verdict.hindsight_held_out,
                    "heads": [one.head.to_json() for one in verdict.winners],
                }
                for verdict in self.verdicts
            ],
            "agreement": None if effect is None else {
                "n_prompts": effect.n_prompts,
                "clean_margin": effect.clean.mean(),
                "clean_accuracy": (effect.clean > 0).mean(),
                "groups": {
                    name: {
                        "heads": [head.to_json() for head in heads],
                        "margin": margins.mean(),
                        "accuracy": (margins > 0).mean(),
                        "random_margins": effect.random[name].mean(axis=0),
                    }
                    for name, (heads, margins) in effect.groups.items()
                },
                "other_interventions": {
                    name: margins.mean(axis=0) for name, margins in effect.others.items()
                },
            },
        })  # fmt: skip
