"""Every head's attention on one prompt, summarised in one pass: thumbnails and head metrics."""

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from ablation.evaluation import Cancelled, stop_if
from ablation.head_metrics import Rows, metrics_of
from ablation.types import LEAST_REST, Ablation, HeadSummaries, Progress
from models.attention_reading import AttentionBlock
from models.language_model import LanguageModel
from models.stacks import Axes
from models.types import FloatArray, TokenizedPrompt

THUMBNAIL_SIDE = 48
"""Most cells, across and down, of a head's thumbnail."""


def summarise_heads(
    model: LanguageModel,
    prompt: TokenizedPrompt | str,
    ablation: Ablation | None = None,
    *,
    stack: str = "",
    side: int = THUMBNAIL_SIDE,
    sink: str = "show",
    position: int = -1,
    top_k: int = 10,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> HeadSummaries:
    """Summarise what every head of a stack attends to, by a thumbnail and by `HEAD_METRICS`.

    One forward pass, whose maps are never kept: memory stays bounded for thousands of tokens.

    Args:
        ablation: heads that are ablated meanwhile; None for the clean run.
        stack: of an encoder-decoder "encoder", "cross", or the decoder's own.
        side: most cells of a thumbnail, across and down.
        sink: what thumbnails do about the first token; see `HeadSummaries.sink`.
        position, top_k: where the prediction of the same pass is read, and how many of the
            likeliest tokens it lists.
        progress: called after each layer.
        cancel: looked at at least once a layer; once set, what was found so far is returned.

    Raises:
        UserError: the prompt, the position or the intervention does not fit the model, or numbers
            are not finite.
    """
    tokenized = model.tokenize(prompt) if isinstance(prompt, str) else prompt
    axes = model.stacks.axes(tokenized, stack)
    summary = _Summary(model, stack, axes, side, sink, progress, cancel)
    prediction = None
    with suppress(Cancelled):
        prediction = model.read_attention(tokenized, summary, ablation, position, top_k, stack)
    return HeadSummaries(
        prompt=axes.queries,
        n_keys=len(axes.keys),
        metrics=tuple(metric.info for metric in metrics_of(model.stacks.named(stack)).values()),
        values=summary.means(),
        thumbnails=summary.thumbnails(),
        step=summary.step,
        causal=summary.causal,
        ablated=ablation is not None and bool(ablation.heads),
        stopped="cancelled" if prediction is None else "complete",
        stack=model.stacks.named(stack).name,
        prediction=prediction,
        sink=sink,
    )


class MetricMeans:
    """The reader that adds up what `metrics_of` a stack say of the rows of its every head."""

    def __init__(self, model: LanguageModel, axes: Axes, name: str = "") -> None:
        """Args: axes: the positions that the stack joins on the prompt."""
        stack = model.stacks.named(name)
        starts = axes.starts()
        # How far each query is behind the first position of what it is of; -1 if none counts.
        self._behind = np.where(axes.shown(), np.arange(len(starts)) - starts, -1)
        self._starts = torch.from_numpy(starts) if starts.any() else None
        self._metrics = tuple(metrics_of(stack).values())
        self._firsts = np.array([metric.first_query(stack.causal) for metric in self._metrics])
        self._sums = np.zeros((len(self._metrics), stack.n_layers, stack.n_heads))
        n_heads = np.array([model.sites[running].n_heads for running in model.stacks.layers(name)])
        self._absent = np.arange(stack.n_heads) >= n_heads[:, None]  # [n_layers, n_heads]

    def take(self, block: AttentionBlock) -> None:
        at = block.queries
        starts = None if self._starts is None else self._starts.to(at.device)[at]
        rows = Rows(block.probabilities, at, block.scores, starts)
        # One transfer from the device for all metrics.
        values = torch.stack([metric.of_rows(rows) for metric in self._metrics])
        counted = self._behind[at.cpu().numpy()] >= self._firsts[:, None]  # [n_metrics, n_rows]
        found = values.cpu().numpy().astype(float) * counted[:, None]
        self._sums[:, block.layer, block.heads] += found.sum(axis=-1)

    def values(self) -> FloatArray:
        """Return the means over the queries that count, float32 [n_metrics, n_layers, n_heads].

        NaN where a head is absent, or no query counts.
        """
        counts = (self._behind >= self._firsts[:, None]).sum(axis=1).astype(float)
        counts[counts == 0] = np.nan
        means = self._sums / counts[:, None, None]
        means[:, self._absent] = np.nan
        return means.astype(np.float32)


class _Summary:
    """The reader that takes the means and pools rows into thumbnails."""

    def __init__(
        self,
        model: LanguageModel,
        name: str,
        axes: Axes,
        side: int,
        sink: str,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        """Make room for the cells."""
        shape = len(axes.queries), len(axes.keys)
        stack = model.stacks.named(name)
        self.causal = stack.causal
        self.step = math.ceil(max(shape) / side)
        self.n_done = 0
        """Layers read."""
        self._n_heads = [model.sites[running].n_heads for running in model.stacks.layers(name)]
        self._n_queries = shape[0]
        self._sink = sink
        self._firsts = axes.keys.starts
        self._progress = progress
        self._cancel = cancel
        grid = (stack.n_layers, stack.n_heads)
        self._means = MetricMeans(model, axes, name)
        self._cells = torch.zeros(*grid, *(math.ceil(count / self.step) for count in shape))

    def take(self, block: AttentionBlock) -> None:
        stop_if(self._cancel)
        self._means.take(block)
        self._pool(block)
        last_head = block.heads.stop == self._n_heads[block.layer]
        if last_head and block.rows.stop == self._n_queries:
            self._finish(block.layer)

    def means(self) -> FloatArray:
        """Return the means of each metric, float32 [n_metrics, n_layers, n_heads].

        NaN where a head was not read, or no query counts.
        """
        means = self._means.values()
        means[:, ~self._read()] = np.nan
        return means

    def thumbnails(self) -> FloatArray:
        """Return the cells, float32 [n_layers, n_heads, row, column]; NaN where not read."""
        cells: FloatArray = self._cells.numpy()
        cells[~self._read()] = np.nan
        return cells

    def _read(self) -> np.ndarray:
        """Return which heads were read in full, bool [n_layers, n_heads]."""
        layers = np.arange(len(self._n_heads))[:, None] < self.n_done
        return layers & (np.arange(self._cells.shape[1]) < np.array(self._n_heads)[:, None])

    def _pool(self, block: AttentionBlock) -> None:
        """Let the cells of a block's rows know its weights."""
        from_row = block.rows.start // self.step
        shown = _without_first(block.probabilities, self._sink, self._firsts)
        rows = _pooled(shown, -block.rows.start % self.step, self.step)
        cells = _pooled(rows.transpose(1, 2), 0, self.step).transpose(1, 2).cpu()
        to_row, to_column = from_row + cells.shape[1], cells.shape[2]
        known = self._cells[block.layer, block.heads, from_row:to_row, :to_column]
        torch.maximum(known, cells, out=known)

    def _finish(self, layer: int) -> None:
        self.n_done = layer + 1
        if self._progress is not None:
            total = len(self._n_heads)
            self._progress(Progress(self.n_done, total, f"layer {self.n_done} of {total}"))


def _without_first(weights: Tensor, sink: str, firsts: Sequence[int]) -> Tensor:
    """Return weights [..., key] as they are shown, the first keys dealt with as `sink` says.

    What is left out is 0, as are rows that have no weight but the first.
    """
    if sink == "show":
        return weights
    shown = weights.clone()
    shown[..., [first for first in firsts if first < weights.shape[-1]]] = 0
    if sink == "renormalise":
        rest = shown.sum(dim=-1, keepdim=True)
        shown /= rest.masked_fill(rest < LEAST_REST, torch.inf)
    return shown


def _pooled(weights: Tensor, first: int, step: int) -> Tensor:
    """Return the largest of each `step` rows, of which the first group and the last may have fewer.

    Args:
        weights: [n_heads, n_rows, n_columns].
        first: how many rows belong to the first group; 0 if it has all of its rows.

    Returns:
        [n_heads, n_groups, n_columns].
    """
    if step == 1:
        return weights
    n_rows = weights.shape[1]
    first = min(first, n_rows)
    last = first + (n_rows - first) // step * step
    whole = weights[:, first:last].unflatten(1, (-1, step)).amax(dim=2)  # nothing is copied
    ends = [
        part.amax(dim=1, keepdim=True)
        for part in (weights[:, :first], weights[:, last:])
        if part.shape[1]
    ]
    return torch.cat([*ends[: first > 0], whole, *ends[first > 0 :]], dim=1)
