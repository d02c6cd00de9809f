"""Standard stimuli, on which it is known beforehand where a head of a given role must look.

A sequence [BOS r r] repeats random tokens: nothing but their order can be used, so that a head
which looks for an earlier occurrence, or behind it, shows itself whatever it does in running text
(Elhage et al. 2021, Olsson et al. 2022).

An encoder-decoder is given, by the stack whose heads are scored:

- encoder: [BOS r r] as the source, and a decoder that has written nothing;
- decoder: r r as what its decoder has written, behind the token that starts it, while the source
  is other random tokens, so that nothing of r can be known from there;
- cross attention: r as the source and once more as what the decoder has written. There "previous",
  "duplicate" and "induction" have no meaning, as queries and keys are positions of two texts. What
  has one is where in the source a copying decoder must look: `CROSS_ROLES`.

No token that ends a sequence is put behind any of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ablation.types import MetricInfo
from models.errors import ErrorKind, UserError
from models.types import CROSS, VISION, FloatArray, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

LENGTH = 50
"""Tokens of r, where the model's context holds as many twice."""

N_SEQUENCES = 4


@dataclass(frozen=True, slots=True)
class RepeatedTokens:
    """A sequence of tokens, twice: one copy behind the other, behind the token that opens a
    sequence if there is one; or, for cross attention, one copy in each of two texts."""

    prompt: TokenizedPrompt
    start: int
    """Where, among the queries, the first copy begins: 1 behind an opening token, else 0."""
    length: int
    """Tokens of a copy; they differ from each other, so that each occurs once in each copy."""
    given: str = "[BOS r r]"
    """What the model was given, in words."""
    source_start: int = 0
    """For cross attention: where, among the keys, the source's copy begins."""

    @property
    def end(self) -> int:
        """Where two copies, one behind the other, end."""
        return self.start + 2 * self.length


