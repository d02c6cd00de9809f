"""A search's trace, its steps and its sentences."""

from dataclasses import replace

import numpy as np
import pytest
from viz_samples import ABLATED, CLEAN, prediction, token

from ablation.types import STOP_REASONS, Necessity, SearchResult, SearchStep
from models.types import Head, TokenProbability
from viz.search import steps_table, summary_sentences, trace_figure

FIRST, SECOND, THIRD = Head(9, 9), Head(10, 0), Head(8, 6)


def step(head: Head, kl: float, target_prob: float | None, top: TokenProbability) -> SearchStep:
    return SearchStep(head, kl, None if target_prob is None else float(np.log(target_prob)), top)


TARGETED = SearchResult(
    objective="target",
    target=token(1, 0.1),
    baseline=CLEAN,
    steps=(
        step(FIRST, 0.2, 0.2, token(0, 0.6)),
        step(SECOND, 0.5, 0.3, token(0, 0.5)),
        step(THIRD, 1.25, 0.62, token(1, 0.62)),
    ),
    heads=(THIRD, FIRST),
    dropped=(SECOND,),
    stopped="target_reached",
    final=ABLATED,
    necessity=(
        Necessity(THIRD, token(0, 0.55), float(np.log(0.25))),
        Necessity(FIRST, token(0, 0.41), float(np.log(0.35))),
    ),
)
GENERIC = SearchResult(
    objective="kl",
    target=None,
    baseline=CLEAN,
    steps=(step(FIRST, 0.2, None, token(0, 0.6)), step(SECOND, 0.75, None, token(2, 0.3))),
    heads=(FIRST, SECOND),
    dropped=(),
    stopped="max_heads",
    final=prediction(0.25, 0.2, 0.3, 0.1, 0.1, 0.05),
)
RUNNING = replace(
    TARGETED,
    steps=TARGETED.steps[:2],
    heads=(FIRST, SECOND),
    dropped=(),
    stopped="running",
    final=None,
    necessity=(),
)
NOTHING_YET = replace(RUNNING, steps=(), heads=())


def test_a_targeted_trace_starts_at_the_clean_run_and_follows_target_and_top() -> None:
    top, target, _ = trace_figure(TARGETED).data
    np.testing.assert_allclose(target.y, [0.1, 0.2, 0.3, 0.62])
    np.testing.assert_allclose(top.y, [0.8, 0.6, 0.5, 0.62])
    assert list(target.x) == [0, 1, 2, 3]
    assert target.name == "target ·John"
    assert list(top.text) == ["<b>·Mary</b>", "", "", "<b>·John</b>"]


def test_dropped_heads_are_hollow() -> None:
    target = trace_figure(TARGETED).data[1]
    fills = target.marker.color
    assert fills[2] != fills[1] == fills[3]
    assert trace_figure(TARGETED).data[2].name == "dropped at the end"
    assert len(trace_figure(RUNNING).data) == 2


def test_a_generic_trace_follows_kl() -> None:
    figure = trace_figure(GENERIC)
    (kl,) = figure.data
    np.testing.assert_allclose(kl.y, [0, 0.2, 0.75])
    assert figure.layout.yaxis.title.text == "KL, nats"
    assert figure.layout.yaxis.range[1] > 0.75
    assert figure.layout.showlegend is False


def test_each_step_is_labelled_with_its_head() -> None:
    text = trace_figure(GENERIC).layout.xaxis.ticktext
    assert "clean" in text[0]
    assert "L9H9" in text[1]
    assert "L10H0" in text[2]
    assert [part.split("<br>")[0] for part in text] == ["0", "1", "2"]


def test_a_stack_stands_above_the_name_of_its_head() -> None:
    """Beside each other ten of them do not fit."""
    first, second = GENERIC.steps
    found = replace(GENERIC, steps=(replace(first, head=Head(0, 2, "text")), second))
    figure = trace_figure(found)
    assert "text:<br>L0H2" in figure.layout.xaxis.ticktext[1]
    assert figure.layout.height > trace_figure(GENERIC).layout.height


def test_many_steps_turn_their_labels() -> None:
    many = replace(GENERIC, steps=GENERIC.steps * 10)
    assert trace_figure(many).layout.xaxis.tickangle == -60
    assert trace_figure(GENERIC).layout.xaxis.tickangle == 0


