"""What the heads tab says and draws, without a browser."""

import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from page_fixtures import Shelf
from tiny import CORPUS

from ablation import HEAD_METRICS, run_study
from ablation.attention_change import attention_change
from ablation.corpus import Passage
from ablation.distributions import STATISTICS, MetricDistribution
from ablation.dossier import Dossier
from ablation.stimuli import ROLES
from ablation.studies.heads import METRICS
from app import tables
from app.panels import comparison, differences, dossier, heads, over_corpus
from app.services import Services
from app.view import MAX_PROMPT_CHARACTERS, View
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import Head
from viz.distributions import distribution_figure

OTHER = "When John and Mary went to the store, Mary gave a drink to"


@pytest.fixture
def services() -> Services:
    return Services(Shelf(), "llama")


@pytest.fixture
def settled(services: Services) -> View:
    return services.settled(View(model="llama", heads=(Head(0, 1),)), services.model("llama"))


def found(stopped: str = "complete") -> Dossier:
    values = np.random.default_rng(0).random((len(ROLES), 3, 4)).astype(np.float32)
    return Dossier("llama", values, 4, 50, 0, True, stopped)


# --- roles ---


def test_each_role_lists_the_heads_that_play_it_most() -> None:
    sections = dossier.leaders(found())
    assert len(sections) == len(ROLES)
    for role, section in zip(ROLES, sections, strict=True):
        buttons = [part for part in section._traverse() if getattr(part, "className", "") == "bars"]
        heads = [item.children[0].id["head"] for item in buttons[0].children]
        assert heads == [head.short for head, _ in found().leaders(role, dossier.N_LEADERS)]


def test_the_caption_says_what_a_role_is_and_on_what_it_was_measured() -> None:
    said = dossier.caption(found(), "induction")
    assert said.startswith("Induction: the weight on the token after the earlier occurrence")
    assert "4 sequences [BOS r r], r being 50 random tokens (seed 0)." in said
    assert dossier.caption(found("cancelled"), "induction").startswith("Cancelled; ")


# --- comparing ---


def test_the_three_ways_give_the_runs_that_they_name(services: Services, settled: View) -> None:
    ablated = comparison.pair_of(services, settled, "ablated", "")
    assert ablated.after.ablation is not None
    assert ablated.after.ablation.heads == (Head(0, 1),)
    other = comparison.pair_of(services, settled, "prompt", OTHER)
    assert other.after.prompt.text == OTHER
    model = comparison.pair_of(services, settled, "model", " gpt2 ")
    assert (model.before.model.name, model.after.model.name) == ("llama", "gpt2")


@pytest.mark.parametrize(
    ("way", "text", "heads", "kind", "part"),
    [
        ("ablated", "", (), ErrorKind.HEADS, "No heads are chosen"),
        ("prompt", "  ", None, ErrorKind.OPTION, "no other prompt"),
        ("model", "", None, ErrorKind.OPTION, "no other model"),
        ("prompt", "The", None, ErrorKind.PROMPT, "as many tokens"),
        ("prompt", "x" * (MAX_PROMPT_CHARACTERS + 1), None, ErrorKind.PROMPT, "at most 200,000"),
        ("model", "nothing", None, ErrorKind.MODEL, "no model 'nothing'"),
        ("model", "deep", None, ErrorKind.MODEL, "16 of 16"),
    ],
)
def test_what_cannot_be_compared_is_said(
    services: Services,
    settled: View,
    way: str,
    text: str,
    heads: tuple[Head, ...] | None,
    kind: ErrorKind,
    part: str,
) -> None:
    view = settled if heads is None else replace(settled, heads=heads)
    with pytest.raises(UserError, match=part) as raised:
        comparison.pair_of(services, view, way, text)
    assert raised.value.kind is kind


def test_difference_maps_are_of_the_two_runs_and_share_their_colours(
    services: Services, settled: View, llama: LanguageModel
) -> None:
    pair = comparison.pair_of(services, settled, "ablated", "")
    change = attention_change(pair)
    heads = [Head(2, 0), Head(1, 3)]
    cards = differences.difference_maps(services, pair, change, heads, 300, False)
    prompt = llama.tokenize(settled.prompt)
    before = llama.attention(prompt, heads)
    after = llama.attention(prompt, heads, pair.after.ablation)
    limits = set()
    for i, card in enumerate(cards):
        figure = card.children.children.figure
        expected = after.values[i] - before.values[i]
        drawn = np.nan_to_num(figure.data[0].z)
        np.testing.assert_allclose(drawn, np.tril(expected), atol=1e-6)
        assert f"{change.values[heads[i].layer, heads[i].head]:.3g} nats" in (
            figure.layout.title.text
        )
        limits.add(figure.data[0].zmax)
    assert limits == {float(np.abs(after.values - before.values).max())}


def test_the_caption_and_the_hint_say_what_is_shown(services: Services, settled: View) -> None:
    pair = comparison.pair_of(services, settled, "ablated", "")
    change = attention_change(pair)
    said = comparison.caption(pair, change)
    assert said.startswith("Clean against ablated (zero): L0H1. Per head: Jensen-Shannon")
    assert "Click heads" in differences.hint(0)
    assert "newest" not in differences.hint(differences.MAX_MAPS)
    assert "The newest 6 of 7 heads." in differences.hint(7)
    first = comparison.leaders(change)[1].children[0].children[0].id["head"]
    assert first == change.ranked()[0][0].short


