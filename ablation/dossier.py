"""What is known of each head of a model beforehand: its roles on standard stimuli.

A dossier depends on the weights alone, so it is kept on disk under their fingerprint.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablation.kept import keep, key_of, load_kept
from ablation.reading import read_in_parts
from ablation.stimuli import (
    N_SEQUENCES,
    RepeatedTokens,
    Role,
    repeated_tokens,
    role_scores,
    roles_of,
)
from ablation.types import HeadValues, Progress, without_nan
from models.types import FloatArray, Head

if TYPE_CHECKING:
    from models.language_model import LanguageModel

LAYOUT = 1
"""Raised when a role's definition or the file's form changes: older files then count no more."""

KIND = "dossiers"


@dataclass(frozen=True, slots=True, eq=False)
class Dossier:
    """How far each head of a stack plays each role that `ablation.stimuli.roles_of` it names."""

    model: str
    """What the user called the model."""
    values: FloatArray
    """float32 [n_roles, n_layers, n_heads], mean weights in [0, 1], in the order of `roles`; NaN
    for a head that its layer lacks, or where nothing was measured."""
    n_sequences: int
    """Stimuli over which the scores are the mean."""
    length: int
    """Tokens of r."""
    seed: int
    has_opening: bool
    """Whether a beginning-of-sequence token stands in front."""
    stopped: str = "complete"
    """"complete"; "cancelled" when not every sequence was measured."""
    given: str = "[BOS r r]"
    """What the model was given, in words."""
    stack: str = ""
    """The stack that the heads are of; empty for the main one."""

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or len(self.values) != len(self.roles):
            raise ValueError(f"values must be [{len(self.roles)}, n_layers, n_heads]")

    @property
    def roles(self) -> Mapping[str, Role]:
        """The roles that were scored, by their names."""
        return roles_of(self.stack)

    def of(self, role: str) -> HeadValues:
        """Return the scores of one role, a key of `roles`."""
        values = self.values[list(self.roles).index(role)]
        return HeadValues(self.roles[role].info, values, self.stopped, self.stack)

    def leaders(self, role: str, n: int = 5) -> list[tuple[Head, float]]:
        """Return the heads that play a role most, with their scores, the highest first."""
        return self.of(role).ranked()[:n]

    def describe(self) -> str:
        """Say on what the scores were measured."""
        sequences = f"{self.n_sequences} sequence{'' if self.n_sequences == 1 else 's'}"
        return (
            f"mean attention weights on {sequences} {self.given}, r being {self.length} random "
            f"tokens (seed {self.seed})"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row a head, with a column for each role."""
        layers, heads = np.indices(self.values.shape[1:]).reshape(2, -1)
        scores = {role: self.values[i].reshape(-1) for i, role in enumerate(self.roles)}
        stack = {"stack": self.stack} if self.stack else {}
        return pd.DataFrame({**stack, "layer": layers, "head": heads, **scores}).dropna()

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            **({"stack": self.stack} if self.stack else {}),
            "stimulus": {
                "given": self.given,
                "n_sequences": self.n_sequences,
                "length": self.length,
                "seed": self.seed,
                "has_opening": self.has_opening,
            },
            "roles": {
                role: {
                    "description": self.roles[role].info.description,
                    "scores": without_nan(self.values[i]),
                    "leaders": [
                        {"head": head.to_json(), "score": score}
                        for head, score in self.leaders(role)
                    ],
                }
                for i, role in enumerate(self.roles)
            },
            "stopped": self.stopped,
        }


def head_dossier(
    model: "LanguageModel",
    *,
    n_sequences: int = N_SEQUENCES,
    length: int | None = None,
    seed: int = 0,
    stack: str = "",
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Dossier:
    """Score the roles of a stack's heads on repeated random tokens, or return what is kept of these
    weights.

    Args:
        n_sequences, length, seed: see `repeated_tokens`.
        stack: of an encoder-decoder "encoder", "cross" or the decoder's own; what each is given is
            said in `ablation.stimuli`.
        progress: called after each sequence.
        cancel: looked at before each sequence; once set, the mean over those measured is returned
            (and not kept).

    Raises:
        UserError: stimuli that cannot be made for this model, or numbers that are not finite.
    """
    stack = model.stacks.named(stack).name
    stimuli = repeated_tokens(model, n_sequences, length, seed, stack)
    kept = _known(model, stimuli, seed, stack)
    if kept is not None:
        return kept
    found: list[FloatArray] = []
    for stimulus in stimuli:
        if cancel is not None and cancel.is_set():
            break
        found.append(_measure(model, stimulus, stack))
        if progress is not None:
            done = len(found)
            progress(Progress(done, n_sequences, f"{done} of {n_sequences} sequences"))
    values = np.mean(found, axis=0) if found else _no_scores(model, stack)
    dossier = _dossier(model, stimuli, seed, values, len(found), stack)
    if dossier.stopped == "complete":
        keep(KIND, _key(model, stimuli, stack), [without_nan(scores) for scores in dossier.values])
    return dossier


def known_dossier(
    model: "LanguageModel",
    *,
    n_sequences: int = N_SEQUENCES,
    length: int | None = None,
    seed: int = 0,
    stack: str = "",
) -> Dossier | None:
    """Return what `head_dossier` would, if it is kept; None if it would have to be measured."""
    stack = model.stacks.named(stack).name
    return _known(model, repeated_tokens(model, n_sequences, length, seed, stack), seed, stack)


def _known(
    model: "LanguageModel", stimuli: tuple[RepeatedTokens, ...], seed: int, stack: str
) -> Dossier | None:
    data = load_kept(KIND, _key(model, stimuli, stack))
    if data is None:
        return None
    values = np.array(data, dtype=np.float32)  # null becomes NaN
    return _dossier(model, stimuli, seed, values, len(stimuli), stack)


def _key(model: "LanguageModel", stimuli: tuple[RepeatedTokens, ...], stack: str) -> str:
    ids = [stimulus.prompt.ids for stimulus in stimuli]
    sources = [s.prompt.source.ids for s in stimuli if s.prompt.source is not None]
    of_stack = [stack, sources] if sources else []
    return key_of(LAYOUT, list(roles_of(stack)), model.fingerprint, ids, *of_stack)


def _measure(model: "LanguageModel", stimulus: RepeatedTokens, stack: str) -> FloatArray:
    """Return the scores on one sequence, float64 [n_roles, n_layers, n_heads]."""
    scores = _no_scores(model, stack)
    for maps in read_in_parts(model, stimulus.prompt, model.all_heads(stack)):
        layers = [head.layer for head in maps.heads]
        heads = [head.head for head in maps.heads]
        scores[:, layers, heads] = role_scores(maps.values, stimulus, stack)
    return scores


def _no_scores(model: "LanguageModel", stack: str) -> FloatArray:
    named = model.stacks.named(stack)
    return np.full((len(roles_of(stack)), named.n_layers, named.n_heads), np.nan)


def _dossier(
    model: "LanguageModel",
    stimuli: tuple[RepeatedTokens, ...],
    seed: int,
    values: FloatArray,
    n_measured: int,
    stack: str,
) -> Dossier:
    return Dossier(
        model=model.name,
        values=values.astype(np.float32),
        n_sequences=n_measured,
        length=stimuli[0].length,
        seed=seed,
        has_opening=stimuli[0].start == 1,
        stopped="complete" if n_measured == len(stimuli) else "cancelled",
        given=stimuli[0].given,
        stack=stack,
    )
