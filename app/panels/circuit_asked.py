"""The circuit tab, what its form asks: the fields, the pairs of prompts, what a result is of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from dash import State, no_update

from ablation.circuit.methods import DIRECTIONS, METHODS
from ablation.circuit.types import Origin, PromptPair
from app import ids
from app.question_form import QuestionForm, read_question
from app.services import Services
from app.view import MAX_PROMPT_CHARACTERS, View
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class Asked:
    """What the form of the tab holds."""

    pairs: str
    """"prompt", "task" or "file"."""
    corrupt: str
    answer: str
    distractor: str
    task: str
    n_pairs: int
    held_out: int
    """Of a task set: so many pairs beside those."""
    file: Mapping[str, str] | None
    """The `key` of the pairs that were read from a file, and its `name`."""
    file_held_out: int
    """Of a file: so many of its last pairs."""
    method: str
    metric: str
    baseline: str
    faithfulness: float
    steps: int
    by_position: bool

    @property
    def patches(self) -> bool:
        """Whether heads are patched, and no circuit is discovered."""
        return self.method in DIRECTIONS


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of `Asked`: what it is called, and the component that holds it."""

    name: str
    label: str
    component: str
    prop: str = "value"


FORM = (
    FormField("pairs", "what it is of", ids.CIRCUIT_PAIRS),
    FormField("corrupt", "corrupted prompt", ids.CIRCUIT_CORRUPT),
    FormField("answer", "answer", ids.CIRCUIT_ANSWER),
    FormField("distractor", "distractor", ids.CIRCUIT_DISTRACTOR),
    FormField("task", "task", ids.CIRCUIT_TASK),
    FormField("n_pairs", "number of pairs", ids.CIRCUIT_N_PAIRS),
    FormField("held_out", "pairs held out", ids.CIRCUIT_HELD_OUT),
    FormField("file", "file", ids.CIRCUIT_FILE, "data"),
    FormField("file_held_out", "pairs held out", ids.CIRCUIT_FILE_HELD_OUT),
    FormField("method", "method", ids.CIRCUIT_METHOD),
    FormField("metric", "metric", ids.CIRCUIT_METRIC),
    FormField("baseline", "what edges outside of it carry", ids.CIRCUIT_BASELINE),
    FormField("faithfulness", "faithfulness", ids.CIRCUIT_ASKED),
    FormField("steps", "steps", ids.CIRCUIT_STEPS),
    FormField("by_position", "scores at each token", ids.CIRCUIT_BY_POSITION, "checked"),
)
"""In the order of `Asked`."""

LINKED = tuple(field for field in FORM if not field.name.startswith("file"))
"""What a link holds: the fields of `QuestionForm`. Files stay on the machine they are on."""

FIELDS = tuple(State(field.component, field.prop) for field in FORM)

_OF_PAIRS = {
    "prompt": ("corrupt", "answer", "distractor"),
    "task": ("task", "n_pairs", "held_out"),
    "file": ("file", "file_held_out"),
}
"""What the pairs come from -> the fields that say which pairs."""


def asked_of(values: tuple[Any, ...]) -> Asked:
    """Read the form.

    Raises:
        UserError: a number is missing.
    """
    asked = Asked(*values)
    numbers = (asked.n_pairs, asked.held_out, asked.file_held_out, asked.faithfulness, asked.steps)
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise UserError(
            ErrorKind.OPTION, "A number of the question is missing; fill in the empty field."
        )
    return replace(
        asked,
        corrupt=asked.corrupt or "",
        answer=asked.answer or "",
        distractor=asked.distractor or "",
    )


def linked(values: Sequence[Any]) -> dict[str, Any] | None:
    """Return the question of a link as JSON; None while the form is new, or a field is empty.

    Args:
        values: of `LINKED`, in its order.
    """
    named = {field.name: value for field, value in zip(LINKED, values, strict=True)}
    try:
        question = read_question("question", named)
    except ValueError:
        return None  # a number is being typed
    return None if question == QuestionForm() else asdict(question)


def opened_form(view: View) -> list[Any]:
    """Return what opening a settled view puts into `LINKED` and into what is known of the form."""
    if view.question is None:
        return [no_update] * (len(LINKED) + 1)
    question, about = view.question, None
    if question.corrupt:  # nothing is proposed in the place of what was asked
        of = [view.model, view.prompt, view.bos]
        about = {"of": of, "corrupt": question.corrupt, "proposed": "", "answer": None}
        about["distractor"] = None
    return [*(getattr(question, field.name) for field in LINKED), about]


def asked_about(asked: Asked, view: View) -> dict[str, Any]:
    """Return the fields that a result depends on, by name: it is of an earlier question once one of
    them differs."""
    names = ["pairs", *_OF_PAIRS[asked.pairs], "method", "metric"]
    if not asked.patches:
        method = METHODS[asked.method]
        names += ["baseline", "by_position"]
        names += ["faithfulness"] if method.takes_faithfulness else []
        names += ["steps"] if method.takes_steps else []
    kept: dict[str, Any] = {name: getattr(asked, name) for name in names}
    return kept | {"bos": view.bos} | ({"prompt": view.prompt} if asked.pairs == "prompt" else {})


def origin_of(asked: Asked, held_out: tuple[PromptPair, ...]) -> Origin:
    """Return what a circuit keeps of how it was asked for."""
    named = {"task": asked.task, "file": (asked.file or {}).get("name", "")}
    return Origin(
        asked.pairs,
        named.get(asked.pairs, ""),
        seed=0 if asked.pairs == "task" else None,
        steps=asked.steps if METHODS[asked.method].takes_steps else None,
        held_out=held_out,
    )


def pairs_of(
    services: Services, view: View, asked: Asked, model: "LanguageModel"
) -> tuple[tuple[PromptPair, ...], tuple[PromptPair, ...]]:
    """Return the pairs that a circuit is searched on, and those that are held out.

    Raises:
        UserError: there are none, or not enough to hold out so many.
    """
    if asked.pairs == "prompt":
        return (_typed(view, asked),), ()
    if asked.pairs == "task":
        from ablation.circuit.tasks import make_pairs

        pairs = make_pairs(model, asked.task, asked.n_pairs + asked.held_out)
        return tuple(pairs[: asked.n_pairs]), tuple(pairs[asked.n_pairs :])
    from ablation.circuit.pair_files import without_last

    return without_last(file_pairs(services, asked.file), asked.file_held_out)


def file_pairs(services: Services, file: Mapping[str, str] | None) -> tuple[PromptPair, ...]:
    """Return the pairs of the file that the page keeps.

    Raises:
        UserError: none was chosen, or it had to make room for others.
    """
    pairs: tuple[PromptPair, ...] | None = services.results.get(file["key"]) if file else None
    if not pairs:
        raise UserError(ErrorKind.OPTION, "No file of pairs is chosen; choose one first.")
    return pairs


def _typed(view: View, asked: Asked) -> PromptPair:
    if not asked.corrupt.strip():
        raise UserError(
            ErrorKind.PROMPT, "There is no corrupted prompt; type one, or have one proposed."
        )
    if len(asked.corrupt) > MAX_PROMPT_CHARACTERS:
        raise UserError(ErrorKind.PROMPT, "The corrupted prompt is too long; shorten it.")
    if not asked.answer:
        raise UserError(ErrorKind.TARGET, "There is no answer; choose or type one token.")
    return PromptPair(view.prompt, asked.corrupt, asked.answer, asked.distractor)