def test_the_head_that_was_clicked_last_is_looked_at_first(
    services: Services, settled: View
) -> None:
    change = attention_change(comparison.pair_of(services, settled, "ablated", ""))
    chosen = [f"{layer}.{head}" for layer in range(2) for head in range(4)]
    shown, n = differences.looked_at(["2.1", "0.3", "9.9"], chosen, change)
    assert shown == [Head(0, 3), Head(2, 1), Head(1, 3), Head(1, 2), Head(1, 1), Head(1, 0)]
    assert n == 9  # none twice, none that the model has not


def test_runs_that_do_not_differ_are_said_not_to(services: Services, settled: View) -> None:
    pair = comparison.pair_of(services, settled, "model", "llama")
    change = attention_change(pair)
    assert "Nothing differs" in comparison.caption(pair, change)
    assert comparison.leaders(change) == []
    ablated = comparison.pair_of(services, settled, "ablated", "")
    assert "Nothing differs" not in comparison.caption(ablated, attention_change(ablated))


# --- over the corpus ---


def test_a_head_is_told_about_in_numbers_and_contexts(llama: LanguageModel) -> None:
    passages = tuple(Passage(f"tiny-{i}", "tiny", text) for i, text in enumerate(CORPUS))
    result = run_study("heads", llama, passages)
    (table,) = over_corpus.numbers(result, Head(1, 2))
    rows = table.children[1].children
    assert len(rows) == len(HEAD_METRICS)
    ranks = [int(row.children[-1].children) for row in rows]
    assert all(1 <= rank <= 12 for rank in ranks)
    found = result.details.contexts(Head(1, 2))
    items = over_corpus.contexts(found)
    assert len(items) == len(passages)
    for item, context in zip(items, found, strict=True):
        weight, passage, words = item.children
        assert weight.children == f"{context.weight:.3f}"
        assert passage.children == context.passage
        marked = [part.className for part in words.children if hasattr(part, "className")]
        assert sorted(marked) in (["key", "query"], ["both"])
    assert over_corpus.caption(result).startswith("5 texts read. On average")


def test_the_distribution_of_a_head_is_drawn_and_written_out(
    services: Services, llama: LanguageModel
) -> None:
    passages = tuple(Passage(f"tiny-{i}", "tiny", text) for i, text in enumerate(CORPUS))
    details = run_study("heads", llama, passages).details
    head, metric = Head(1, 2), "entropy"
    values = details.values[:, 0, 1, 2].astype(float)
    for statistic, expected in (
        ("mean", values.mean()),
        ("median", sorted(values)[2]),  # of five
        ("low", np.quantile(values, 0.1)),
        ("high", np.quantile(values, 0.9)),
    ):
        found = details.over_passages(metric, statistic)
        assert found.values[1, 2] == pytest.approx(expected, abs=1e-6)
        assert found.metric.label == (
            "Entropy" if statistic == "mean" else f"Entropy, {STATISTICS[statistic]}"
        )
    distribution = details.distribution(head, metric)
    counts, edges = distribution.histogram(3)
    by_hand = [sum(a <= v < b for v in values) for a, b in pairwise(edges)]
    by_hand[-1] += 1  # the largest
    assert counts.tolist() == by_hand
    figure = distribution_figure(distribution)
    assert sum(figure.data[0].y) == len(passages)
    n_positions = sum(len(llama.tokenize(passage.text)) for passage in passages)
    assert f"5 passages, {n_positions} positions" in figure.layout.title.text
    key = services.results.keep(run_study("heads", llama, passages), 1)
    asked = {"key": key, "model": "llama", "head": "1.2"}
    table = tables.distribution(services, asked)
    np.testing.assert_allclose(table.frame["entropy"], values, atol=1e-6)
    assert table.about["distributions"]["entropy"]["values"] == pytest.approx(list(values))
    with pytest.raises(UserError, match="choose one first"):
        tables.distribution(services, {**asked, "head": None})


def test_values_that_are_all_alike_have_one_bar() -> None:
    same = np.full(4, 0.25, np.float32)
    alike = MetricDistribution(Head(0, 0), METRICS[0], tuple("abcd"), (9, 9, 9, 9), same)
    figure = distribution_figure(alike)
    assert figure.data[0].y.tolist() == [4]
    low, high = figure.layout.xaxis.range
    assert low < 0.25 < high


# --- the map on the left ---


def test_the_map_on_the_left_takes_the_metric_of_an_overview_that_was_read(
    services: Services, settled: View
) -> None:
    llama = services.model("llama")
    assert heads._metric(services, settled, "entropy", "") is None  # nothing is run for it
    prompt = llama.tokenize(settled.prompt, settled.bos)
    nobody = threading.Event()
    read = services.overviews.of(llama, prompt, None, "", -1, lambda progress: None, nobody)
    found = heads._metric(services, settled, "entropy", "")
    assert found is not None
    np.testing.assert_array_equal(found.values, read.values_of("entropy"))
    assert heads._metric(services, settled, "thumbnail", "") is None
    assert heads._metric(services, replace(settled, prompt="The cat"), "entropy", "") is None
