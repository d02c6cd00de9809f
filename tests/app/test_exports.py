"""What the page's menus fetch: every digit of every weight, and pages that stand alone."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page_fixtures import Shelf, make_page
from starlette.testclient import TestClient

from ablation.interventions import Zero
from ablation.types import Ablation
from app import exports
from app.view import View
from models.language_model import LanguageModel
from models.types import AttentionMaps, Head
from viz.sink import without_first

HEADS = (Head(0, 1), Head(2, 3))
VIEW = View("llama", "The key to the cabinets", heads=HEADS)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(make_page().server) as client:
        yield client


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return Shelf().get("llama")


@pytest.fixture(scope="module")
def maps(model: LanguageModel) -> AttentionMaps:
    return model.attention(model.tokenize(VIEW.prompt), HEADS)


def ask(client: TestClient, kind: str, view: View = VIEW, head: str | None = None) -> Any:
    return client.post(f"/export/{kind}", json={"view": view.to_json(), "pages": 1, "head": head})


def test_csv_is_the_frame_with_every_digit(client: TestClient, maps: AttentionMaps) -> None:
    answer = ask(client, "csv")
    assert answer.headers["content-type"].startswith("text/csv")
    written = pd.read_csv(io.StringIO(answer.text), keep_default_na=False)
    expected = maps.to_frame()
    assert list(written) == list(expected)
    np.testing.assert_array_equal(written["weight"].to_numpy(np.float32), expected["weight"])
    assert (written.drop(columns="weight") == expected.drop(columns="weight")).to_numpy().all()


def test_csv_of_a_long_prompt_is_written_in_pieces(
    client: TestClient, maps: AttentionMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask(client, "csv").text
    monkeypatch.setattr(exports, "ROWS_OF_FRAME", 2 * len(maps.prompt))
    assert ask(client, "csv").text == whole


def test_json_is_what_the_command_line_writes(client: TestClient, maps: AttentionMaps) -> None:
    written = json.loads(ask(client, "json").text)
    assert written["tokens"] == list(maps.prompt.labels)
    assert (written["model"], written["intervention"]) == ("llama", None)
    expected = maps.to_json()
    assert (written["heads"], written["values"]) == (expected["heads"], expected["values"])


def test_one_head_can_be_asked_for(client: TestClient, maps: AttentionMaps) -> None:
    written = json.loads(ask(client, "json", head="2.3").text)
    assert written["heads"] == [[2, 3]]
    assert written["values"] == maps.to_json()["values"][1:]


def test_an_ablated_run_is_exported_as_one(
    client: TestClient, model: LanguageModel, maps: AttentionMaps
) -> None:
    view = View("llama", VIEW.prompt, heads=HEADS, ablate=True)
    written = json.loads(ask(client, "json", view).text)
    ablated = model.attention(maps.prompt, HEADS, Ablation(HEADS, Zero()))
    assert written["values"] == ablated.to_json()["values"] != maps.to_json()["values"]
    assert (written["intervention"], written["ablated_heads"]) == ("zero", [[0, 1], [2, 3]])


def test_a_page_of_its_own_opens_as_the_view_does(client: TestClient) -> None:
    view = View("llama", VIEW.prompt, heads=HEADS, picture="text", token=2, sink="hide")
    text = ask(client, "html", view).text
    about = json.loads(text.partition('id="about">')[2].partition("</script>")[0])
    assert (about["picture"], about["token"], about["sink"]) == ("text", 2, "hide")
    assert [map_about["name"] for map_about in about["maps"]] == ["L0H1", "L2H3"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"view": {"model": "nowhere"}, "pages": 1, "head": None}, "nowhere"),
        ({"view": 5, "pages": 1, "head": None}, "not a request"),
        ({"view": {}, "pages": "x", "head": None}, "not a request"),
        ([], "not a request"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_sentence(
    asked: object, sentence: str, client: TestClient
) -> None:
    answer = client.post("/export/csv", json=asked)
    assert answer.status_code == 400
    assert sentence in answer.text


@pytest.mark.parametrize("kind", ["csv", "json", "html"])
def test_without_heads_there_is_nothing_to_export(client: TestClient, kind: str) -> None:
    answer = ask(client, kind, View("llama", VIEW.prompt, heads=()))
    assert (answer.status_code, "choose heads" in answer.text) == (400, True)
    answer = ask(client, kind, head="1.1")  # a map that is not shown
    assert answer.status_code == 400


def test_a_page_of_its_own_opens_with_maps_where_all_heads_are_shown(client: TestClient) -> None:
    text = ask(client, "html", View("llama", VIEW.prompt, heads=HEADS, picture="overview")).text
    about = json.loads(text.partition('id="about">')[2].partition("</script>")[0])
    assert about["picture"] == "matrix"


def test_files_say_what_is_shown_where_it_is_not_what_the_model_computes(
    client: TestClient, maps: AttentionMaps
) -> None:
    view = View("llama", VIEW.prompt, heads=HEADS, sink="renormalise", extra="mean")
    shown = without_first(maps.values, "renormalise")
    mean = np.where(np.isnan(shown).all(axis=0), np.nan, np.nan_to_num(shown).mean(axis=0))
    data = json.loads(ask(client, "json", view).text)
    assert data["values"] == maps.to_json()["values"]
    assert "nothing renormalised" in data["values_are"]
    assert data["shown"] == {"first_token": "renormalise", "one_more_map": "mean"}
    (combined,) = data["combined"]
    assert combined["name"] == "Mean of 2 heads"
    np.testing.assert_allclose(np.array(combined["values"], dtype=float), mean, rtol=1e-5)
    table = pd.read_csv(io.StringIO(ask(client, "csv", view).text))
    assert list(table["map"].unique()) == ["L0H1", "L2H3", "Mean of 2 heads"]
    of_heads, of_all = table[table["layer"] >= 0], table[table["layer"] == -1]
    np.testing.assert_allclose(of_heads["weight"], maps.values.reshape(-1), rtol=1e-5)
    np.testing.assert_allclose(of_heads["shown"], shown.reshape(-1), rtol=1e-5)
    np.testing.assert_allclose(of_all["shown"], mean.reshape(-1), rtol=1e-5)
    text = ask(client, "html", view).text
    about = json.loads(text.partition('id="about">')[2].partition("</script>")[0])
    assert [one["name"] for one in about["maps"]] == ["L0H1", "L2H3", "Mean of 2 heads"]
    assert about["maps"][2]["largest"] == pytest.approx(np.nanmax(mean[2:]), rel=1e-5)
