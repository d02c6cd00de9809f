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

from ablation.contexts import Context, contexts_in, strongest
from ablation.corpus import Passage, load_corpus
from ablation.reading import read_in_parts
from ablation.studies.types import StudyResult
from ablation.types import HeadValues, MetricInfo, Progress
from models.errors import ErrorKind, UserError
from models.types import AttentionMaps, FloatArray, Head, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

QUANTILES = {"low": 0.1, "median": 0.5, "high": 0.9}
"""Column of the table -> quantile over the passages."""

N_CONTEXTS = 12

Rows = Callable[[FloatArray, np.ndarray], FloatArray]
"""(weights [n_heads, n_query, n_key], queries int64 [n_query]) -> [n_heads, n_query]."""


def _scaled(weights: FloatArray) -> FloatArray:
    """Return rows that sum to 1: sinks may have taken a share of them."""
    return weights / np.maximum(weights.sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def _entropy(weights: FloatArray, queries: np.ndarray) -> FloatArray:
    p = _scaled(weights)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)


def _distance(weights: FloatArray, queries: np.ndarray) -> FloatArray:
    distances = np.abs(queries[:, None] - np.arange(weights.shape[-1]))  # [n_query, n_key]
    return (_scaled(weights) * distances).sum(axis=-1)


def _self(weights: FloatArray, queries: np.ndarray) -> FloatArray:
    return weights[:, np.arange(len(queries)), queries]


def _previous(weights: FloatArray, queries: np.ndarray) -> FloatArray:
    return weights[:, np.arange(len(queries)), queries - 1]


def _first(weights: FloatArray, queries: np.ndarray) -> FloatArray:
    return weights[:, :, 0]


def _largest(weights: FloatArray, queries: np.ndarray) -> FloatArray:
    return weights.max(axis=-1)


def _info(name: str, label: str, unit: str, words: str) -> MetricInfo:
    return MetricInfo(name, label, unit, False, False, words)


METRICS: tuple[tuple[MetricInfo, Rows], ...] = (
    (_info("entropy", "Entropy", "nats", "entropy of a query's weights"), _entropy),
    (
        _info("mean_distance", "Mean distance", "positions", "|query - key|, weighted"),
        _distance,
    ),
    (_info("self_weight", "Weight on self", "weight", "on the query's own token"), _self),
    (
        _info("previous_weight", "Weight on previous", "weight", "on the token just before"),
        _previous,
    ),
    (_info("first_weight", "Weight on first", "weight", "on the first token of all"), _first),
    (_info("largest_weight", "Largest weight", "weight", "of a query's row"), _largest),
)
"""What is measured of each head on each passage, as the mean over all queries but the first one,
which under causal attention can only look at itself."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadDistributions:
    """Each metric of each head on each passage, and the strongest contexts of one head."""

    values: FloatArray
    """float32 [n_passages, n_metrics, n_layers, n_heads], in the order of `METRICS`; NaN for a head
    that its layer lacks."""
    passages: tuple[str, ...]
    """The ids of those measured."""
    head: Head | None = None
    contexts: tuple[Context, ...] = ()
    """Of `head`, the largest weight first."""

    def mean(self, metric: str) -> HeadValues:
        """Return the mean of a metric over the passages."""
        index = [info.name for info, _ in METRICS].index(metric)
        return HeadValues(METRICS[index][0], self.values[:, index].mean(axis=0))

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each head and metric: mean, and quantiles over the passages."""
        mean = self.values.mean(axis=0)  # [n_metrics, n_layers, n_heads]
        metric, layer, head = np.argwhere(~np.isnan(mean)).T
        quantiles = np.quantile(self.values, list(QUANTILES.values()), axis=0)
        names = np.array([info.name for info, _ in METRICS], dtype=object)
        columns = dict(zip(QUANTILES, quantiles[:, metric, layer, head], strict=True))
        return pd.DataFrame(
            {
                "layer": layer,
                "head": head,
                "metric": names[metric],
                "mean": mean[metric, layer, head].astype(float),
                **columns,
            }
        )

    def to_json(self) -> dict[str, Any]:
        metrics = {i.name: {"label": i.label, "unit": i.unit} for i, _ in METRICS}
        if self.head is None:
            return {"metrics": metrics}
        contexts = [context.to_json() for context in self.contexts]
        return {"metrics": metrics, "head": self.head.to_json(), "contexts": contexts}


def run(
    model: "LanguageModel",
    passages: Sequence[Passage] | None = None,
    *,
    head: Head | None = None,
    n_contexts: int = N_CONTEXTS,
    per_passage: int = 1,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Measure every head on every passage, and find where one head looks most.

    Args:
        passages: None for the corpus that ships with the program.
        head: whose strongest contexts are looked for.
        n_contexts: how many of them, at most `per_passage` from one passage.
        progress: called after each passage.
        cancel: looked at before each passage; once set, the distributions over those measured are
            returned.

    Returns:
        `details` are `HeadDistributions`, `table` is their frame.

    Raises:
        UserError: no passage fits the model's context, or there is no such head.
    """
    started = time.monotonic()
    if head is not None:
        model.check_heads([head])
    prompts, too_long = _fitting(model, load_corpus() if passages is None else passages)
    found: list[FloatArray] = []
    contexts: list[Context] = []
    for passage, prompt in prompts:
        if cancel is not None and cancel.is_set():
            break
        values = np.full((len(METRICS), model.n_layers, model.n_heads), np.nan, np.float32)
        for maps in read_in_parts(model, prompt):
            _measure(maps, values)
            if head in maps.heads:
                weights = maps.values[maps.heads.index(head)]
                contexts.extend(contexts_in(passage, prompt, weights, per_passage))
        found.append(values)
        if progress is not None:
            done = len(found)
            progress(Progress(done, len(prompts), f"{done} of {len(prompts)} passages"))
    empty = np.empty((0, len(METRICS), model.n_layers, model.n_heads), np.float32)
    distributions = HeadDistributions(
        np.stack(found) if found else empty,
        tuple(passage for passage, _ in prompts[: len(found)]),
        head,
        strongest(contexts, n_contexts),
    )
    return StudyResult(
        name="heads",
        answer=_answer(distributions) if found else (),
        table=distributions.to_frame() if found else pd.DataFrame(),
        caveats=_caveats(too_long, per_passage if head is not None else None),
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


def _measure(maps: AttentionMaps, values: FloatArray) -> None:
    """Write the metrics of some heads on one passage into [n_metrics, n_layers, n_heads]."""
    queries = np.arange(1, len(maps.prompt))
    weights = maps.values[:, 1:]
    layers = [head.layer for head in maps.heads]
    heads = [head.head for head in maps.heads]
    for i, (_, of_rows) in enumerate(METRICS):
        values[i, layers, heads] = of_rows(weights, queries).mean(axis=-1, dtype=np.float64)


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


def _caveats(too_long: int, per_passage: int | None) -> tuple[str, ...]:
    caveats = [
        "The passages are short (40 to 80 words each); what heads do at long range is not seen.",
        "Attention weights say where a head looks, not what it adds to the prediction.",
    ]
    if too_long:
        caveats.append(f"{too_long} passages did not fit the model's context and were left out.")
    if per_passage is not None:
        caveats.append(
            f"The strongest contexts leave the first token out and take at most {per_passage} "
            "from a passage."
        )
    return tuple(caveats)
