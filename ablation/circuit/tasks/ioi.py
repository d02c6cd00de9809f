"""Indirect object: "When Mary and John went to the store, John gave a drink to" -> " Mary".

The task, its two orders of names (ABBA, BABA) and its corruption (three other names, "ABC") are of
Wang et al. 2023, "Interpretability in the Wild" (arXiv:2211.00593); the texts are this program's.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Scene:
    """Two people somewhere, one of whom gives something to the other."""

    template: str
    setting: Mapping[str, str]
    receiver: str
    giver: str
    order: tuple[str, str]
    """In which the two are named first."""
    others: tuple[str, str, str]
    """Names of nobody in it."""

    def text(self, first: str, second: str, giver: str) -> str:
        return self.template.format(first, second, giver, **self.setting)


def scenes(vocabulary: Vocabulary, rng: random.Random) -> Iterator[Scene]:
    """Yield scenes whose names are one token each, both orders alike often."""
    names = vocabulary.whole((*WOMEN, *MEN), 5, "first names")
    while True:
        template = rng.choice(TEMPLATES)
        setting = {"place": rng.choice(PLACES), "thing": rng.choice(GIFTS)}
        receiver, giver, *others = rng.sample(names, 5)
        order = (receiver, giver) if rng.random() < 0.5 else (giver, receiver)
        yield Scene(template, setting, receiver, giver, order, (others[0], others[1], others[2]))


def propose(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Yield pairs whose names are one token each, both orders alike often."""
    for scene in scenes(vocabulary, rng):
        yield PromptPair(
            clean=scene.text(*scene.order, scene.giver),
            corrupt=scene.text(*scene.others),
            answer=f" {scene.receiver}",
            distractor=f" {scene.giver}",
            template=scene.template,
        )
