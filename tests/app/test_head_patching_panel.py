"""Head patching on the circuit tab, without a browser."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dash import Dash, no_update
from page_fixtures import make_page
from test_circuit_panel import FORM, PROMPT, callback, in_callback, words_of

from ablation.circuit.methods import DIRECTIONS
from ablation.circuit.patching import HeadPatching, patch_heads
from ablation.circuit.types import PromptPair
from app import ids
from app.panels import head_patching
from app.panels.circuit_asked import FORM as FORM_FIELDS
from app.panels.circuit_question import planned
from app.services import Services
from app.view import View
from models.language_model import LanguageModel
from models.types import Head


@pytest.fixture(scope="module")
def dash_page() -> Dash:
    return make_page()


@pytest.fixture
def services(dash_page: Dash) -> Services:
    found: Services = dash_page.server.state.services
    return found


@pytest.fixture
def view(services: Services) -> View:
    asked = View(model="llama", prompt=PROMPT, tab="circuit", heads=(Head(2, 1), Head(0, 3)))
    return services.settled(asked, services.model("llama"))


def run(app: Dash, view: View, direction: str, **form: Any) -> tuple[Any, ...]:
    names = [field.name for field in FORM_FIELDS]
    given = {**dict(zip(names, FORM, strict=True)), "method": direction, **form}
    with in_callback():
        kept: tuple[Any, ...] = callback(app, f"{ids.PATCHING}.data")(
            {"at": 1}, view.to_json(), "tab", *given.values()
        )
    return kept


@pytest.mark.parametrize("direction", list(DIRECTIONS))
def test_the_chosen_heads_are_patched_by_position_and_all_by_themselves(
    dash_page: Dash, services: Services, view: View, llama: LanguageModel, direction: str
) -> None:
    circuit, kept, problem = run(dash_page, view, direction)
    assert (circuit, problem) == (no_update, None)
    assert kept["heads"] == ["2.1", "0.3"]
    found: HeadPatching = services.results.get(kept["key"])
    pair = PromptPair(PROMPT, str(FORM[1]), " Mary", " John")
    expected = patch_heads(llama, [pair], direction, by_position=True, bos=view.bos)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-4)
    assert found.by_position is not None
    assert expected.by_position is not None
    for layer, head in ((2, 1), (0, 3)):
        np.testing.assert_allclose(
            found.by_position[layer, head], expected.by_position[layer, head], atol=1e-4
        )
    assert np.isnan(found.by_position[1, 0]).all()

    draw = callback(dash_page, f"{ids.PATCHING_MAP}.figure")
    heads_map, positions, _, frame_hidden, note_hidden, said, rows, empty, body = draw(
        kept, False, ["2.1"], "llama"
    )
    np.testing.assert_allclose(heads_map.data[-1].z, found.values)
    np.testing.assert_allclose(positions.data[0].z, found.by_position[[2, 0], [1, 3]])
    assert (frame_hidden, note_hidden, empty, body) == (False, True, True, False)
    assert said.startswith(DIRECTIONS[direction].label)
    assert len(rows) == 12
    values = [abs(row["value"]) for row in rows]
    assert values == sorted(values, reverse=True)


def test_the_switch_of_the_page_reaches_the_prompts(
    dash_page: Dash, services: Services, view: View, llama: LanguageModel
) -> None:
    for bos in (True, False):
        _, kept, _ = run(dash_page, replace(view, bos=bos), "noising")
        found = services.results.get(kept["key"])
        assert found.prompt.ids == llama.tokenize(PROMPT, bos).ids


def test_without_chosen_heads_no_position_is_patched(
    dash_page: Dash, services: Services, view: View
) -> None:
    _, kept, _ = run(dash_page, replace(view, heads=()), "noising")
    assert services.results.get(kept["key"]).by_position is None
    draw = callback(dash_page, f"{ids.PATCHING_MAP}.figure")
    assert draw(kept, False, [], "llama")[3:5] == (True, False)


def test_a_result_of_another_model_is_not_shown(dash_page: Dash, view: View) -> None:
    _, kept, _ = run(dash_page, replace(view, heads=()), "noising")
    draw = callback(dash_page, f"{ids.PATCHING_MAP}.figure")
    for other, name in ((kept, "gpt2"), (kept | {"key": "gone"}, "llama"), (None, "llama")):
        assert draw(other, False, [], name)[-2:] == (False, True)


def test_the_plan_is_of_heads(services: Services, view: View, llama: LanguageModel) -> None:
    told = planned(services, llama, view, "prompt", 20, 5, None, 0, "noising", 5)
    assert told.startswith("Plan: each of 12 heads by itself, and 2 chosen heads at each position;")
    told = planned(services, llama, view, "task", 20, 5, None, 0, "noising", 5)
    assert told.startswith("Plan: each of 12 heads by itself, on 20 pairs;")


def test_all_is_said_before_anything_is_run() -> None:
    assert "one head at a time" in words_of(head_patching.layout())
