"""What the pictures show of the chosen heads: attention, moved norms, rollout."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from page_fixtures import Shelf, make_page
from starlette.testclient import TestClient

from app.panels import attention, drawn_maps
from app.services import Services
from app.view import VALUES, View
from models.attention_flow import attention_rollout, moved_attention
from models.errors import ErrorKind
from models.types import MAP_KINDS, Head
from viz import coding

HEADS = (Head(0, 1), Head(2, 3), Head(2, 0))
PROMPT = "The key to the cabinets"


@pytest.fixture
def services() -> Services:
    return Services(Shelf())


def sent(services: Services, view: View) -> dict[str, Any]:
    """Return what the browser is sent of a view's maps."""
    outcome = services.outcome(view)
    extents = services.extents(view, outcome)
    how = drawn_maps.look(view, outcome, extents, dark=False)
    found = drawn_maps.message(view, outcome, extents, how, "", None)
    assert found is not None
    return found


def said(services: Services, view: View) -> str:
    """Return the note above the pictures."""
    tag, sentence = attention.note(view, services.outcome(view), len(view.heads or ()))
    return f"{tag.children}|{sentence}"


def test_every_kind_of_maps_can_be_chosen() -> None:
    assert list(VALUES) == list(MAP_KINDS)


def test_moved_norms_arrive_as_they_are(services: Services) -> None:
    view = View("llama", PROMPT, heads=HEADS, values="moved")
    model = services.model("llama")
    expected = moved_attention(model, model.tokenize(PROMPT), HEADS).values
    assert expected.max() > 1
    found = sent(services, view)
    assert found["order"] == ["0.1", "2.3", "2.0"]
    lower = np.tril_indices(expected.shape[1])
    zmax = float(expected[:, 1:].max())
    for map_, values in zip(found["maps"].values(), expected, strict=True):
        shown = coding.decode(map_["figure"]["cells"]["coded"])
        # The codes are of quotients, which are rounded once more.
        np.testing.assert_allclose(shown[lower], values[lower], rtol=1.1 * coding.RELATIVE_ERROR)
        assert map_["figure"]["scale"] == pytest.approx({"zmax": zmax, "floor": None, "unit": zmax})
    assert found["maps"]["0.1"]["name"] == "L0H1 moved"
    assert said(services, view).startswith("Attention × norm of what is moved|")
    json.dumps(found)


def test_a_rollout_is_drawn_once_for_each_layer(services: Services) -> None:
    view = View("llama", PROMPT, heads=HEADS, values="rollout", extra="mean")
    model = services.model("llama")
    expected = attention_rollout(model, model.tokenize(PROMPT), [0, 2]).values
    found = sent(services, view)
    assert (found["order"], found["extra"]) == (["0", "2"], ["mean 0,2"])
    names = [map_["name"] for map_ in found["maps"].values()]
    assert names == ["rollout to L0", "rollout to L2", "Mean of 2 layers"]
    shown = coding.decode(found["maps"]["2"]["figure"]["cells"]["coded"])
    lower = np.tril_indices(expected.shape[1])
    np.testing.assert_allclose(shown[lower], expected[1][lower], rtol=coding.RELATIVE_ERROR)
    assert said(services, view).startswith("Attention rollout|")


@pytest.mark.parametrize("values", ["moved", "rollout"])
def test_with_an_ablation_its_attention_is_shown_and_it_is_said_why(
    services: Services, values: str
) -> None:
    view = View("llama", PROMPT, heads=HEADS, values=values, ablate=True)
    outcome = services.outcome(view)
    assert outcome.kind == "attention"
    assert all(maps.ablated for maps in outcome.maps)
    assert outcome.refused is not None
    assert outcome.refused.kind == ErrorKind.OPTION
    note = said(services, view)
    assert note.startswith("Attention of the ablated run| 3 heads")
    assert note.endswith("is of the clean run; switch the ablation off to see it.")
    found = sent(services, view)
    assert found["order"] == ["0.1", "2.3", "2.0"]
    assert found["maps"]["0.1"]["figure"]["scale"]["unit"] == 1


def test_a_model_without_values_shows_attention_and_says_why(services: Services) -> None:
    view = View("gptj", PROMPT, heads=HEADS, values="moved")
    outcome = services.outcome(view)
    model = services.model("gptj")
    expected = model.attention(model.tokenize(PROMPT), HEADS).values
    np.testing.assert_array_equal(np.concatenate([m.values for m in outcome.maps]), expected)
    note = said(services, view)
    assert note.startswith("Attention of the clean run| ")
    assert "its attention weights can be shown" in note


def test_what_is_done_about_the_first_token_is_said_where_no_title_says_it(
    services: Services,
) -> None:
    view = View("llama", PROMPT, heads=HEADS, sink="hide")
    assert "first token hidden" not in said(services, view)
    for picture in ("lines", "text"):
        assert "| first token hidden; " in said(services, replace(view, picture=picture))
        shown = replace(view, picture=picture, sink="show")
        assert "first token" not in said(services, shown)


def test_the_prediction_does_not_wait_for_another_kind(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(services.runs), "flow", lambda *_: pytest.fail("computed"))
    view = View("llama", PROMPT, heads=HEADS, values="rollout")
    assert services.outcome(view, maps=False).maps == ()


def test_the_maps_of_another_kind_are_other_maps(services: Services) -> None:
    serials = set()
    for values in VALUES:
        view = View("llama", PROMPT, heads=HEADS, values=values)
        outcome = services.outcome(view)
        how = drawn_maps.look(view, outcome, services.extents(view, outcome), dark=False)
        serials.add(drawn_maps.signature(view, outcome, how))
    assert len(serials) == len(VALUES)


@pytest.mark.parametrize(("values", "head"), [("moved", "2.3"), ("rollout", "2")])
def test_another_kind_is_exported_as_it_is_shown(values: str, head: str) -> None:
    view = View("llama", PROMPT, heads=HEADS, values=values)
    asked = {"view": view.to_json(), "pages": 1, "head": head}
    services = Services(Shelf())
    model = services.model("llama")
    prompt = model.tokenize(PROMPT)
    expected = (
        moved_attention(model, prompt, [Head(2, 3)])
        if values == "moved"
        else attention_rollout(model, prompt, [2])
    )
    with TestClient(make_page().server) as client:
        written = json.loads(client.post("/export/json", json=asked).text)
        rows = client.post("/export/csv", json=asked).text.splitlines()
        page = client.post("/export/html", json=asked).text
    assert (written["kind"], written["values"]) == (values, expected.to_json()["values"])
    assert len(rows) == 1 + expected.values.size
    assert f"<title>{MAP_KINDS[values].capitalize()} of llama</title>" in page
    assert f'"name": "{expected.title(0)}"' in page
