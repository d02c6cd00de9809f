"""How each head distributes its attention over a corpus, and the strongest contexts of one head.

A head is not judged on one prompt: each metric is measured on every passage, and what is told is
how it is distributed over them.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablation.contexts import Context, LargestWeights
from ablation.corpus import Passage, load_corpus
from ablation.distributions import (
    STATISTICS,
    MetricDistribution,
    check_statistic,
    statistic_over_passages,
)
from ablation.head_metrics import HEAD_METRICS, metrics_of
from ablation.studies.types import StudyResult
from ablation.types import HeadValues, MetricInfo, Progress
from models.errors import ErrorKind, UserError
from models.types import CROSS, ENCODER, VISION, FloatArray, Head, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

N_CONTEXTS = 12

METRICS = tuple(metric.info for metric in HEAD_METRICS.values())
"""What is measured of each head on each passage (`ablation.head_metrics`); of cross attention, what
of it means something there."""


@dataclass(frozen=True, slots=True, eq=False)
class OnPassage:
    """What was measured of every head on one passage; NaN, and position 0, for absent heads."""

    passage: str
    """Its id."""
    prompt: TokenizedPrompt
    """Whose positions the queries are."""
    metrics: FloatArray
    """float32 [n_metrics, n_layers, n_heads], in the order of `HeadDistributions.metrics`."""
    largest: FloatArray
    """float32 [n_layers, n_heads], the largest weight (`ablation.contexts`)."""
    queries: np.ndarray
    """int64 [n_layers, n_heads], from where it goes."""
    keys: np.ndarray
    """int64 [n_layers, n_heads], where it goes."""
    looked_at: TokenizedPrompt | None = None
    """Whose positions the keys are, where not `prompt`'s."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadDistributions:
    """Each metric of each head on each passage, and where on each it looks most."""

    passages: tuple[OnPassage, ...]
    head: Head | None = None
    """The one that was asked about: its strongest contexts are written out."""
    n_contexts: int = N_CONTEXTS
    stack: str = ""
    """The stack that the heads are of; empty for the main one."""

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """What was measured."""
        return tuple(metric.info for metric in metrics_of(self.stack).values())

    @property
    def values(self) -> FloatArray:
        """float32 [n_passages, n_metrics, n_layers, n_heads], in the order of `metrics`."""
        return np.stack([passage.metrics for passage in self.passages])

    @property
    def n_positions(self) -> tuple[int, ...]:
        """How many queries each passage has."""
        return tuple(len(passage.prompt) for passage in self.passages)

    def mean(self, metric: str) -> HeadValues:
        """Return the mean of a metric over the passages."""
        return self.over_passages(metric, "mean")

    def over_passages(self, metric: str, statistic: str) -> HeadValues:
        """Return a statistic of a metric over the passages, a key of `STATISTICS`.

        The metric's label says which, unless it is the mean.
        """
        info, values = self._of_metric(metric)
        found = statistic_over_passages(values, check_statistic(statistic))
        if statistic != "mean":
            info = replace(info, label=f"{info.label}, {STATISTICS[statistic]}")
        return HeadValues(info, found, stack=self.stack)

    def distribution(self, head: Head, metric: str) -> MetricDistribution:
        """Return a metric of one head on every passage.

        Raises:
            UserError: the head has no value, or it was not measured.
        """
        info, values = self._of_metric(metric)
        known = head.stack == self.stack and head.layer < values.shape[1]
        if not known or head.head >= values.shape[2] or np.isnan(values[0, head.layer, head.head]):
            raise UserError(ErrorKind.HEADS, f"The head {head} was not read on these passages.")
        ids = tuple(passage.passage for passage in self.passages)
        of_head = values[:, head.layer, head.head]
        return MetricDistribution(head, info, ids, self.n_positions, of_head)

    def _of_metric(self, metric: str) -> tuple[MetricInfo, FloatArray]:
        """Return a metric and its values, float32 [n_passages, n_layers, n_heads]."""
        names = [info.name for info in self.metrics]
        if metric not in names:
            raise UserError(
                ErrorKind.OPTION,
                f"There is no metric {metric[:40]!r} of these heads; choose one of "
                f"{', '.join(names)}.",
            )
        index = names.index(metric)
        return self.metrics[index], np.stack([p.metrics[index] for p in self.passages])

    def contexts(self, head: Head, n: int = N_CONTEXTS) -> tuple[Context, ...]:
        """Return the largest weights of a head, at most one from a passage, the largest first."""
        at = (head.layer, head.head)
        found = [
            Context(
                p.passage,
                p.prompt,
                int(p.queries[at]),
                int(p.keys[at]),
                float(p.largest[at]),
                p.looked_at,
            )
            for p in self.passages
        ]
        return tuple(sorted(found, key=lambda context: -context.weight)[:n])

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each head and metric: mean, and quantiles over the passages.

        `rank` is that of the mean among all heads, 1 for the largest.
        """
        values = self.values
        mean = values.mean(axis=0)  # [n_metrics, n_layers, n_heads]
        metric, layer, head = np.argwhere(~np.isnan(mean)).T
        names = np.array([info.name for info in self.metrics], dtype=object)
        columns = {
            name: statistic_over_passages(values, name)[metric, layer, head].astype(float)
            for name in STATISTICS
            if name != "mean"
        }
        frame = pd.DataFrame(
            {
                **({"stack": self.stack} if self.stack else {}),
                "layer": layer,
                "head": head,
                "metric": names[metric],
                "mean": mean[metric, layer, head].astype(float),
                **columns,
            }
        )
        ranks = frame.groupby("metric")["mean"].rank(ascending=False, method="first")
        return frame.assign(rank=ranks.astype(int))

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            **({"stack": self.stack} if self.stack else {}),
            "metrics": {i.name: {"label": i.label, "unit": i.unit} for i in self.metrics},
            "passages": [
                {"id": p.passage, "n_positions": n}
                for p, n in zip(self.passages, self.n_positions, strict=True)
            ],
        }
        if self.head is None or not self.passages:
            return data
        told = {i.name: self.distribution(self.head, i.name).to_json() for i in self.metrics}
        contexts = [c.to_json() for c in self.contexts(self.head, self.n_contexts)]
        return {
            **data,
            "head": self.head.to_json(),
            "distributions": told,
            "contexts": contexts,
        }


def run(
    model: "LanguageModel",
    passages: Sequence[Passage] | None = None,
    *,
    head: Head | None = None,
    stack: str = "",
    n_contexts: int = N_CONTEXTS,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Measure every head on every passage, and find where one head looks most.

    Args:
        passages: None for the corpus that ships with the program.
        head: whose distributions and strongest contexts are written out; the details have those of
            every head.
        stack: of an encoder-decoder, whose heads are read, by default those of the head's. The
            encoder reads the passage, and then the decoder has written nothing; the decoder and
            cross attention are read while the decoder has written the passage that the encoder
            reads too.
        n_contexts: how many of them, at most one from a passage.
        progress: called after each passage.
        cancel: looked at before each passage; once set, the distributions over those measured are
            returned.

    Returns:
        `details` are `HeadDistributions`, `table` is their frame.

    Raises:
        UserError: no passage fits the model's context, or there is no such head or stack.
    """
    started = time.monotonic()
    stack = _stack_of(model, head, stack)
    prompts, too_long = _fitting(model, load_corpus() if passages is None else passages, stack)
    found: list[OnPassage] = []
    for passage, prompt in prompts:
        if cancel is not None and cancel.is_set():
            break
        found.append(_measure(model, passage, prompt, stack))
        if progress is not None:
            done = len(found)
            progress(Progress(done, len(prompts), f"{done} of {len(prompts)} passages"))
    distributions = HeadDistributions(tuple(found), head, n_contexts, stack)
    return StudyResult(
        name="heads",
        answer=_answer(distributions) if found else (),
        table=distributions.to_frame() if found else pd.DataFrame(),
        caveats=_caveats(model, stack, too_long, head is not None),
        n_prompts=len(found),
        seconds=time.monotonic() - started,
        details=distributions,
        stopped="complete" if len(found) == len(prompts) else "cancelled",
    )


