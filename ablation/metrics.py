"""What an ablation does to the model's output, in numbers.

Every metric takes log-probabilities in float64. A difference is always ablated minus clean.
`METRICS` is the one table of them: the page, the command line and the documentation read it. They
do so before torch is there, which is imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablation.types import Comparison, MetricInfo
from models.errors import ErrorKind, UserError
from models.types import Prediction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: what it is, and how it is computed."""

    info: MetricInfo
    compute: Callable[[Tensor, Tensor, int | None], Tensor]
    """(clean log-probs float64 [n_vocab], ablated log-probs float64 [n, n_vocab], target id or
    None) -> float64 [n]. The target may be None only where `info.needs_target` is false."""


def kl_divergence(clean: Tensor, ablated: Tensor) -> Tensor:
    """Return KL(clean || ablated) in nats, [n].

    A token that the clean run finds impossible adds nothing (0 log 0 = 0). One that only the
    ablated run finds impossible makes the divergence infinite.
    """
    p = clean.exp()
    terms = (clean - ablated).mul_(p).masked_fill_(p == 0, 0.0)  # [n, n_vocab]
    # Rounding may leave a divergence of -1e-17 where nothing changed.
    return terms.sum(dim=-1).clamp_min(0.0)


def total_variation(clean: Tensor, ablated: Tensor) -> Tensor:
    """Return half the sum of absolute differences of probability, [n], in [0, 1]."""
    return 0.5 * (ablated.exp() - clean.exp()).abs().sum(dim=-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Return the entropy in nats of distributions [..., n_vocab]; impossible tokens add 0."""
    p = log_probs.exp()
    return -(p * log_probs).where(p > 0, 0.0).sum(dim=-1)


def top_token(log_probs: Tensor) -> int:
    """Return the most likely token of [n_vocab]; a tie goes to the lowest id."""
    # argmax promises no order among equals.
    return int((log_probs == log_probs.max()).nonzero()[0, 0])


def rank(log_probs: Tensor, token_id: int) -> Tensor:
    """Return one more than the number of tokens likelier than `token_id`, in float64."""
    return 1 + (log_probs > log_probs[..., token_id, None]).sum(dim=-1).double()


def metric_named(name: str) -> Metric:
    """Look a metric up.

    Raises:
        UserError: there is no metric of that name.
    """
    if name not in METRICS:
        raise UserError(
            ErrorKind.OPTION,
            f"There is no metric named {name[:40]!r}; choose one of {', '.join(METRICS)}.",
        )
    return METRICS[name]


def compare(before: Prediction, after: Prediction) -> Comparison:
    """Describe how a prediction changed. Both must be over the same vocabulary.

    Raises:
        UserError: they are no distributions, but the numbers of an action.
    """
    import torch

    if not (before.top and after.top):
        raise UserError(
            ErrorKind.MODEL,
            "A policy that answers with numbers predicts no tokens to compare; compare its actions "
            "(ablation.chunk_actions).",
        )

    clean = torch.as_tensor(before.log_probs, dtype=torch.float64)
    ablated = torch.as_tensor(after.log_probs, dtype=torch.float64)[None]  # [1, n_vocab]
    return Comparison(
        kl=kl_divergence(clean, ablated).item(),
        total_variation=total_variation(clean, ablated).item(),
        top_prob_change=_top_prob(clean, ablated, None).item(),
        entropy_before=before.entropy,
        entropy_after=after.entropy,
        top_before=before.top[0],
        top_after=after.top[0],
    )


def _kl(clean: Tensor, ablated: Tensor, _target: int | None) -> Tensor:
    return kl_divergence(clean, ablated)


def _total_variation(clean: Tensor, ablated: Tensor, _target: int | None) -> Tensor:
    return total_variation(clean, ablated)


def _entropy(clean: Tensor, ablated: Tensor, _target: int | None) -> Tensor:
    return entropy(ablated) - entropy(clean)


def _top_prob(clean: Tensor, ablated: Tensor, _target: int | None) -> Tensor:
    top = top_token(clean)
    return ablated[:, top].exp() - clean[top].exp()


def _target_prob(clean: Tensor, ablated: Tensor, target: int | None) -> Tensor:
    chosen = _required(target)
    return ablated[:, chosen].exp() - clean[chosen].exp()


def _target_logprob(clean: Tensor, ablated: Tensor, target: int | None) -> Tensor:
    chosen = _required(target)
    return ablated[:, chosen] - clean[chosen]


def _target_rank(clean: Tensor, ablated: Tensor, target: int | None) -> Tensor:
    chosen = _required(target)
    return rank(ablated, chosen) - rank(clean, chosen)


def _logit_diff(clean: Tensor, ablated: Tensor, target: int | None) -> Tensor:
    chosen = _required(target)
    rival = _rival(clean, chosen)
    # The normaliser of the softmax cancels: a difference of log-probs is one of logits.
    return (ablated[:, chosen] - ablated[:, rival]) - (clean[chosen] - clean[rival])


def _rival(clean: Tensor, target: int) -> int:
    """Return the most likely token of the clean run other than the target."""
    others = clean.clone()
    others[target] = -math.inf
    return top_token(others)


def _required(target: int | None) -> int:
    if target is None:
        raise ValueError("this metric needs a target token")
    return target


def _table(*metrics: Metric) -> dict[str, Metric]:
    return {metric.info.name: metric for metric in metrics}


METRICS: dict[str, Metric] = _table(
    Metric(
        MetricInfo(
            "kl",
            "KL divergence",
            "nats",
            diverging=False,
            needs_target=False,
            description="KL(clean || ablated) of the whole next-token distribution.",
        ),
        _kl,
    ),
    Metric(
        MetricInfo(
            "total_variation",
            "Total variation",
            "probability",
            diverging=False,
            needs_target=False,
            description="Half the sum of absolute changes of probability, from 0 to 1.",
        ),
        _total_variation,
    ),
    Metric(
        MetricInfo(
            "entropy",
            "Entropy change",
            "nats",
            diverging=True,
            needs_target=False,
            description="Change of the distribution's entropy: positive where the model becomes "
            "less certain.",
        ),
        _entropy,
    ),
    Metric(
        MetricInfo(
            "top_prob",
            "Top probability change",
            "probability",
            diverging=True,
            needs_target=False,
            description="Change of the probability of the token that is most likely in the "
            "clean run.",
        ),
        _top_prob,
    ),
    Metric(
        MetricInfo(
            "target_prob",
            "Target probability change",
            "probability",
            diverging=True,
            needs_target=True,
            description="Change of the target token's probability.",
        ),
        _target_prob,
    ),
    Metric(
        MetricInfo(
            "target_logprob",
            "Target log-probability change",
            "nats",
            diverging=True,
            needs_target=True,
            description="Change of the natural logarithm of the target token's probability.",
        ),
        _target_logprob,
    ),
    Metric(
        MetricInfo(
            "target_rank",
            "Target rank change",
            "ranks",
            diverging=True,
            needs_target=True,
            description="Change of the target token's rank among all tokens: negative where it "
            "moves towards the top.",
        ),
        _target_rank,
    ),
    Metric(
        MetricInfo(
            "logit_diff",
            "Logit difference change",
            "logits",
            diverging=True,
            needs_target=True,
            description="Change of the target's logit less that of the most likely other token "
            "of the clean run.",
        ),
        _logit_diff,
    ),
)
"""Name -> metric, in the order in which they are offered."""
