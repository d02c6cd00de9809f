"""The indirect object again, with one token corrupted: the giver becomes the other one.

"When Mary and John went to the store, John gave a drink to" -> " Mary" against "..., Mary gave a
drink to" -> " John". All names stand in both prompts, so that a circuit is of what tells who is
given something, and not of which names there are (the "S2-IO flip" of Mueller et al. 2025, "MIB",
arXiv:2504.13151); the texts are those of `ioi`.
"""

import random
from collections.abc import Iterator

from ablation.circuit.tasks.ioi import scenes
from ablation.circuit.tasks.vocabulary import Vocabulary
from ablation.circuit.types import PromptPair


def propose(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Yield pairs whose names are one token each, both orders alike often."""
    for scene in scenes(vocabulary, rng):
        yield PromptPair(
            clean=scene.text(*scene.order, scene.giver),
            corrupt=scene.text(*scene.order, scene.receiver),
            answer=f" {scene.receiver}",
            distractor=f" {scene.giver}",
            template=scene.template,
        )
