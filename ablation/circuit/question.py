"""A set of prompt pairs, run and made ready to be asked about sets of edges.

Pairs of equal length run as one batch. A metric is the mean over all pairs; the larger, the more
the prediction is what it is on the clean prompts.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ablation.circuit.memory import batch_size, refuse_beyond_memory
from ablation.circuit.pairs import PosedPair, check_pairs
from ablation.circuit.types import PromptPair
from ablation.evaluation import stop_if
from ablation.metrics import kl_divergence
from models.edge_graph import EdgeGraph
from models.edge_patching import EdgePatching
from models.errors import ErrorKind, UserError
from models.forward_pass import log_softmax64
from models.language_model import LanguageModel
from models.layerwise import Parts
from models.patched_run import Prompts, Reference

LEAST_EFFECT = 1e-4
"""The corrupted prompts have to change the metric by more than this: less is rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pairs of equal length."""

    pairs: tuple[PosedPair, ...]
    clean: Prompts
    reference: Reference
    clean_log_probs: Tensor
    """float64 [row, n_vocab]."""


@dataclass(slots=True, eq=False)
class CircuitQuestion:
    """What circuits are measured on."""

    model: LanguageModel
    batches: tuple[Batch, ...]
    metric: str
    cancel: threading.Event | None
    n_runs: int = 0
    """Exact runs so far, all pairs counting as one."""
    _known: dict[bytes, float] = field(default_factory=dict)

    @property
    def patching(self) -> EdgePatching:
        return self.model.edges

    @property
    def graph(self) -> EdgeGraph:
        return self.patching.graph

    @property
    def n_pairs(self) -> int:
        return sum(len(batch.pairs) for batch in self.batches)

    def scores_of(self, batch: Batch, logits: Tensor) -> Tensor:
        """Return the metric of each pair of a batch, [row], from logits [row, n_vocab]."""
        rows = torch.arange(len(batch.pairs), device=logits.device)
        answers = torch.tensor([pair.answer_id for pair in batch.pairs], device=logits.device)
        if self.metric == "logit_diff":
            others = [pair.distractor_id for pair in batch.pairs]
            return logits[rows, answers] - logits[rows, torch.tensor(others, device=logits.device)]
        log_probs = log_softmax64(logits)
        if self.metric == "logprob":
            return log_probs[rows.to(log_probs.device), answers.to(log_probs.device)]
        divergences = [
            kl_divergence(clean, row[None])[0]
            for clean, row in zip(batch.clean_log_probs, log_probs, strict=True)
        ]
        return -torch.stack(divergences)

    def value(self, kept: np.ndarray) -> float:
        """Return the metric with only these edges carrying the clean run, mean over the pairs.

        Raises:
            Cancelled: the work was cancelled.
        """
        key = np.packbits(kept).tobytes()
        if key not in self._known:
            self._known[key] = self.measured(kept)
            self.n_runs += 1
        return self._known[key]

    def measured(self, kept: np.ndarray) -> float:
        """Return the same, run anew."""
        total = 0.0
        for batch in self.not_cancelled():
            logits = self.patching.logits(batch.clean, batch.reference, kept)
            total += float(self.scores_of(batch, logits).sum())
        return total / self.n_pairs

    def not_cancelled(self) -> Iterator[Batch]:
        """Yield the batches; raise `Cancelled` between them once the work is cancelled."""
        for batch in self.batches:
            stop_if(self.cancel)
            yield batch


def pose(
    model: LanguageModel,
    pairs: Sequence[PromptPair],
    metric: str,
    baseline: str,
    bos: bool | None = None,
    cancel: threading.Event | None = None,
) -> CircuitQuestion:
    """Run the pairs and make them ready.

    Raises:
        UserError: a pair that does not fit; a metric that needs what a pair lacks; the corrupted
            prompts do not change the metric; pairs that memory does not hold; or a model whose
            edges cannot be patched.
    """
    posed = check_all(model, pairs, metric, bos)
    refuse_beyond_memory(model, [len(pair.clean) for pair in posed])
    run = [_run(model, group) for group in _groups(posed)]
    mean = _mean([one.clean.parts for one in run]) if baseline == "mean" else None
    batches = tuple(_batch(model, one, mean, baseline == "resample") for one in run)
    question = CircuitQuestion(model, batches, metric, cancel)
    possible = question.graph.possible
    refuse_no_effect(question.value(possible), question.value(np.zeros_like(possible)))
    return question


def check_all(
    model: LanguageModel, pairs: Sequence[PromptPair], metric: str, bos: bool | None
) -> list[PosedPair]:
    """Tokenise pairs and see that a metric can be measured on them.

    Raises:
        UserError: there are none, one does not fit, or the metric needs what a pair lacks.
    """
    if not pairs:
        raise UserError(ErrorKind.PROMPT, "There is no prompt pair to explain; give at least one.")
    posed = check_pairs(model, pairs, bos)
    if metric == "logit_diff" and any(pair.distractor_id is None for pair in posed):
        raise UserError(
            ErrorKind.OPTION,
            "A logit difference needs a distractor for every pair; name one, or choose another "
            "metric, such as logprob.",
        )
    return list(posed)


def refuse_no_effect(clean: float, corrupt: float) -> None:
    """Raise `UserError` if a metric is the same on the clean and the corrupted prompts."""
    if abs(clean - corrupt) <= LEAST_EFFECT:
        raise UserError(
            ErrorKind.PROMPT,
            f"The metric is the same on the clean and the corrupted prompts ({clean:.4f} and "
            f"{corrupt:.4f}), so there is nothing to explain; corrupt what the answer rests on.",
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    pairs: tuple[PosedPair, ...]
    clean: Prompts
    corrupt: Prompts


def _groups(posed: Sequence[PosedPair]) -> Iterator[tuple[PosedPair, ...]]:
    """Yield pairs of equal length, at most so many that they make one batch."""
    by_length: dict[int, list[PosedPair]] = {}
    for pair in posed:
        by_length.setdefault(len(pair.clean), []).append(pair)
    for length, group in by_length.items():
        size = batch_size(length)
        for first in range(0, len(group), size):
            yield tuple(group[first : first + size])


def _run(model: LanguageModel, pairs: tuple[PosedPair, ...]) -> _Run:
    edges = model.edges
    reads = [pair.position for pair in pairs]
    clean = edges.run([pair.clean.ids for pair in pairs], reads)
    corrupt = edges.run([pair.corrupt.ids for pair in pairs], reads)
    return _Run(pairs, clean, corrupt)


def _batch(model: LanguageModel, run: _Run, mean: Parts | None, resamples: bool) -> Batch:
    """Make a batch ready.

    Args:
        mean: what edges outside of a circuit carry at the first position and at each later one;
            None if they carry nothing.
        resamples: whether they carry what the corrupted prompts give, instead.
    """
    edges, clean = model.edges, run.clean
    if resamples:
        parts = run.corrupt.parts
    elif mean is not None:
        parts = _at_each_position(mean, clean.parts)
    else:
        parts = Parts(torch.zeros_like(clean.parts.outputs), clean.parts.biases, clean.parts.final)
    first = min(map(_first_difference, run.pairs))
    reference = edges.reference(clean, parts, is_run=resamples, first=first)
    log_probs = log_softmax64(edges.read(clean.parts.final, clean))
    return Batch(run.pairs, clean, reference, log_probs)


def _first_difference(pair: PosedPair) -> int:
    """Return the first position at which the prompts of a pair differ."""
    both = zip(pair.clean.ids, pair.corrupt.ids, strict=True)
    return next(i for i, (clean, corrupt) in enumerate(both) if clean != corrupt)


def _mean(parts: Sequence[Parts]) -> Parts:
    """Return the mean over clean prompts of any length, with two positions.

    At the first one, where attention rests, it is the mean over the prompts; at all later ones the
    mean over prompts and positions, each counting the same, so that pairs need no common length.
    """

    def over(of: Callable[[Parts], Tensor]) -> Tensor:
        whole = [of(one) for one in parts]  # [..., row, position, d_model] each
        n_rows = sum(one.shape[-3] for one in whole)
        n_later = sum(one.shape[-3] * (one.shape[-2] - 1) for one in whole)
        first = torch.stack([one[..., 0, :].sum(dim=-2) for one in whole]).sum(dim=0)
        later = torch.stack([one[..., 1:, :].sum(dim=(-3, -2)) for one in whole]).sum(dim=0)
        return torch.stack([first / n_rows, later / n_later], dim=-2)[..., None, :, :]

    return Parts(
        over(lambda one: one.outputs), over(lambda one: one.biases), over(lambda one: one.final)
    )


def _at_each_position(mean: Parts, like: Parts) -> Parts:
    """Spread a mean over the rows and positions of prompts."""

    def spread(values: Tensor, shaped: Tensor) -> Tensor:
        first, later = values[..., :1, :], values[..., 1:, :]
        n_later = shaped.shape[-2] - 1
        whole = torch.cat([first, later.expand(*later.shape[:-2], n_later, later.shape[-1])], -2)
        return whole.expand_as(shaped).contiguous()

    return Parts(
        spread(mean.outputs, like.outputs),
        spread(mean.biases, like.biases),
        spread(mean.final, like.final),
    )
