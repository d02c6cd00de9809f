"""Can redundant heads be identified?

Heads are removed by backward greedy elimination (`ablation.studies.elimination`; cf. Michel et al.
2019, "Are Sixteen Heads Really Better than One?", arXiv:1905.10650) on one half of the prompts; on
the other half, which shares no template with it where there are several, the same sets are removed,
beside the heads of least effect alone (no re-evaluation) and random ones. How many heads go before
the mean KL reaches a threshold is read there.

Two heads are compared by KL(a, b) - KL(a) - KL(b). Below 0 their effects overlap: without the one,
the other adds less (they serve one path). Above 0 they stand in for each other: each alone is made
up for by the other, so that both together cost more (backup heads; cf. McGrath et al. 2023, "The
Hydra Effect", arXiv:2307.15771). The heads that share a key-value head are compared likewise.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from ablation.evaluation import Cancelled
from ablation.studies import redundant_words as words
from ablation.studies.asked import ROW_COST, AskedPrompt, Report, ask, seconds_of_pass
from ablation.studies.columns import KL, HeadSet
from ablation.studies.elimination import ALONE, TOGETHER, eliminate
from ablation.studies.prompts import PromptSet
from ablation.studies.redundant_found import LAST_KL, EliminationStep, Joint, RedundantHeads
from ablation.studies.removals import kv_groups, parted, removal_effects
from ablation.studies.side_by_side import in_other_ways, others_than
from ablation.studies.types import StudyPlan, StudyResult
from ablation.types import Progress
from models.language_model import LanguageModel
from models.types import FloatArray, Head

TOP = 10
"""Heads of the largest effect alone that are compared pair by pair."""
CLOSER = 8
"""Key-value groups whose heads are compared pair by pair."""
N_RANDOM = 4
"""Random orders in which heads are removed."""
N_SIZES = 8
"""Sizes at which random and single-effect orders are run."""
STEPS = 40
"""About as many steps a screened elimination takes."""


def plan(
    model: LanguageModel, prompts: PromptSet, *, strategy: str = "screened", **_others: Any
) -> StudyPlan:
    """Say what the study takes; see `run`."""
    fitted, held = parted(prompts)
    n, groups = len(model.all_heads()), kv_groups(model)
    size = len(groups[0]) if groups else 0
    pairs = TOP * (TOP - 1) // 2 + len(groups) + CLOSER * size * (size - 1) // 2
    steps = min(STEPS, n)
    # A step's backward pass and its shared run are about 5 passes; exact ones go to half the heads.
    step_rows = steps * (5 + ALONE + len(TOGETHER)) if strategy == "screened" else 0.4 * n * n
    passes = len(fitted) * (n + step_rows + pairs) + len(held) * (steps + (1 + N_RANDOM) * N_SIZES)
    seconds = ROW_COST * passes * seconds_of_pass(model, prompts)
    return StudyPlan(
        passes,
        seconds,
        f"Heads are removed one after the other on {len(fitted)} prompts and the same ones on "
        f"{len(held)} others; then pairs of heads.",
    )


def run(
    model: LanguageModel,
    prompts: PromptSet,
    *,
    intervention: str = "zero",
    strategy: str = "screened",
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Remove heads, the cheapest first, and compare pairs.

    Args:
        prompts: half of them are fitted on; of a single one nothing is held out.
        intervention: a name of `options.INTERVENTION`.
        strategy: of `elimination.STRATEGIES`.
        seed: of permutations and random orders.
        progress: called between pieces of work.
        cancel: once set, what was found so far is returned.

    Returns:
        `details` are `RedundantHeads`, None if it was cancelled before every head was run alone;
        `table` has one row a head in the order of removal, then those that stayed.

    Raises:
        UserError: a prompt that does not fit, or an intervention that cannot be made of them.
    """
    started = time.monotonic()
    model.check_one_stack("The study of redundant heads")
    work = _Work(model, prompts, intervention, strategy, seed, progress, cancel)
    stopped = "complete"
    try:
        work.do()
    except Cancelled:
        stopped = "cancelled"
    found = work.found()
    return StudyResult.of(
        "redundant-heads",
        found,
        lambda found: words.answer(found, prompts),
        words.table,
        caveats=words.caveats(prompts, found, intervention, strategy),
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
    strategy: str
    seed: int
    progress: Callable[[Progress], None] | None
    cancel: threading.Event | None
    singles: FloatArray | None = None
    """float64 [n_fitted, n_heads, 4]; None until all are done."""
    clean: FloatArray | None = None
    """float64 [n_fitted, 4], without removing anything."""
    steps: tuple[EliminationStep, ...] = ()
    held_out: FloatArray | None = None
    clean_held: FloatArray | None = None
    compared: dict[str, FloatArray] | None = None
    compared_sizes: tuple[int, ...] = ()
    others: dict[str, FloatArray] = field(default_factory=dict)
    pairs: tuple[Joint, ...] = ()
    groups: tuple[Joint, ...] = ()
    group_pairs: tuple[Joint, ...] = ()

    def do(self) -> None:
        """Do all of it.

        Raises:
            Cancelled: the work was cancelled; what is done is there.
        """
        fitted, held = parted(self.prompts)
        ways = len(others_than(self.intervention, len(self.prompts)))
        n_work = len(fitted) + STEPS + len(held) + ways * len(held or fitted) + 3
        report = Report(n_work, self.progress)
        asked = [self._ask(index) for index in fitted]
        singles = []
        for number, one in enumerate(asked, start=1):
            sets = [(), *((head,) for head in self.heads)]
            singles.append(one.effects(sets))
            report(f"Each head alone: prompt {number} of {len(asked)}")
        effects = np.stack(singles)
        self.clean, self.singles = effects[:, 0], effects[:, 1:]
        mean = self.singles[..., KL].mean(axis=0)
        for step in eliminate(self.model, asked, mean, self.strategy, LAST_KL):
            self.steps = (*self.steps, step)
            n = sum(len(step.removed) for step in self.steps)
            report(f"{n} heads removed: {step.kl:.3g} nats")
        self._on_held_out(held, report)
        self._in_other_ways(held or fitted, report)
        self._compare(asked, report)

    @property
    def heads(self) -> HeadSet:
        return self.model.all_heads()

    def _ask(self, index: int) -> AskedPrompt:
        return ask(self.model, self.prompts, index, self.intervention, self.seed, self.cancel)

    def _on_held_out(self, held: Sequence[int], report: Report) -> None:
        """Remove the same sets, and others of the same size, on the prompts held out."""
        if not held:
            return
        order = [head for step in self.steps for head in step.removed]
        sizes = np.cumsum([len(step.removed) for step in self.steps]).tolist()
        at = sorted({sizes[i] for i in np.linspace(0, len(sizes) - 1, N_SIZES).astype(int)})
        rng = np.random.default_rng(self.seed)
        orders: list[Sequence[Head]] = [[self.heads[i] for i in self._by_single_effect()]]
        for _ in range(N_RANDOM):
            orders.append([self.heads[i] for i in rng.permutation(len(self.heads))])
        sets = [(), *(tuple(order[:size]) for size in sizes)]
        sets += [tuple(other[:size]) for other in orders for size in at]
        found = []
        for number, index in enumerate(held, start=1):
            found.append(self._ask(index).effects(sets))
            report(f"The same heads removed on held-out prompt {number} of {len(held)}")
        effects = np.stack(found)
        self.clean_held, effects = effects[:, 0], effects[:, 1:]
        others = effects[:, len(sizes) :, KL].reshape(len(held), len(orders), len(at))
        self.held_out = effects[:, : len(sizes)]
        self.compared = {"single": others[:, 0], "random": others[:, 1:].mean(axis=1)}
        self.compared_sizes = tuple(at)

    def _in_other_ways(self, judged: Sequence[int], report: Report) -> None:
        """Remove what went before each threshold by the other interventions."""
        found = self.found()
        assert found is not None  # every head was run alone
        sets = found.reached
        if sets:
            self.others = in_other_ways(
                self.model, self.prompts, judged, self.intervention,
                lambda one: one.effects(sets)[:, KL], seed=self.seed, report=report,
                cancel=self.cancel,
            )  # fmt: skip

    def _by_single_effect(self) -> list[int]:
        assert self.singles is not None  # the first thing that is done
        mean = self.singles[..., KL].mean(axis=0)
        return [int(i) for i in np.argsort(mean, kind="stable")]

    def _compare(self, asked: Sequence[AskedPrompt], report: Report) -> None:
        """Remove pairs of leading heads, key-value groups, and pairs within some of these."""
        top = sorted(self.heads[i] for i in self._by_single_effect()[::-1][:TOP])
        self.pairs = self._joint(asked, list(combinations(top, 2)))
        report("Pairs of the leading heads")
        self.groups = self._joint(asked, kv_groups(self.model))
        report("Heads of each key-value group")
        closer = sorted(self.groups, key=lambda one: -one.beyond.mean())[:CLOSER]
        pairs = [pair for one in closer for pair in combinations(one.heads, 2)]
        self.group_pairs = self._joint(asked, pairs)
        report("Pairs within key-value groups")

    def _joint(self, asked: Sequence[AskedPrompt], sets: Sequence[HeadSet]) -> tuple[Joint, ...]:
        assert self.singles is not None  # the first thing that is done
        if not sets:
            return ()
        together = removal_effects(asked, sets)[..., KL]
        place = {head: i for i, head in enumerate(self.heads)}
        return tuple(
            Joint(heads, together[:, i], self.singles[:, [place[head] for head in heads], KL])
            for i, heads in enumerate(sets)
        )

    def found(self) -> RedundantHeads | None:
        if self.singles is None or self.clean is None:
            return None
        return RedundantHeads(
            n_layers=self.model.n_layers,
            n_heads=self.model.n_heads,
            heads=self.heads,
            intervention=self.intervention,
            strategy=self.strategy,
            singles=self.singles,
            clean=self.clean if self.clean_held is None else self.clean_held,
            steps=self.steps,
            held_out=self.held_out,
            compared=self.compared or {},
            compared_sizes=self.compared_sizes,
            others=self.others,
            pairs=self.pairs,
            groups=self.groups,
            group_pairs=self.group_pairs,
        )