def _stack_of(model: "LanguageModel", head: Head | None, stack: str) -> str:
    """Return the stack that is read."""
    named = model.stacks.named(stack).name
    if head is None:
        return named
    model.check_heads([head])
    if stack and head.stack != named:
        raise UserError(
            ErrorKind.HEADS,
            f"The head {head} is not of the stack {stack!r}; leave the stack out, or name another "
            "head.",
        )
    return head.stack


def _fitting(
    model: "LanguageModel", passages: Sequence[Passage], stack: str
) -> tuple[list[tuple[str, TokenizedPrompt]], int]:
    """Return the passages that fit the model's context, by id, and how many do not."""
    prompts = []
    model.refuse_text_alone("The corpus")
    named = model.stacks.named(stack)
    if named.name == VISION:
        raise UserError(
            ErrorKind.HEADS,
            "The corpus is text, which the heads of the vision tower never see; choose the "
            "language stack.",
        )
    writes = model.kind == "encoder-decoder" and named.queries == "prompt"
    for passage in passages:
        try:
            prompt = model.tokenize(passage.text, decoder=passage.text if writes else None)
        except UserError:
            continue
        if len(model.stacks.axes(prompt, stack).queries) > 1:
            prompts.append((passage.id, prompt))
    if not prompts:
        raise UserError(
            ErrorKind.PROMPT,
            f"None of the {len(passages)} passages fits the context of {model.name}, which holds "
            f"{model.max_positions} tokens; give shorter ones, of at least two tokens.",
        )
    return prompts, len(passages) - len(prompts)


