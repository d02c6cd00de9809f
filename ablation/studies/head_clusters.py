"""Are there clusters of heads that work together?

Each head is ablated alone on every prompt, what it writes is read, and its composition with other
heads is taken from the weights (`ablation.studies.likeness`). From one half of the prompts heads
are clustered, into as many clusters as are found again when these prompts are halved
(`ablation.studies.partition`). The other half shares no template with it where there are several:
there heads are clustered anew, and the clusters are put to the test: all heads of one are removed
together. Heads that do not interact change the right token's logit by the sum of what each changes
alone; how far a cluster is from its sum is held against random heads of its layers.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from ablation.composition import KINDS, Composition, composition_scores
from ablation.evaluation import Cancelled, stop_if
from ablation.studies import clusters_words as words
from ablation.studies.asked import ROW_COST, AskedPrompt, Report, ask, seconds_of_pass
from ablation.studies.clusters_found import (
    TESTED,
    HeadClusters,
    Link,
    RemovedCluster,
    numbered_by_effect,
)
from ablation.studies.columns import HeadSet
from ablation.studies.likeness import (
    ALL,
    COMPOSITION,
    OUTPUTS,
    Outputs,
    changes,
    composition_likeness,
    outputs_of,
)
from ablation.studies.partition import (
    N_DRAWS,
    N_NULLS,
    Stability,
    agreement_of,
    cut,
    separation,
    stability,
    tree,
)
from ablation.studies.profiles import LEAST_CHANGE, Profiles
from ablation.studies.prompts import PromptSet
from ablation.studies.removals import parted, random_sets
from ablation.studies.side_by_side import in_other_ways, others_than
from ablation.studies.statistics import rank_agreement
from ablation.studies.types import StudyPlan, StudyResult
from ablation.types import Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray

N_RANDOM = 20
"""Random sets of as many heads in the same layers, for each cluster removed."""
FEWEST = 4
"""Prompts: each half is parted again."""
DRAWS_WHEN_CANCELLED = 4
"""Pairs of halves, so that a cancelled study soon shows what it has."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One prompt, and what its heads do."""

    prompt: AskedPrompt
    changed: FloatArray
    """[n_heads_in_all, 1 + tokens] (`likeness.changes`)."""
    outputs: Outputs | None


def plan(
    model: LanguageModel, prompts: PromptSet, *, intervention: str = "zero", **_others: object
) -> StudyPlan:
    """Say what the study takes; see `run`."""
    _check(model, prompts)
    fitted, held = parted(prompts)
    n_heads = len(model.all_heads())
    ways = 1 + len(others_than(intervention, len(prompts)))
    # Composition takes about as long as one prompt's sweep.
    n_rows = n_heads * (1 + len(prompts)) + TESTED * (ways + N_RANDOM) * len(held)
    seconds = ROW_COST * n_rows * seconds_of_pass(model, prompts)
    return StudyPlan(
        n_rows,
        seconds,
        f"Each of {n_heads} heads alone on {len(prompts)} prompts; up to {TESTED} clusters from "
        f"{len(fitted)} of them are removed together on the other {len(held)}.",
    )


