"""The circuit tab, the question: which pairs of prompts, which tokens, how it is answered."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, ctx, no_update

from ablation.circuit.methods import DIRECTIONS
from app import ids, words
from app.jobs import duration
from app.panels import circuit_file
from app.panels.circuit_form import described, token_strip
from app.panels.pieces import browser
from app.services import Services
from app.view import View
from models.errors import UserError

if TYPE_CHECKING:
    from models.language_model import LanguageModel


PLANNED_BY = tuple(
    State(component, prop)
    for component, prop in (
        (ids.CIRCUIT_PAIRS, "value"),
        (ids.CIRCUIT_N_PAIRS, "value"),
        (ids.CIRCUIT_HELD_OUT, "value"),
        (ids.CIRCUIT_FILE, "data"),
        (ids.CIRCUIT_FILE_HELD_OUT, "value"),
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
    file: Mapping[str, str] | None,
    file_held_out: int,
    method: str,
    steps: int,
) -> str:
    """Say what a discovery would take; nothing while the form is unfinished.

    Raises:
        UserError: the prompt cannot be used.
    """
    from ablation.circuit.memory import in_gigabytes, refuse_beyond_memory
    from ablation.circuit.plan import plan_discovery

    chosen = services.results.get(file["key"]) if file else None
    numbers = {"prompt": 1, "file": len(chosen) if chosen else 0}
    if not all(isinstance(number, int) for number in (n_pairs, held_out, file_held_out, steps)):
        return ""
    n = numbers.get(pairs, n_pairs + held_out)
    if not n:
        return ""
    text = chosen[0].clean if pairs == "file" and chosen else view.prompt
    if method in DIRECTIONS:
        spared = {"task": held_out, "file": file_held_out}.get(pairs, 0)
        return patching_plan(model, view, text, max(1, n - spared))
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


def patching_plan(model: "LanguageModel", view: View, text: str, n_pairs: int) -> str:
    """Say what head patching takes, of pairs about as long as a text.

    Raises:
        UserError: the text cannot be used.
    """
    from ablation.circuit.patching_plan import plan_patching

    n_chosen = len(view.heads or ()) if n_pairs == 1 else 0
    plan = plan_patching(model, text, n_pairs, n_chosen, view.bos)
    said = f"Plan: each of {words.count(len(model.all_heads()), 'head')} by itself"
    if n_pairs > 1:
        said += f", on {words.count(n_pairs, 'pair')}"
    else:
        said += f", and {words.count(n_chosen, 'chosen head')} at each position"
    return (
        f"{said}; about {duration(plan.seconds)}. As many heads share a pass as fit into free "
        "memory."
    )


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that fill the form, read a file, and tell the plan."""
    _register_form(app, services)
    _register_plan(app, services)
    circuit_file.register(app, services)
    _register_clientside(app)


def _register_form(app: Dash, services: Services) -> None:
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


def _register_plan(app: Dash, services: Services) -> None:
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


def _register_clientside(app: Dash) -> None:
    app.clientside_callback(
        browser("showSource", "circuit"),
        Output(ids.CIRCUIT_HELP, "children"),
        Output(ids.CIRCUIT_PROMPT_PLACE, "hidden"),
        Output(ids.CIRCUIT_TOKENS_PLACE, "hidden"),
        Output(ids.CIRCUIT_SET_PLACE, "hidden"),
        Output(ids.CIRCUIT_TASK_PLACE, "hidden"),
        Output(ids.CIRCUIT_FILE_PLACE, "hidden"),
        Output(ids.CIRCUIT_FILE_NOTE, "hidden"),
        Output(ids.CIRCUIT_N_PAIRS, "display"),
        Output(ids.CIRCUIT_HELD_OUT, "display"),
        Output(ids.CIRCUIT_PROBLEM, "children", allow_duplicate=True),
        Input(ids.CIRCUIT_PAIRS, "value"),
        Input(ids.CIRCUIT_TASK, "value"),
        State(ids.LIMITS, "data"),
        prevent_initial_call="initial_duplicate",
    )
    app.clientside_callback(
        browser("explain", "circuit"),
        Output(ids.CIRCUIT_METHOD_HELP, "children"),
        Output(ids.CIRCUIT_METRIC, "description"),
        Output(ids.CIRCUIT_BASELINE, "description"),
        Output(ids.CIRCUIT_RUN, "children"),
        Output(ids.CIRCUIT_ASKED, "disabled"),
        Output(ids.CIRCUIT_STEPS, "disabled"),
        Output(ids.CIRCUIT_BASELINE, "disabled"),
        Output(ids.CIRCUIT_BY_POSITION, "disabled"),
        Input(ids.CIRCUIT_METHOD, "value"),
        Input(ids.CIRCUIT_METRIC, "value"),
        Input(ids.CIRCUIT_BASELINE, "value"),
        State(ids.LIMITS, "data"),
    )
