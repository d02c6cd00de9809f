"""The circuit tab, the question: which pairs of prompts, which tokens, how it is answered."""

import base64
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, ctx, no_update

from ablation.circuit.methods import DIRECTIONS
from ablation.circuit.types import PromptPair
from app import ids, words
from app.jobs import duration
from app.panels.circuit_form import described, token_strip
from app.panels.pieces import browser
from app.services import Services
from app.view import MAX_PROMPT_CHARACTERS, View
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from models.language_model import LanguageModel

KEPT_BYTES = 2**20


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
    file: str | None
    """The key of the pairs that were read from a file."""
    method: str
    metric: str
    baseline: str
    faithfulness: float
    steps: int
    by_position: bool


FIELDS = (
    State(ids.CIRCUIT_PAIRS, "value"),
    State(ids.CIRCUIT_CORRUPT, "value"),
    State(ids.CIRCUIT_ANSWER, "value"),
    State(ids.CIRCUIT_DISTRACTOR, "value"),
    State(ids.CIRCUIT_TASK, "value"),
    State(ids.CIRCUIT_N_PAIRS, "value"),
    State(ids.CIRCUIT_HELD_OUT, "value"),
    State(ids.CIRCUIT_FILE, "data"),
    State(ids.CIRCUIT_METHOD, "value"),
    State(ids.CIRCUIT_METRIC, "value"),
    State(ids.CIRCUIT_BASELINE, "value"),
    State(ids.CIRCUIT_ASKED, "value"),
    State(ids.CIRCUIT_STEPS, "value"),
    State(ids.CIRCUIT_BY_POSITION, "checked"),
)
"""What holds each field of `Asked`, in its order."""


PLANNED_BY = tuple(
    State(component, prop)
    for component, prop in (
        (ids.CIRCUIT_PAIRS, "value"),
        (ids.CIRCUIT_N_PAIRS, "value"),
        (ids.CIRCUIT_HELD_OUT, "value"),
        (ids.CIRCUIT_FILE, "data"),
        (ids.CIRCUIT_METHOD, "value"),
        (ids.CIRCUIT_STEPS, "value"),
    )
)
"""What the plan depends on, beside the prompt."""


def planned(
    services: Services,
    model: "LanguageModel",
    view: View,
    pairs: str,
    n_pairs: int,
    held_out: int,
    file: str | None,
    method: str,
    steps: int,
) -> str:
    """Say what a discovery would take; nothing while the form is unfinished.

    Raises:
        UserError: the prompt cannot be used.
    """
    from ablation.circuit.memory import in_gigabytes, refuse_beyond_memory
    from ablation.circuit.plan import plan_discovery

    chosen = services.results.get(file) if file else None
    numbers = {"prompt": 1, "file": len(chosen) if chosen else 0}
    if not all(isinstance(number, int) for number in (n_pairs, held_out, steps)):
        return ""
    n = numbers.get(pairs, n_pairs + held_out)
    if not n:
        return ""
    if method in DIRECTIONS:
        return patching_plan(model, view, n if pairs == "prompt" else n - held_out)
    text = chosen[0].clean if pairs == "file" and chosen else view.prompt
    plan = plan_discovery(model, text, n, method, steps, view.bos)
    passes = "1 pass" if plan.n_passes == 1 else f"{plan.n_passes} passes"
    told = (
        f"Plan: {words.count(n, 'pair')}, {passes} with gradients and at most {plan.n_runs} exact "
        f"runs over all of them; as a rule about {duration(plan.seconds)}, and about "
        f"{in_gigabytes(plan.n_bytes)} of memory."
    )
    try:
        refuse_beyond_memory(model, [len(model.tokenize(text, view.bos))] * n)
    except UserError as error:
        return f"{told} {error}"
    return told


def patching_plan(model: "LanguageModel", view: View, n_pairs: int) -> str:
    """Say what head patching takes."""
    said = f"Plan: each of {words.count(len(model.all_heads()), 'head')} by itself"
    if n_pairs > 1:
        return f"{said}, on {words.count(n_pairs, 'pair')}."
    n_chosen = len(view.heads or ())
    return f"{said}, and {words.count(n_chosen, 'chosen head')} at each position."


