"""Induction: random words, then the same again: which one comes next?

After Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", and Olsson et al.
2022, "In-context Learning and Induction Heads" (arXiv:2209.11895), who repeat random tokens.
Words are used here, so that a person can read the prompts. The corrupted prompt differs in the
first copy alone, in the words before the answer: answer and distractor stand in both prompts
once, the last words are the same, and only what led to the answer before is gone.
"""

import random
from collections.abc import Iterator

from ablation.circuit.tasks.vocabulary import Vocabulary
from ablation.circuit.types import PromptPair
from ablation.circuit.words import THINGS

LENGTHS = range(8, 13)
"""Words of a copy."""

LEAST_REPEATED = 3
"""So many words of the second copy are there at least, so that it can be seen to be one."""


def propose(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Yield pairs that repeat a list of words up to the one before the answer."""
    words = vocabulary.whole(THINGS, 2 * LENGTHS[-1], "words")
    while True:
        length = rng.choice(LENGTHS)
        n_repeated = rng.randint(LEAST_REPEATED, length - 2)
        drawn = rng.sample(words, length + n_repeated)
        copy, others = drawn[:length], drawn[length:]
        answer, *rest = copy[n_repeated:]
        again = copy[:n_repeated]
        yield PromptPair(
            clean=_text(*copy, *again),
            corrupt=_text(*others, answer, *rest, *again),
            answer=f" {answer}",
            distractor=f" {rng.choice(rest)}",
        )


def _text(*words: str) -> str:
    # Something in front gives the first word its space too.
    return f"Words: {' '.join(words)}"
