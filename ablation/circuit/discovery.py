"""Circuit discovery from beginning to end: score edges, find the smallest set, prove it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ablation.circuit.acdc import MOST_EDGES, acdc
from ablation.circuit.attribution import falls, n_passes, score_edges, scoring_method
from ablation.circuit.by_position import check_one_length, edges_by_position
from ablation.circuit.direct import direct_effects, repairs_of
from ablation.circuit.memory import refuse_beyond_memory
from ablation.circuit.methods import BASELINES, METHODS, METRICS
from ablation.circuit.plan import MOST_DROPS, RANDOM_ORDERS, RUNS_TAKEN, exact_runs
from ablation.circuit.proof import SHARES, cmd, cpr, least_drop
from ablation.circuit.pruning import (
    counts_between,
    drop_unneeded,
    first_edges,
    greedy_order,
    random_order,
    smallest_count,
    without_idle,
)
from ablation.circuit.question import CircuitQuestion, check_all, pose
from ablation.circuit.roles import roles_of
from ablation.circuit.types import Circuit, CurvePoint, MetricValues, PromptPair
from ablation.evaluation import Cancelled
from ablation.types import Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import Head

FAITHFULNESS = 0.85
"""What a circuit is asked for by default."""

STEPS = 5
"""Of integrated gradients, by default."""

REPAIRED = 5
"""Heads, of the largest direct effects, whose loss others may make up for."""

TOLD = 5
"""Reports behind the last exact run: roles, self-repair, held-out pairs."""


def discover_circuit(
    model: LanguageModel,
    pairs: Sequence[PromptPair | tuple[str, str, str, str]],
    method: str = "eap-ig",
    metric: str = "logit_diff",
    baseline: str = "resample",
    faithfulness: float = FAITHFULNESS,
    *,
    held_out: Sequence[PromptPair | tuple[str, str, str, str]] = (),
    steps: int = STEPS,
    by_position: bool = False,
    bos: bool | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Circuit:
    """Find the smallest set of edges that carries a prediction, and prove that it does.

    Args:
        pairs: prompts, or (clean, corrupt, answer, distractor); each clean prompt has as many
            tokens as its corrupted one.
        method, metric, baseline: names in `ablation.circuit.methods`.
        faithfulness: the share of the metric's change that the circuit has to keep.
        held_out: pairs that the circuit is measured on in the end.
        steps: of integrated gradients.
        by_position: whether the circuit's edges are scored at each position too; the pairs must
            have one length then.
        bos: whether a beginning-of-sequence token stands in front of the prompts; None leaves it
            to the tokenizer.
        progress: called with what was found so far.
        cancel: once set, what was found so far is returned.

    Raises:
        UserError: an unknown name, pairs that do not fit or take more memory than is free, nothing
            to explain, or a model whose edges cannot be patched.
    """
    _check(method, metric, baseline, faithfulness, steps)
    given, others = _pairs(pairs), _pairs(held_out)
    _refuse_too_many(model, (*given, *others), bos)
    if by_position:
        check_one_length(model, given, bos)
    check_all(model, (*given, *others), metric, bos)
    question = pose(model, given, metric, baseline, bos, cancel)
    work = _Work(question, given, others, method, baseline, faithfulness, steps, bos, progress)
    try:
        _score(work)
        _trace_curve(work)
        _choose(work)
        for tell in (_prove, _hold_out, _tell, *((_locate,) if by_position else ())):
            _noting(work, tell)
    except Cancelled:
        work.circuit = replace(work.circuit, stopped="cancelled")
    return replace(work.circuit, n_runs=question.n_runs, seconds=time.monotonic() - work.started)


@dataclass(slots=True, eq=False)
class _Work:
    """A discovery under way."""

    question: CircuitQuestion
    pairs: tuple[PromptPair, ...]
    held_out: tuple[PromptPair, ...]
    method: str
    baseline: str
    asked: float
    steps: int
    bos: bool | None
    progress: Callable[[Progress], None] | None
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    circuit: Circuit = field(init=False)
    order: np.ndarray = field(init=False)
    by_chance: list[np.ndarray] = field(init=False)
    """Random orders of the edges."""

    def __post_init__(self) -> None:
        question, graph = self.question, self.question.graph
        self.by_chance = [random_order(graph, seed) for seed in range(RANDOM_ORDERS)]
        nothing = np.zeros_like(graph.possible)
        clean, corrupt = question.value(graph.possible), question.value(nothing)
        first = question.batches[0].pairs[0]
        self.circuit = Circuit(
            model=question.model.name,
            pairs=self.pairs,
            tokens=(tuple(first.clean.labels), tuple(first.corrupt.labels)),
            method=self.method,
            metric=question.metric,
            baseline=self.baseline,
            graph=graph,
            scores=np.where(graph.possible, np.float32(np.nan), np.float32(0)),
            kept=nothing,
            values=MetricValues(clean, corrupt, corrupt),
            asked=self.asked,
        )

    @property
    def resampled(self) -> bool:
        return self.baseline == "resample"

    def measure(self, kept: np.ndarray) -> float:
        """Return the faithfulness of a set of edges."""
        values = self.circuit.values
        return (self.question.value(kept) - values.corrupt) / (values.clean - values.corrupt)

    def estimate(self, kept: np.ndarray) -> np.ndarray:
        """Return by how much faithfulness falls without each edge, to first order."""
        values = self.circuit.values
        return falls(self.question, kept) / (values.clean - values.corrupt)

    def offer(self, kept: np.ndarray, faithfulness: float) -> None:
        """Take a set of edges as the circuit so far, if it is better than the one before."""
        before, kept = self.circuit, self.tidy(kept)
        reaches = faithfulness >= self.asked
        fewer = before.reached and kept.sum() < before.n_edges
        if (reaches and (fewer or not before.reached)) or (
            not before.reached and faithfulness > before.faithfulness
        ):
            self.take(kept, faithfulness)

    def take(self, kept: np.ndarray, faithfulness: float) -> None:
        values = self.circuit.values
        at = values.corrupt + faithfulness * (values.clean - values.corrupt)
        self.circuit = replace(self.circuit, kept=kept, values=replace(values, circuit=at))

    def tidy(self, kept: np.ndarray) -> np.ndarray:
        return without_idle(self.question.graph, kept, needs_inputs=self.resampled)

    def first(self, count: int) -> np.ndarray:
        return first_edges(self.question.graph, self.order, count)

    def report(self, message: str, count: int = 1) -> None:
        self.done += count
        if self.progress is not None:
            passes = n_passes(self.method, self.steps) * len(self.question.batches)
            always, maybe = exact_runs(self.method)
            total = max(passes + always + round(RUNS_TAKEN * maybe) + TOLD, self.done)
            self.progress(Progress(self.done, total, message, self.circuit))


def _score(work: _Work) -> None:
    """Score the edges, and put them in order."""
    question, graph = work.question, work.question.graph
    scores = score_edges(
        question,
        scoring_method(work.method),
        work.steps,
        lambda _done, _all, message: work.report(message),
    )
    work.order = greedy_order(graph, scores)
    work.circuit = replace(work.circuit, scores=scores.astype(np.float32))
    if work.method == "acdc":
        start = graph.possible if graph.n_edges <= MOST_EDGES else work.first(MOST_EDGES)
        kept, drops = acdc(
            graph,
            work.measure,
            start,
            report=lambda _d, _a, message: work.report(message),
            offer=lambda left, value: work.take(work.tidy(left), value),
        )
        work.order = greedy_order(graph, np.nan_to_num(drops))
        work.circuit = replace(work.circuit, scores=drops.astype(np.float32), kept=work.tidy(kept))


def _trace_curve(work: _Work) -> None:
    """Measure faithfulness at shares of all edges, for the method's order and for random ones."""
    graph = work.question.graph
    points: list[CurvePoint] = []
    for count in counts_between(len(work.order), SHARES):
        found = work.measure(work.first(count))
        if work.method != "acdc":
            work.offer(work.first(count), found)
        by_chance = [work.measure(first_edges(graph, order, count)) for order in work.by_chance]
        points.append(CurvePoint(count, found, float(np.mean(by_chance))))
        work.circuit = replace(work.circuit, curve=tuple(points))
        work.report(f"Faithfulness of {count:,} edges: {found:.2f}", 1 + RANDOM_ORDERS)
    work.circuit = replace(
        work.circuit, cpr=cpr(points, graph.n_edges), cmd=cmd(points, graph.n_edges)
    )


