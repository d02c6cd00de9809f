"""The page without a browser: its layout, its callbacks as plain functions, its errors."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dash import Dash, no_update
from dash._callback_context import context_value
from dash._utils import AttributeDict
from page_fixtures import Shelf, make_page
from starlette.testclient import TestClient
from tiny import tiny_model

from ablation.grid import sweep_positions
from ablation.interventions import INTERVENTIONS
from ablation.sweep import sweep_heads
from ablation.types import STRATEGIES, PositionScores, Progress
from app import controls, ids
from app.notices import INTERNAL, show_error
from app.panels import by_position, heads, page, prediction, study_run
from app.panels.intervention import STARTERS, parameter_fields, starter
from app.panels.progress import Bar
from app.services import MAPS_AT_ONCE, Services, build_intervention, drawable, first_heads
from app.view import InterventionForm, View
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import Head
from viz import coding

TAB = "tab"


@pytest.fixture(scope="module")
def dash_page() -> Dash:
    return make_page()


@pytest.fixture
def services() -> Services:
    return Services(Shelf(), "llama")


@pytest.fixture
def settled(services: Services) -> View:
    return services.settled(View(model="llama"), services.model("llama"))


def _callback(app: Dash, output: str) -> Callable[..., Any]:
    """Return the plain function of the callback that writes `output`, given as "id.property"."""
    for name, entry in app.callback_map.items():
        if output in name.strip(".").split("...") and "callback" in entry:
            return entry["callback"].__wrapped__
    raise LookupError(output)


class _Socket:
    """Stands where Dash puts the websocket of a callback: keeps what was set on the page."""

    is_shutdown = False

    def __init__(self) -> None:
        self.props: dict[str, Any] = {}

    def set_prop_sync(self, component: str, prop: str, value: Any) -> None:
        self.props[f"{component}.{prop}"] = value


@contextmanager
def _in_callback(triggered: str = "") -> Iterator[_Socket]:
    socket = _Socket()
    context = AttributeDict(
        triggered_inputs=[{"prop_id": triggered, "value": 1}], dash_websocket=socket
    )
    token = context_value.set(context)
    try:
        yield socket
    finally:
        context_value.reset(token)


# --- the layout and the callbacks agree ---


def _parts(layout: Any) -> dict[str, Any]:
    """Return the components of a layout that have an id."""
    parts = [layout, *layout._traverse()]
    named = [(str(part.id), part) for part in parts if getattr(part, "id", None) is not None]
    assert len({name for name, _ in named}) == len(named), "an id is used twice"
    return dict(named)


def _outputs(callback: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (id, property) of what a callback writes; a callback may write nothing."""
    names = callback["output"].strip(".").split("...")
    pairs = [name.split("@")[0].rpartition(".") for name in names]
    return [(component, prop) for component, _, prop in pairs if component]


def test_every_id_of_a_callback_is_in_the_layout(dash_page: Dash) -> None:
    known = _parts(dash_page.layout())
    for callback in dash_page._callback_list:
        named = [name for name, _ in _outputs(callback)]
        named += [part["id"] for part in (*callback["inputs"], *callback["state"])]
        for name in named:
            if not name.startswith("{"):  # one of many, made while the page runs
                assert name in known, callback["output"]


def test_every_property_of_a_callback_exists(dash_page: Dash) -> None:
    components = _parts(dash_page.layout())
    for callback in dash_page._callback_list:
        parts = [*callback["inputs"], *callback["state"]]
        pairs = [*((part["id"], part["property"]) for part in parts), *_outputs(callback)]
        for name, prop in pairs:
            if name in components:
                assert prop in components[name]._prop_names, f"{name}.{prop}"


def test_each_load_of_the_page_is_a_tab_of_its_own(dash_page: Dash) -> None:
    def tab() -> str:
        return _parts(dash_page.layout())[ids.TAB_ID].data

    assert tab() != tab()


def test_nothing_comes_from_another_host(dash_page: Dash) -> None:
    for link in ("http://", "https://", "//cdn"):
        head = dash_page.index_string.replace("http://www.w3.org", "")
        assert link not in head
        assert link not in str(dash_page._generate_scripts_html())
        assert link not in str(dash_page._generate_css_dist_html())


def test_no_callback_takes_the_place_of_another(dash_page: Dash) -> None:
    # Dash names a callback without outputs by its inputs: of two with the same, one is lost.
    names = [callback["output"] for callback in dash_page._callback_list]
    assert len(names) == len(set(names))


