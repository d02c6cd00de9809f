"""Corrupted prompts for any prompt that somebody typed: a word or two changed, all else the same.

Rules (`ablation.circuit.corruption_rules`) have ideas; here each is tried on the model's own
tokenizer, and only those that leave every token in its place are proposed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ablation.circuit.corruption_rules import LAST_RESORTS, RULES, Idea, Rule, Text, applied
from ablation.circuit.pairs import changed_positions
from models.errors import UserError
from models.types import TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

MOST_PROPOSALS = 6

MOST_TRIED = 40
"""So many replacements of one word are tried, which takes tokenising the prompt as often."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A corrupted prompt, and what it changes."""

    corrupt: str
    words: str
    """What was changed, for a person: 'the second "John" becomes "Mary"'."""
    changed: tuple[int, ...]
    """The positions at which its tokens differ from the prompt's; at least one."""


def propose_corruption(
    model: "LanguageModel", prompt: str, bos: bool | None = None
) -> tuple[Proposal, ...]:
    """Propose corrupted prompts that have as many tokens as a prompt, the most telling first.

    Args:
        bos: whether a beginning-of-sequence token stands in front; None leaves it to the tokenizer.

    Returns:
        At most `MOST_PROPOSALS`, no two the same; none where nothing can be found.

    Raises:
        UserError: the prompt is empty or does not fit the model's context.
    """
    clean = model.tokenize(prompt, bos).typed
    for rules in (RULES, *((rule,) for rule in LAST_RESORTS)):
        proposals = _distinct(_fitting(model, clean, rules, bos))
        if found := tuple(islice(proposals, MOST_PROPOSALS)):
            return found
    return ()


def _fitting(
    model: "LanguageModel", clean: TokenizedPrompt, rules: Sequence[Rule], bos: bool | None
) -> Iterator[Proposal]:
    """Yield of each group of ideas the first that suits the model."""
    text = Text.of(clean.text)
    for rule in rules:
        for alternatives in rule(text):
            tried = (_tried(model, clean, idea, bos) for idea in islice(alternatives, MOST_TRIED))
            if found := next((proposal for proposal in tried if proposal), None):
                yield found


def _tried(
    model: "LanguageModel", clean: TokenizedPrompt, idea: Idea, bos: bool | None
) -> Proposal | None:
    """Return an idea as a proposal; None if it moves tokens, changes none or a special one."""
    # Each edit alone keeps the number, or two might make up for each other, "a bc" for "ab c",
    # and what stands between would have moved.
    steps = [(edit,) for edit in idea.edits] if len(idea.edits) > 1 else []
    for edits in (*steps, idea.edits):
        text = applied(edits, clean.text)
        try:
            corrupt = model.tokenize(text, bos).typed
        except UserError:  # longer than the model's context
            return None
        if len(corrupt) != len(clean):
            return None
    changed = changed_positions(clean, corrupt)
    special = any("special" in (clean.kinds[i], corrupt.kinds[i]) for i in changed)
    return Proposal(text, idea.words, changed) if changed and not special else None


def _distinct(proposals: Iterable[Proposal]) -> Iterator[Proposal]:
    known = set()
    for proposal in proposals:
        if proposal.corrupt not in known:
            known.add(proposal.corrupt)
            yield proposal