def repeated_tokens(
    model: "LanguageModel",
    n_sequences: int = N_SEQUENCES,
    length: int | None = None,
    seed: int = 0,
    stack: str = "",
) -> tuple[RepeatedTokens, ...]:
    """Return sequences [BOS r r], r being random ordinary tokens that differ from each other.

    Args:
        length: tokens of r; None for `LENGTH`, or as many as the context holds twice.
        seed: of the random choice; the same seed gives a tokenizer the same sequences.
        stack: of an encoder-decoder, whose heads are to be scored.

    Raises:
        UserError: the sequences are none or too long, or the vocabulary has too few tokens; or
            there is no such stack.
    """
    model.refuse_text_alone("A role's stimulus")
    named = model.stacks.named(stack)
    if named.name == VISION:
        raise UserError(
            ErrorKind.HEADS,
            "Roles are played on random text, which the heads of the vision tower never see; "
            "choose the language stack.",
        )
    translates = model.kind == "encoder-decoder"
    decodes = translates and named.queries == "prompt"
    opening = [] if model.opening_id is None else [model.opening_id]
    ordinary = model.ordinary_ids()
    # The decoder's source is as many other tokens.
    n_kinds = 2 if decodes and named.keys == "prompt" else 1
    room = (model.max_positions - max(len(opening), int(decodes))) // 2
    longest = min(room, len(ordinary) // n_kinds)
    length = min(LENGTH, longest) if length is None else length
    if n_sequences < 1 or seed < 0 or not 2 <= length <= longest:
        raise UserError(
            ErrorKind.OPTION,
            f"Sequences of random tokens twice need at least one sequence, a seed from 0 and, for "
            f"{model.name}, a length from 2 to {longest}; got {n_sequences} sequences of length "
            f"{length} with seed {seed}.",
        )
    generator = np.random.default_rng(seed)
    chosen = (
        generator.choice(ordinary, n_kinds * length, replace=False).tolist()
        for _ in range(n_sequences)
    )
    pose = {(): _alone, ("source", "source"): _read, ("prompt", "prompt"): _written}
    sides = (named.queries, named.keys) if translates else ()
    return tuple(pose.get(sides, _copied)(model, opening, ids, length) for ids in chosen)


def _alone(
    model: "LanguageModel", opening: list[int], ids: list[int], length: int
) -> RepeatedTokens:
    given = "[BOS r r]" if opening else "[r r]"
    return RepeatedTokens(model.prompt_of_ids([*opening, *ids, *ids]), len(opening), length, given)


def _read(
    model: "LanguageModel", opening: list[int], ids: list[int], length: int
) -> RepeatedTokens:
    """The encoder reads both copies."""
    stimulus = _alone(model, opening, ids, length)
    return replace(stimulus, given=f"{stimulus.given} read by the encoder")


def _written(
    model: "LanguageModel", opening: list[int], ids: list[int], length: int
) -> RepeatedTokens:
    """The decoder has written both copies of the first half of `ids`; the source is the other."""
    copy, other = ids[:length], ids[length:]
    prompt = model.prompt_of_ids([*opening, *other], [*copy, *copy])
    given = "[start r r] written by the decoder, whose source is as many other random tokens"
    return RepeatedTokens(prompt, 1, length, given)


def _copied(
    model: "LanguageModel", opening: list[int], ids: list[int], length: int
) -> RepeatedTokens:
    """The source is one copy, and the decoder has written the other."""
    source = "[BOS r]" if opening else "[r]"
    given = f"{source} read by the encoder and [start r] written by the decoder"
    prompt = model.prompt_of_ids([*opening, *ids], ids)
    return RepeatedTokens(prompt, 1, length, given, source_start=len(opening))


Pairs = tuple[np.ndarray, np.ndarray]
"""Queries and keys, int64 [n_pairs] each."""


@dataclass(frozen=True, slots=True)
class Role:
    """Something that heads are known to do, and how it shows on a stimulus.

    The score is the mean of the weights at `pairs`: one key for each query that counts.
    """

    info: MetricInfo
    pairs: Callable[[RepeatedTokens], Pairs]


def _previous_token(stimulus: RepeatedTokens) -> Pairs:
    queries = np.arange(2, stimulus.end)
    return queries, queries - 1


def _first_token(stimulus: RepeatedTokens) -> Pairs:
    queries = np.arange(2, stimulus.end)
    return queries, np.zeros_like(queries)


def _second_copy(stimulus: RepeatedTokens) -> np.ndarray:
    return np.arange(stimulus.start + stimulus.length, stimulus.end)


def _duplicate_token(stimulus: RepeatedTokens) -> Pairs:
    queries = _second_copy(stimulus)
    return queries, queries - stimulus.length


def _induction(stimulus: RepeatedTokens) -> Pairs:
    queries = _second_copy(stimulus)
    return queries, queries - stimulus.length + 1


def _same_in_source(stimulus: RepeatedTokens) -> Pairs:
    places = np.arange(stimulus.length)
    return stimulus.start + places, stimulus.source_start + places


def _next_in_source(stimulus: RepeatedTokens) -> Pairs:
    places = np.arange(stimulus.length - 1)
    return stimulus.start + places, stimulus.source_start + places + 1


def _first_in_source(stimulus: RepeatedTokens) -> Pairs:
    queries = stimulus.start + np.arange(1, stimulus.length)
    return queries, np.zeros_like(queries)


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


CROSS_ROLES: Mapping[str, Role] = {
    role.info.name: role
    for role in (
        _role(
            "same_token",
            "Same token",
            _same_in_source,
            "the weight on the source's copy of the token that the decoder has just written; mean "
            "over the queries of the decoder's copy",
        ),
        _role(
            "next_token",
            "Next token",
            _next_in_source,
            "the weight on the source token that follows the copy of the token just written, which "
            "a copy would write next; mean over the queries of the decoder's copy but the last",
        ),
        _role(
            "first_token",
            "First token",
            _first_in_source,
            "the weight on the first token of the source; mean over the queries of the decoder's "
            "copy from its second token on",
        ),
    )
}
"""The roles of cross attention, defined here: each is one offset between two equal texts. What
translation models learn to do between a text and its translation, to align (Bahdanau et al. 2015),
is to look at "same" or "next" where the translation is the text itself."""


def roles_of(stack: str) -> Mapping[str, Role]:
    """Return the roles that heads of a stack can play, by their names."""
    return CROSS_ROLES if stack == CROSS else ROLES


def role_scores(weights: FloatArray, stimulus: RepeatedTokens, stack: str = "") -> FloatArray:
    """Return how far heads play each role on one sequence.

    Args:
        weights: attention on the sequence, float32 [n_heads, n_query, n_key].
        stack: whose heads they are.

    Returns:
        float64 [n_roles, n_heads], in the order of `roles_of`.
    """
    rows = []
    for role in roles_of(stack).values():
        queries, keys = role.pairs(stimulus)
        rows.append(weights[:, queries, keys].mean(axis=1, dtype=np.float64))
    return np.stack(rows)
