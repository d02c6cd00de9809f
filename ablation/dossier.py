"""What is known of each head of a model beforehand: its roles on standard stimuli.

A dossier depends on the weights alone, so it is kept on disk under their fingerprint.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablation.kept import keep, key_of, load_kept
from ablation.reading import read_in_parts
from ablation.stimuli import N_SEQUENCES, ROLES, RepeatedTokens, repeated_tokens, role_scores
from ablation.types import HeadValues, Progress, without_nan
from models.types import FloatArray, Head

if TYPE_CHECKING:
    from models.language_model import LanguageModel

LAYOUT = 1
"""Raised when a role's definition or the file's form changes: older files then count no more."""

KIND = "dossiers"


@dataclass(frozen=True, slots=True, eq=False)
class Dossier:
    """How far each head plays each role of `ablation.stimuli.ROLES`."""

    model: str
    """What the user called the model."""
    values: FloatArray
    """float32 [n_roles, n_layers, n_heads], mean weights in [0, 1], the roles in the order of
    `ROLES`; NaN for a head that its layer lacks, or where nothing was measured."""
    n_sequences: int
    """Sequences [BOS r r] over which the scores are the mean."""
    length: int
    """Tokens of r."""
    seed: int
    has_opening: bool
    """Whether a beginning-of-sequence token stands in front."""
    stopped: str = "complete"
    """"complete"; "cancelled" when not every sequence was measured."""

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or len(self.values) != len(ROLES):
            raise ValueError(f"values must be [{len(ROLES)}, n_layers, n_heads]")

    def of(self, role: str) -> HeadValues:
        """Return the scores of one role, a key of `ROLES`."""
        values = self.values[list(ROLES).index(role)]
        return HeadValues(ROLES[role].info, values, self.stopped)

    def leaders(self, role: str, n: int = 5) -> list[tuple[Head, float]]:
        """Return the heads that play a role most, with their scores, the highest first."""
        return self.of(role).ranked()[:n]

    def describe(self) -> str:
        """Say on what the scores were measured."""
        opening = "BOS r r" if self.has_opening else "r r"
        sequences = f"{self.n_sequences} sequence{'' if self.n_sequences == 1 else 's'}"
        return (
            f"mean attention weights on {sequences} [{opening}], r being {self.length} random "
            f"tokens (seed {self.seed})"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row a head, with a column for each role."""
        layers, heads = np.indices(self.values.shape[1:]).reshape(2, -1)
        scores = {role: self.values[i].reshape(-1) for i, role in enumerate(ROLES)}
        return pd.DataFrame({"layer": layers, "head": heads, **scores}).dropna()

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "stimulus": {
                "n_sequences": self.n_sequences,
                "length": self.length,
                "seed": self.seed,
                "has_opening": self.has_opening,
            },
            "roles": {
                role: {
                    "description": ROLES[role].info.description,
                    "scores": without_nan(self.values[i]),
                    "leaders": [
                        {"head": head.to_json(), "score": score}
                        for head, score in self.leaders(role)
                    ],
                }
                for i, role in enumerate(ROLES)
            },
            "stopped": self.stopped,
        }


def head_dossier(
    model: "LanguageModel",
    *,
    n_sequences: int = N_SEQUENCES,
    length: int | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Dossier:
    """Score every head's roles on repeated random tokens, or return what is kept of these weights.

    Args:
        n_sequences, length, seed: see `repeated_tokens`.
        progress: called after each sequence.
        cancel: looked at before each sequence; once set, the mean over those measured is returned
            (and not kept).

    Raises:
        UserError: stimuli that cannot be made for this model, or numbers that are not finite.
    """
    stimuli = repeated_tokens(model, n_sequences, length, seed)
    kept = _known(model, stimuli, seed)
    if kept is not None:
        return kept
    found: list[FloatArray] = []
    for stimulus in stimuli:
        if cancel is not None and cancel.is_set():
            break
        found.append(_measure(model, stimulus))
        if progress is not None:
            done = len(found)
            progress(Progress(done, n_sequences, f"{done} of {n_sequences} sequences"))
    values = np.mean(found, axis=0) if found else _no_scores(model)
    dossier = _dossier(model, stimuli, seed, values, len(found))
    if dossier.stopped == "complete":
        keep(KIND, _key(model, stimuli), [without_nan(scores) for scores in dossier.values])
    return dossier


def known_dossier(
    model: "LanguageModel",
    *,
    n_sequences: int = N_SEQUENCES,
    length: int | None = None,
    seed: int = 0,
) -> Dossier | None:
    """Return what `head_dossier` would, if it is kept; None if it would have to be measured."""
    return _known(model, repeated_tokens(model, n_sequences, length, seed), seed)


def _known(
    model: "LanguageModel", stimuli: tuple[RepeatedTokens, ...], seed: int
) -> Dossier | None:
    data = load_kept(KIND, _key(model, stimuli))
    if data is None:
        return None
    values = np.array(data, dtype=np.float32)  # null becomes NaN
    return _dossier(model, stimuli, seed, values, len(stimuli))


def _key(model: "LanguageModel", stimuli: tuple[RepeatedTokens, ...]) -> str:
    ids = [stimulus.prompt.ids for stimulus in stimuli]
    return key_of(LAYOUT, list(ROLES), model.fingerprint, ids)


def _measure(model: "LanguageModel", stimulus: RepeatedTokens) -> FloatArray:
    """Return the scores on one sequence, float64 [n_roles, n_layers, n_heads]."""
    scores = _no_scores(model)
    for maps in read_in_parts(model, stimulus.prompt):
        layers = [head.layer for head in maps.heads]
        heads = [head.head for head in maps.heads]
        scores[:, layers, heads] = role_scores(maps.values, stimulus)
    return scores


def _no_scores(model: "LanguageModel") -> FloatArray:
    return np.full((len(ROLES), model.n_layers, model.n_heads), np.nan)


def _dossier(
    model: "LanguageModel",
    stimuli: tuple[RepeatedTokens, ...],
    seed: int,
    values: FloatArray,
    n_measured: int,
) -> Dossier:
    return Dossier(
        model=model.name,
        values=values.astype(np.float32),
        n_sequences=n_measured,
        length=stimuli[0].length,
        seed=seed,
        has_opening=stimuli[0].start == 1,
        stopped="complete" if n_measured == len(stimuli) else "cancelled",
    )