def test_hovering_says_head_kl_target_and_top() -> None:
    hover = trace_figure(TARGETED).data[1].customdata
    assert hover[0] == "<b>clean run</b><br>p(·John) 0.1<br>most likely ·Mary 0.8"
    assert hover[2] == (
        "<b>+ L10H0</b> (dropped at the end)<br>KL 0.5 nats<br>p(·John) 0.3<br>"
        "most likely ·Mary 0.5"
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("result", [NOTHING_YET, replace(GENERIC, steps=(), heads=())])
def test_nothing_found_yet_shows_the_clean_run(result: SearchResult, dark: bool) -> None:
    assert all(len(trace.x) == 1 for trace in trace_figure(result, dark=dark).data)


def test_markup_of_tokens_is_escaped() -> None:
    evil = TokenProbability(1, "<b>", "<b>", 0.1, float(np.log(0.1)))
    steps = (step(FIRST, 0.2, 0.2, evil),)
    figure = trace_figure(replace(RUNNING, target=evil, steps=steps))
    assert figure.data[1].name == "target &lt;b&gt;"
    assert figure.data[0].text[1] == "<b>&lt;b&gt;</b>"
    assert "p(&lt;b&gt;)" in figure.data[0].customdata[0]


def test_rows_of_the_steps() -> None:
    rows = steps_table(TARGETED)
    assert [row["kept"] for row in rows] == ["yes", "no", "yes"]
    assert rows[2] == {
        "step": 3,
        "head": "L8H6",
        "layer": 8,
        "head_index": 6,
        "kl": 1.25,
        "target_prob": pytest.approx(0.62),
        "target_logprob": pytest.approx(np.log(0.62)),
        "top_token": "·John",
        "top_prob": 0.62,
        "kept": "yes",
    }
    assert [row["target_prob"] for row in steps_table(GENERIC)] == [None, None]


def test_a_target_that_was_reached_is_told_with_its_proof() -> None:
    assert summary_sentences(TARGETED) == [
        "Ablating 2 heads (L8H6 and L9H9) makes ' John' the most likely token: "
        "its probability goes from 0.10 to 0.60.",
        "In the clean run the most likely token was ' Mary' (0.80) and the target had rank 2.",
        "L10H0 was chosen on the way and dropped: the target is the most likely token without.",
        "The target became the most likely token.",
        "The set is minimal: it needs each of its heads.",
        "Without L8H6 the most likely token would be ' Mary' (0.55), and ' John' would have 0.25.",
        "Without L9H9 the most likely token would be ' Mary' (0.41), and ' John' would have 0.35.",
    ]


def test_a_generic_search_is_told() -> None:
    assert summary_sentences(GENERIC) == [
        "Ablating 2 heads (L9H9 and L10H0) moves the prediction by KL 0.75 nats.",
        "In the clean run the most likely token was ' Mary' (0.80); now it is ' the' (0.30).",
        "The limit of heads was reached.",
    ]


def test_a_screened_search_says_so_and_how_many_sets_were_evaluated() -> None:
    generic = replace(GENERIC, strategy="screened", evaluated=1302)
    assert summary_sentences(generic)[2:] == [
        "The search was screened: each step after the first evaluated only the most "
        "promising heads; 1,302 head sets were evaluated exactly.",
        "The limit of heads was reached.",
    ]
    targeted = summary_sentences(replace(TARGETED, strategy="screened", evaluated=1))
    assert (
        "The search was screened: each step evaluated only the most promising heads; "
        "1 head set was evaluated exactly."
    ) in targeted
    assert "screened" in " ".join(summary_sentences(replace(NOTHING_YET, strategy="screened")))
    assert "screened" not in " ".join(summary_sentences(replace(GENERIC, evaluated=1302)))


def test_a_running_search_is_told_as_unfinished() -> None:
    assert summary_sentences(RUNNING) == [
        "So far, ablating 2 heads (L9H9 and L10H0) does not make ' John' the most likely token: "
        "its probability goes from 0.10 to 0.30, at KL 0.5 nats from the clean run.",
        "In the clean run the most likely token was ' Mary' (0.80) and the target had rank 2; "
        "' Mary' still is the most likely, at 0.50.",
        STOP_REASONS["running"],
    ]


def test_a_target_that_nothing_raises_is_told() -> None:
    sentences = summary_sentences(replace(NOTHING_YET, stopped="no_improvement"))
    assert sentences == [
        "In the clean run the most likely token is ' Mary' (0.80), "
        "and the target ' John' (0.10) has rank 2.",
        "No head has been chosen.",
        STOP_REASONS["no_improvement"],
    ]


def test_cancelling_before_minimality_was_tried_says_so() -> None:
    cancelled = replace(
        TARGETED,
        heads=(THIRD, FIRST, SECOND),
        dropped=(),
        stopped="cancelled",
        necessity=(),
    )
    sentences = summary_sentences(cancelled)
    assert STOP_REASONS["cancelled"] in sentences
    assert "Whether every head of the set is needed was not tried." in sentences
    assert not any("minimal" in sentence for sentence in sentences)


@pytest.mark.parametrize("stopped", sorted(STOP_REASONS))
@pytest.mark.parametrize("result", [TARGETED, GENERIC, RUNNING, NOTHING_YET])
def test_every_result_says_why_it_stopped_in_whole_sentences(
    result: SearchResult, stopped: str
) -> None:
    sentences = summary_sentences(replace(result, stopped=stopped))
    assert STOP_REASONS[stopped] in sentences
    assert all(sentence.endswith(".") for sentence in sentences)
