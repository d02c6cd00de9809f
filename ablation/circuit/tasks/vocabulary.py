"""Which words a model's tokenizer keeps whole, and whether a pair suits it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablation.circuit.pairs import PosedPair, check_pair
from ablation.circuit.types import PromptPair
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of one model, as task sets need them."""

    model: "LanguageModel"

    def is_token(self, word: str) -> bool:
        """Whether a word with a space in front is one token."""
        try:
            self.model.resolve_token(f" {word}")
        except UserError:
            return False
        return True

    def whole(self, words: Iterable[str], least: int, what: str) -> tuple[str, ...]:
        """Return those words that are one token with a space in front.

        Args:
            least: how many there have to be.
            what: what they are, plural, for the message.

        Raises:
            UserError: there are fewer.
        """
        words = tuple(words)
        found = tuple(word for word in words if self.is_token(word))
        self._check_enough(len(found), len(words), least, what)
        return found

    def whole_pairs(
        self, words: Mapping[str, str], least: int, what: str
    ) -> tuple[tuple[str, str], ...]:
        """Return those (word, other word) of which both are one token with a space in front.

        Raises:
            UserError: there are fewer than `least`.
        """
        found = tuple(pair for pair in words.items() if all(map(self.is_token, pair)))
        self._check_enough(len(found), len(words), least, what)
        return found

    def _check_enough(self, n_found: int, n_words: int, least: int, what: str) -> None:
        if n_found < least:
            raise UserError(
                ErrorKind.OPTION,
                f"Of the {n_words} {what} of this task only {n_found} are one token for "
                f"{self.model.name}, and it needs {least}; choose another task or model.",
            )

    def pose(self, pair: PromptPair) -> PosedPair:
        """Check a pair, and that its answers really go on as one token behind the clean prompt.

        Raises:
            UserError: the pair does not suit the model.
        """
        posed = check_pair(self.model, pair)
        for text, token in (
            (pair.answer, posed.answer_id),
            (pair.distractor, posed.distractor_id),
        ):
            if text and self.model.tokenize(pair.clean + text).ids != (*posed.clean.ids, token):
                raise UserError(
                    ErrorKind.TARGET,
                    f"{text!r} is not one token more behind the prompt for {self.model.name}; "
                    "choose another task or model.",
                )
        return posed
