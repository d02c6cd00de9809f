"""Are there clusters of heads that work together?

Each head is ablated alone on every prompt, what it writes is read, and its composition with other
heads is taken from the weights (`ablation.studies.likeness`). From one half of the prompts heads
are clustered, into as many clusters as are found again when these prompts are halved
(`ablation.studies.partition`). The other half shares no template with it where there are several:
there heads are clustered anew, and the clusters are put to the test: all heads of one are removed
together. Heads that do not interact change the right token's log-probability by the sum of what
each changes alone; how far a cluster is from its sum is held against random heads of its layers.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from ablation.composition import composition_scores
from ablation.evaluation import Cancelled, stop_if
from ablation.studies import clusters_words as words
from ablation.studies.asked import AskedPrompt, Report, ask, seconds_of_pass
from ablation.studies.clusters_found import (
    TESTED,
    HeadClusters,
    Joint,
    numbered_by_effect,
    random_like,
)
from ablation.studies.columns import HeadSet
from ablation.studies.likeness import (
    COMPOSITION,
    EFFECTS,
    OUTPUTS,
    Outputs,
    changes,
    composition_likeness,
    effects_likeness,
    outputs_likeness,
    outputs_of,
    ranked,
    together,
)
from ablation.studies.partition import (
    N_SHUFFLES,
    LikenessOf,
    Stability,
    agreement_of,
    cut,
    stability,
    tree,
)
from ablation.studies.prompts import PromptSet
from ablation.studies.removals import parted
from ablation.studies.statistics import rank_agreement
from ablation.studies.types import StudyPlan, StudyResult
from ablation.types import Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray

LEAST_CHANGE = 1e-3
"""Mean absolute change of log-probabilities (nats) below which a head does nothing measurable."""
N_RANDOM = 8
"""Random sets for each of them."""
FEWEST = 4
"""Prompts: each half is parted again."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One prompt, and what its heads do."""

    prompt: AskedPrompt
    changed: FloatArray
    """[n_heads_in_all, 1 + tokens] (`likeness.changes`)."""
    outputs: Outputs | None


def plan(model: LanguageModel, prompts: PromptSet, **_others: object) -> StudyPlan:
    """Say what the study takes; see `run`."""
    fitted, held = parted(prompts)
    n_heads = len(model.all_heads())
    n_rows = n_heads * len(prompts) + TESTED * (1 + N_RANDOM) * len(held)
    # A row that branches off the clean run costs less than a pass: half on average.
    seconds = 0.5 * n_rows * seconds_of_pass(model, prompts)
    return StudyPlan(
        n_rows,
        seconds,
        f"Each of {n_heads} heads alone on {len(prompts)} prompts; clusters from {len(fitted)} of "
        f"them are removed together on the other {len(held)}.",
    )