def _choose(work: _Work) -> None:
    """Find the smallest circuit; ACDC has found its own."""
    if work.method != "acdc":
        curve = work.circuit.curve
        enough = [point.n_edges for point in curve if point.faithfulness >= work.asked]
        high = min(enough, default=len(work.order))
        low = max((p.n_edges for p in curve if p.n_edges < high), default=0)

        def measure(kept: np.ndarray) -> float:
            found = work.measure(kept)
            work.offer(kept, found)
            work.report(f"Smallest circuit: {int(kept.sum()):,} edges keep {found:.2f}")
            return found

        count = smallest_count(measure, work.first, low, high, work.asked)
        kept = work.tidy(work.first(count))
        _settle(work, kept)
        kept = drop_unneeded(measure, work.estimate, kept, work.asked, MOST_DROPS, work.tidy)
        _settle(work, kept)
    else:
        _settle(work, work.circuit.kept)


def _settle(work: _Work, kept: np.ndarray) -> None:
    values = replace(work.circuit.values, circuit=work.question.value(kept))
    work.circuit = replace(work.circuit, kept=kept, values=values)


def _prove(work: _Work) -> None:
    """Measure what is left without the circuit, the edge missed least, and random edges."""
    graph, circuit = work.question.graph, work.circuit
    left = work.measure(graph.possible & ~circuit.kept)
    work.circuit = replace(work.circuit, completeness=left)
    work.report("Without the circuit")
    least = least_drop(graph, work.measure, work.estimate, circuit.kept)
    work.circuit = replace(work.circuit, least_drop=least)
    work.report("Each of the weakest edges taken away")
    by_chance = [work.measure(first_edges(graph, o, circuit.n_edges)) for o in work.by_chance]
    mean = float(np.mean(by_chance))
    work.circuit = replace(work.circuit, random=mean, n_random=RANDOM_ORDERS)
    work.report("As many random edges", RANDOM_ORDERS)


