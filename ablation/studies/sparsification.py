"""Does structured sparsification reveal essential and inessential heads?

One gate a head is learned on half of the prompts, with a penalty on open gates at several strengths
(`ablation.studies.gates`), starting from the effects of heads alone. On the other half, which
shares no template with it where there are several, gates are 0 or 1: the heads that stay are
compared with as many heads of the largest effect alone (on the fitted half) and with random ones.
The part kept is 1 - KL / KL without any head.

The essential core is the fewest heads, ranked by their learned gates, from which on the part kept
is at least 95 %. Beside it: how sparse the heads' outputs z themselves are.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ablation.evaluation import Cancelled
from ablation.interventions import Sparsify
from ablation.studies import sparsification_words as words
from ablation.studies.asked import AskedPrompt, Report, ask, seconds_of_pass
from ablation.studies.columns import KL, HeadSet
from ablation.studies.gates import BATCH, is_open, learn_gates
from ablation.studies.prompts import PromptSet
from ablation.studies.removals import kv_groups, parted
from ablation.studies.side_by_side import in_other_ways, others_than
from ablation.studies.sparsification_found import FRACTIONS, STRENGTHS, SparseHeads
from ablation.studies.types import StudyPlan, StudyResult
from ablation.types import Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray

RANKED_ON = 4
"""Prompts of the fitted half on which each head is removed alone, for the ranking."""
N_RANDOM = 2
"""Random orders of heads."""
GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Parts of all heads that are kept, beside as many as the gates leave open at each strength."""
SPARSE_ON = 8
"""Held-out prompts on which z is made sparse."""
ENERGY = 0.9
"""Of the sum of squares of z: how many entries hold it."""


def plan(model: LanguageModel, prompts: PromptSet, *, steps: int = 30, **_others: Any) -> StudyPlan:
    """Say what the study takes; see `run`."""
    _check(model, prompts)
    fitted, held = parted(prompts)
    n_sizes = len(GRID) + len(STRENGTHS)
    learning = 3.0 * len(STRENGTHS) * steps * min(BATCH, len(fitted))
    ranking = 0.5 * len(model.all_heads()) * min(RANKED_ON, len(fitted))
    judging = len(held) * n_sizes * (2 + N_RANDOM) + 3 * len(FRACTIONS) * min(SPARSE_ON, len(held))
    passes = learning + ranking + judging
    return StudyPlan(
        passes,
        passes * seconds_of_pass(model, prompts),
        f"Gates are learned in {len(STRENGTHS) * steps} steps on {len(fitted)} prompts, then heads "
        f"are removed on {len(held)} others.",
    )