def run(
    model: LanguageModel,
    prompts: PromptSet,
    *,
    intervention: str = "zero",
    by: str = "all",
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Cluster heads, and remove clusters.

    Args:
        prompts: at least `FEWEST`.
        intervention: a name of `options.INTERVENTION`.
        by: "all", or one of `likeness.MEASURES`: what makes heads alike.
        seed: of halves, random heads and permutations.
        progress: called between pieces of work.
        cancel: once set, what was found so far is returned.

    Returns:
        `details` are `HeadClusters`, `table` has one row a head; both are empty if it was cancelled
        before heads were clustered.

    Raises:
        UserError: there are too few prompts or heads, one prompt that does not fit, a measure that
            the model does not allow, or the model is an encoder-decoder.
    """
    started = time.monotonic()
    model.check_one_stack("The study of head clusters")
    if len(prompts) < FEWEST:
        raise UserError(
            ErrorKind.PROMPT,
            "Clusters are found on one half of the prompts and tested on the other, and each half "
            f"is parted again; give at least {FEWEST} prompts, not {len(prompts)}.",
        )
    work = _Work(model, prompts, intervention, by, seed, progress, cancel)
    stopped = "complete"
    try:
        work.do()
    except Cancelled:
        stopped = "cancelled"
    found = work.found
    return StudyResult.of(
        "head-clusters",
        found,
        lambda found: words.answer(found, prompts),
        words.table,
        caveats=words.caveats(prompts, found, intervention, work.missing),
        n_prompts=len(prompts) if found is not None else 0,
        started=started,
        stopped=stopped,
    )


@dataclass(slots=True, eq=False)
class _Work:
    """The study while it runs, and all that it has found so far."""

    model: LanguageModel
    prompts: PromptSet
    intervention: str
    by: str
    seed: int
    progress: Callable[[Progress], None] | None
    cancel: threading.Event | None
    composition: FloatArray | None = None
    """[n_heads_in_all, n_heads_in_all]."""
    missing: dict[str, str] = field(default_factory=dict)
    """Measure -> why the model does not allow it."""
    found: HeadClusters | None = None

    def do(self) -> None:
        """Do all of it.

        Raises:
            Cancelled: the work was cancelled; what is done is there.
        """
        fitted, held = parted(self.prompts)
        # In units of a layer of a prompt's sweep; that of composition takes about as long.
        sweeps = self.model.n_layers * (1 + len(self.prompts))
        report = Report(sweeps + TESTED * self._of_a_test(len(held)), self.progress)
        self._compose(report)
        asked = [self._ask(index, report) for index in fitted]
        self.found = self._cluster(asked, report)
        others = [self._ask(index, report) for index in held]
        self._test(others, report)

    @property
    def heads(self) -> HeadSet:
        return self.model.all_heads()

    def _of_a_test(self, n_prompts: int) -> int:
        """Return how much work removing a cluster and random heads is."""
        return max(1, round(self.model.n_layers * n_prompts * (1 + N_RANDOM) / len(self.heads)))

    def _compose(self, report: Report) -> None:
        def told(layer: int) -> None:
            report(f"Composition of heads: layer {layer + 1} of {self.model.n_layers}")

        try:
            scores = composition_scores(self.model, told, self.cancel)
            self.composition = composition_likeness(scores)
        except UserError as error:
            self._miss(COMPOSITION, error)

    def _miss(self, measure: str, error: UserError) -> None:
        """Go on without a measure, unless it is what was asked for."""
        if self.by == measure:
            raise error
        self.missing.setdefault(measure, str(error))

    def _ask(self, index: int, report: Report) -> _Asked:
        stop_if(self.cancel)
        one = ask(self.model, self.prompts, index, self.intervention, self.seed, self.cancel)
        changed = changes(one, [(head,) for head in self.heads])
        outputs = None
        if OUTPUTS not in self.missing:
            try:
                outputs = outputs_of(self.model, one.question.posed.prompt)
            except UserError as error:
                self._miss(OUTPUTS, error)
        report(f"Each head alone: prompt {index + 1} of {len(self.prompts)}", self.model.n_layers)
        return _Asked(one, changed, outputs)

    def _cluster(self, asked: Sequence[_Asked], report: Report) -> HeadClusters:
        size = np.mean([np.abs(one.changed).mean(axis=1) for one in asked], axis=0)
        live = np.flatnonzero(size >= LEAST_CHANGE)
        if len(live) < 3:
            raise UserError(
                ErrorKind.MODEL,
                f"Only {len(live)} of {len(self.heads)} heads change these predictions by "
                f"{LEAST_CHANGE:g} nats on average, so that there is nothing to cluster; choose "
                "other prompts.",
            )
        every = np.arange(len(asked)).tolist()
        likeness = self._likeness(asked, live, every)
        ways = dict.fromkeys((self.by, *likeness))
        stable: dict[str, Stability] = {}
        for way in ways:
            report(f"Clusters by {words.BY[way]} on halves of the prompts", 0)
            of = self._combined(asked, live, way)
            shuffles = N_SHUFFLES if way == self.by else 0
            stable[way] = stability(of, len(live), len(asked), self.seed, shuffles, self.cancel)
        chosen = stable[self.by]
        ranks = self._combined(asked, live, self.by)(every, np.arange(len(live)))
        linked = tree(ranks, ordered=True)
        effects = np.stack([one.changed[live, 0] for one in asked])
        labels = cut(linked, chosen.counts[chosen.best])
        off_diagonal = ~np.eye(len(live), dtype=bool)
        return HeadClusters(
            n_layers=self.model.n_layers,
            n_heads=self.model.n_heads,
            by=self.by,
            heads=tuple(self.heads[i] for i in live),
            silent=tuple(head for i, head in enumerate(self.heads) if i not in set(live.tolist())),
            effects=effects,
            likeness=likeness,
            ranks=ranks,
            linked=linked,
            labels=numbered_by_effect(labels, effects),
            agreements={
                (a, b): rank_agreement(likeness[a][off_diagonal], likeness[b][off_diagonal])
                for a, b in combinations(likeness, 2)
            },
            stable=stable,
            again=None,
            joints=(),
        )

    def _likeness(
        self, asked: Sequence[_Asked], heads: FloatArray, prompts: Sequence[int]
    ) -> dict[str, FloatArray]:
        """Return what is known of how alike these heads are on these prompts, by measure."""
        chosen = [asked[i] for i in prompts]
        square = np.ix_(heads, heads)
        found = {EFFECTS: effects_likeness([one.changed[heads] for one in chosen])}
        outputs = [one.outputs for one in chosen if one.outputs is not None]
        if outputs:
            found[OUTPUTS] = outputs_likeness(outputs)[square]
        if self.composition is not None:
            found[COMPOSITION] = self.composition[square]
        return found

    def _combined(self, asked: Sequence[_Asked], live: FloatArray, way: str) -> LikenessOf:
        """Return what heads are clustered by, for `stability`."""

        def likeness_of(prompts: Sequence[int], heads: FloatArray) -> FloatArray:
            known = self._likeness(asked, live[heads], prompts)
            if way == "all":
                return together(known)
            # Within a layer there is no composition, and so nothing that makes heads alike.
            return np.nan_to_num(ranked(known[way]))

        return likeness_of

    def _test(self, asked: Sequence[_Asked], report: Report) -> None:
        """Cluster the prompts held out, and remove clusters on them."""
        found = self.found
        assert found is not None  # made just before
        place = {head: i for i, head in enumerate(self.heads)}
        live = np.array([place[head] for head in found.heads])
        of = self._combined(asked, live, self.by)
        other = cut(tree(of(range(len(asked)), np.arange(len(live)))), found.n_clusters)
        again = agreement_of(found.labels, other)
        self.found = found = replace(found, again=again)
        rng = np.random.default_rng(self.seed)
        single = np.stack([one.changed[:, 0] for one in asked])  # [n_held, n_heads_in_all]
        tested = list(found.several.items())[:TESTED]
        for number, (cluster, heads) in enumerate(tested, start=1):
            randoms = [random_like(heads, self.heads, rng) for _ in range(N_RANDOM)]
            sets = [heads, *randoms]
            # One prompt's changes are of as many tokens as it has; the first is the right one.
            effects = np.stack([changes(one.prompt, sets)[:, 0] for one in asked])
            sums = [single[:, [place[head] for head in one]].sum(axis=1) for one in randoms]
            joint = Joint(
                cluster=cluster,
                heads=heads,
                together=effects[:, 0],
                alone=single[:, [place[head] for head in heads]],
                random_together=effects[:, 1:],
                random_sum=np.stack(sums, axis=1),
            )
            self.found = found = replace(found, joints=(*found.joints, joint))
            report(
                f"Cluster {number} of {len(tested)} removed together", self._of_a_test(len(asked))
            )
