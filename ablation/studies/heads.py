"""How each head distributes its attention over a corpus, and the strongest contexts of one head.

A head is not judged on one prompt: each metric is measured on every passage, and what is told is
how it is distributed over them.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablation.contexts import Context, LargestWeights
from ablation.corpus import Passage, load_corpus
from ablation.head_metrics import HEAD_METRICS
from ablation.studies.types import StudyResult
from ablation.types import HeadValues, Progress
from models.errors import ErrorKind, UserError
from models.types import FloatArray, Head, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

QUANTILES = {"low": 0.1, "median": 0.5, "high": 0.9}
"""Column of the table -> quantile over the passages."""

N_CONTEXTS = 12

METRICS = tuple(metric.info for metric in HEAD_METRICS.values())
"""What is measured of each head on each passage (`ablation.head_metrics`)."""


@dataclass(frozen=True, slots=True, eq=False)
class OnPassage:
    """What was measured of every head on one passage; NaN, and position 0, for absent heads."""

    passage: str
    """Its id."""
    prompt: TokenizedPrompt
    metrics: FloatArray
    """float32 [n_metrics, n_layers, n_heads], in the order of `METRICS`."""
    largest: FloatArray
    """float32 [n_layers, n_heads], the largest weight (`ablation.contexts`)."""
    queries: np.ndarray
    """int64 [n_layers, n_heads], from where it goes."""
    keys: np.ndarray
    """int64 [n_layers, n_heads], where it goes."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadDistributions:
    """Each metric of each head on each passage, and where on each it looks most."""

    passages: tuple[OnPassage, ...]
    head: Head | None = None
    """The one that was asked about: its strongest contexts are written out."""
    n_contexts: int = N_CONTEXTS

    @property
    def values(self) -> FloatArray:
        """float32 [n_passages, n_metrics, n_layers, n_heads], in the order of `METRICS`."""
        return np.stack([passage.metrics for passage in self.passages])

    def mean(self, metric: str) -> HeadValues:
        """Return the mean of a metric over the passages."""
        index = [info.name for info in METRICS].index(metric)
        return HeadValues(METRICS[index], self.values[:, index].mean(axis=0))

    def contexts(self, head: Head, n: int = N_CONTEXTS) -> tuple[Context, ...]:
        """Return the largest weights of a head, at most one from a passage, the largest first."""
        at = (head.layer, head.head)
        found = [
            Context(p.passage, p.prompt, int(p.queries[at]), int(p.keys[at]), float(p.largest[at]))
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
        quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
        names = np.array([info.name for info in METRICS], dtype=object)
        columns = dict(zip(QUANTILES, quantiles[:, metric, layer, head], strict=True))
        frame = pd.DataFrame(
            {
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
        metrics = {i.name: {"label": i.label, "unit": i.unit} for i in METRICS}
        if self.head is None:
            return {"metrics": metrics}
        contexts = [c.to_json() for c in self.contexts(self.head, self.n_contexts)]
        return {"metrics": metrics, "head": self.head.to_json(), "contexts": contexts}


def run(
    model: "LanguageModel",
    passages: Sequence[Passage] | None = None,
    *,
    head: Head | None = None,
    n_contexts: int = N_CONTEXTS,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Measure every head on every passage, and find where one head looks most.

    Args:
        passages: None for the corpus that ships with the program.
        head: whose strongest contexts are written out; the details have those of every head.
        n_contexts: how many of them, at most one from a passage.
        progress: called after each passage.
        cancel: looked at before each passage; once set, the distributions over those measured are
            returned.

    Returns:
        `details` are `HeadDistributions`, `table` is their frame.

    Raises:
        UserError: no passage fits the model's context, there is no such head, or the model is an
            encoder-decoder.
    """
    started = time.monotonic()
    model.check_one_stack("The study of heads over a corpus")
    if head is not None:
        model.check_heads([head])
    prompts, too_long = _fitting(model, load_corpus() if passages is None else passages)
    found: list[OnPassage] = []
    for passage, prompt in prompts:
        if cancel is not None and cancel.is_set():
            break
        found.append(_measure(model, passage, prompt))
        if progress is not None:
            done = len(found)
            progress(Progress(done, len(prompts), f"{done} of {len(prompts)} passages"))
    distributions = HeadDistributions(tuple(found), head, n_contexts)
    return StudyResult(
        name="heads",
        answer=_answer(distributions) if found else (),
        table=distributions.to_frame() if found else pd.DataFrame(),
        caveats=_caveats(too_long, head is not None),
        n_prompts=len(found),
        seconds=time.monotonic() - started,
        details=distributions,
        stopped="complete" if len(found) == len(prompts) else "cancelled",
    )


def _fitting(
    model: "LanguageModel", passages: Sequence[Passage]
) -> tuple[list[tuple[str, TokenizedPrompt]], int]:
    """Return the passages that fit the model's context, by id, and how many do not."""
    prompts = []
    for passage in passages:
        try:
            prompt = model.tokenize(passage.text)
        except UserError:
            continue
        if len(prompt) > 1:
            prompts.append((passage.id, prompt))
    if not prompts:
        raise UserError(
            ErrorKind.PROMPT,
            f"None of the {len(passages)} passages fits the context of {model.name}, which holds "
            f"{model.max_positions} tokens; give shorter ones, of at least two tokens.",
        )
    return prompts, len(passages) - len(prompts)


def _measure(model: "LanguageModel", passage: str, prompt: TokenizedPrompt) -> OnPassage:
    """Read every head on one passage, once."""
    from ablation.summaries import MetricMeans  # torch comes with it
    from models.attention_reading import SeveralReaders

    means = MetricMeans(model, len(prompt))
    largest = LargestWeights(model.n_layers, model.n_heads)
    model.read_attention(prompt, SeveralReaders((means, largest)))
    return OnPassage(
        passage, prompt, means.values(), largest.weights, largest.queries, largest.keys
    )


def _answer(distributions: HeadDistributions) -> tuple[str, ...]:
    first = distributions.mean("first_weight").values
    counted = first[~np.isnan(first)]
    sentences = [
        f"On average over all heads {100 * counted.mean():.0f} % of the attention goes to the "
        f"first token; {int((counted > 0.5).sum())} of {counted.size} heads put more than half "
        "of theirs there."
    ]
    for metric, words in (
        ("previous_weight", "looks at the previous token"),
        ("self_weight", "looks at its own token"),
        ("mean_distance", "looks farthest back"),
    ):
        scores = distributions.mean(metric)
        leader, value = scores.ranked()[0]
        sentences.append(f"{leader} {words} most: {value:.3g} {scores.metric.unit} on average.")
    return tuple(sentences)


def _caveats(too_long: int, with_contexts: bool) -> tuple[str, ...]:
    caveats = [
        "The passages are short (40 to 80 words each); what heads do at long range is not seen.",
        "Attention weights say where a head looks, not what it adds to the prediction.",
    ]
    if too_long:
        caveats.append(f"{too_long} passages did not fit the model's context and were left out.")
    if with_contexts:
        caveats.append(
            "The strongest contexts leave the first token out, and take one from a passage at most."
        )
    return tuple(caveats)
