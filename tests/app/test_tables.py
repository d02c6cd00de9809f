"""What the menus of the tabs fetch: each table with every digit, and all there is to say."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page_fixtures import Shelf
from starlette.testclient import TestClient
from tiny import CORPUS

import ablation
from ablation import Ablation, Head, Zero, head_dossier, run_study, summarise_heads
from ablation.attention_change import attention_change, with_ablation
from ablation.corpus import Passage
from app import tables
from app.services import Services
from app.view import View
from models.language_model import LanguageModel

HEADS = (Head(0, 1), Head(2, 3))
VIEW = View("llama", "The key to the cabinets", heads=HEADS, position=3, picture="overview")


@pytest.fixture
def services() -> Services:
    return Services(Shelf(), "llama")


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    from app import create_app

    page = create_app(services.registry, "llama")
    with TestClient(page.server) as client:
        yield client


@pytest.fixture
def model(services: Services) -> LanguageModel:
    return services.model("llama")


def attribution(show: str, **tokens: str) -> dict[str, Any]:
    return {"view": VIEW.to_json(), "show": show, "target": "", "versus": "", **tokens}


def test_the_metrics_of_all_heads_are_those_of_the_overview(
    services: Services, model: LanguageModel
) -> None:
    found = tables.overview(services, {"view": VIEW.to_json()})
    expected = summarise_heads(model, VIEW.prompt)
    pd.testing.assert_frame_equal(found.frame, expected.to_frame())
    assert found.about["metrics"] == expected.to_json()["metrics"]
    assert (found.about["model"], found.about["intervention"]) == ("llama", None)
    ablated = View("llama", VIEW.prompt, heads=HEADS, ablate=True)
    other = tables.overview(services, {"view": ablated.to_json()})
    assert (other.about["intervention"], other.about["ablated"]) == ("zero", True)
    assert not np.allclose(other.frame["entropy"], found.frame["entropy"])


def test_each_mode_of_the_attribution_is_a_table(services: Services, model: LanguageModel) -> None:
    direct = tables.attribution(services, attribution("direct", target=" the", versus=" to"))
    expected = ablation.attribute_logits(model, VIEW.prompt, " the", " to", 3)
    pd.testing.assert_frame_equal(direct.frame, expected.to_frame())
    assert (direct.about["position"], direct.about["versus"]["text"]) == (3, " to")
    lens = tables.attribution(services, attribution("lens", target=" the"))
    expected_lens = ablation.logit_lens(model, VIEW.prompt, 3, " the")
    pd.testing.assert_frame_equal(lens.frame, expected_lens.to_frame())
    tokens = tables.attribution(services, attribution("tokens"))
    found = ablation.tokens_by_head(model, VIEW.prompt, HEADS, 3, tables.N_TOKENS)
    assert tokens.about["head_tokens"] == [entry.to_json() for entry in found]
    assert len(tokens.frame) == 2 * 2 * tables.N_TOKENS
    first = tokens.frame.iloc[0]
    assert (first["effect"], first["token"]) == ("raised", found[0].raised[0][0].text)


def test_results_that_the_page_keeps_are_tables(services: Services, model: LanguageModel) -> None:
    dossier = head_dossier(model)
    key = services.results.keep(dossier, 1)
    pd.testing.assert_frame_equal(tables.roles(services, {"key": key}).frame, dossier.to_frame())
    passages = tuple(Passage(f"tiny-{i}", "tiny", text) for i, text in enumerate(CORPUS))
    study = run_study("heads", model, passages)
    key = services.results.keep(study, 1)
    found = tables.corpus(services, {"key": key, "model": "llama"})
    pd.testing.assert_frame_equal(found.frame, study.table)
    assert json.loads(tables.json_text(found))["n_prompts"] == len(passages)
    change = attention_change(
        with_ablation(model, model.tokenize(VIEW.prompt), Ablation(HEADS, Zero()))
    )
    key = services.results.keep(change, 1)
    asked = {"key": key, "view": VIEW.to_json(), "way": "ablated", "text": ""}
    compared = tables.comparison(services, asked)
    assert len(compared.frame) == 12
    assert compared.about["other"]["ablated_heads"] == [[0, 1], [2, 3]]
    assert compared.frame.iloc[0, 2] == pytest.approx(float(change.values.max()))


def test_tables_come_as_files(client: TestClient) -> None:
    answer = client.post("/export/table/overview/csv", json={"view": VIEW.to_json()})
    assert answer.headers["content-type"].startswith("text/csv")
    assert len(pd.read_csv(io.StringIO(answer.text))) == 12
    answer = client.post("/export/table/attribution/json", json=attribution("lens"))
    assert len(json.loads(answer.text)["layers"]) == 4


@pytest.mark.parametrize(
    ("of", "asked", "status", "sentence"),
    [
        ("roles/csv", {"key": "gone"}, 400, "run it again"),
        ("attribution/csv", attribution("direct", target="no such token"), 400, "token"),
        ("overview/csv", {}, 400, "not a request"),
        ("nothing/csv", {}, 404, "no such file"),
        ("roles/exe", {}, 404, "no such file"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(
    client: TestClient, of: str, asked: Any, status: int, sentence: str
) -> None:
    answer = client.post(f"/export/table/{of}", json=asked)
    assert (answer.status_code, sentence in answer.text) == (status, True)