def test_importing_the_page_is_cheap() -> None:
    code = "import sys, app; print([m for m in ('torch', 'dash', 'plotly') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_stands_before_torch_is_there() -> None:
    code = (
        "import sys; from app import create_app; from types import SimpleNamespace; "
        "create_app(SimpleNamespace(available=lambda: ['builtin'])); "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- opening a view ---


def test_a_new_page_opens_with_the_example_and_heads(services: Services) -> None:
    view, model, problem = page.open_first(services, View(model="llama"), View(model="llama"))
    assert problem is None
    assert view.prompt.startswith("When Mary and John")
    assert view.position == len(model.tokenize(view.prompt)) - 1
    assert view.heads
    assert view.bos is False


def test_a_link_to_a_model_that_is_not_there_opens_the_default(services: Services) -> None:
    default = View(model="llama")
    view, model, problem = page.open_first(services, View(model="nowhere"), default)
    assert (view.model, model.name) == ("llama", "llama")
    assert "nowhere" in (problem or "")


def test_a_default_that_is_not_there_is_an_error(services: Services) -> None:
    with pytest.raises(UserError, match="nowhere"):
        page.open_first(services, View(model="nowhere"), View(model="nowhere"))


def test_a_damaged_link_opens_the_default_with_one_notice() -> None:
    view, notice = page.opened("#1.damaged", View(model="llama"))
    assert view == View(model="llama")
    assert notice is not None


def test_the_opened_view_fills_every_output(services: Services, settled: View) -> None:
    filled = page.filled(services, settled, services.model("llama"))
    assert len(filled) == len(controls.CONTROLS) + len(page.EXTRA_OUTPUTS)


def test_another_model_keeps_the_heads_that_it_has(services: Services, settled: View) -> None:
    view = replace(settled, heads=(Head(0, 1), Head(12, 3)), watched=5, target=5)
    deep, _ = page.switched(services, view, "deep")
    back, _ = page.switched(services, deep, "llama")
    assert deep.heads == (Head(0, 1), Head(12, 3))
    assert back.heads == (Head(0, 1),)
    assert back.watched is None
    assert back.target is None


def test_a_masked_model_gets_a_mask_to_predict_at(services: Services, settled: View) -> None:
    view, model = page.switched(services, settled, "bert")
    tokens = model.tokenize(view.prompt, view.bos)
    assert tokens.labels[view.position] == "[MASK]"


def test_no_heads_stay_no_heads(services: Services) -> None:
    view = services.settled(View(model="llama", heads=()), services.model("llama"))
    assert view.heads == ()


def test_first_heads_exist(services: Services) -> None:
    model = services.model("deep")
    heads = first_heads(model, model.tokenize("The key to the cabinets"))
    assert len(heads) == 6
    assert model.check_heads(heads) == heads


# --- prediction and attention ---


def _view(settled: View, **changes: Any) -> dict[str, Any]:
    return replace(settled, **changes).to_json()


def test_the_prediction_is_the_models(
    services: Services, settled: View, llama: LanguageModel
) -> None:
    outcome = services.outcome(settled)
    expected = llama.predict(llama.tokenize(settled.prompt))
    assert outcome.before.top[0].id == expected.top[0].id
    assert outcome.after is None


def test_switching_the_intervention_on_shows_both_runs(dash_page: Dash, settled: View) -> None:
    draw = _callback(dash_page, f"{ids.PREDICTION_CAPTION}.children")
    off = draw(_view(settled), False, None, TAB)
    on = draw(_view(settled, ablate=True), False, None, TAB)
    assert [len(result[2].data) for result in (off, on)] == [1, 2]
    assert on[7:9] == ("", None)


def test_the_prediction_is_drawn_anew_only_if_it_can_be_another(
    dash_page: Dash, settled: View
) -> None:
    draw = _callback(dash_page, f"{ids.PREDICTION_CAPTION}.children")
    *_, asked = draw(_view(settled), False, None, TAB)
    another_head = _view(settled, heads=(Head(2, 2),))
    assert set(draw(another_head, False, asked, TAB)) == {no_update}
    changes = ({"ablate": True}, {"position": 0}, {"watched": 3}, {"prompt": "A", "position": 0})
    for change in changes:
        assert draw(_view(settled, **change), False, asked, TAB)[2] is not no_update
    assert draw(_view(settled), True, asked, TAB)[2] is not no_update
    *_, asked = draw(_view(settled, ablate=True), False, None, TAB)
    assert (
        draw(_view(settled, ablate=True, heads=(Head(2, 2),)), False, asked, TAB)[2]
        is not no_update
    )


def test_an_ablation_that_cannot_be_done_says_why_and_leaves_the_clean_run(
    dash_page: Dash, settled: View
) -> None:
    draw = _callback(dash_page, f"{ids.PREDICTION_CAPTION}.children")
    form = InterventionForm("resample", (("source", "too short"),))
    *_, problem, positions, _ = draw(
        _view(settled, ablate=True, intervention=form), False, None, TAB
    )
    assert "equal length" in problem
    assert positions is None
    grid = _callback(dash_page, f"{ids.MAPS}.data")
    _, _, _, note, *_ = grid(_view(settled, ablate=True, intervention=form), False, 1, None, TAB)
    assert "Not ablated: attention of the clean run" in str(note)
    assert "equal length" in str(note)


def test_positions_outside_the_prompt_are_refused_at_their_field(
    dash_page: Dash, settled: View
) -> None:
    draw = _callback(dash_page, f"{ids.PREDICTION_CAPTION}.children")
    *_, problem, positions, _ = draw(_view(settled, ablate=True, acted="99"), False, None, TAB)
    assert problem == ""
    assert "outside the prompt" in positions


def test_positions_of_a_knockout_are_refused_at_the_knockout(
    dash_page: Dash, settled: View
) -> None:
    draw = _callback(dash_page, f"{ids.PREDICTION_CAPTION}.children")
    form = InterventionForm("knockout", (("keys", "99"), ("queries", "*")))
    *_, problem, positions, _ = draw(
        _view(settled, ablate=True, intervention=form), False, None, TAB
    )
    assert "outside the prompt" in problem
    assert positions is None


def test_rows_of_the_prediction_stay_ten(services: Services, settled: View) -> None:
    view = replace(settled, ablate=True, heads=tuple(services.model("llama").all_heads()))
    outcome = services.outcome(view)
    n = prediction.shown_tokens(outcome.before, outcome.after)
    assert outcome.after is not None
    shown = {t.id for t in (*outcome.before.top[:n], *outcome.after.top[:n])}
    assert 1 < len(shown) <= prediction.SHOWN_TOKENS


def test_text_of_several_tokens_cannot_be_watched(dash_page: Dash) -> None:
    watch = _callback(dash_page, f"{ids.WATCHED_TEXT}.value")
    *_, error = watch("several tokens here", "llama")
    assert "token" in error


def test_what_a_view_will_show_is_computed_ahead(
    services: Services, settled: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    done = threading.Event()
    run = LanguageModel.run

    def noted(self: LanguageModel, *args: Any, **options: Any) -> object:
        calls.append(options)
        answer = run(self, *args, **options)
        done.set()
        return answer

    monkeypatch.setattr(LanguageModel, "run", noted)
    services.begin(settled, TAB)
    assert done.wait(30)
    services.outcome(settled)
    services.outcome(settled, maps=False)
    assert len(calls) == 1


def test_adding_a_head_sends_only_its_map(dash_page: Dash, settled: View) -> None:
    draw = _callback(dash_page, f"{ids.MAPS}.data")
    few = _view(settled, heads=(Head(0, 0), Head(1, 1)), scale="own")
    sent, drawn, *_ = draw(few, False, 1, None, TAB)
    assert list(sent["maps"]) == sent["order"] == ["0.0", "1.1"]
    more = _view(settled, heads=(Head(2, 2), Head(0, 0), Head(1, 1)), scale="own")
    sent, drawn, *_ = draw(more, False, 1, drawn, TAB)
    assert list(sent["maps"]) == ["2.2"]
    assert sent["order"] == drawn["heads"] == ["2.2", "0.0", "1.1"]
    again, drawn_again, *_ = draw(more, False, 1, drawn, TAB)
    assert again is drawn_again is no_update


def test_taking_a_head_away_sends_no_map(dash_page: Dash, settled: View) -> None:
    draw = _callback(dash_page, f"{ids.MAPS}.data")
    three = _view(settled, heads=(Head(0, 0), Head(1, 1), Head(2, 2)), scale="own")
    _, drawn, *_ = draw(three, False, 1, None, TAB)
    two = _view(settled, heads=(Head(0, 0), Head(2, 2)), scale="own")
    sent, *_ = draw(two, False, 1, drawn, TAB)
    assert (sent["order"], sent["maps"]) == (["0.0", "2.2"], {})


@pytest.mark.parametrize(
    "change",
    [{"threshold": 0.3}, {"log": True}, {"size": 200}, {"position": 1}, {"ablate": True}],
    ids=lambda change: next(iter(change)),
)
def test_another_look_sends_all_maps(
    change: dict[str, Any], dash_page: Dash, settled: View
) -> None:
    draw = _callback(dash_page, f"{ids.MAPS}.data")
    _, drawn, *_ = draw(_view(settled), False, 1, None, TAB)
    sent, *_ = draw(_view(settled, **change), False, 1, drawn, TAB)
    assert list(sent["maps"]) == sent["order"]
    assert sent["serial"] != drawn["serial"]


def test_what_is_sent_of_a_map_is_the_models_attention(
    dash_page: Dash, services: Services, settled: View, llama: LanguageModel
) -> None:
    draw = _callback(dash_page, f"{ids.MAPS}.data")
    sent, *_ = draw(_view(settled, heads=(Head(1, 2),)), False, 1, None, TAB)
    prompt = llama.tokenize(settled.prompt)
    expected = llama.attention(prompt, [Head(1, 2)]).values[0]
    shown = coding.decode(sent["maps"]["1.2"]["figure"]["cells"]["coded"])
    lower = np.tril_indices(len(prompt))
    np.testing.assert_allclose(shown[lower], expected[lower], rtol=coding.RELATIVE_ERROR)
    assert sent["names"] == list(prompt.unique_labels)
    json.dumps(sent)  # plain data all through


def test_many_maps_are_drawn_on_demand(dash_page: Dash, services: Services, settled: View) -> None:
    deep, _ = page.switched(services, settled, "deep")
    draw = _callback(dash_page, f"{ids.MAPS}.data")
    data = _view(deep, heads=tuple(services.model("deep").all_heads()))
    sent, _, _, _, empty, no_more, label = draw(data, False, 1, None, TAB)
    assert len(sent["maps"]) == MAPS_AT_ONCE
    assert (empty, no_more) == (True, False)
    assert label == f"Show more ({256 - MAPS_AT_ONCE} heads left)"


@pytest.mark.parametrize(
    ("n_tokens", "at_once"), [(14, 24), (512, 24), (1024, 6), (2000, 6), (4096, 6), (8192, 1)]
)
def test_fewer_maps_of_long_prompts_are_drawn_at_once(n_tokens: int, at_once: int) -> None:
    heads = [Head(0, i) for i in range(100)]
    assert drawable(heads, 1, n_tokens) == tuple(heads[:at_once])
    assert drawable(heads, 2, n_tokens) == tuple(heads[: 2 * at_once])


def test_no_heads_say_what_to_do(dash_page: Dash, settled: View) -> None:
    draw = _callback(dash_page, f"{ids.MAPS}.data")
    sent, _, _, _, empty_hidden, *_ = draw(_view(settled, heads=()), False, 1, None, TAB)
    assert sent["order"] == []
    assert not empty_hidden


def test_typed_heads_are_added_to_the_choice(dash_page: Dash) -> None:
    add = _callback(dash_page, f"{ids.HEADS_TEXT}.value")
    shape = heads.shape(tiny_model("llama"))
    assert add("0.1, 2.*", ["0.1"], shape) == (["0.1", "2.0", "2.1", "2.2", "2.3"], "", None)
    with pytest.raises(UserError, match=r"7\.1"):
        add("7.1", [], shape)


# --- interventions ---


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_each_intervention_has_a_form_from_the_table(name: str) -> None:
    fields = parameter_fields(starter(name))
    assert len(fields) == len(INTERVENTIONS[name].parameters)


@pytest.mark.parametrize("name", [name for name in INTERVENTIONS if name != "resample"])
def test_each_intervention_starts_ready_but_for_another_prompt(name: str) -> None:
    assert build_intervention(starter(name)).spec.startswith(name)


def test_a_field_that_is_missing_is_named_as_the_form_names_it() -> None:
    with pytest.raises(UserError, match="Resample needs its source prompt"):
        build_intervention(starter("resample"))


def test_starters_are_of_interventions_and_their_parameters() -> None:
    for name, values in STARTERS.items():
        assert set(values) <= {p.name for p in INTERVENTIONS[name].parameters}


# --- studies ---


def _finished_study(dash_page: Dash, data: dict[str, Any], tab: str = "tab") -> tuple[Any, _Socket]:
    run = _callback(dash_page, f"{ids.SWEEP}.data")

    def inside() -> tuple[Any, _Socket]:
        with _in_callback(f"{ids.STUDY_RUN}.n_clicks") as socket:
            return run(1, data, tab, False), socket

    return copy_context().run(inside)


def test_a_sweep_shows_progress_and_leaves_its_scores(
    dash_page: Dash, settled: View, llama: LanguageModel
) -> None:
    (kept, *_), socket = _finished_study(dash_page, _view(settled))
    assert socket.props[f"{ids.STUDY_BAR}.value"] > 0
    assert "heads" in socket.props[f"{ids.STUDY_STATUS}.children"]
    rows = socket.props[f"{ids.SWEEP_TABLE}.rowData"]
    assert rows[0]["rank"] == 1

    def inside() -> Any:
        with _in_callback(f"{ids.SWEEP}.data"):
            draw = _callback(dash_page, f"{ids.SWEEP_MAP}.figure")
            return draw(kept, False, [], _view(settled))

    _, table, columns, caption, empty_hidden, body_hidden = copy_context().run(inside)
    assert columns[-1]["headerName"] == "KL divergence, nats"
    expected = sweep_heads(llama, settled.prompt)
    assert [row["head"] for row in table] == [str(head) for head, _ in expected.ranked()]
    assert caption.startswith("12 heads, each ablated alone (zero)")
    assert (empty_hidden, body_hidden) == (True, False)


def test_a_targeted_search_can_be_used(
    dash_page: Dash, settled: View, llama: LanguageModel
) -> None:
    target = llama.predict(llama.tokenize(settled.prompt)).top[2].id
    data = _view(settled, study="targeted", target=target, max_heads=4)
    (_, _, kept, *_), _ = _finished_study(dash_page, data)
    draw = _callback(dash_page, f"{ids.SEARCH_TRACE}.figure")
    figure, rows, columns, sentences, *states = draw(kept, False, data)
    assert "target_prob" in {column["field"] for column in columns}
    assert kept["heads"]
    assert len(rows) >= len(kept["heads"])
    assert sentences
    assert states == [True, False, False]
    assert figure.data


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_uses_the_strategy_of_the_view_and_says_if_it_was_screened(
    dash_page: Dash, settled: View, strategy: str
) -> None:
    deep, _ = page.switched(dash_page.server.state.services, settled, "deep")
    data = _view(deep, study="generic", strategy=strategy, max_heads=2)
    (_, _, kept, *_), _ = _finished_study(dash_page, data)
    result = dash_page.server.state.services.results.get(kept["key"])
    assert result.strategy == strategy
    draw = _callback(dash_page, f"{ids.SEARCH_TRACE}.figure")
    _, _, _, sentences, *_ = draw(kept, False, data)
    told = " ".join(sentence.children for sentence in sentences)
    assert ("288 head sets were evaluated exactly" in told) == (strategy == "screened")


def test_a_study_by_position_maps_the_chosen_heads(
    dash_page: Dash, settled: View, llama: LanguageModel
) -> None:
    heads = (Head(2, 1), Head(0, 3))
    # Positions acted on are no part of it: every position has its turn.
    data = _view(settled, study="positions", heads=heads, acted="2")
    (sweep, kept, search, *errors), socket = _finished_study(dash_page, data)
    assert sweep is search is no_update
    assert errors == [None, None]
    assert "cells" in socket.props[f"{ids.STUDY_STATUS}.children"]
    assert socket.props[f"{ids.BY_POSITION_BODY}.hidden"] is False
    draw = _callback(dash_page, f"{ids.BY_POSITION_MAP}.figure")
    figure, frame, caption, empty_hidden, body_hidden = draw(kept, False, data)
    expected = sweep_positions(llama, settled.prompt, heads)
    np.testing.assert_allclose(figure.data[0].z, expected.values, atol=1e-6)
    assert caption.startswith("2 heads × 18 positions, each head ablated at one position")
    assert "read at position 17" in caption
    assert "The positions on the left play no part here." in caption
    assert frame["maxWidth"].endswith("px")
    assert (empty_hidden, body_hidden) == (True, False)
    *_, caption, empty_hidden, body_hidden = draw(kept, False, {**data, "model": "gpt2"})
    assert (caption, empty_hidden, body_hidden) == ("", False, True)


def test_a_study_by_position_about_a_target_needs_one(dash_page: Dash, settled: View) -> None:
    data = _view(settled, study="positions", metric="target_prob")
    with pytest.raises(UserError) as caught:
        _finished_study(dash_page, data)
    assert caught.value.kind == ErrorKind.TARGET


def test_a_study_by_position_needs_heads(dash_page: Dash, settled: View) -> None:
    with pytest.raises(UserError, match="choose some") as caught:
        _finished_study(dash_page, _view(settled, study="positions", heads=()))
    assert caught.value.kind == ErrorKind.HEADS


def test_more_cells_than_a_map_can_show_are_refused_with_what_would_do(
    services: Services, settled: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viz.positions.MAX_CELLS", 100)
    heads = tuple(Head(layer, head) for layer in range(3) for head in range(4))
    view = replace(settled, study="positions", heads=heads)
    with (
        services.jobs.start("tab") as job,
        pytest.raises(UserError, match=r"12 heads at 18 positions .* at most 5 heads"),
    ):
        study_run.run_study(services, view, lambda _: None, job)


def test_a_cancelled_study_by_position_keeps_what_was_found(
    services: Services, settled: View
) -> None:
    view = replace(settled, study="positions")
    with services.jobs.start("tab") as job:
        scores = study_run.run_study(services, view, lambda _: job.cancel.set(), job)
    assert isinstance(scores, PositionScores)
    n_done = int((~np.isnan(scores.values)).sum())
    assert 0 < n_done < scores.values.size
    caption = by_position.caption(scores, {"intervention": "zero", "acted": ""})
    assert caption.startswith(f"Cancelled after {n_done} of {scores.values.size} cells, ")
    assert "play no part" not in caption


def test_a_targeted_search_needs_a_target(dash_page: Dash, settled: View) -> None:
    with pytest.raises(UserError) as caught:
        _finished_study(dash_page, _view(settled, study="targeted"))
    assert caught.value.kind == ErrorKind.TARGET


def test_a_target_that_is_likeliest_already_is_refused(
    dash_page: Dash, settled: View, llama: LanguageModel
) -> None:
    top = llama.predict(llama.tokenize(settled.prompt)).top[0].id
    with pytest.raises(UserError, match="already"):
        _finished_study(dash_page, _view(settled, study="targeted", target=top))


def test_a_study_of_a_page_that_has_gone_is_cancelled(services: Services, settled: View) -> None:
    with services.jobs.start("tab") as job:
        bar = Bar(job, ids.STUDY_BAR, ids.STUDY_STATUS, page_gone=lambda: True)
        live = study_run.Live(bar, settled, False)
        live(Progress(1, 10, "1 of 10 heads"))
        assert job.cancel.is_set()


def test_a_cancelled_sweep_keeps_what_was_found(services: Services, settled: View) -> None:
    with services.jobs.start("tab") as job:

        def report(progress: Progress) -> None:
            services.jobs.cancel("tab")

        deep, _ = page.switched(services, settled, "deep")
        scores = study_run.run_study(services, deep, report, job)
    assert scores.stopped == "cancelled"
    assert 0 < len(scores.ranked()) < scores.values.size  # type: ignore[union-attr]
    caption = study_run.sweep_caption(scores, {"intervention": "zero"})  # type: ignore[arg-type]
    assert caption.startswith(f"Cancelled after {len(scores.ranked())} of 256 heads")  # type: ignore[union-attr]


def test_leaving_the_page_cancels_its_study_alone(dash_page: Dash) -> None:
    jobs = dash_page.server.state.services.jobs
    with TestClient(dash_page.server) as client, jobs.start("one") as one, jobs.start("two") as two:
        assert client.post("/leave/one").status_code == 204
        assert one.cancel.is_set()
        assert not two.cancel.is_set()


def test_the_server_says_that_it_is_there(dash_page: Dash) -> None:
    with TestClient(dash_page.server) as client:
        assert client.get("/health").status_code == 200


# --- errors ---


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_each_error_is_shown_once_in_one_place(kind: ErrorKind) -> None:
    def inside() -> dict[str, Any]:
        with _in_callback() as socket:
            show_error(UserError(kind, "What was wrong with <b>this</b>."))
            return socket.props

    props = copy_context().run(inside)
    assert json.dumps(props).count("What was wrong with <b>this</b>.") == 1


def test_a_defect_is_logged_and_shown_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    def inside() -> dict[str, Any]:
        with _in_callback() as socket, caplog.at_level(logging.ERROR):
            show_error(ZeroDivisionError("secret"))
            return socket.props

    props = copy_context().run(inside)
    assert INTERNAL in json.dumps(props)
    assert "secret" not in json.dumps(props)
    assert "ZeroDivisionError" in caplog.text