def _measure(
    model: "LanguageModel", passage: str, prompt: TokenizedPrompt, stack: str
) -> OnPassage:
    """Read every head of a stack on one passage, once."""
    from ablation.summaries import MetricMeans  # torch comes with it
    from models.attention_reading import SeveralReaders

    named = model.stacks.named(stack)
    axes = model.stacks.axes(prompt, stack)
    means = MetricMeans(model, axes, stack)
    largest = LargestWeights(named.n_layers, named.n_heads)
    model.read_attention(prompt, SeveralReaders((means, largest)), stack=stack)
    return OnPassage(
        passage,
        axes.queries,
        means.values(),
        largest.weights,
        largest.queries,
        largest.keys,
        None if axes.own else axes.keys,
    )


def _answer(distributions: HeadDistributions) -> tuple[str, ...]:
    first = distributions.mean("first_weight").values
    counted = first[~np.isnan(first)]
    of_source = " of the source" if distributions.stack == CROSS else ""
    sentences = [
        f"On average over all heads {100 * counted.mean():.0f} % of the attention goes to the "
        f"first token{of_source}; {int((counted > 0.5).sum())} of {counted.size} heads put more "
        "than half of theirs there."
    ]
    measured = {info.name for info in distributions.metrics}
    for metric, words in (
        ("previous_weight", "looks at the previous token"),
        ("self_weight", "looks at its own token"),
        ("mean_distance", "looks farthest away" if distributions.stack else "looks farthest back"),
    ):
        if metric not in measured:
            continue
        scores = distributions.mean(metric)
        leader, value = scores.ranked()[0]
        sentences.append(f"{leader} {words} most: {value:.3g} {scores.metric.unit} on average.")
    return tuple(sentences)


def _caveats(
    model: "LanguageModel", stack: str, too_long: int, with_contexts: bool
) -> tuple[str, ...]:
    caveats = [
        "The passages are short (40 to 80 words each); what heads do at long range is not seen.",
        "Attention weights say where a head looks, not what it adds to the prediction.",
    ]
    if model.kind == "encoder-decoder" and stack != ENCODER:
        caveats.append("The decoder wrote each passage while the encoder read the same passage.")
    if too_long:
        caveats.append(f"{too_long} passages did not fit the model's context and were left out.")
    if with_contexts:
        caveats.append(
            "The strongest contexts leave the first token out, and take one from a passage at most."
        )
    return tuple(caveats)
