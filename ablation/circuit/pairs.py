"""Pairs of prompts: what a model makes of them, and whether a circuit can be asked of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablation.circuit.alignment import Column, align, in_words
from ablation.circuit.types import PromptPair
from models.errors import ErrorKind, UserError
from models.types import TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel


class UnequalTokens(UserError):  # noqa: N818 - as its base: what a user reads, not an error's name
    """A clean and a corrupted prompt differ in their number of tokens."""

    def __init__(self, clean: TokenizedPrompt, corrupt: TokenizedPrompt) -> None:
        self.columns: tuple[Column, ...] = align(clean.labels, corrupt.labels)
        """Both lists of tokens side by side, for a table."""
        shown = in_words(self.columns)
        super().__init__(
            ErrorKind.PROMPT,
            f"The clean prompt has {len(clean)} tokens and the corrupted one {len(corrupt)}; "
            f"change words so that they have as many. Clean: {shown[0].rstrip()} | "
            f"corrupted: {shown[1].rstrip()}",
        )


@dataclass(frozen=True, slots=True)
class PosedPair:
    """A pair of prompts as one model sees it."""

    pair: PromptPair
    clean: TokenizedPrompt
    corrupt: TokenizedPrompt
    """As many tokens as `clean`, not all the same."""
    position: int
    """Where predictions are read, in both, counted from 0."""
    answer_id: int
    distractor_id: int | None
    """None where the pair names no distractor."""

    @property
    def changed(self) -> tuple[int, ...]:
        """The positions at which the two prompts differ."""
        return changed_positions(self.clean, self.corrupt)


def changed_positions(clean: TokenizedPrompt, corrupt: TokenizedPrompt) -> tuple[int, ...]:
    """Return the positions at which two prompts of equal length differ."""
    ids = zip(clean.ids, corrupt.ids, strict=True)
    return tuple(position for position, (a, b) in enumerate(ids) if a != b)


def check_pair(model: "LanguageModel", pair: PromptPair, bos: bool | None = None) -> PosedPair:
    """Tokenise a pair and see that a circuit can be asked of it.

    Args:
        bos: whether a beginning-of-sequence token stands in front of both; None leaves it to the
            tokenizer.

    Raises:
        UserError: the two are the same prompt, or differ in their number of tokens
            (`UnequalTokens`), or a masked model would predict at different positions; answer or
            distractor is not one token, or they are the same; or the model is an encoder-decoder.
    """
    model.check_one_stack("A circuit")
    clean, corrupt = (model.tokenize(text, bos) for text in (pair.clean, pair.corrupt))
    if clean.ids == corrupt.ids:
        raise UserError(
            ErrorKind.PROMPT,
            "The clean and the corrupted prompt are the same tokens, so that there is nothing to "
            "explain; change a word of one.",
        )
    if len(clean) != len(corrupt):
        raise UnequalTokens(clean, corrupt)
    positions = [model.resolve_position(prompt) for prompt in (clean, corrupt)]
    if positions[0] != positions[1]:
        raise UserError(
            ErrorKind.POSITION,
            f"The mask token stands at position {positions[0]} of the clean prompt and at "
            f"{positions[1]} of the corrupted one; put it at the same position.",
        )
    answer = model.resolve_token(pair.answer)
    distractor = model.resolve_token(pair.distractor) if pair.distractor else None
    if answer == distractor:
        raise UserError(
            ErrorKind.TARGET,
            f"The answer and the distractor are the same token {pair.answer!r}; choose another "
            "distractor, or none.",
        )
    return PosedPair(pair, clean, corrupt, positions[0], answer, distractor)


def check_pairs(
    model: "LanguageModel", pairs: Sequence[PromptPair], bos: bool | None = None
) -> tuple[PosedPair, ...]:
    """Check each of several pairs (`check_pair`).

    Raises:
        UserError: there is none, or one cannot be used: its number, from 1, is named where there
            are several.
    """
    if not pairs:
        raise UserError(
            ErrorKind.PROMPT, "There is no pair of prompts to ask about; give at least one."
        )
    posed = []
    for number, pair in enumerate(pairs, start=1):
        try:
            posed.append(check_pair(model, pair, bos))
        except UserError as error:
            if len(pairs) == 1:
                raise
            raise UserError(error.kind, f"Pair {number} of {len(pairs)}: {error}") from error
    return tuple(posed)


def lacking_spaces(model: "LanguageModel", pairs: Sequence[PromptPair]) -> tuple[str, ...]:
    """Return the answers and distractors that were probably meant with a space in front.

    After a prompt that does not end in white space the next word mostly begins with one: "Paris"
    is another token than " Paris". Named are those of which both are one token.
    """
    found: dict[str, None] = {}
    for pair in pairs:
        if not pair.clean or pair.clean[-1].isspace():
            continue
        for text in (pair.answer, pair.distractor):
            if text[:1].isalnum() and text not in found and _spaced_is_another(model, text):
                found[text] = None
    return tuple(found)


def _spaced_is_another(model: "LanguageModel", text: str) -> bool:
    try:
        return model.resolve_token(text) != model.resolve_token(f" {text}")
    except UserError:
        return False


def answer_lead(model: "LanguageModel", posed: PosedPair, *, corrupt: bool = False) -> float:
    """Return the logit of the answer less the distractor's, from one forward pass.

    Args:
        corrupt: after the corrupted prompt, not the clean one.

    Raises:
        ValueError: the pair has no distractor.
    """
    if posed.distractor_id is None:
        raise ValueError("a pair without a distractor has no difference of logits")
    prompt = posed.corrupt if corrupt else posed.clean
    log_probs = model.predict(prompt, posed.position, top_k=1).log_probs
    return float(log_probs[posed.answer_id] - log_probs[posed.distractor_id])
