"""Small values that the figures are drawn from, made by hand."""

import numpy as np

from ablation.types import MetricInfo
from models.types import AttentionMaps, Head, Prediction, TokenizedPrompt, TokenProbability

KL = MetricInfo("kl", "KL divergence", "nats", diverging=False, needs_target=False, description="")
LOG_PROB = MetricInfo(
    "target_logprob", "Log-prob change", "nats", diverging=True, needs_target=True, description=""
)

WORDS = ("Mary", "John", "the", "her", "him", "a")


def prompt(*labels: str) -> TokenizedPrompt:
    n = len(labels)
    return TokenizedPrompt("".join(labels), tuple(range(n)), labels, labels, ("text",) * n)


def causal_maps(*labels: str, n_heads: int = 1, ablated: bool = False) -> AttentionMaps:
    """Heads of which each query attends to all it can reach, twice as much to key 0."""
    n = len(labels)
    weights = np.tril(np.ones((n, n)))
    weights[:, 0] = 2
    weights /= weights.sum(axis=1, keepdims=True)
    heads = tuple(Head(9, head) for head in range(n_heads))
    values = np.repeat(weights[None], n_heads, axis=0).astype(np.float32)
    return AttentionMaps(heads, values, prompt(*labels), ablated)


def token(token_id: int, prob: float) -> TokenProbability:
    word = WORDS[token_id]
    return TokenProbability(token_id, f" {word}", f"·{word}", prob, float(np.log(prob)))


def prediction(*probs: float, top_k: int = 3) -> Prediction:
    """A vocabulary of `WORDS`, as likely as `probs` say."""
    order = sorted(range(len(probs)), key=lambda i: (-probs[i], i))
    entropy = -sum(p * np.log(p) for p in probs)
    top = tuple(token(i, probs[i]) for i in order[:top_k])
    return Prediction(3, top, float(entropy), np.log(np.array(probs)))


CLEAN = prediction(0.80, 0.10, 0.05, 0.03, 0.015, 0.005)
ABLATED = prediction(0.20, 0.60, 0.02, 0.03, 0.14, 0.01)
