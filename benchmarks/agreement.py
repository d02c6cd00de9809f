"""Whether competitors compute what the program computes: without that, times compare nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ablation import Ablation, HeadScores, Zero
from models import Head, LanguageModel, TokenizedPrompt

LOGIT_TOLERANCE = 3e-3
"""Largest difference of a log-probability, in nats. Two float32 computations differ by some 1e-5 on
the built-in model, and by 1.1e-3 on GPT-2's shape with random weights at 256 tokens, where both are
1.4e-3 and 1.7e-3 from the same computation in float64; a head that is not ablated, or another one,
is off by 0.2 or more (`SHARE_TOLERANCE`)."""

SHARE_TOLERANCE = 0.05
"""The difference may also be no more than this share of what the ablation changes: a competitor
that ablates nothing is off by all of it."""

KL_TOLERANCE = 0.01
"""Largest relative difference of the KL divergence, beside `KL_ROUNDING`."""

KL_ROUNDING = 1e-6
"""In nats: what rounding of the logits leaves of a KL divergence that should be 0."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The worst of the heads compared."""

    name: str
    n_heads: int
    logit_error: float
    """Largest absolute difference of a log-probability (a logit less a constant), in nats."""
    logit_effect: float
    """The smallest effect among the heads: each's largest absolute change of a log-probability."""
    kl_error: float
    """Largest difference of KL(clean || ablated) from the sweep's, in nats."""
    largest_kl: float
    holds: bool


def compare(
    name: str,
    logits: Callable[[Head], Tensor],
    model: LanguageModel,
    prompt: TokenizedPrompt,
    sweep: HeadScores,
    heads: Sequence[Head],
) -> Agreement:
    """Compare a competitor with the program on some heads.

    Args:
        logits: the competitor's, [n_vocab] at the last position with one head zeroed.
        sweep: the program's KL divergence of every head.
    """
    clean = sweep.baseline.log_probs
    errors, effects, kl_errors, kls = [], [], [], []
    for head in heads:
        theirs = logits(head).double().log_softmax(-1).numpy()
        ours = model.predict(prompt, ablation=Ablation((head,), Zero())).log_probs
        errors.append(float(np.abs(ours - theirs).max()))
        effects.append(float(np.abs(ours - clean).max()))
        kls.append(float(sweep.values[head.layer, head.head]))
        kl_errors.append(abs(float(np.sum(np.exp(clean) * (clean - theirs))) - kls[-1]))
    holds = all(
        error <= min(LOGIT_TOLERANCE, SHARE_TOLERANCE * effect)
        and kl_error <= KL_TOLERANCE * kl + KL_ROUNDING
        for error, effect, kl_error, kl in zip(errors, effects, kl_errors, kls, strict=True)
    )
    return Agreement(name, len(heads), max(errors), min(effects), max(kl_errors), max(kls), holds)