def asked_of(values: tuple[Any, ...]) -> Asked:
    """Read the form.

    Raises:
        UserError: a number is missing.
    """
    asked = Asked(*values)
    numbers = (asked.n_pairs, asked.held_out, asked.faithfulness, asked.steps)
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
    else:
        pairs = services.results.get(asked.file) if asked.file else ()
    if not pairs:
        raise UserError(ErrorKind.OPTION, "No file of pairs is chosen; choose one first.")
    n = len(pairs) - asked.held_out
    if n < 1:
        raise UserError(
            ErrorKind.OPTION,
            f"{asked.held_out} of {words.count(len(pairs), 'pair')} cannot be held out; hold out "
            "fewer.",
        )
    return tuple(pairs[:n]), tuple(pairs[n:])


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


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that fill the form and read a file."""

    @app.callback(
        Output(ids.CIRCUIT_CORRUPT, "value"),
        Output(ids.CIRCUIT_ANSWER, "value"),
        Output(ids.CIRCUIT_DISTRACTOR, "value"),
        Output(ids.CIRCUIT_PROPOSED, "children"),
        Output(ids.CIRCUIT_ANSWER, "data"),
        Output(ids.CIRCUIT_DISTRACTOR, "data"),
        Output(ids.CIRCUIT_TOKENS, "children"),
        Output(ids.CIRCUIT_PROBLEM, "children", allow_duplicate=True),
        Output(ids.CIRCUIT_ABOUT, "data"),
        Input(ids.IN_CIRCUIT, "data"),
        Input(ids.CIRCUIT_PROPOSE, "n_clicks"),
        Input(ids.CIRCUIT_CORRUPT, "value"),
        Input(ids.CIRCUIT_ANSWER, "value"),
        Input(ids.CIRCUIT_DISTRACTOR, "value"),
        State(ids.VIEW, "data"),
        State(ids.CIRCUIT_ABOUT, "data"),
        prevent_initial_call=True,
    )
    def describe(
        changes: int | None,
        n_clicks: int | None,
        corrupt: str | None,
        answer: str | None,
        distractor: str | None,
        data: dict[str, Any] | None,
        about: dict[str, Any] | None,
    ) -> tuple[Any, ...]:
        if data is None or data["tab"] != "circuit":
            return (no_update,) * 9
        view = View.from_json(data)
        typed = (corrupt or "", answer or "", distractor or "")
        try:
            model = services.model(view.model)
            wants_next = ctx.triggered_id == ids.CIRCUIT_PROPOSE
            found = described(model, view, typed, about or {}, wants_next)
        except UserError as error:
            return *(no_update,) * 6, [], str(error), no_update
        return (
            found.corrupt, found.answer, found.distractor, found.proposed,
            list(found.answers), list(found.distractors), token_strip(found.columns),
            found.problem, found.about,
        )  # fmt: skip

    @app.callback(
        Output(ids.CIRCUIT_FILE, "data"),
        Output(ids.CIRCUIT_FILE_NOTE, "children"),
        Input(ids.CIRCUIT_UPLOAD, "contents"),
        State(ids.CIRCUIT_UPLOAD, "filename"),
        prevent_initial_call=True,
    )
    def read_file(contents: str | None, name: str | None) -> tuple[Any, Any]:
        if contents is None or name is None:
            return no_update, no_update
        from ablation.circuit.pair_files import parse_pairs

        try:
            pairs = parse_pairs(base64.b64decode(contents.partition(",")[2]), name)
        except UserError as error:
            return None, str(error)
        n_bytes = KEPT_BYTES + len(contents)
        return services.results.keep(pairs, n_bytes), f"{words.count(len(pairs), 'pair')} in {name}"

    @app.callback(
        Output(ids.CIRCUIT_PLAN, "children"),
        Input(ids.IN_CIRCUIT, "data"),
        *(Input(field.component_id, field.component_property) for field in PLANNED_BY),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    def tell_plan(changes: int | None, *given: Any) -> Any:
        *fields, data = given
        if data is None or data["tab"] != "circuit":
            return no_update
        view = View.from_json(data)
        try:
            return planned(services, services.model(view.model), view, *fields)
        except UserError:
            return ""  # said beside the question

    app.clientside_callback(
        browser("showSource", "circuit"),
        Output(ids.CIRCUIT_HELP, "children"),
        Output(ids.CIRCUIT_PROMPT_PLACE, "hidden"),
        Output(ids.CIRCUIT_TOKENS_PLACE, "hidden"),
        Output(ids.CIRCUIT_SET_PLACE, "hidden"),
        Output(ids.CIRCUIT_TASK_PLACE, "hidden"),
        Output(ids.CIRCUIT_FILE_PLACE, "hidden"),
        Output(ids.CIRCUIT_N_PAIRS, "display"),
        Output(ids.CIRCUIT_PROBLEM, "children", allow_duplicate=True),
        Input(ids.CIRCUIT_PAIRS, "value"),
        Input(ids.CIRCUIT_TASK, "value"),
        State(ids.LIMITS, "data"),
        prevent_initial_call="initial_duplicate",
    )
