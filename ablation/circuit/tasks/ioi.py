"""Indirect object: "When Mary and John went to the store, John gave a drink to" -> " Mary".

The task, its two orders of names (ABBA, BABA) and its corruption (three other names, "ABC") are of
Wang et al. 2023, "Interpretability in the Wild" (arXiv:2211.00593); the texts are this program's.
"""

import random
from collections.abc import Iterator

from ablation.circuit.tasks.vocabulary import Vocabulary
from ablation.circuit.types import PromptPair
from ablation.circuit.words import MEN, WOMEN

TEMPLATES = (
    "When {0} and {1} went to the {place}, {2} gave a {thing} to",
    "After {0} and {1} had been to the {place}, {2} gave a {thing} to",
    "While {0} and {1} were at the {place}, {2} handed a {thing} to",
    "Then {0} and {1} met at the {place}, and {2} gave a {thing} to",
    "Yesterday {0} and {1} walked to the {place}. On the way {2} gave a {thing} to",
    "The friends {0} and {1} had a long talk at the {place}. Afterwards {2} gave a {thing} to",
    "Because {0} and {1} wanted to meet at the {place}, {2} brought a {thing} for",
    "Since {0} and {1} worked together at the {place}, {2} decided to give a {thing} to",
)
"""Two names, a place and a thing, the giver's name."""

PLACES = ("store", "park", "school", "station", "office", "hospital", "restaurant", "library",
          "museum", "market", "garden", "beach")  # fmt: skip

GIFTS = ("drink", "book", "ball", "letter", "ring", "flower", "key", "hat", "present", "map",
         "camera", "ticket")  # fmt: skip


def propose(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Yield pairs whose names are one token each, both orders alike often."""
    names = vocabulary.whole((*WOMEN, *MEN), 5, "first names")
    while True:
        template = rng.choice(TEMPLATES)
        setting = {"place": rng.choice(PLACES), "thing": rng.choice(GIFTS)}
        receiver, giver, *others = rng.sample(names, 5)
        pair = (receiver, giver) if rng.random() < 0.5 else (giver, receiver)
        yield PromptPair(
            clean=template.format(*pair, giver, **setting),
            corrupt=template.format(*others, **setting),
            answer=f" {receiver}",
            distractor=f" {giver}",
        )