def _hold_out(work: _Work) -> None:
    """Measure the circuit on pairs that it was not found on."""
    if not work.held_out:
        return
    graph, question = work.question.graph, work.question
    other = pose(
        question.model, work.held_out, question.metric, work.baseline, work.bos, question.cancel
    )
    clean, corrupt = other.value(graph.possible), other.value(np.zeros_like(graph.possible))
    kept = (other.value(work.circuit.kept) - corrupt) / (clean - corrupt)
    work.circuit = replace(work.circuit, held_out=kept)
    work.report("On pairs held out")


def _noting(work: _Work, tell: Callable[[_Work], None]) -> None:
    """Measure something about the circuit; what cannot be measured is noted, and loses nothing."""
    try:
        tell(work)
    except UserError as error:
        work.circuit = replace(work.circuit, notes=(*work.circuit.notes, str(error)))


def _tell(work: _Work) -> None:
    """Test what the heads of the circuit do, and who makes up for the loss of the strongest."""
    question, heads = work.question, work.circuit.heads
    if not heads:
        return
    work.circuit = replace(
        work.circuit, roles=roles_of(question, heads, work.circuit.kept, work.report)
    )
    effects = direct_effects(question)
    graph = question.graph

    def strength(head: Head) -> float:
        return abs(float(effects[graph.first_source(head.layer) + head.head]))

    strongest = sorted(heads, key=strength, reverse=True)[:REPAIRED]
    work.circuit = replace(work.circuit, repairs=repairs_of(question, strongest))
    work.report("Self-repair")


def _locate(work: _Work) -> None:
    """Score the circuit's edges at each position."""
    circuit = work.circuit
    found = edges_by_position(
        work.question, scoring_method(work.method), work.steps, circuit.kept, circuit.heads
    )
    work.circuit = replace(circuit, by_position=found)
    work.report("Scores by position")


def _pairs(
    pairs: Sequence[PromptPair | tuple[str, str, str, str]],
) -> tuple[PromptPair, ...]:
    return tuple(pair if isinstance(pair, PromptPair) else PromptPair(*pair) for pair in pairs)


def _refuse_too_many(model: LanguageModel, pairs: Sequence[PromptPair], bos: bool | None) -> None:
    """Refuse before anything is run what would run out of memory with the last pairs."""
    model.check_one_stack("A circuit")
    lengths = [len(model.tokenize(pair.clean, bos)) for pair in pairs]
    refuse_beyond_memory(model, lengths)


def _check(method: str, metric: str, baseline: str, faithfulness: float, steps: int) -> None:
    tables = {"method": (method, METHODS), "metric": (metric, METRICS),
              "baseline": (baseline, BASELINES)}  # fmt: skip
    for what, (name, table) in tables.items():
        if name not in table:
            raise UserError(
                ErrorKind.OPTION,
                f"There is no {what} named {name[:40]!r}; choose one of {', '.join(table)}.",
            )
    if not 0 < faithfulness <= 1:
        raise UserError(
            ErrorKind.OPTION,
            f"The faithfulness asked for is {faithfulness:g}; give a number above 0 and up to 1.",
        )
    if not isinstance(steps, int) or steps < 1:
        raise UserError(
            ErrorKind.OPTION,
            f"Integrated gradients need a whole number of steps from 1, not {steps}.",
        )
