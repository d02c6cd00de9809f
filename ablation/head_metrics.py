"""What a head attends to, in numbers.

Every metric is a number a query, averaged over the queries that have a choice: under causal
attention the first position can only attend to itself, so it never counts; in an encoder all
positions do (for the previous token, those that have one). Of texts that a picture is compared with
each has a first position of its own, and padding that the model is told of counts nowhere.
`HEAD_METRICS` is the one table of them: the page, the command line and the documentation read it.

Where attention sinks take a share of a row, its weights sum to less than 1. Weights are then
counted as they are; entropy, span and distance are those of the row scaled to sum to 1.

The page reads the table before torch is there, which is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ablation.types import MetricInfo
from models.errors import ErrorKind, UserError
from models.types import CROSS, Stack

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = float(np.finfo(np.float32).tiny)
"""Stands for 0 in logarithms and quotients: 0 log 0 is 0."""


class Rows:
    """Rows of attention of some heads, and what several metrics need of them."""

    def __init__(
        self,
        probabilities: Tensor,
        queries: Tensor,
        scores: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> None:
        """Args:
        probabilities: float32 [n_heads, n_rows, n_keys], keys from 0 on; later ones get 0.
        queries: int64 [n_rows], the position of each row, ascending.
        scores: float32 [n_heads, n_rows, n_keys], see `AttentionBlock`: with them no logarithm of
            a weight need be taken.
        starts: int64 [n_rows], the first position of what each row is of; None: 0 for all.
        """
        self.probabilities = probabilities
        self.queries = queries
        self.scores = scores
        self.starts = starts

    @cached_property
    def total(self) -> Tensor:
        """What each row sums to, [n_heads, n_rows]."""
        return self.probabilities.sum(dim=-1).clamp_min(SMALLEST)

    @cached_property
    def largest(self) -> Tensor:
        """The largest weight of each row, [n_heads, n_rows]."""
        return self.probabilities.amax(dim=-1)

    @cached_property
    def entropy(self) -> Tensor:
        """The entropy of each row scaled to sum to 1, in nats, [n_heads, n_rows]."""
        import torch

        if self.scores is None:
            logarithms, more = self.probabilities.clamp_min(SMALLEST).log_(), self.total.log()
        else:
            # log p is the score, which is 0 for the largest p, plus the logarithm of that.
            logarithms, more = self.scores, (self.total / self.largest.clamp_min(SMALLEST)).log()
        information = torch.einsum("hqk,hqk->hq", self.probabilities, logarithms)
        # p / s has the entropy log s - (sum of p log p) / s. Rounding may leave -1e-7 of 0.
        return (more - information / self.total).clamp_min(0)

    @cached_property
    def distance(self) -> Tensor:
        """The sum of p |query - key| of each row, [n_heads, n_rows]."""
        import torch

        first = int(self.queries[0])
        keys = torch.arange(self.probabilities.shape[-1], device=self.queries.device).float()
        queries = self.queries.float()
        # Seen from the first query, so that large numbers do not cancel: one product for all rows.
        signed = self.probabilities @ (first - keys) + self.total * (queries - first)
        # What looks ahead counts as negative there. Under causal attention it is a small square.
        ahead = (keys[first + 1 :] - queries[:, None]).clamp_min_(0)  # [n_rows, n_keys ahead]
        return signed + 2 * (self.probabilities[..., first + 1 :] * ahead).sum(dim=-1)

    def at(self, keys: Tensor) -> Tensor:
        """Return the weight on one key a row, [n_heads, n_rows]; a key before the first has 0."""
        index = keys.clamp_min(0).expand(len(self.probabilities), -1)[..., None]
        return self.probabilities.gather(-1, index)[..., 0] * (keys >= 0)


@dataclass(frozen=True, slots=True)
class HeadMetric:
    """A metric of a head's attention: what it is, and its value for each query."""

    info: MetricInfo
    of_rows: Callable[[Rows], Tensor]
    """Rows -> float32 [n_heads, n_rows]."""
    from_second: bool = False
    """Whether the first position has no value in an encoder either."""
    across: bool = False
    """Whether it means something too where queries and keys are positions of two texts."""

    def first_query(self, causal: bool) -> int:
        """Return the first position that counts in the mean."""
        return 1 if causal or self.from_second else 0