def run(
    model: LanguageModel,
    prompts: PromptSet,
    *,
    intervention: str = "zero",
    by: str = ALL,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Cluster heads, and remove clusters.

    Args:
        prompts: at least `FEWEST`.
        intervention: a name of `options.INTERVENTION`.
        by: "all", or one of `likeness.MEASURES`: what makes heads alike.
        seed: of halves for the number of clusters, random heads, clouds and permutations.
        progress: called between pieces of work.
        cancel: once set, what was found so far is returned: clusters of the prompts done, if these
            are two or more.

    Returns:
        `details` are `HeadClusters`, `table` has one row a head; both are empty if it was cancelled
        before two prompts were done.

    Raises:
        UserError: there are too few prompts or heads, one prompt that does not fit, a measure that
            the model does not allow, or the model is an encoder-decoder.
    """
    started = time.monotonic()
    _check(model, prompts)
    work = _Work(model, prompts, intervention, by, seed, progress, cancel)
    stopped = "complete"
    try:
        work.do()
    except Cancelled:
        stopped = "cancelled"
        with suppress(UserError):  # too few heads do anything: then there is nothing to show
            work.settle()
    found = work.found
    return StudyResult.of(
        "head-clusters",
        found,
        lambda found: words.answer(found, prompts),
        words.table,
        caveats=words.caveats(prompts, found, work.missing, stopped),
        n_prompts=0 if found is None else len(found.effects) + found.n_held,
        started=started,
        stopped=stopped,
    )


def _check(model: LanguageModel, prompts: PromptSet) -> None:
    model.check_one_stack("The study of head clusters")
    if len(prompts) < FEWEST:
        raise UserError(
            ErrorKind.PROMPT,
            "Clusters are found on one half of the prompts and tested on the other, and each half "
            f"is parted again; give at least {FEWEST} prompts, not {len(prompts)}.",
        )
    if len(parted(prompts)[0]) < 2:
        raise UserError(
            ErrorKind.PROMPT,
            "No template is in both halves of the prompts, and one template has all but one of "
            "them, so that clusters of one half cannot be held against each other; give more "
            "templates, or none.",
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
    composition: Composition | None = None
    fed: FloatArray | None = None
    """[n_heads_in_all, n_heads_in_all], likeness by composition."""
    missing: dict[str, str] = field(default_factory=dict)
    """Measure -> why the model does not allow it."""
    asked: dict[int, _Asked] = field(default_factory=dict)
    """Index of a prompt -> what was done with it."""
    found: HeadClusters | None = None

    def do(self) -> None:
        """Do all of it.

        Raises:
            Cancelled: the work was cancelled; what is done is there.
        """
        fitted, held = parted(self.prompts)
        # In units of a layer of a prompt's sweep; that of composition takes about as long.
        sweeps = self.model.n_layers * (1 + len(self.prompts))
        ways = len(held) * len(others_than(self.intervention, len(self.prompts)))
        report = Report(sweeps + TESTED * self._of_a_test(len(held)) + ways, self.progress)
        self._compose(report)
        for index in fitted:
            self._ask(index, report)
        self.found = self._cluster(fitted, report, N_DRAWS, self.cancel)
        for index in held:
            self._ask(index, report)
        self._test(held, report)
        self._in_other_ways(held, report)

    def settle(self) -> None:
        """Cluster what is done, if that is enough and was not yet clustered."""
        fitted = [index for index in parted(self.prompts)[0] if index in self.asked]
        if self.found is None and len(fitted) > 1:
            report = Report(1, None)
            self.found = self._cluster(fitted, report, DRAWS_WHEN_CANCELLED, None)

    @property
    def heads(self) -> HeadSet:
        return self.model.all_heads()

    def _of_a_test(self, n_prompts: int) -> int:
        """Return how much work removing a cluster and random heads is."""
        return max(1, round(self.model.n_layers * n_prompts * (1 + N_RANDOM) / len(self.heads)))

    def _compose(self, report: Report) -> None:
        """Find out which measures the model allows, and take composition from its weights."""

        def told(layer: int) -> None:
            report(f"Composition of heads: layer {layer + 1} of {self.model.n_layers}")

        try:
            _ = self.model.residual  # refuses models whose blocks do something else than add
        except UserError as error:
            self._miss(OUTPUTS, error)
        try:
            self.composition = composition_scores(self.model, told, self.cancel)
            self.fed = composition_likeness(self.composition)
        except UserError as error:
            self._miss(COMPOSITION, error)

    def _miss(self, measure: str, error: UserError) -> None:
        """Go on without a measure, unless it is what was asked for."""
        if self.by == measure:
            raise error
        self.missing[measure] = str(error)

    def _ask(self, index: int, report: Report) -> None:
        stop_if(self.cancel)
        one = ask(self.model, self.prompts, index, self.intervention, self.seed, self.cancel)
        changed = changes(one, [(head,) for head in self.heads])
        known = OUTPUTS not in self.missing
        outputs = outputs_of(self.model, one.question.posed.prompt) if known else None
        self.asked[index] = _Asked(one, changed, outputs)
        report(
            f"Each head alone: prompt {len(self.asked)} of {len(self.prompts)}",
            self.model.n_layers,
        )

    # --- clusters, from the prompts fitted on ---

    def _profiles(self, indices: Sequence[int]) -> Profiles:
        asked = [self.asked[index] for index in indices]
        return Profiles(
            tuple(one.changed for one in asked),
            tuple(one.outputs for one in asked if one.outputs is not None),
            self.fed,
        )

    def _cluster(
        self,
        fitted: Sequence[int],
        report: Report,
        n_draws: int,
        cancel: threading.Event | None,
    ) -> HeadClusters:
        profiles = self._profiles(fitted)
        live = self._live(profiles)
        known = self._known(profiles, live)
        templates = [self.prompts.prompts[index].template for index in fitted]
        stable: dict[str, Stability] = {}
        for way in dict.fromkeys((self.by, *known)):
            report(f"Clusters by {words.BY[way]} on halves of the prompts", 0)
            stable[way] = stability(
                profiles.likeness_of(way, live, known), len(live), templates, self.seed,
                n_draws, N_NULLS if way == self.by else 0, cancel,
            )  # fmt: skip
        every = range(len(fitted))
        ranks = profiles.likeness_of(self.by, live, known)(every, np.arange(len(live)))
        linked = tree(ranks, ordered=True)
        effects = np.stack([of_one[live, 0] for of_one in profiles.changed])
        labels = numbered_by_effect(cut(linked, stable[self.by].count), effects)
        likeness = {measure: profiles.measured(measure, live, every) for measure in known}
        among = set(live.tolist())
        return HeadClusters(
            n_layers=self.model.n_layers,
            n_heads=self.model.n_heads,
            by=self.by,
            intervention=self.intervention,
            heads=tuple(self.heads[i] for i in live),
            silent=tuple(head for i, head in enumerate(self.heads) if i not in among),
            effects=effects,
            likeness=likeness,
            ranks=ranks,
            linked=linked,
            labels=labels,
            agreements=_agreements(likeness),
            links=self._links(),
            chance=float("nan") if self.composition is None else self.composition.chance,
            stable=stable,
            separation=separation(ranks, labels, self.seed, cancel),
        )

    def _live(self, profiles: Profiles) -> FloatArray:
        live = profiles.live()
        if len(live) < 3:
            raise UserError(
                ErrorKind.PROMPT,
                f"Only {len(live)} of {len(self.heads)} heads change the logits of these prompts "
                f"by {LEAST_CHANGE:g} on average, so that there is nothing to cluster; choose "
                "other prompts.",
            )
        return live

    def _known(self, profiles: Profiles, live: FloatArray) -> list[str]:
        known = profiles.measures(live)
        if self.fed is not None and COMPOSITION not in known:
            one_layer = "The heads that do something are all in one layer."
            self._miss(COMPOSITION, UserError(ErrorKind.MODEL, one_layer))
        return known

    def _links(self) -> tuple[Link, ...]:
        """Return the strongest composition of each kind."""
        if self.composition is None:
            return ()
        found = []
        for kind, scores in zip(KINDS, self.composition.scores, strict=True):
            if np.isfinite(scores).any():
                later, earlier = np.unravel_index(np.nanargmax(scores), scores.shape)
                score = float(scores[later, earlier])
                found.append(Link(kind, self.heads[earlier], self.heads[later], score))
        return tuple(found)

    # --- the test, on the prompts held out ---

    def _test(self, held: Sequence[int], report: Report) -> None:
        """Cluster the prompts held out, and remove clusters on them."""
        found = self.found
        assert found is not None  # made before
        self.found = found = replace(found, n_held=len(held))
        asked = [self.asked[index] for index in held]
        place = {head: i for i, head in enumerate(self.heads)}
        if self.by != COMPOSITION:  # which is the same on all prompts
            live = np.array([place[head] for head in found.heads])
            of = self._profiles(held).likeness_of(self.by, live, list(found.likeness))
            other = tree(of(range(len(held)), np.arange(len(live))))
            again = agreement_of(found.labels, cut(other, found.n_clusters))
            self.found = found = replace(found, again=again)
        tested = list(found.several.items())[:TESTED]
        single = np.stack([one.changed[:, 0] for one in asked])  # [n_held, n_heads_in_all]
        for number, (cluster, heads) in enumerate(tested, start=1):
            randoms = random_sets(self.model, heads, N_RANDOM, self.seed)
            effects = np.stack([_right(one.prompt, [heads, *randoms]) for one in asked])
            drawn = [single[:, [place[head] for head in one]] for one in randoms]
            removed = RemovedCluster(
                cluster=cluster,
                heads=heads,
                together=effects[:, 0],
                alone=single[:, [place[head] for head in heads]],
                random_together=effects[:, 1:],
                random_alone=np.stack(drawn, axis=1),
            )
            self.found = found = replace(found, removed=(*found.removed, removed))
            report(
                f"Cluster {number} of {len(tested)} removed together", self._of_a_test(len(asked))
            )

    def _in_other_ways(self, held: Sequence[int], report: Report) -> None:
        """Remove the same clusters by the other interventions."""
        found = self.found
        assert found is not None  # made before
        sets = [one.heads for one in found.removed]
        if not sets:
            return
        others = in_other_ways(
            self.model, self.prompts, held, self.intervention, lambda one: _right(one, sets),
            seed=self.seed, report=report, cancel=self.cancel,
        )  # fmt: skip
        self.found = replace(found, others=others)


def _right(asked: AskedPrompt, sets: Sequence[HeadSet]) -> FloatArray:
    """Ablate each set; return the change of the right token's logit, [n_sets]."""
    return changes(asked, sets, 0)[:, 0]


def _agreements(likeness: dict[str, FloatArray]) -> dict[tuple[str, str], float]:
    """Return the rank correlation of each two measures, over pairs of heads."""
    found = {}
    for a, b in combinations(likeness, 2):
        pairs = np.triu_indices(len(likeness[a]), 1)
        found[a, b] = rank_agreement(likeness[a][pairs], likeness[b][pairs])
    return found
