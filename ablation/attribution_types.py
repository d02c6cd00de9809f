"""What attributions find: plain data, no torch.

An attribution is a list of terms, one a component of the model, that adds up to a number the model
computed; how far it is from adding up is part of the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablation.types import HeadScores, MetricInfo
from models.types import (
    Component,
    FloatArray,
    Head,
    Prediction,
    TokenizedPrompt,
    TokenProbability,
)

Terms = tuple[tuple[Component, float], ...]
"""Components and what each adds, in the order in which the model computes them."""

CONSTANT = Component("constant")
"""What biases add on the way, whatever the residual stream holds."""


def largest_first(terms: Sequence[tuple[Component, float]]) -> list[tuple[Component, float]]:
    """Return terms by absolute value, ties in the order given."""
    return sorted(terms, key=lambda term: -abs(term[1]))


def terms_json(terms: Sequence[tuple[Component, float]]) -> list[dict[str, Any]]:
    return [
        {"component": str(component), "kind": component.kind, "value": value}
        for component, value in terms
    ]


def terms_frame(terms: Sequence[tuple[Component, float]]) -> pd.DataFrame:
    """Return one row a term, in the order given; layer and head are -1 where there is none."""
    return pd.DataFrame(
        {
            "component": [str(component) for component, _ in terms],
            "kind": [component.kind for component, _ in terms],
            "layer": [component.layer for component, _ in terms],
            "head": [component.head for component, _ in terms],
            "value": [value for _, value in terms],
        }
    )


@dataclass(frozen=True, slots=True, eq=False)
class LogitAttribution:
    """What each part of the model adds to a token's logit, or to one token's less another's."""

    prompt: TokenizedPrompt
    target: TokenProbability
    """As likely as the model finds it."""
    versus: TokenProbability | None
    """The token whose logit is subtracted, if any."""
    baseline: Prediction
    """The model's prediction, at the position that the attribution is about."""
    shape: tuple[int, int]
    """(n_layers, n_heads)"""
    terms: Terms
    """Embedding, heads, attention biases, MLPs, and the constant, in logits."""
    logit: float
    """What the terms add up to: the logit or the difference of two, before a soft cap."""
    capped: bool
    """Whether the model's logits are soft-capped behind that (Gemma 2)."""

    @property
    def position(self) -> int:
        return self.baseline.position

    @property
    def total(self) -> float:
        """The sum of the terms."""
        return float(sum(value for _, value in self.terms))

    @property
    def error(self) -> float:
        """How far the terms are from adding up, in logits."""
        return abs(self.total - self.logit)

    @property
    def head_scores(self) -> HeadScores:
        """The heads' terms as scores, for the layers x heads map; NaN where there is no head."""
        values = np.full(self.shape, np.nan, dtype=np.float32)
        for component, value in self.terms:
            if component.kind == "head":
                values[component.layer, component.head] = value
        less = "" if self.versus is None else f" less {self.versus.label}"
        metric = MetricInfo(
            "logit_attribution",
            "Direct logit attribution",
            "logits",
            diverging=True,
            needs_target=False,
            description="What the head itself adds to the target's logit, final norm frozen.",
            sign=f"for {self.target.label}{less}",
        )
        return HeadScores(metric, values, self.baseline, self.target)

    def ranked(self) -> list[tuple[Component, float]]:
        """Return the terms, largest absolute value first."""
        return largest_first(self.terms)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a term, largest absolute value first."""
        return terms_frame(self.ranked())

    def to_json(self) -> dict[str, Any]:
        return {
            "target": _token_json(self.target),
            "versus": None if self.versus is None else _token_json(self.versus),
            "logit": self.logit,
            "capped": self.capped,
            "sum": self.total,
            "error": self.error,
            "terms": terms_json(self.terms),
        }


@dataclass(frozen=True, slots=True, eq=False)
class LogitLens:
    """What the model would predict if it stopped after each layer (nostalgebraist 2020)."""

    prompt: TokenizedPrompt
    predictions: tuple[Prediction, ...]
    """n_layers + 1 of them: from the embedding, then from each layer's output; the last one is
    the model's own prediction."""
    watched: TokenProbability
    """The token followed through the layers, as likely as the model finds it."""

    @property
    def names(self) -> list[str]:
        return ["embed", *(f"L{layer}" for layer in range(len(self.predictions) - 1))]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a layer: its most likely token, and the watched token's place."""
        watched = self.watched.id
        return pd.DataFrame(
            {
                "after": self.names,
                "top_token": [p.top[0].text for p in self.predictions],
                "top_prob": [p.top[0].prob for p in self.predictions],
                "entropy": [p.entropy for p in self.predictions],
                "watched_logprob": [float(p.log_probs[watched]) for p in self.predictions],
                "watched_rank": [p.rank(watched) for p in self.predictions],
            }
        )

    def to_json(self) -> dict[str, Any]:
        rows = zip(self.names, self.predictions, strict=True)
        return {
            "watched": _token_json(self.watched),
            "layers": [
                {
                    "after": name,
                    **prediction.to_json(),
                    "watched_logprob": float(prediction.log_probs[self.watched.id]),
                    "watched_rank": prediction.rank(self.watched.id),
                }
                for name, prediction in rows
            ],
        }


