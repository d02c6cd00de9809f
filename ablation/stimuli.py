"""Standard stimuli, on which it is known beforehand where a head of a given role must look.

A sequence [BOS r r] repeats random tokens: nothing but their order can be used, so that a head
which looks for an earlier occurrence, or behind it, shows itself whatever it does in running text
(Elhage et al. 2021, Olsson et al. 2022).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ablation.types import MetricInfo
from models.errors import ErrorKind, UserError
from models.types import FloatArray, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

LENGTH = 50
"""Tokens of r, where the model's context holds as many twice."""

N_SEQUENCES = 4


@dataclass(frozen=True, slots=True)
class RepeatedTokens:
    """A sequence of tokens, twice, behind the token that opens a sequence if there is one."""

    prompt: TokenizedPrompt
    start: int
    """Where the first copy begins: 1 behind an opening token, else 0."""
    length: int
    """Tokens of a copy; they differ from each other, so that each occurs once in each copy."""


def repeated_tokens(
    model: "LanguageModel", n_sequences: int = N_SEQUENCES, length: int | None = None, seed: int = 0
) -> tuple[RepeatedTokens, ...]:
    """Return sequences [BOS r r], r being random ordinary tokens that differ from each other.

    Args:
        length: tokens of r; None for `LENGTH`, or as many as the context holds twice.
        seed: of the random choice; the same seed gives a tokenizer the same sequences.

    Raises:
        UserError: the sequences are none or too long, or the vocabulary has too few tokens; or the
            model is an encoder-decoder.
    """
    model.check_one_stack("A score on repeated random tokens")
    opening = [] if model.opening_id is None else [model.opening_id]
    ordinary = model.ordinary_ids()
    longest = min((model.max_positions - len(opening)) // 2, len(ordinary))
    length = min(LENGTH, longest) if length is None else length
    if n_sequences < 1 or seed < 0 or not 2 <= length <= longest:
        raise UserError(
            ErrorKind.OPTION,
            f"Sequences of random tokens twice need at least one sequence, a seed from 0 and, for "
            f"{model.name}, a length from 2 to {longest}; got {n_sequences} sequences of length "
            f"{length} with seed {seed}.",
        )
    generator = np.random.default_rng(seed)
    chosen = (generator.choice(ordinary, length, replace=False) for _ in range(n_sequences))
    return tuple(
        RepeatedTokens(model.prompt_of_ids([*opening, *copy, *copy]), len(opening), length)
        for copy in (ids.tolist() for ids in chosen)
    )


Pairs = tuple[np.ndarray, np.ndarray]
"""Queries and keys, int64 [n_pairs] each."""


@dataclass(frozen=True, slots=True)
class Role:
    """Something that heads are known to do, and how it shows on a sequence [BOS r r].

    The score is the mean of the weights at `pairs`: one key for each query that counts.
    """

    info: MetricInfo
    pairs: Callable[[RepeatedTokens], Pairs]


def _previous_token(stimulus: RepeatedTokens) -> Pairs:
    queries = np.arange(2, len(stimulus.prompt))
    return queries, queries - 1


def _first_token(stimulus: RepeatedTokens) -> Pairs:
    queries = np.arange(2, len(stimulus.prompt))
    return queries, np.zeros_like(queries)


def _second_copy(stimulus: RepeatedTokens) -> np.ndarray:
    return np.arange(stimulus.start + stimulus.length, len(stimulus.prompt))


def _duplicate_token(stimulus: RepeatedTokens) -> Pairs:
    queries = _second_copy(stimulus)
    return queries, queries - stimulus.length


def _induction(stimulus: RepeatedTokens) -> Pairs:
    queries = _second_copy(stimulus)
    return queries, queries - stimulus.length + 1


def _role(name: str, label: str, pairs: Callable[[RepeatedTokens], Pairs], words: str) -> Role:
    return Role(MetricInfo(name, label, "mean weight", False, False, words), pairs)


ROLES: Mapping[str, Role] = {
    role.info.name: role
    for role in (
        _role(
            "previous_token",
            "Previous token",
            _previous_token,
            "the weight on the token just before; mean over all queries from the third token on, "
            "whose previous token is not the first of all",
        ),
        _role(
            "induction",
            "Induction",
            _induction,
            "the weight on the token after the earlier occurrence of the current one; mean over "
            "the queries of the second copy",
        ),
        _role(
            "duplicate_token",
            "Duplicate token",
            _duplicate_token,
            "the weight on the earlier occurrence of the current token; mean over the queries of "
            "the second copy",
        ),
        _role(
            "first_token",
            "First token",
            _first_token,
            "the weight on the first token of all; mean over all queries from the third token on",
        ),
    )
}
"""The roles that a dossier scores. Induction: Olsson et al. 2022; previous and duplicate token:
Wang et al. 2023 (arXiv:2211.00593); first token: the attention sink of Xiao et al. 2024."""


def role_scores(weights: FloatArray, stimulus: RepeatedTokens) -> FloatArray:
    """Return how far heads play each role on one sequence.

    Args:
        weights: attention on the sequence, float32 [n_heads, n_query, n_key].

    Returns:
        float64 [n_roles, n_heads], in the order of `ROLES`.
    """
    rows = []
    for role in ROLES.values():
        queries, keys = role.pairs(stimulus)
        rows.append(weights[:, queries, keys].mean(axis=1, dtype=np.float64))
    return np.stack(rows)
