"""Pronouns: "Mary went home early because" -> " she", not " he".

After Mathwin et al. 2023, who looked for the circuit of gendered pronouns in GPT-2; the texts are
this program's. The corrupted prompt names somebody of the other gender. That a name has a gender is
what models learned from text; no more is claimed.
"""

import random
from collections.abc import Iterator

from ablation.circuit.tasks.vocabulary import Vocabulary
from ablation.circuit.types import PromptPair
from ablation.circuit.words import MEN, WOMEN

TEMPLATES = (
    "{} went home early because",
    "{} said that",
    "When {} came back from the market,",
    "{} was tired, so",
    "Everybody likes {} because",
    "We waited for {} until",
    "{} could not find the key, although",
    "Nobody had told {} what",
    "{} is a good friend of mine, and I know that",
    "After the meeting at the library, {} left since",
)
PRONOUNS = (" she", " he")


def propose(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Yield pairs of a woman's and a man's name, one token each, either first alike often."""
    women = vocabulary.whole(WOMEN, 5, "women's first names")
    men = vocabulary.whole(MEN, 5, "men's first names")
    while True:
        template, gender = rng.choice(TEMPLATES), rng.randrange(2)
        names = rng.choice(women), rng.choice(men)
        yield PromptPair(
            clean=template.format(names[gender]),
            corrupt=template.format(names[1 - gender]),
            answer=PRONOUNS[gender],
            distractor=PRONOUNS[1 - gender],
            template=template,
        )
