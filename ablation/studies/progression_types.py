"""What the study of progression measures on one prompt: plain data, no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ablation.studies.types import plain
from models.types import FloatArray, Head

MOST_BANDS = 6
"""Layers are put together in so many groups where they are cut or drawn."""


def bands_of(n_layers: int) -> tuple[range, ...]:
    """Return layers in up to `MOST_BANDS` groups of about one size, in order."""
    parts = np.array_split(np.arange(n_layers), min(MOST_BANDS, n_layers))
    return tuple(range(int(part[0]), int(part[-1]) + 1) for part in parts)


@dataclass(frozen=True, slots=True, eq=False)
class LensReading:
    """What the logit lens reads off after each layer; axis 0 is n_layers + 1, the embedding first.

    Positions are all of the prompt's.
    """

    tops: tuple[tuple[str, ...], ...]
    """[n_layers + 1][n_positions]: labels of the likeliest tokens."""
    probs: FloatArray
    """[n_layers + 1, n_positions]: how likely those are."""
    answer: FloatArray
    """[n_layers + 1, n_positions]: how likely the answer is."""
    ranks: np.ndarray
    """int [n_layers + 1, n_positions]: the answer's rank, 1 for the likeliest."""
    followed: tuple[str, ...]
    """Labels of the tokens followed at the position read: the answer, then the leading ones."""
    log_probs: FloatArray
    """[n_layers + 1, n_followed], in nats."""
    same: tuple[int, ...] = ()
    """Positions whose own token is the answer: there it is readable from the start."""

    def first_for_good(self, position: int) -> int | None:
        """After how many layers the answer is likeliest and stays so; None if not in the end."""
        other = np.flatnonzero(self.ranks[:, position] > 1)
        after = int(other[-1]) + 1 if len(other) else 0
        return after if after < len(self.ranks) else None

    def earliest(self) -> tuple[int, int] | None:
        """(layers run, position) at which the answer is likeliest for the first time, positions
        that are the answer themselves aside; None if nowhere."""
        first = self.ranks == 1
        first[:, list(self.same)] = False
        places = np.argwhere(first)
        return (int(places[0][0]), int(places[0][1])) if len(places) else None


@dataclass(frozen=True, slots=True)
class LeadingHead:
    """A head that writes much of the answer at the position read."""

    head: Head
    logit: float
    """What it adds to the answer's logit (less the distractor's)."""
    key: int
    """The position that it looks at most from there, the first token aside."""
    weight: float
    """How much it attends to it."""
    change: float
    """Of the answer's log-probability with the head ablated by zero, in nats."""


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What writes the answer at the position read, final norm frozen, in logits."""

    heads: FloatArray
    """[n_layers], all heads of a layer."""
    mlps: FloatArray
    """[n_layers]"""
    rest: float
    """Embedding and biases."""
    leading: tuple[LeadingHead, ...]
    """By absolute logit, largest first."""
    together: float
    """Change of the answer's log-probability with all leading heads ablated, in nats."""


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """From where the position read has got what it holds, by two measures."""

    rollout: FloatArray
    """[n_layers, n_positions]: attention rolled out up to each layer, its row."""
    links: tuple[FloatArray, ...]
    """For each band of layers [n_positions, n_positions]: how much of what the position read ends
    up with comes to i from j there, by norms, the first token aside; each sums to 1."""

    @property
    def rollout_aside(self) -> FloatArray:
        """The rollout without the first token, rows scaled to sum to 1, [n_layers, n_positions]."""
        if self.rollout.shape[1] == 1:
            return self.rollout
        shares = self.rollout.copy()
        shares[:, 0] = 0
        rest = shares.sum(axis=1, keepdims=True)
        scaled: FloatArray = shares / np.where(rest > 0, rest, 1)
        return scaled

    @property
    def sources(self) -> FloatArray:
        """[n_positions]: shares of the input, by norms."""
        shares: FloatArray = self.links[0].sum(axis=0)
        return shares


@dataclass(frozen=True, slots=True, eq=False)
class Progression:
    """What was measured; None where the study was cancelled before, or the model refuses."""

    text: str
    labels: tuple[str, ...]
    """Of the prompt's tokens, no two alike."""
    position: int
    """The one read."""
    answer: str
    distractor: str | None
    bands: tuple[range, ...]
    lens: LensReading
    written: Written | None = None
    flow: Flow | None = None
    cuts: FloatArray | None = None
    """[n_bands, n_positions]: change of the answer's log-probability, in nats, when the position
    read may not look at one position in a band of layers; NaN where it was not cut."""

    @property
    def n_layers(self) -> int:
        return len(self.lens.probs) - 1

    def to_json(self) -> dict[str, Any]:
        lens, written, flow = self.lens, self.written, self.flow
        return plain({
            "prompt": self.text,
            "position": self.position,
            "target": self.answer,
            "versus": self.distractor,
            "lens": {
                "top": lens.tops, "top_prob": lens.probs, "target_prob": lens.answer,
                "target_rank": lens.ranks, "followed": lens.followed, "logprob": lens.log_probs,
            },
            "written": None if written is None else {
                "heads": written.heads, "mlps": written.mlps, "rest": written.rest,
                "together": written.together,
                "leading": [
                    {"head": one.head.to_json(), "logit": one.logit, "key": one.key,
                     "weight": one.weight, "change": one.change}
                    for one in written.leading
                ],
            },
            "rollout": None if flow is None else flow.rollout,
            "moved": None if flow is None else flow.sources,
            "bands": [[band[0], band[-1]] for band in self.bands],
            "cuts": self.cuts,
        })  # fmt: skip