def run(
    model: LanguageModel,
    prompts: PromptSet,
    *,
    intervention: str = "zero",
    steps: int = 30,
    share: float = 95.0,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Learn gates on half of the prompts, and judge the heads that stay on the other half.

    Args:
        prompts: at least two.
        intervention: what takes the place of z where a gate is closed: "zero" or "mean".
        steps: gradient steps at each strength.
        share: percent that the essential core has to keep.
        seed: of the gates that are drawn, and of random orders.
        progress: called between pieces of work.
        cancel: once set, what was found so far is returned.

    Returns:
        `details` are `SparseHeads`, `table` has one row a head; both are empty if it was cancelled
        before gates were learned at the first strength.

    Raises:
        UserError: there is one prompt only, one that does not fit, or the model is an
            encoder-decoder.
    """
    started = time.monotonic()
    _check(model, prompts)
    work = _Work(model, prompts, intervention, steps, share, seed, progress, cancel)
    stopped = "complete"
    try:
        work.do()
    except Cancelled:
        stopped = "cancelled"
    found = work.found()
    return StudyResult.of(
        "sparsification",
        found,
        lambda found: words.answer(found, prompts),
        words.table,
        caveats=words.caveats(prompts, found, intervention, steps),
        n_prompts=len(prompts) if found is not None else 0,
        started=started,
        stopped=stopped,
    )


def _check(model: LanguageModel, prompts: PromptSet) -> None:
    model.check_one_stack("The study of sparsification")
    if len(prompts) < 2:
        raise UserError(
            ErrorKind.PROMPT,
            "Gates are learned on one half of the prompts and judged on the other, and there is "
            "one prompt only; give at least 2.",
        )


@dataclass(slots=True, eq=False)
class _Work:
    """The study while it runs, and all that it has found so far."""

    model: LanguageModel
    prompts: PromptSet
    intervention: str
    n_steps: int
    share: float
    seed: int
    progress: Callable[[Progress], None] | None
    cancel: threading.Event | None
    learned: list[FloatArray] = field(default_factory=list)
    """`log_alpha` at the end of each strength, float64 [n_heads] in the order of `all_heads`."""
    ranking: FloatArray | None = None
    """float64 [n_heads], mean KL without each head alone."""
    sizes: tuple[int, ...] = ()
    kept: dict[str, FloatArray] = field(default_factory=dict)
    nothing: FloatArray | None = None
    others: dict[str, FloatArray] = field(default_factory=dict)
    sparse: FloatArray | None = None
    entries: FloatArray | None = None

    def do(self) -> None:
        """Do all of it.

        Raises:
            Cancelled: the work was cancelled; what is done is there.
        """
        fitted, held = parted(self.prompts)
        n_ranked, n_sparse = min(RANKED_ON, len(fitted)), min(SPARSE_ON, len(held))
        # In units of a gradient step; a prompt's other work is as much as a few of them.
        total = len(STRENGTHS) * self.n_steps + 10 * n_ranked + 5 * len(held) + 2 * n_sparse
        total += len(held) * len(others_than(self.intervention, len(self.prompts)))
        report = Report(total, self.progress)
        asked = [self._ask(index) for index in fitted]
        singles = []
        for number, one in enumerate(asked[:n_ranked], start=1):
            singles.append(one.effects([(head,) for head in self.heads])[:, KL])
            report(f"Each head alone: prompt {number} of {n_ranked}", 10)
        self.ranking = np.mean(singles, axis=0)
        self._learn(asked, self.ranking, report)
        self._judge(held, report)
        self._in_other_ways(held, report)
        self._outputs(held[:n_sparse], report)

    @property
    def heads(self) -> HeadSet:
        return self.model.all_heads()

    def _ask(self, index: int) -> AskedPrompt:
        return ask(self.model, self.prompts, index, self.intervention, self.seed, self.cancel)

    def _learn(self, asked: Sequence[AskedPrompt], ranking: FloatArray, report: Report) -> None:
        run = self.model.head_sets.gated([one.question.posed for one in asked])
        effects = np.full(run.shape, np.nan)
        for head, effect in zip(self.heads, ranking, strict=True):
            effects[head.layer, head.head] = effect
        steps = learn_gates(run, asked, STRENGTHS, self.n_steps, self.seed, effects)
        for number, (index, kl, log_alpha) in enumerate(steps, start=1):
            flat = np.array([log_alpha[head.layer, head.head] for head in self.heads])
            if number % self.n_steps == 0:
                self.learned.append(flat)
            report(
                f"Learning gates at {STRENGTHS[index]:g} nats a head: {int(is_open(flat).sum())} "
                f"open, KL {kl:.3g}"
            )

    def _judge(self, held: Sequence[int], report: Report) -> None:
        """Remove all but so many heads, by each ranking, on the prompts held out."""
        assert self.ranking is not None  # made just before
        n = len(self.heads)
        counts = {int(is_open(learned).sum()) for learned in self.learned}
        counts |= {round(part * n) for part in GRID}
        sizes = tuple(sorted(count for count in counts if 0 < count < n))
        rng = np.random.default_rng(self.seed)
        draws = [rng.random(n) for _ in range(N_RANDOM)]
        sets = [self._without(self._learned_for(size), size) for size in sizes]
        for values in (self.ranking, *draws):
            sets += [self._without(values, size) for size in sizes]
        found = []
        for number, index in enumerate(held, start=1):
            found.append(self._ask(index).effects([self.heads, *sets]))
            report(f"Heads removed on held-out prompt {number} of {len(held)}", 5)
        effects = np.stack(found)
        parts = effects[:, 1:].reshape(len(held), 2 + N_RANDOM, len(sizes), -1)
        self.sizes, self.nothing = sizes, effects[:, 0]
        self.kept = {
            "learned": parts[:, 0],
            "single": parts[:, 1],
            "random": parts[:, 2:].mean(axis=1),
        }

    def _in_other_ways(self, held: Sequence[int], report: Report) -> None:
        """Close the gates of the core by the other interventions."""
        found = self.found()
        core = None if found is None else found.core
        assert core is not None  # gates were judged just before
        closed = tuple(head for head in self.heads if head not in core.heads)
        if closed:
            self.others = in_other_ways(
                self.model, self.prompts, held, self.intervention,
                lambda one: one.effects([self.heads, closed])[:, KL], seed=self.seed,
                report=report, cancel=self.cancel,
            )  # fmt: skip

    def _learned_for(self, size: int) -> FloatArray:
        """Return the learned values that rank heads best where so many stay: those of the strength
        that leaves about as many open."""
        return min(self.learned, key=lambda learned: abs(int(is_open(learned).sum()) - size))

    def _without(self, values: FloatArray, size: int) -> HeadSet:
        """Return all heads but the `size` of the largest values."""
        order = np.argsort(-values, kind="stable")
        return tuple(sorted(self.heads[i] for i in order[size:]))

    def _outputs(self, held: Sequence[int], report: Report) -> None:
        """Keep only the largest entries of z, and count in how many most of it is."""
        model = self.model
        effects, entries = [], []
        for number, index in enumerate(held, start=1):
            own = []
            for fraction in FRACTIONS:
                sparsify = Sparsify(fraction=fraction)
                one = ask(model, self.prompts, index, sparsify, self.seed, self.cancel)
                own.append(one.effects([self.heads])[0])
            effects.append(own)
            entries.append(self._entries(index))
            report(f"Small entries of z removed: prompt {number} of {len(held)}", 2)
        self.sparse, self.entries = np.array(effects), np.mean(entries, axis=0)

    def _entries(self, index: int) -> FloatArray:
        """Return which part of each head's entries holds `ENERGY` of its z, float64 [n_heads]."""
        prompt = self.model.tokenize(self.prompts.texts[index])
        outputs = self.model.head_outputs(prompt, range(self.model.n_layers))
        parts = []
        for head in self.heads:
            z = outputs[head.layer][:, head.head].double().cpu().numpy()
            energy = np.sort((z**2).ravel())[::-1].cumsum()
            enough = ENERGY * energy[-1]
            # A head that puts out nothing has no entries to speak of.
            silent = energy[-1] == 0
            parts.append(np.nan if silent else (1 + np.searchsorted(energy, enough)) / z.size)
        return np.array(parts)

    def found(self) -> SparseHeads | None:
        if not self.learned:
            return None
        return SparseHeads(
            n_layers=self.model.n_layers,
            n_heads=self.model.n_heads,
            heads=self.heads,
            groups=tuple(kv_groups(self.model)),
            intervention=self.intervention,
            share=self.share,
            strengths=STRENGTHS[: len(self.learned)],
            learned=np.stack(self.learned),
            ranking=self.ranking,
            sizes=self.sizes,
            kept=self.kept,
            nothing=self.nothing,
            others=self.others,
            sparse=self.sparse,
            entries=self.entries,
        )
