"""The circuit tab, the form of one pair: proposals, likely tokens, what differs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dash import html

from ablation.circuit.types import PromptPair
from app import words
from app.services import prompt_of
from app.view import View
from models.errors import UserError

if TYPE_CHECKING:
    from ablation.circuit.alignment import Column
    from models.language_model import LanguageModel
    from models.types import TokenizedPrompt

SHOWN_TOKENS = 12
"""How many likely tokens are offered as answer and as distractor."""
NOTHING_PROPOSED = (
    "Nothing can be proposed for this prompt; type a corrupted one of as many tokens."
)


@dataclass(frozen=True, slots=True)
class Described:
    """What the form shows of a prompt and a corrupted one."""

    corrupt: str
    answer: str
    distractor: str
    proposed: str
    """What a proposal changes, in words."""
    answers: tuple[str, ...]
    distractors: tuple[str, ...]
    columns: "tuple[Column, ...]"
    problem: str
    about: dict[str, Any]
    """What it is of, and what nobody typed: the page keeps it until the next time."""


def described(
    model: "LanguageModel",
    view: View,
    typed: tuple[str, str, str],
    about: Mapping[str, Any],
    wants_next: bool = False,
) -> Described:
    """Look at a prompt and a corrupted one.

    A prompt that is new gets a proposal, and tokens get their likely values where nobody typed
    others.

    Args:
        typed: corrupted prompt, answer and distractor as they stand in the form.
        about: of the last time; empty at first.
        wants_next: whether the next proposal is asked for.

    Raises:
        UserError: a prompt cannot be used.
    """
    from ablation.circuit.alignment import align

    model.check_one_stack("A circuit")
    of = [view.model, view.prompt, view.bos]
    known = about if about.get("of") == of else {}
    corrupt, proposed = _corrupt(model, view, typed[0], known, wants_next)
    clean = prompt_of(view, model)
    answers: tuple[str, ...] = _likely(model, clean)
    others: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    if corrupt.strip():
        beside = model.tokenize(corrupt, view.bos)
        others, columns = _likely(model, beside), align(clean.labels, beside.labels)
    answer, free_answer = _token(typed[1], known, "answer", answers)
    distractors = tuple(dict.fromkeys(text for text in (*others, *answers) if text != answer))
    distractor, free_distractor = _token(typed[2], known, "distractor", distractors, may_lack=True)
    problem = _problem(model, PromptPair(view.prompt, corrupt, answer, distractor), view)
    free = {"answer": free_answer, "distractor": free_distractor}
    kept = {"of": of, "corrupt": corrupt, "proposed": proposed, **free}
    return Described(
        corrupt, answer, distractor, proposed, answers, distractors, columns, problem, kept
    )


def _corrupt(
    model: "LanguageModel", view: View, typed: str, known: Mapping[str, Any], wants_next: bool
) -> tuple[str, str]:
    """Return the corrupted prompt that the form is to hold, and what a proposal changes.

    Args:
        known: of the last time; empty if that was of another prompt.
    """
    from ablation.circuit.corruption import propose_corruption

    if known and not wants_next:
        return typed, known["proposed"] if known["corrupt"] == typed else ""
    proposals = propose_corruption(model, view.prompt, view.bos)
    if not proposals:
        return typed if known else "", NOTHING_PROPOSED
    texts = [proposal.corrupt for proposal in proposals]
    index = (texts.index(typed) + 1) % len(texts) if known and typed in texts else 0
    return texts[index], f"{proposals[index].words} (proposal {index + 1} of {len(texts)})"


def _token(
    typed: str,
    known: Mapping[str, Any],
    name: str,
    likely: tuple[str, ...],
    may_lack: bool = False,
) -> tuple[str, str | None]:
    """Return what a token's field is to hold, and the same again if nobody typed it.

    Args:
        may_lack: whether an emptied field stays empty.
    """
    if known and (typed or may_lack) and typed != known[name]:
        return typed, None
    default = likely[0] if likely else ""
    return default, default


def _likely(model: "LanguageModel", prompt: "TokenizedPrompt") -> tuple[str, ...]:
    """Return the texts of the likeliest tokens where a circuit reads the prediction."""
    position = model.resolve_position(prompt)
    top = model.predict(prompt, position=position, top_k=SHOWN_TOKENS).top
    return tuple(dict.fromkeys(token.text for token in top))


def _problem(model: "LanguageModel", pair: PromptPair, view: View) -> str:
    """Say why a circuit cannot be asked of a pair, or is hardly meant of it; nothing else."""
    from ablation.circuit.pairs import check_pair, lacking_spaces

    if not pair.corrupt.strip():
        return ""  # it is yet to be typed
    try:
        check_pair(model, pair, view.bos)
    except UserError as error:
        return str(error)
    return words.space_warning(lacking_spaces(model, (pair,)))


def token_strip(columns: "tuple[Column, ...]") -> list[html.Span]:
    """Return the corrupted prompt's tokens; above those that differ, what they replace."""
    return [_column(column) for column in columns]


def _column(column: "Column") -> html.Span:
    if column.same:
        return html.Span(html.Span(column.corrupt, className="token-inline"), className="column-of")
    pieces = [
        html.Del(column.clean or "–", className="token-inline"),
        html.Ins(column.corrupt or "–", className="token-inline"),
    ]
    return html.Span(pieces, className="column-of differs")
