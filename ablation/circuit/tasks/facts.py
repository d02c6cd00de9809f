"""Factual recall: "The capital of France is" -> " Paris".

After Meng et al. 2022, "Locating and Editing Factual Associations" (arXiv:2202.05262), and
Hernandez et al. 2023 (arXiv:2308.09124), who ask for one relation of many subjects; tables and
texts are this program's. The corrupted prompt asks for another subject, whose answer is the
distractor: what is measured is which of the two subjects is asked for.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ablation.circuit.tasks.vocabulary import Vocabulary
from ablation.circuit.types import PromptPair
from ablation.circuit.words import CAPITALS, COUNTRY_OF, LANGUAGE_OF
from models.errors import ErrorKind, UserError


@dataclass(frozen=True, slots=True)
class Relation:
    """One thing that is asked of many subjects."""

    answers: Mapping[str, str]
    """Subject -> answer."""
    templates: tuple[str, ...]


RELATIONS = (
    Relation(
        CAPITALS,
        (
            "The capital of {} is",
            "Q: What is the capital of {}? A:",
            "The capital city of {} is called",
            "The government of {} sits in the city of",
        ),
    ),
    Relation(
        COUNTRY_OF,
        (
            "{} is a city in the country of",
            "The city of {} lies in the country of",
            "Q: Which country is {} in? A:",
        ),
    ),
    Relation(
        LANGUAGE_OF,
        (
            "Most people in {} speak",
            "The official language of {} is",
            "Q: What language is spoken in {}? A:",
        ),
    ),
)


def propose(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Yield pairs of all relations alike often.

    Raises:
        UserError: no relation has two answers of one token.
    """
    # Subjects may be several tokens, as long as both are as many: the pair is checked for that.
    tables = [(relation, _known(vocabulary, relation)) for relation in RELATIONS]
    relations = [table for table in tables if len({answer for _, answer in table[1]}) > 1]
    if not relations:
        raise UserError(
            ErrorKind.OPTION,
            f"Hardly any capital, country or language is one token for {vocabulary.model.name}, "
            "and factual recall needs two; choose another task or model.",
        )
    while True:
        relation, known = rng.choice(relations)
        template = rng.choice(relation.templates)
        (subject, answer), (other, distractor) = rng.sample(known, 2)
        if answer == distractor:
            continue
        yield PromptPair(
            clean=template.format(subject),
            corrupt=template.format(other),
            answer=f" {answer}",
            distractor=f" {distractor}",
            template=template,
        )


def _known(vocabulary: Vocabulary, relation: Relation) -> list[tuple[str, str]]:
    return [item for item in relation.answers.items() if vocabulary.is_token(item[1])]
