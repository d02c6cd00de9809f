"""The circuit tab without a browser: its form, its plan, what is shown of a circuit."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dash import Dash, no_update
from dash._callback_context import context_value
from dash._utils import AttributeDict
from page_fixtures import Shelf, make_page
from starlette.testclient import TestClient

from ablation.circuit.corruption import propose_corruption
from ablation.circuit.methods import BASELINES, DIRECTIONS, METHODS, METRICS
from ablation.circuit.tasks import TASKS
from ablation.circuit.types import Circuit, CurvePoint, MetricValues, Origin, PromptPair
from ablation.types import Progress
from app import circuit_exports, ids, permalink
from app.jobs import Job
from app.panels import circuit, circuit_result, circuit_run
from app.panels.circuit_asked import (
    FIELDS,
    LINKED,
    Asked,
    asked_about,
    asked_of,
    linked,
    opened_form,
    pairs_of,
)
from app.panels.circuit_asked import FORM as FORM_FIELDS
from app.panels.circuit_form import NOTHING_PROPOSED, described, token_strip
from app.panels.circuit_question import planned
from app.panels.progress import Bar
from app.services import Services
from app.view import View
from models.budget import MemoryBudget
from models.edge_graph import EdgeGraph, LayerShape
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel

PROMPT = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"
FORM = ("prompt", CORRUPT, " Mary", " John", "ioi", 20, 5, None, 0, "eap", "logit_diff",
        "resample", 0.85, 5, False)  # fmt: skip


@pytest.fixture(scope="module")
def dash_page() -> Dash:
    return make_page()


@pytest.fixture
def services() -> Services:
    return Services(Shelf(), "llama")


@pytest.fixture
def settled(services: Services) -> View:
    view = View(model="llama", prompt=PROMPT, tab="circuit")
    return services.settled(view, services.model("llama"))


def by_hand(model: str = "llama") -> Circuit:
    """Two edges: embedding to the query of L0H1, that to the logits."""
    of = EdgeGraph((LayerShape(4, 2, False),) * 3)
    kept, scores = (
        np.zeros_like(of.possible),
        np.where(of.possible, np.float32(0), np.float32(np.nan)),
    )
    kept[1, 0] = kept[-1, 2] = True
    scores[1, 0], scores[-1, 2] = 0.5, -1.0
    return Circuit(
        model, (PromptPair(PROMPT, CORRUPT, " Mary", " John"),), (("a",), ("b",)), "eap",
        "logit_diff", "resample", of, scores, kept, MetricValues(3.0, 1.0, 2.8), 0.85,
        (CurvePoint(1, 0.3, 0.0), CurvePoint(10, 1.1, 0.1)),
    )  # fmt: skip


class _Socket:
    is_shutdown = False

    def __init__(self) -> None:
        self.props: dict[str, Any] = {}

    def set_prop_sync(self, component: str, prop: str, value: Any) -> None:
        self.props[f"{component}.{prop}"] = value


@contextmanager
def in_callback(triggered: str = "") -> Iterator[_Socket]:
    socket = _Socket()
    context = AttributeDict(
        triggered_inputs=[{"prop_id": triggered, "value": 1}], dash_websocket=socket
    )
    token = context_value.set(context)
    try:
        yield socket
    finally:
        context_value.reset(token)


def callback(app: Dash, output: str) -> Any:
    for name, entry in app.callback_map.items():
        if output in name.strip(".").split("...") and "callback" in entry:
            return entry["callback"].__wrapped__
    raise LookupError(output)


def words_of(component: Any) -> str:
    """Return all text in a component."""
    if component is None or isinstance(component, str):
        return component or ""
    if isinstance(component, list | tuple):
        return " ".join(map(words_of, component))
    return words_of(getattr(component, "children", None))


# --- the form ---


def test_every_choice_of_the_tables_is_offered() -> None:
    parts = {getattr(part, "id", None): part for part in circuit.layout()._traverse()}
    for component, table in (
        (ids.CIRCUIT_METRIC, METRICS),
        (ids.CIRCUIT_BASELINE, BASELINES),
        (ids.CIRCUIT_TASK, TASKS),
    ):
        assert [choice["value"] for choice in parts[component].data] == list(table)
    groups = {group["group"]: group["items"] for group in parts[ids.CIRCUIT_METHOD].data}
    assert [choice["value"] for choice in groups["Circuit discovery"]] == list(METHODS)
    assert [choice["value"] for choice in groups["Head patching"]] == list(DIRECTIONS)
    assert set(circuit.help_texts()["tasks"]) == set(TASKS)


def test_the_form_starts_with_what_discovery_takes_by_default() -> None:
    from ablation.circuit.discovery import FAITHFULNESS, STEPS

    parts = {getattr(part, "id", None): part for part in circuit.layout()._traverse()}
    assert parts[ids.CIRCUIT_ASKED].value == FAITHFULNESS
    assert parts[ids.CIRCUIT_STEPS].value == STEPS


def test_a_new_prompt_gets_a_proposal_and_likely_tokens(
    settled: View, llama: LanguageModel
) -> None:
    found = described(llama, settled, ("", "", ""), {})
    first = propose_corruption(llama, PROMPT)[0]
    assert found.corrupt == first.corrupt
    assert found.proposed.startswith(first.words)
    top = llama.predict(llama.tokenize(PROMPT), top_k=1).top[0]
    assert found.answer == top.text
    assert found.distractor not in ("", found.answer)
    assert found.problem == ""


def test_propose_gives_one_proposal_after_the_other(settled: View, llama: LanguageModel) -> None:
    proposals = [proposal.corrupt for proposal in propose_corruption(llama, PROMPT)]
    found = described(llama, settled, ("", "", ""), {})
    seen = [found.corrupt]
    for _ in proposals:
        typed = (found.corrupt, found.answer, found.distractor)
        found = described(llama, settled, typed, found.about, wants_next=True)
        seen.append(found.corrupt)
    assert seen == [*proposals, proposals[0]]


def test_what_was_typed_stays_and_what_was_not_follows_the_prompt(
    settled: View, llama: LanguageModel
) -> None:
    first = described(llama, settled, ("", "", ""), {})
    typed = described(llama, settled, (first.corrupt, " Mary", first.distractor), first.about)
    assert (typed.answer, typed.corrupt) == (" Mary", first.corrupt)
    again = described(llama, settled, (typed.corrupt, " Mary", " John"), typed.about)
    assert (again.answer, again.distractor) == (" Mary", " John")
    assert again.proposed == first.proposed
    other = replace(settled, prompt="The capital of France is")
    fresh = described(llama, other, (again.corrupt, " Mary", " John"), again.about)
    top = llama.predict(llama.tokenize(other.prompt), top_k=1).top[0]
    assert fresh.answer == top.text
    assert fresh.corrupt != again.corrupt


def test_a_corrupted_prompt_of_other_length_is_told_with_its_tokens(
    settled: View, llama: LanguageModel
) -> None:
    about = described(llama, settled, ("", "", ""), {}).about
    found = described(llama, settled, (CORRUPT + " him", " Mary", " John"), about)
    assert "has 18 tokens and the corrupted one" in found.problem
    assert not found.columns[-1].same
    assert found.proposed == ""


def test_tokens_that_differ_are_marked_with_what_they_replace(
    settled: View, llama: LanguageModel
) -> None:
    about = described(llama, settled, ("", "", ""), {}).about
    found = described(llama, settled, (CORRUPT, " Mary", " John"), about)
    marked = [span for span in token_strip(found.columns) if "differs" in span.className]
    assert [words_of(span) for span in marked] == ["·John ·Mary"]


def test_a_prompt_without_a_proposal_says_so(services: Services) -> None:
    model = services.model("llama")
    view = services.settled(View(model="llama", prompt="#"), model)
    found = described(model, view, ("", "", ""), {})
    assert (found.corrupt, found.proposed) == ("", NOTHING_PROPOSED)
    assert found.columns == ()


def test_an_encoder_decoder_is_refused(services: Services) -> None:
    model = services.model("bart")
    view = services.settled(View(model="bart", prompt=PROMPT), model)
    with pytest.raises(UserError, match="stack"):
        described(model, view, ("", "", ""), {})


def test_a_hidden_tab_costs_nothing(dash_page: Dash, settled: View) -> None:
    hidden = replace(settled, tab="attention").to_json()
    describe = callback(dash_page, f"{ids.CIRCUIT_CORRUPT}.value")
    plan = callback(dash_page, f"{ids.CIRCUIT_PLAN}.children")
    with in_callback():
        assert set(describe(1, None, "", "", "", hidden, None)) == {no_update}
        assert plan(1, "prompt", 20, 5, None, 0, "eap", 5, hidden) is no_update


# --- the pairs ---


def asked(**changes: Any) -> Asked:
    return replace(asked_of(FORM), **changes)


def test_the_form_has_a_place_for_each_field() -> None:
    assert len(FIELDS) == len(FORM)
    assert asked_of(FORM).faithfulness == 0.85


def test_an_empty_number_is_told() -> None:
    with pytest.raises(UserError, match="A number of the question is missing"):
        asked_of((*FORM[:5], "", *FORM[6:]))


def test_the_prompt_is_one_pair(services: Services, settled: View, llama: LanguageModel) -> None:
    pair = PromptPair(PROMPT, CORRUPT, " Mary", " John")
    assert pairs_of(services, settled, asked(), llama) == ((pair,), ())


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"corrupt": " "}, ErrorKind.PROMPT, "no corrupted prompt"),
        ({"answer": ""}, ErrorKind.TARGET, "no answer"),
        ({"pairs": "file"}, ErrorKind.OPTION, "No file of pairs is chosen"),
        ({"corrupt": "a" * 200_001}, ErrorKind.PROMPT, "too long"),
    ],
)
def test_what_is_missing_is_said(
    services: Services,
    settled: View,
    llama: LanguageModel,
    changes: dict[str, Any],
    kind: ErrorKind,
    sentence: str,
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        pairs_of(services, settled, asked(**changes), llama)
    assert caught.value.kind is kind


def upload(name: str, rows: list[dict[str, str]]) -> tuple[str, str]:
    body = base64.b64encode(json.dumps(rows).encode()).decode()
    return f"data:application/json;base64,{body}", name


def test_a_file_of_pairs_is_read_and_its_last_ones_held_out(
    dash_page: Dash, settled: View, llama: LanguageModel
) -> None:
    services = dash_page.server.state.services
    read = callback(dash_page, f"{ids.CIRCUIT_FILE}.data")
    row = {"clean": PROMPT, "corrupt": CORRUPT, "answer": " Mary", "distractor": " John"}
    file, note, problem = read(*upload("mine.json", [row, row | {"answer": " her"}, row]))
    assert (file["name"], note, problem) == ("mine.json", "3 pairs", "")
    form = asked(pairs="file", file=file, file_held_out=1)
    found, held_out = pairs_of(services, settled, form, llama)
    assert [pair.answer for pair in found] == [" Mary", " her"]
    assert [pair.answer for pair in held_out] == [" Mary"]
    with pytest.raises(UserError, match="has 3 pairs, so that 3 cannot be held out"):
        pairs_of(services, settled, replace(form, file_held_out=3), llama)
    # What a task set holds out has nothing to do with it.
    assert len(pairs_of(services, settled, replace(form, held_out=20), llama)[0]) == 2
    assert read(*upload("mine.txt", [row]))[0] is None
    assert "mine.json" in words_of(read(*upload("mine.json", [{"clean": PROMPT}]))[1])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "2 pairs in mine.json. "),
        ({"corrupt": "Shorter"}, "Pair 2 of 2: The clean prompt has 18 tokens"),
        ({"answer": "a"}, "'a': no space in front, but ' a' is a token too"),
        ({"answer": "a", "clean": PROMPT + " ", "corrupt": CORRUPT + " "}, "mine.json. "),
    ],
)
def test_the_pairs_of_a_file_are_held_against_the_model_at_once(
    dash_page: Dash, changes: dict[str, str], sentence: str
) -> None:
    read = callback(dash_page, f"{ids.CIRCUIT_FILE}.data")
    row = {"clean": PROMPT, "corrupt": CORRUPT, "answer": " Mary", "distractor": " John"}
    file, *_ = read(*upload("mine.json", [row, row | changes]))
    check = next(
        entry["callback"].__wrapped__
        for name, entry in dash_page.callback_map.items()
        if name.startswith(f"{ids.CIRCUIT_FILE_NOTE}.children")
    )
    said = words_of(check(file, "llama", None))
    assert sentence in said
    assert said.strip().endswith("mine.json.") == (sentence[-1] == " ")


def test_a_result_is_of_the_fields_that_it_depends_on(settled: View) -> None:
    of_prompt = asked_about(asked(), settled)
    assert of_prompt["prompt"] == PROMPT
    assert {"corrupt", "answer", "distractor", "baseline", "faithfulness"} <= set(of_prompt)
    assert not {"steps", "task", "file"} & set(of_prompt)
    of_task = asked_about(asked(pairs="task", method="acdc"), settled)
    assert {"task", "n_pairs", "held_out", "steps"} <= set(of_task)
    assert not {"prompt", "corrupt", "faithfulness"} & set(of_task)
    assert "baseline" not in asked_about(asked(method="noising"), settled)


def test_an_emptied_distractor_stays_empty(settled: View, llama: LanguageModel) -> None:
    first = described(llama, settled, ("", "", ""), {})
    emptied = described(llama, settled, (first.corrupt, "", ""), first.about)
    assert (emptied.answer, emptied.distractor) == (first.answer, "")
    again = described(llama, settled, (first.corrupt, emptied.answer, ""), emptied.about)
    assert again.distractor == ""


# --- the plan ---


def test_the_plan_counts_pairs_passes_and_runs(
    services: Services, settled: View, llama: LanguageModel
) -> None:
    told = planned(services, llama, settled, "task", 20, 5, None, 0, "eap-ig", 5)
    assert told.startswith("Plan: 25 pairs, 5 passes with gradients and at most ")
    assert "1 pair, 1 pass with" in planned(
        services, llama, settled, "prompt", 20, 5, None, 0, "eap", 5
    )
    assert planned(services, llama, settled, "prompt", "", 5, None, 0, "eap", 5) == ""
    assert planned(services, llama, settled, "file", 20, 5, None, 0, "eap", 5) == ""
    patching = planned(services, llama, settled, "task", 20, 5, None, 0, "noising", 5)
    assert patching.startswith("Plan: each of 12 heads by itself, on 20 pairs; about ")


@pytest.mark.parametrize("method", list(METHODS))
def test_a_discovery_takes_no_more_than_was_planned(llama: LanguageModel, method: str) -> None:
    from ablation.circuit.discovery import discover_circuit
    from ablation.circuit.plan import plan_discovery

    plan = plan_discovery(llama, PROMPT, 1, method, 2)
    pair = PromptPair(PROMPT, CORRUPT, " Mary", " John")
    found = discover_circuit(llama, [pair], method, steps=2)
    assert 0 < found.n_runs <= plan.n_runs


def test_the_plan_says_how_much_memory_and_that_it_is_not_there(
    services: Services, settled: View, llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = ("task", 20, 5, None, 0, "eap-ig", 5)
    assert planned(services, llama, settled, *form).endswith("about 0.1 GB of memory.")
    monkeypatch.setattr(MemoryBudget, "free", lambda _budget: 1e6)
    assert "25 pairs of prompts of up to" in planned(services, llama, settled, *form)


# --- the work ---


def test_a_discovery_is_what_the_form_asks_for(services: Services, settled: View) -> None:
    reports: list[Progress] = []
    found = circuit_run.discover(
        services, settled, asked(metric="logprob", faithfulness=0.5), reports.append, Job("tab")
    )
    assert (found.method, found.metric, found.asked) == ("eap", "logprob", 0.5)
    assert found.pairs == (PromptPair(PROMPT, CORRUPT, " Mary", " John"),)
    assert reports


@pytest.mark.parametrize("bos", [True, False])
def test_prompts_begin_as_the_page_says(services: Services, settled: View, bos: bool) -> None:
    view = replace(settled, bos=bos)
    found = circuit_run.discover(services, view, asked(), lambda _progress: None, Job("tab"))
    model = services.model("llama")
    assert found.tokens[0] == tuple(model.tokenize(PROMPT, bos).labels)
    assert len(found.tokens[0]) == 18 + bos


def test_the_tab_says_which_position_is_explained() -> None:
    assert all(circuit.READ in text for text in circuit.help_texts()["sources"].values())


def test_a_cancelled_discovery_keeps_what_was_found(services: Services, settled: View) -> None:
    job = Job("tab")

    def cancel_late(progress: Progress) -> None:
        if isinstance(progress.partial, Circuit) and progress.partial.curve:
            job.cancel.set()

    found = circuit_run.discover(services, settled, asked(), cancel_late, job)
    assert found.stopped == "cancelled"
    assert found.curve


def test_partial_results_are_shown_with_their_progress(
    dash_page: Dash, settled: View, kept: dict[str, Any]
) -> None:
    job = Job("tab")
    bar = Bar(job, ids.CIRCUIT_BAR, ids.CIRCUIT_STATUS, lambda: False)
    live = circuit_run.Live(bar, dash_page.server.state.services, settled)
    with in_callback() as socket:
        live(Progress(1, 4, "Faithfulness of 10 edges", by_hand()))
    assert socket.props[f"{ids.CIRCUIT_BAR}.value"] == 25
    partial = socket.props[f"{ids.CIRCUIT_PARTIAL}.data"]
    # It is drawn in the place of the last result, and edges of it are told of.
    draw = callback(dash_page, f"{ids.CIRCUIT_DRAWN}.data")
    headline, caption, _, _, picture, *_ = draw(
        {"width": 640, "height": 500}, False, "llama", "layer", partial, kept
    )
    assert (words_of(headline), caption) == ("2 edges so far.", "")
    assert 'width="640"' in picture["svg"]
    tell = callback(dash_page, f"{ids.CIRCUIT_EDGE}.children")
    assert "embed → L0H1" in words_of(tell({"edge": "1-0"}, partial, None, "llama")[0])


def test_what_was_found_before_an_error_is_shown_no_more() -> None:
    with in_callback() as socket:
        circuit_run._problem(UserError(ErrorKind.OPTION, "No."))
    assert socket.props[f"{ids.CIRCUIT_PARTIAL}.data"] is None
    assert socket.props[f"{ids.CIRCUIT_PROBLEM}.children"] == "No."


def test_the_run_keeps_its_circuit_under_a_key(dash_page: Dash, settled: View) -> None:
    run = callback(dash_page, f"{ids.CIRCUIT}.data")
    with in_callback():
        kept, patched, problem = run({"at": 1}, settled.to_json(), "tab", *FORM)
    assert problem is None
    assert patched is no_update
    assert (kept["model"], kept["asked"]["prompt"]) == ("llama", PROMPT)
    found = dash_page.server.state.services.results.get(kept["key"])
    assert isinstance(found, Circuit)
    assert found.origin == Origin("prompt")
    assert kept["heads"] == [head.short for head in found.heads]


# --- what is shown ---


@pytest.fixture
def kept(dash_page: Dash) -> dict[str, Any]:
    key = dash_page.server.state.services.results.keep(by_hand(), 1000)
    return {"key": key, "model": "llama", "asked": {}, "bos": None}


def test_the_result_is_told_drawn_and_listed(dash_page: Dash, kept: dict[str, Any]) -> None:
    draw = callback(dash_page, f"{ids.CIRCUIT_DRAWN}.data")
    headline, caption, proof, figure, picture, *hidden = draw(
        {"width": 620, "height": 500}, False, "llama", "token", None, kept
    )
    assert words_of(headline).startswith("2 of ")
    assert f"“{PROMPT}” against “{CORRUPT}”; ' Mary' against ' John'" in caption
    assert "Logit difference: 3 with all edges" in words_of(proof)
    assert [trace.name for trace in figure.data] == ["random edges", "EAP", "the circuit"]
    assert picture["svg"].count('class="circuit-edge"') == 2
    # Its edges were not scored by position, so there is nothing to choose.
    assert hidden == [True, False, True]
    edges, roles, repairs, no_roles, no_repairs = callback(
        dash_page, f"{ids.CIRCUIT_EDGES}.rowData"
    )(kept, "llama")
    assert [row["from"] for row in edges] == ["L0H1", "embed"]
    assert (roles, repairs, no_roles, no_repairs) == ([], [], True, True)


def test_a_result_of_another_model_or_one_that_had_to_go_is_not_shown(
    dash_page: Dash, kept: dict[str, Any]
) -> None:
    draw = callback(dash_page, f"{ids.CIRCUIT_DRAWN}.data")
    for other, name in ((kept, "gpt2"), (kept | {"key": "gone"}, "llama"), (None, "llama")):
        assert draw({}, False, name, "layer", None, other)[4:] == (None, False, True, True)


def test_a_clicked_edge_is_told(dash_page: Dash, kept: dict[str, Any]) -> None:
    tell = callback(dash_page, f"{ids.CIRCUIT_EDGE}.children")
    last = len(by_hand().graph.targets) - 1
    told, hidden = tell({"edge": f"{last}-2"}, None, kept, "llama")
    assert "L0H1 → logits: score −1" in words_of(told)
    assert "where the prediction is read, on the clean" in words_of(told)
    assert not hidden
    assert [words_of(row.children[0]) for row in told[2:]] == [
        "answer, distractor",
        "raises",
        "lowers",
    ]
    looks = words_of(tell({"edge": "1-0"}, None, kept, "llama")[0])
    assert "It enters the query, and so changes where L0H1 looks" in looks
    assert "clean" in looks
    assert "corrupted" in looks
    assert tell({"edge": "3-3"}, None, kept, "llama") == ([], True)
    assert tell(None, None, kept, "llama") == ([], True)


@pytest.mark.parametrize(
    ("room", "size"),
    [
        (None, (900, 600)),
        ({"width": 620, "height": 500}, (620, 500)),
        ({"width": 0, "height": -5}, (900, 420)),
        ({"width": 1e9, "height": 1e9}, (4000, 4000)),
    ],
)
def test_the_picture_has_a_sensible_size(room: Any, size: tuple[float, float]) -> None:
    assert circuit_result.size_of(room) == size


# --- files ---


def test_files_hold_every_edge(dash_page: Dash, kept: dict[str, Any]) -> None:
    client = TestClient(dash_page.server)
    answer = client.post("/export/circuit/json", json={"key": kept["key"]})
    assert answer.json() == by_hand().to_json()
    assert answer.json()["pairs"] == [
        {"clean": PROMPT, "corrupt": CORRUPT, "answer": " Mary", "distractor": " John"}
    ]
    graphml = client.post("/export/circuit/graphml", json={"key": kept["key"]})
    assert graphml.headers["content-type"].startswith("application/xml")
    assert graphml.text.count("<edge ") == 2
    assert PROMPT in graphml.text
    # A circuit is no result of head patching.
    assert client.post("/export/patching/csv", json={"key": kept["key"]}).status_code == 400


@pytest.mark.parametrize("body", [{"key": "gone"}, {"key": 3}, {}, [1]])
def test_a_file_that_cannot_be_made_says_why(dash_page: Dash, body: Any) -> None:
    answer = TestClient(dash_page.server).post("/export/circuit/json", json=body)
    assert answer.status_code == 400
    expected = circuit_exports.GONE if body and isinstance(body, dict) else "This is not a request"
    assert answer.text.startswith(expected)


# --- the link ---


def test_a_link_holds_the_question(settled: View, llama: LanguageModel) -> None:
    form = {field.name: value for field, value in zip(FORM_FIELDS, FORM, strict=True)}
    values = [form[field.name] for field in LINKED]
    view = View.from_json({**settled.to_json(), "question": linked(values)})
    again = permalink.decode(str(permalink.encode(view)))
    assert again == view
    *held, about = opened_form(again)
    assert held == values
    # What was typed is not proposed anew.
    found = described(llama, again, (CORRUPT, " Mary", ""), about)
    assert (found.corrupt, found.answer, found.distractor) == (CORRUPT, " Mary", "")


def test_a_form_that_is_new_or_unfinished_is_not_in_the_link(settled: View) -> None:
    parts = {getattr(part, "id", None): part for part in circuit.layout()._traverse()}
    new = [getattr(parts[field.component], field.prop, "") or "" for field in LINKED]
    assert linked(new) is None
    assert linked(["" if value == 20 else value for value in new]) is None
    assert set(opened_form(settled)) == {no_update}
