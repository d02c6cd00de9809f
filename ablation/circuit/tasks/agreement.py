"""Subject-verb agreement: "The keys to the cabinet" -> " are", not " is".

After Linzen et al. 2016 (arXiv:1611.01368), who put nouns of the other number ("attractors")
between subject and verb, and Marks et al. 2024 (arXiv:2403.19647), who found circuits for it; the
texts are this program's. The corrupted prompt changes the subject's number alone.
"""

import random
from collections.abc import Iterator

from ablation.circuit.tasks.vocabulary import Vocabulary
from ablation.circuit.types import PromptPair
from ablation.circuit.words import ADJECTIVES, NOUNS, PEOPLE

TEMPLATES = (
    "The {subject}",
    "The {adjective} {subject}",
    "Everybody knows that the {subject}",
    "The {subject} near the {other}",
    "The {subject} behind the {other}",
    "The {subject} beside the {adjective} {other}",
    "The {subject} in front of the {other}",
    "I think that the {subject} next to the {other}",
    "The {subject} that the {person} saw",
    "The {subject} that the {person} talked about",
)
"""With nothing in between, with another noun, with a relative clause."""

VERBS = (("is", "are"), ("was", "were"), ("has", "have"))


def propose(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Yield pairs of both numbers alike often; the noun in between is of either number."""
    nouns = vocabulary.whole_pairs(NOUNS, 4, "nouns in both numbers")
    verbs = vocabulary.whole_pairs(dict(VERBS), 1, "verbs in both numbers")
    # What stands in both prompts may be of any number of tokens.
    people = [(person, NOUNS[person]) for person in PEOPLE]
    while True:
        template, number = rng.choice(TEMPLATES), rng.randrange(2)
        subject, other = rng.sample(nouns, 2)
        person = rng.choice([pair for pair in people if pair != subject])
        rest = {
            "adjective": rng.choice(ADJECTIVES),
            "other": rng.choice(other),
            "person": rng.choice(person),
        }
        verb = rng.choice(verbs)
        yield PromptPair(
            clean=template.format(subject=subject[number], **rest),
            corrupt=template.format(subject=subject[1 - number], **rest),
            answer=f" {verb[number]}",
            distractor=f" {verb[1 - number]}",
            template=template,
        )