@dataclass(frozen=True, slots=True)
class HeadTokens:
    """The tokens whose logits a head itself raises and lowers most, at one position."""

    head: Head
    position: int
    raised: tuple[tuple[TokenProbability, float], ...]
    """Tokens (as likely as the model finds them) and what the head adds to their logits, less
    what it adds to all on average; largest first."""
    lowered: tuple[tuple[TokenProbability, float], ...]
    """Most lowered first."""

    def to_json(self) -> dict[str, Any]:
        return {
            "head": self.head.to_json(),
            "raised": [{**_token_json(token), "logit": value} for token, value in self.raised],
            "lowered": [{**_token_json(token), "logit": value} for token, value in self.lowered],
        }


@dataclass(frozen=True, slots=True)
class ScoreSources:
    """Which parts of the residual stream one side of an attention score came from."""

    side: str
    """"query" or "key"."""
    position: int
    terms: Terms
    """What each adds to the score, the other side held fixed; the constant last."""
    error: float
    """How far the terms are from adding up to the score."""

    def to_json(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "terms": terms_json(self.terms),
            "error": self.error,
        }


@dataclass(frozen=True, slots=True, eq=False)
class QueryKeyDetail:
    """Why one head looks from one position at another, or does not."""

    prompt: TokenizedPrompt
    head: Head
    key_head: int
    """The key head that this (query) head uses."""
    query: int
    key: int
    """Positions, counted from 0."""
    weight: float
    """The attention probability."""
    visible: bool
    """Whether the mask lets this query attend to this key."""
    relative: bool
    """Whether what is explained is by how much the score is above the mean score of all keys
    that the query can see, rather than the score itself."""
    score: float
    """What is explained: the scaled product of query and key, without mask, cap and bias."""
    bias: float
    """What is added to the score by position (ALiBi and its like)."""
    softcap: float | None
    """c where the score goes through c * tanh(score / c) (Gemma 2)."""
    sink: float | None
    """The logit of the head's attention sink, with which all scores compete (gpt-oss)."""
    dimensions: FloatArray
    """float32 [d], what each dimension of query and key, behind the rotary embedding, adds to
    the score: q_d * k_d * scale."""
    sources: tuple[ScoreSources, ...]
    """Of the query and of the key; empty where they cannot be told apart."""
    problem: str = ""
    """Why there are no sources, as a sentence."""

    def ranked_dimensions(self) -> list[tuple[int, float]]:
        """Return (dimension, what it adds), largest absolute value first."""
        order = np.argsort(-np.abs(self.dimensions), kind="stable")
        return [(int(i), float(self.dimensions[i])) for i in order]

    def to_frame(self) -> pd.DataFrame:
        """Return the sources of both sides, largest absolute value first."""
        frames = []
        for side in self.sources:
            frame = terms_frame(largest_first(side.terms))
            frame.insert(0, "side", side.side)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else terms_frame([])

    def to_json(self) -> dict[str, Any]:
        return {
            "head": self.head.to_json(),
            "key_head": self.key_head,
            "query": self.query,
            "key": self.key,
            "weight": self.weight,
            "visible": self.visible,
            "relative": self.relative,
            "score": self.score,
            "bias": self.bias,
            "softcap": self.softcap,
            "sink": self.sink,
            "dimensions": self.dimensions.astype(float).tolist(),
            "sources": {side.side: side.to_json() for side in self.sources},
            "problem": self.problem,
        }


def _token_json(token: TokenProbability) -> dict[str, Any]:
    return {"id": token.id, "text": token.text}
