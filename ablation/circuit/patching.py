"""Head patching: each head's output replaced by that of the other prompt of a pair, exactly.

Noising takes the clean prompt and puts in what the head puts out on the corrupted one: how much the
metric falls tells how much the head is needed. Denoising takes the corrupted prompt and puts in
what the head puts out on the clean one: how much the metric rises tells how much the head is enough
by itself (Heimersheim and Nanda, arXiv 2404.15255, tell when which is asked). Many heads share a
pass (`models.head_sets`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from ablation.circuit.methods import DIRECTIONS
from ablation.circuit.pairs import PosedPair
from ablation.circuit.question import check_all, refuse_no_effect
from ablation.circuit.types import PromptPair
from ablation.evaluation import Cancelled, pose
from ablation.interventions import Resample
from ablation.types import HeadValues, MetricInfo, PositionScores, Progress, without_nan
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray, Head, Prediction, TokenizedPrompt

EFFECT = MetricInfo(
    "patching",
    "Share of the effect",
    "",
    diverging=True,
    needs_target=False,
    description="How far the metric moves towards the other prompt's, as a share of the whole way.",
    sign="towards the other prompt",
)


@dataclass(frozen=True, slots=True, eq=False)
class HeadPatching:
    """What replacing each head's output alone does to the metric."""

    direction: str
    metric: str
    """"logit_diff" or "logprob"."""
    clean: float
    """The metric on the clean prompts, mean over the pairs."""
    corrupt: float
    values: FloatArray
    """float32 [n_layers, n_heads]: the share of the way from the run patched to the other prompt's
    metric; 1 where the head carries all of it. NaN where a head was not patched."""
    by_position: FloatArray | None = None
    """float32 [n_layers, n_heads, n_positions]: the same, patched at one position alone."""
    labels: tuple[str, ...] = ()
    """Of the positions."""
    prompt: TokenizedPrompt | None = None
    """The first pair's clean prompt, whose positions they are."""
    baseline: Prediction | None = None
    """What is predicted after it."""
    n_pairs: int = 1
    stopped: str = "complete"
    """"complete"; "cancelled" when not every head was patched on every pair."""

    @property
    def scores(self) -> HeadValues:
        """The values as a map of heads."""
        return HeadValues(EFFECT, self.values, self.stopped)

    def position_scores(self, heads: Sequence[Head]) -> PositionScores | None:
        """The values of some heads by position; None if it was not patched by position."""
        if self.by_position is None or self.prompt is None or self.baseline is None:
            return None
        rows = np.array([self.by_position[head.layer, head.head] for head in heads])
        return PositionScores(
            EFFECT, tuple(heads), rows, self.prompt, self.baseline, stopped=self.stopped
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row a head: `layer`, `head`, `effect`."""
        layers, heads = np.indices(self.values.shape).reshape(2, -1)
        frame = pd.DataFrame({"layer": layers, "head": heads, "effect": self.values.reshape(-1)})
        return frame.dropna()

    def to_json(self) -> dict[str, Any]:
        positions = self.by_position
        return {
            "direction": self.direction,
            "metric": self.metric,
            "values": {"clean": self.clean, "corrupt": self.corrupt},
            "scores": without_nan(self.values),
            "by_position": None if positions is None else [without_nan(p) for p in positions],
            "labels": list(self.labels),
            "n_pairs": self.n_pairs,
            "stopped": self.stopped,
        }


def patch_heads(
    model: LanguageModel,
    pairs: Sequence[PromptPair],
    direction: str = "noising",
    metric: str = "logit_diff",
    *,
    by_position: bool = False,
    heads: Sequence[Head] | None = None,
    bos: bool | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> HeadPatching:
    """Replace each head's output by the other prompt's, one head at a time.

    Args:
        direction: a name in `ablation.circuit.methods.DIRECTIONS`.
        metric: "logit_diff" (answer less distractor) or "logprob" (of the answer).
        by_position: whether to patch at each position alone too; for one pair only.
        heads: those that are patched at each position; None for all.
        bos: whether a beginning-of-sequence token stands in front of the prompts; None leaves it
            to the tokenizer.
        progress: called after each pass with the shares found so far.
        cancel: looked at before each pass; once set, what was found so far is returned.

    Raises:
        UserError: pairs that do not fit, an unknown name, or nothing to explain.
    """
    if direction not in DIRECTIONS:
        raise UserError(
            ErrorKind.OPTION,
            f"There is no direction {direction[:40]!r}; choose one of {', '.join(DIRECTIONS)}.",
        )
    if by_position and len(pairs) != 1:
        raise UserError(
            ErrorKind.OPTION,
            f"Patching by position takes one pair, as positions of others differ; {len(pairs)} "
            "were given.",
        )
    if metric not in ("logit_diff", "logprob"):
        raise UserError(
            ErrorKind.OPTION,
            f"Head patching is measured by logit_diff or logprob, not by {metric[:40]!r}.",
        )
    posed = check_all(model, pairs, metric, bos)
    narrowed = model.check_heads(model.all_heads() if heads is None else heads)
    at_positions = narrowed if by_position else ()
    work = _Work(model, posed, direction, metric, at_positions, progress, cancel)
    try:
        work.run()
    except Cancelled:
        return work.result("cancelled")
    return work.result("complete")


class _Work:
    """Head patching under way."""

    def __init__(
        self,
        model: LanguageModel,
        posed: Sequence[PosedPair],
        direction: str,
        metric: str,
        at_positions: Sequence[Head],
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        self._model, self._posed, self._metric = model, posed, metric
        self._noising, self._direction = direction == "noising", direction
        self._progress, self._cancel = progress, cancel
        self._heads, self._narrowed = model.all_heads(), at_positions
        length = len(posed[0].clean)
        self._moved = np.zeros((model.n_layers, model.n_heads))
        shape = (model.n_layers, model.n_heads, length)
        self._at = np.full(shape, np.nan) if at_positions else None
        self._counted = np.zeros((model.n_layers, model.n_heads), dtype=int)
        self._done = 0
        self._baseline = model.predict(posed[0].clean, posed[0].position)
        self._ends = [self._unpatched(pair) for pair in posed]
        self._clean, self._corrupt = np.mean(self._ends, axis=0).tolist()
        refuse_no_effect(self._clean, self._corrupt)

    def _unpatched(self, pair: PosedPair) -> tuple[float, float]:
        """Return the metric on the clean and on the corrupted prompt."""
        runs = (self._model.predict(prompt, pair.position) for prompt in (pair.clean, pair.corrupt))
        clean, corrupt = (self._score(pair, run.log_probs[None])[0] for run in runs)
        return float(clean), float(corrupt)

    def _score(self, pair: PosedPair, log_probs: Tensor | FloatArray) -> FloatArray:
        """Return the metric of rows of log-probabilities [n, n_vocab]."""
        found = log_probs[:, pair.answer_id]
        if self._metric == "logit_diff":
            # The normaliser of the softmax cancels.
            found = found - log_probs[:, pair.distractor_id]
        return np.asarray(found, dtype=np.float64)

    def run(self) -> None:
        for pair, (clean, corrupt) in zip(self._posed, self._ends, strict=True):
            start = clean if self._noising else corrupt
            for head, value in self._patched(pair, self._heads, None):
                self._moved[head.layer, head.head] += value - start
                self._counted[head.layer, head.head] += 1
            if self._at is None:
                continue
            for position in range(len(pair.clean)):
                for head, value in self._patched(pair, self._narrowed, [position]):
                    self._at[head.layer, head.head, position] = self._share(value - start)

    def _patched(
        self, pair: PosedPair, heads: Sequence[Head], positions: Sequence[int] | None
    ) -> Iterator[tuple[Head, float]]:
        """Yield the metric with each head patched, reporting after each pass."""
        run, other = (pair.clean, pair.corrupt) if self._noising else (pair.corrupt, pair.clean)
        question = pose(
            self._model,
            run,
            Resample(other.text),
            heads,
            pair.position,
            positions,
            self._cancel,
        )
        for indices, log_probs in question.evaluate([(head,) for head in heads]):
            scores = self._score(pair, log_probs.cpu())
            for i, score in zip(indices, scores, strict=True):
                yield heads[i], float(score)
            self._report(len(indices))

    def _share(self, moved: Any) -> Any:
        """Return what part of the way from the run patched to the other prompt that is."""
        way = self._corrupt - self._clean
        return moved / (way if self._noising else -way)

    def _report(self, count: int) -> None:
        self._done += count
        if self._progress is None:
            return
        n_positions = 0 if self._at is None else self._at.shape[2]
        total = len(self._heads) * len(self._posed) + len(self._narrowed) * n_positions
        message = f"{self._done:,} of {total:,} heads patched"
        self._progress(Progress(self._done, total, message))

    def result(self, stopped: str) -> HeadPatching:
        counted = np.where(self._counted > 0, self._counted, np.nan)
        first = self._posed[0]
        return HeadPatching(
            direction=self._direction,
            metric=self._metric,
            clean=self._clean,
            corrupt=self._corrupt,
            values=self._share(self._moved / counted).astype(np.float32),
            by_position=None if self._at is None else self._at.astype(np.float32),
            labels=tuple(first.clean.labels) if self._at is not None else (),
            prompt=first.clean,
            baseline=self._baseline,
            n_pairs=len(self._posed),
            stopped=stopped,
        )
