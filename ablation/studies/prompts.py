"""What studies run on: shipped sets of prompts, a file of them, or the prompt at hand.

A prompt may come with its right next token, and with what it was made from (its template): what
holds on some templates only is no finding about the task.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablation.circuit.tasks import TASKS, make_pairs
from ablation.corpus import SOURCE, load_corpus
from ablation.row_files import Row, RowFile
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from models.language_model import LanguageModel

PASSAGES = "passages"
LEAST_WORDS, MOST_WORDS = 12, 30
"""After how many words passages are cut: the next word is what is predicted."""


@dataclass(frozen=True, slots=True)
class StudyPrompt:
    """One prompt of a study."""

    text: str
    answer: str = ""
    """The right next token, as text (with its space); empty: what the model itself predicts."""
    distractor: str = ""
    """A wrong one that it is weighed against; empty if there is none."""
    template: str = ""
    """What it was made from; empty if nothing is known of that."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts, and where they are from."""

    name: str
    prompts: tuple[StudyPrompt, ...]
    source: str

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(prompt.text for prompt in self.prompts)

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates, in the order in which they first come."""
        return tuple(dict.fromkeys(p.template for p in self.prompts if p.template))


@dataclass(frozen=True, slots=True)
class PromptSetInfo:
    """A shipped set in words."""

    name: str
    label: str
    about: str
    source: str


SHIPPED: Mapping[str, PromptSetInfo] = {
    PASSAGES: PromptSetInfo(
        PASSAGES,
        "Passages",
        "Short passages of 24 kinds, each cut somewhere: which word comes next?",
        SOURCE,
    ),
    **{
        task.name: PromptSetInfo(task.name, task.label, task.question, task.source)
        for task in TASKS.values()
    },
}
"""Name -> shipped set, in the order in which they are offered."""


def check_shipped(name: str) -> None:
    """Raise `UserError` if there is no shipped set of that name."""
    if name not in SHIPPED:
        raise UserError(
            ErrorKind.OPTION,
            f"There is no prompt set {name[:40]!r}; choose one of {', '.join(SHIPPED)}, or give a "
            "file that ends in .txt, .csv, .json or .jsonl.",
        )


def shipped_prompts(model: "LanguageModel", name: str, n: int, seed: int = 0) -> PromptSet:
    """Return prompts of a shipped set that suit a model.

    Args:
        name: a key of `SHIPPED`.
        n: how many.
        seed: of the random choice; a smaller `n` gives the first of them.

    Raises:
        UserError: there is no such set, it has not as many prompts for this model, or the model
            does not predict a next token.
    """
    check_shipped(name)
    if name == PASSAGES:
        return PromptSet(name, tuple(_cut_passages(model, n, seed)), SOURCE)
    pairs = make_pairs(model, name, n, seed)
    prompts = (StudyPrompt(p.clean, p.answer, p.distractor, p.template) for p in pairs)
    return PromptSet(name, tuple(prompts), TASKS[name].source)


def _cut_passages(model: "LanguageModel", n: int, seed: int) -> Iterator[StudyPrompt]:
    """Yield passages cut at a word, with the first token of what follows."""
    if model.kind != "causal":
        raise UserError(
            ErrorKind.MODEL,
            f"The passages ask for the next token, which {model.name} ({model.kind}) does not "
            "predict; give prompts of your own.",
        )
    rng, found, passages = random.Random(seed), 0, load_corpus()
    for passage in passages:
        if found == n:
            return
        cut = _cut(model, passage.text, rng.randint(LEAST_WORDS, MOST_WORDS))
        if cut is not None:
            found += 1
            yield StudyPrompt(*cut, template=passage.kind)
    if found < n:
        raise UserError(
            ErrorKind.OPTION,
            f"Only {found} of the {len(passages)} passages suit {model.name}, not {n}; ask for "
            "fewer.",
        )


def _cut(model: "LanguageModel", text: str, n_words: int) -> tuple[str, str] | None:
    """Return a text's first words and the token that follows; None where the tokens of the first
    words are others when the text goes on."""
    words = text.split(" ")
    if len(words) <= n_words or not words[n_words]:
        return None
    start = " ".join(words[:n_words])
    try:
        short, longer = model.tokenize(start), model.tokenize(f"{start} {words[n_words]}")
    except UserError:
        return None
    if longer.ids[: len(short)] != short.ids or len(longer) == len(short):
        return None
    return start, model.describe_token(longer.ids[len(short)]).text


def _lines(file: RowFile, text: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, "", {"prompt": line}


_READERS: Mapping[str, Callable[[RowFile, str, str], Iterator[Row]]] = {".txt": _lines}
PROMPTS = RowFile("prompts", "prompt", ("prompt",), ("answer", "distractor", "template"), _READERS)


def read_prompts(path: str | Path) -> PromptSet:
    """Read prompts from a file: .txt with one a line, or .csv, .json or .jsonl with `prompt` and,
    where there is one, its right next token as `answer`, a wrong one as `distractor`, and the
    `template` that it was made from.

    Raises:
        UserError: the file cannot be read, or its contents, as `RowFile.rows`.
    """
    return parse_prompts(*PROMPTS.read(path))


def parse_prompts(data: bytes, name: str) -> PromptSet:
    """Read the prompts of a file's contents.

    Raises:
        UserError: as `RowFile.rows`.
    """
    prompts = (
        StudyPrompt(
            values["prompt"],
            *(values.get(column) or "" for column in ("answer", "distractor", "template")),
        )
        for _, _, values in PROMPTS.rows(data, name)
    )
    return PromptSet(name, tuple(prompts), f"the file {name}")


def given_prompts(texts: Sequence[str]) -> PromptSet:
    """Return a set of prompts that somebody typed, whose right next tokens are not known.

    Raises:
        UserError: there is none.
    """
    if not texts:
        raise UserError(ErrorKind.PROMPT, "There is no prompt to study; give at least one.")
    strange = next((text for text in texts if not isinstance(text, str)), None)
    if strange is not None:
        raise UserError(
            ErrorKind.PROMPT, f"A prompt is a text, and {str(strange)[:40]!r} is none; give texts."
        )
    name = "own prompt" if len(texts) == 1 else "own prompts"
    return PromptSet(name, tuple(StudyPrompt(text) for text in texts), "who asked")
