"""Task sets: pairs of prompts that ask the same of a model, so that a circuit is of a task.

A task is an entry of `TASKS` and a module that the entry names, which has a function `propose`:
an endless stream of random pairs. Which of them suit a model's tokenizer is found out here.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING

from ablation.circuit.pairs import PosedPair, answer_lead
from ablation.circuit.tasks.vocabulary import Vocabulary
from ablation.circuit.types import PromptPair
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from models.language_model import LanguageModel

MOST_MISSES = 1000
"""After so many proposals in a row that are known or do not suit, there are no more."""

TRIES_A_PAIR = 10
"""With `only_correct`, a model may fail on so many pairs for each that is asked for."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task in words, and where it is."""

    name: str
    label: str
    question: str
    """What the model has to know, in a sentence."""
    corruption: str
    """What the corrupted prompts change, in a few words."""
    source: str
    """Whose task it is. The texts are this program's own."""
    module: str


def _task(name: str, label: str, question: str, corruption: str, source: str) -> TaskInfo:
    module = f"ablation.circuit.tasks.{name.replace('-', '_')}"
    return TaskInfo(name, label, question, corruption, source, module)


TASKS: Mapping[str, TaskInfo] = {
    task.name: task
    for task in (
        _task(
            "ioi",
            "Indirect object",
            "Two people are named, one of them again as the giver: who is given something?",
            "three other names, each once",
            "Wang et al. 2023 (arXiv:2211.00593)",
        ),
        _task(
            "ioi-swap",
            "Indirect object, giver swapped",
            "Two people are named, one of them again as the giver: who is given something?",
            "the giver becomes the other one",
            "Wang et al. 2023 (arXiv:2211.00593), Mueller et al. 2025 (arXiv:2504.13151)",
        ),
        _task(
            "greater-than",
            "Greater than",
            "Something lasts from one year to another of the same century: which number is later?",
            "the first year ends in 01",
            "Hanna et al. 2023 (arXiv:2305.00586)",
        ),
        _task(
            "induction",
            "Induction",
            "Random words are said twice: which one comes next in the repetition?",
            "the words that led to the answer the first time are other words",
            "Elhage et al. 2021; Olsson et al. 2022 (arXiv:2209.11895)",
        ),
        _task(
            "agreement",
            "Subject-verb agreement",
            "Is the verb singular or plural, whatever stands between it and its subject?",
            "the subject's number",
            "Linzen et al. 2016 (arXiv:1611.01368); Marks et al. 2024 (arXiv:2403.19647)",
        ),
        _task(
            "facts",
            "Factual recall",
            "What is the capital or the language of a country, or the country of a city?",
            "another country or city, whose answer is the distractor",
            "Meng et al. 2022 (arXiv:2202.05262); Hernandez et al. 2023 (arXiv:2308.09124)",
        ),
        _task(
            "pronouns",
            "Pronouns",
            "Somebody is named: is it she or he?",
            "a name of the other gender",
            "Mathwin et al. 2023, on gendered pronouns in GPT-2",
        ),
    )
}
"""Name -> task, in the order in which they are offered."""


def task_named(name: str) -> TaskInfo:
    """Look a task up; raise `UserError` if there is none of that name."""
    if name not in TASKS:
        raise UserError(
            ErrorKind.OPTION,
            f"There is no task {name[:40]!r}; choose one of {', '.join(TASKS)}.",
        )
    return TASKS[name]


def make_pairs(
    model: "LanguageModel", task: str, n: int, seed: int = 0, *, only_correct: bool = False
) -> tuple[PromptPair, ...]:
    """Return pairs of a task that suit a model: as many tokens each, answers of one token.

    Args:
        task: a key of `TASKS`.
        n: how many; their clean prompts all differ.
        seed: of the random choice; the same seed gives a tokenizer the same pairs, and a smaller
            `n` the first of them.
        only_correct: whether to leave out pairs on which the model prefers the distractor to the
            answer; that takes a forward pass each.

    Raises:
        UserError: there is no such task, the model does not predict a next token, its tokenizer
            splits what the task is made of, or it has not as many pairs.
    """
    info = task_named(task)
    _check_request(model, n, seed)
    propose: Callable[[Vocabulary, random.Random], Iterator[PromptPair]]
    propose = import_module(info.module).propose
    vocabulary = Vocabulary(model)
    suiting = _suiting(vocabulary, propose(vocabulary, random.Random(seed)))
    if only_correct:
        tried = islice(suiting, TRIES_A_PAIR * n)
        suiting = (posed for posed in tried if answer_lead(model, posed) > 0)
    pairs = tuple(posed.pair for posed in islice(suiting, n))
    if len(pairs) < n:
        right = " that it gets right" if only_correct else ""
        raise UserError(
            ErrorKind.OPTION,
            f"The task {info.label.lower()} has only {len(pairs)} pairs for {model.name}{right}, "
            f"not {n}; ask for fewer, or choose another task.",
        )
    return pairs


def _check_request(model: "LanguageModel", n: int, seed: int) -> None:
    if n < 1 or seed < 0:
        raise UserError(
            ErrorKind.OPTION,
            f"A task set needs at least one pair and a seed from 0; got {n} pairs, seed {seed}.",
        )
    if model.kind != "causal":
        raise UserError(
            ErrorKind.MODEL,
            f"The task sets ask for the next token, which {model.name} ({model.kind}) does not "
            "predict; give pairs of your own.",
        )


def _suiting(vocabulary: Vocabulary, proposed: Iterator[PromptPair]) -> Iterator[PosedPair]:
    """Yield the proposals that suit the model, no clean prompt twice, until no new ones come."""
    known: set[str] = set()
    n_missed = 0
    for pair in proposed:
        if pair.clean not in known:
            known.add(pair.clean)
            try:
                posed = vocabulary.pose(pair)
            except UserError:
                n_missed += 1
            else:
                n_missed = 0
                yield posed
        else:
            n_missed += 1
        if n_missed >= MOST_MISSES:
            return
