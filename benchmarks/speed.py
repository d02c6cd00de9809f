"""The seconds that a sweep and a search take, the program and its competitors in turns.

Loops run a sample of heads spread over the layers (every forward pass costs the same, whichever
head it ablates) and are scaled up; for a search they are extrapolated: (heads left) forward passes
a step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from ablation import HeadScores, SearchResult, search_heads, sweep_heads
from benchmarks.agreement import Agreement, compare
from benchmarks.flops import ModelShape, born_in_search, growing_batch_flops, needed_flops
from benchmarks.loops import LensLoop, PlainLoop, spread
from benchmarks.machine import matrix_rate, seconds
from benchmarks.subjects import Subject, prompt_of_length
from models import LanguageModel, TokenizedPrompt

N_COMPARED = 7
"""Heads on which competitors have to agree with the program."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    search_heads: int
    """Steps of the searches."""
    strategies: tuple[str, ...]
    """Of the search; empty: only sweeps."""
    most_sampled: int
    """Forward passes of a loop that are timed in a round, at most."""

    def n_sampled(self, n_tokens: int) -> int:
        """Return how many forward passes of one row are timed: fewer where each takes long."""
        return max(3, min(self.most_sampled, 4096 // n_tokens))

    def n_sampled_layers(self, n_tokens: int) -> int:
        return max(2, self.n_sampled(n_tokens) // 4)


@dataclass(frozen=True, slots=True, eq=False)
class Contenders:
    """One model, loaded once for each who runs it."""

    subject: Subject
    shape: ModelShape
    ours: LanguageModel
    plain: PlainLoop
    lens: LensLoop | None
    """None without the peers."""

    @staticmethod
    def of(subject: Subject, peers: bool) -> "Contenders":
        plain = PlainLoop(subject)
        lens = LensLoop(subject) if peers else None
        return Contenders(subject, ModelShape.of(plain.model), subject.load(), plain, lens)


@dataclass(frozen=True, slots=True, eq=False)
class Timed(Generic[Answer]):
    """What the program answered, how long that took, and what the machine could do meanwhile."""

    answer: Answer
    seconds: float
    rate: float
    """Operations a second of a large matrix product: the mean of just before and just after."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One turn of everybody."""

    plain_forward: float
    """Seconds of one forward pass of the plain loop, the mean over the sample; likewise below."""
    lens_forward: float | None
    lens_layer: float | None
    """Seconds of TransformerLens's forward pass with a row for each head of a layer."""
    sweep: Timed[HeadScores]
    searches: dict[str, Timed[SearchResult]]
    """Strategy -> its search."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """All rounds of one model at one prompt length."""

    label: str
    n_tokens: int
    shape: ModelShape
    rounds: tuple[Round, ...]
    agreements: tuple[Agreement, ...]

    @property
    def n_heads(self) -> int:
        return self.shape.n_layers * self.shape.n_heads

    @property
    def sweep_limit_flops(self) -> int:
        return growing_batch_flops(self.shape, self.n_tokens, self._all_born)

    @property
    def sweep_needed_flops(self) -> int:
        return needed_flops(self.shape, self.n_tokens, self._all_born)

    @property
    def _all_born(self) -> list[int]:
        return [self.shape.n_heads] * self.shape.n_layers

    def search_limit_flops(self, found: SearchResult) -> int:
        """Count the growing batch of every step that an exact search took."""
        steps = born_in_search(self.shape, [step.head.layer for step in found.steps])
        return sum(growing_batch_flops(self.shape, self.n_tokens, born) for born in steps)

    def search_passes(self, found: SearchResult) -> int:
        """Return how many forward passes a loop takes for these steps."""
        return sum(self.n_heads - k for k in range(len(found.steps)))


def measure(contenders: Contenders, n_tokens: int, plan: Plan) -> Measured:
    """Let everybody take their turns at one prompt length, then compare their numbers."""
    prompt = prompt_of_length(contenders.ours, n_tokens)
    _warm_up(contenders, prompt)
    rounds = tuple(_round(contenders, prompt, plan) for _ in range(plan.rounds))
    agreements = _agreements(contenders, prompt, rounds[0].sweep.answer)
    return Measured(contenders.subject.label, n_tokens, contenders.shape, rounds, agreements)


def _warm_up(contenders: Contenders, prompt: TokenizedPrompt) -> None:
    head = contenders.ours.all_heads()[0]
    contenders.ours.predict(prompt)
    contenders.plain.logits(prompt.ids, head)
    if contenders.lens is not None:
        contenders.lens.logits(prompt.ids, head)
        contenders.lens.layer_logits(prompt.ids, head.layer)


def _round(contenders: Contenders, prompt: TokenizedPrompt, plan: Plan) -> Round:
    ours, plain, lens = contenders.ours, contenders.plain, contenders.lens
    heads = spread(ours.all_heads(), plan.n_sampled(len(prompt)))
    layers = spread(range(ours.n_layers), plan.n_sampled_layers(len(prompt)))
    lens_forward = lens_layer = None
    plain_forward = _mean_seconds([partial(plain.logits, prompt.ids, head) for head in heads])
    if lens is not None:
        lens_forward = _mean_seconds([partial(lens.logits, prompt.ids, head) for head in heads])
        lens_layer = _mean_seconds([partial(lens.layer_logits, prompt.ids, n) for n in layers])
    sweep = _timed(lambda: sweep_heads(ours, prompt))
    searches = {strategy: _search(ours, prompt, plan, strategy) for strategy in plan.strategies}
    return Round(plain_forward, lens_forward, lens_layer, sweep, searches)


def _search(
    model: LanguageModel, prompt: TokenizedPrompt, plan: Plan, strategy: str
) -> Timed[SearchResult]:
    return _timed(
        lambda: search_heads(model, prompt, max_heads=plan.search_heads, strategy=strategy)
    )


def _mean_seconds(works: Sequence[Callable[[], object]]) -> float:
    return sum(seconds(work) for work in works) / len(works)


def _timed(work: Callable[[], Answer]) -> Timed[Answer]:
    answers: list[Answer] = []
    before = matrix_rate()
    took = seconds(lambda: answers.append(work()))
    return Timed(answers[0], took, (before + matrix_rate()) / 2)


def _agreements(
    contenders: Contenders, prompt: TokenizedPrompt, sweep: HeadScores
) -> tuple[Agreement, ...]:
    ours, plain, lens = contenders.ours, contenders.plain, contenders.lens
    heads = spread(ours.all_heads(), N_COMPARED)
    ways = {plain.name: lambda h: plain.logits(prompt.ids, h)}
    if lens is not None:
        ways[lens.name] = lambda h: lens.logits(prompt.ids, h)
        ways["TL by layer"] = lambda h: lens.layer_logits(prompt.ids, h.layer)[h.head]
    return tuple(compare(name, way, ours, prompt, sweep, heads) for name, way in ways.items())
