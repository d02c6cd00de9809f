"""What the panel says of why a head looks where it looks."""

import numpy as np
import pytest
from dash import html

from ablation import explain_attention
from app.panels import explain
from app.panels.term_list import term_list
from models.language_model import LanguageModel
from models.types import Head
from viz.terms import term_bars

PROMPT = "The key to the cabinets is on the table"
HEAD = Head(1, 2)


def text_of(component: object) -> str:
    children = getattr(component, "children", component)
    if isinstance(children, list | tuple):
        return "".join(text_of(child) for child in children)
    return text_of(children) if hasattr(children, "children") else str(children or "")


def test_a_dot_of_several_weights_is_explained_by_its_largest() -> None:
    weights = np.tri(6, dtype=np.float32) * np.arange(36, dtype=np.float32).reshape(6, 6)
    weights[3, 1] = 99
    assert explain.largest_in(weights, 2, 0, 2) == (3, 1)
    assert explain.largest_in(weights, 4, 4, 2) == (5, 5)
    weights[:, 0] = np.nan  # hidden
    assert explain.largest_in(weights, 4, 0, 3) == (5, 2)
    assert explain.largest_in(np.full((3, 3), np.nan, np.float32), 2, 2, 2) == (2, 2)  # one cell


def test_a_score_is_held_against_that_of_the_strongest_key(llama: LanguageModel) -> None:
    prompt = llama.tokenize(PROMPT)
    query = len(prompt) - 1
    row = llama.attention(prompt, [HEAD]).values[0, query]
    names = prompt.unique_labels
    best, other = int(row.argmax()), int(row.argmin())
    scores = [explain_attention(llama, prompt, HEAD, query, key).score for key in (other, best)]
    said = explain.against_strongest(row, other, names)
    assert f"score −{scores[1] - scores[0]:.2f} from that of the strongest key" in said
    assert f"{names[best]}, weight {row[best]:.3g}" in said
    assert explain.against_strongest(row, best, names) == "the strongest key of this query"
    assert "score" not in explain.against_strongest(np.array([1, 0]), 1, ("a", "b"))


@pytest.mark.parametrize(("weight", "asked"), [(0.4, "look there?"), (0.01, "not look there?")])
def test_the_title_asks_what_the_weight_lets_one_ask(weight: float, asked: str) -> None:
    assert explain.title(HEAD, weight) == f"Why does L1H2 {asked}"


def test_the_parts_that_are_not_listed_can_be_looked_at(llama: LanguageModel) -> None:
    detail = explain_attention(llama, PROMPT, HEAD, -1, 2)
    terms = detail.sources[0].terms
    listed = term_list(term_bars(terms, 3), "Sources")
    assert len(listed.children) == 4
    details = listed.children[3].children
    assert isinstance(details, html.Details)
    summary, others = details.children
    assert text_of(summary).startswith(f"{len(terms) - 3} others")
    assert len(others.children) == len(terms) - 3
