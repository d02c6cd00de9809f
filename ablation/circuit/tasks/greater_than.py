"""Greater than: "The war lasted from the year 1732 to the year 17" -> a number above 32.

The task and its corruption (a first year that ends in 01, after which every number is later) are
of Hanna et al. 2023, "How does GPT-2 compute greater-than?" (arXiv:2305.00586); the texts are this
program's. There the answer is the token of two digits. Where a tokenizer splits digits one by one
the next token is the decade's digit, and the answer is a digit above the first year's.
"""

import random
from collections.abc import Iterator

from ablation.circuit.tasks.vocabulary import Vocabulary
from ablation.circuit.types import PromptPair
from models.errors import ErrorKind, UserError

TEMPLATES = (
    "The {thing} lasted from the year {first} to the year {century}",
    "The {thing} went on from the year {first} until the year {century}",
    "The {thing} began in the year {first} and ended in the year {century}",
    "Historians say that the {thing} lasted from the year {first} to the year {century}",
)

THINGS = ("war", "siege", "reign", "journey", "project", "conflict", "expedition", "rebellion",
          "dispute", "famine", "trial", "alliance", "campaign", "voyage", "occupation", "marriage",
          "treaty", "plague", "construction", "partnership")  # fmt: skip

CENTURIES = tuple(str(century) for century in range(11, 20))

NEAR = 20
"""Answers of two digits are at most so many years from the first year."""


def propose(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Yield pairs whose answer is later in the century, and whose distractor is earlier.

    Raises:
        UserError: the tokenizer splits years neither after the century nor into single digits.
    """
    draw = _two_digits if _digits_a_token(vocabulary) == 2 else _one_digit
    while True:
        template, thing = rng.choice(TEMPLATES), rng.choice(THINGS)
        century = rng.choice(CENTURIES)
        year, answer, distractor = draw(rng)
        clean, corrupt = (
            template.format(thing=thing, first=f"{century}{end}", century=century)
            for end in (year, "01")
        )
        yield PromptPair(clean, corrupt, answer, distractor, template)


def _two_digits(rng: random.Random) -> tuple[str, str, str]:
    """Return the last two digits of a year, later ones, earlier ones."""
    year = rng.randint(12, 88)
    later = rng.randint(year + 1, min(year + NEAR, 99))
    earlier = rng.randint(max(year - NEAR, 2), year - 1)
    return f"{year:02}", f"{later:02}", f"{earlier:02}"


def _one_digit(rng: random.Random) -> tuple[str, str, str]:
    """Return the last two digits of a year, the digit of a later decade, of an earlier one."""
    decade = rng.randint(2, 8)
    # The nearest decades: far ones are later too, but nobody expects a war of 70 years.
    later = rng.randint(decade + 1, min(decade + 2, 9))
    earlier = rng.randint(max(decade - 2, 1), decade - 1)
    return f"{decade}{rng.randint(2, 9)}", str(later), str(earlier)


def _digits_a_token(vocabulary: Vocabulary) -> int:
    """Return how many digits follow a century as one token: 2 or 1."""
    model = vocabulary.model
    stem = TEMPLATES[0].format(thing=THINGS[0], first="1732", century="17")
    before = model.tokenize(stem)
    after = model.tokenize(f"{stem}46")
    if after.ids[: len(before)] == before.ids:
        added = after.texts[len(before) :]
        if added == ("46",):
            return 2
        if added == ("4", "6"):
            return 1
    shown = " ".join(f"[{label}]" for label in after.labels[-4:])
    raise UserError(
        ErrorKind.OPTION,
        f"Greater than needs years split after the century or digit by digit, and {model.name} "
        f"splits one as … {shown}; choose another task or model.",
    )