def _entropy(rows: Rows) -> Tensor:
    return rows.entropy


def _effective_span(rows: Rows) -> Tensor:
    return rows.entropy.exp()


def _mean_distance(rows: Rows) -> Tensor:
    return rows.distance / rows.total


def _self_weight(rows: Rows) -> Tensor:
    return rows.at(rows.queries)


def _previous_weight(rows: Rows) -> Tensor:
    return rows.at(rows.queries - 1)


def _first_weight(rows: Rows) -> Tensor:
    return rows.probabilities[..., 0] if rows.starts is None else rows.at(rows.starts)


def _largest_weight(rows: Rows) -> Tensor:
    return rows.largest


def metrics_of(stack: Stack | str) -> dict[str, HeadMetric]:
    """Return the metrics that mean something for a stack, by their names.

    In cross attention, and in an action expert's, which has other keys before its own, the key with
    a query's number is not the query itself.

    Args:
        stack: its name does where it says which positions it joins: of models that read text.
    """
    joins_own = stack.queries == stack.keys if isinstance(stack, Stack) else stack != CROSS
    return {n: m for n, m in HEAD_METRICS.items() if m.across or joins_own}


def head_metric_named(name: str) -> HeadMetric:
    """Look a metric up.

    Raises:
        UserError: there is no metric of that name.
    """
    if name not in HEAD_METRICS:
        raise UserError(
            ErrorKind.OPTION,
            f"There is no metric of heads named {name[:40]!r}; choose one of "
            f"{', '.join(HEAD_METRICS)}.",
        )
    return HEAD_METRICS[name]


def _info(name: str, label: str, unit: str, description: str) -> MetricInfo:
    return MetricInfo(
        name, label, unit, diverging=False, needs_target=False, description=description
    )


def _table(*metrics: HeadMetric) -> dict[str, HeadMetric]:
    return {metric.info.name: metric for metric in metrics}


HEAD_METRICS: dict[str, HeadMetric] = _table(
    HeadMetric(
        _info(
            "entropy",
            "Entropy",
            "nats",
            "Entropy of a query's weights, -sum of p ln p: 0 if it looks at one key.",
        ),
        _entropy,
        across=True,
    ),
    HeadMetric(
        _info(
            "effective_span",
            "Effective span",
            "keys",
            "Over how many keys a query spreads its weight: exp(entropy), as many equally "
            "weighted keys have the same entropy.",
        ),
        _effective_span,
        across=True,
    ),
    HeadMetric(
        _info(
            "mean_distance",
            "Mean distance",
            "positions",
            "How many positions the keys are away from the query, |query - key| weighted by p.",
        ),
        _mean_distance,
    ),
    HeadMetric(
        _info("self_weight", "Weight on self", "probability", "Weight on the query's own token."),
        _self_weight,
    ),
    HeadMetric(
        _info(
            "previous_weight",
            "Weight on previous",
            "probability",
            "Weight on the token before the query.",
        ),
        _previous_weight,
        from_second=True,
    ),
    HeadMetric(
        _info(
            "first_weight",
            "Weight on first",
            "probability",
            "Weight on the first position, where many models park attention.",
        ),
        _first_weight,
        across=True,
    ),
    HeadMetric(
        _info(
            "largest_weight",
            "Largest weight",
            "probability",
            "The largest weight of a query's row: near 1 if it looks at one key.",
        ),
        _largest_weight,
        across=True,
    ),
)
"""Name -> metric, in the order in which they are offered."""
