"""What studies run on, how sure means are, and what may be chosen."""

import json

import numpy as np
import pytest
from handwired import hand_wired
from tiny import tiny_model

from ablation.studies import PROMPT_STUDIES, plan_study, run_study
from ablation.studies.asked import ask, intervention_of
from ablation.studies.options import StudyOption
from ablation.studies.prompts import (
    PromptSet,
    StudyPrompt,
    given_prompts,
    parse_prompts,
    read_prompts,
    shipped_prompts,
)
from ablation.studies.statistics import halves, mean_interval, rank_agreement
from models.errors import UserError


def test_passages_are_cut_where_a_token_follows() -> None:
    model = tiny_model("llama")
    found = shipped_prompts(model, "passages", 6)
    assert len(found) == 6
    assert len(found.templates) == 6  # the first of each kind
    assert shipped_prompts(model, "passages", 3).prompts == found.prompts[:3]
    for prompt in found.prompts:
        ids = model.tokenize(prompt.text).ids
        longer = model.tokenize(prompt.text + prompt.answer).ids
        assert longer == (*ids, model.resolve_token(prompt.answer))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"one two\n\nthree\n", "p.txt"),
        (b"prompt,answer\none two, b\nthree,\n", "p.csv"),
        (b'[{"prompt": "one two", "answer": " b"}, {"prompt": "three"}]', "p.json"),
        (b'{"prompt": "one two", "answer": " b"}\n{"prompt": "three"}\n', "p.jsonl"),
    ],
)
def test_files_of_prompts_are_read(data: bytes, name: str) -> None:
    first, second = parse_prompts(data, name).prompts
    assert (first.text, second.text) == ("one two", "three")
    assert first.answer == ("" if name == "p.txt" else " b")
    assert second.answer == ""


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (b"", "p.txt", "has no prompts in it"),
        (b"text\none\n", "p.csv", "unknown column 'text'"),
        (b'[{"answer": " b"}]', "p.json", 'lacks "prompt" in row 1'),
        (b"one", "p.doc", "ends in '.doc'; give one that ends in .csv, .json, .jsonl, .txt"),
        (b"\xff", "p.txt", "is not UTF-8"),
    ],
)
def test_files_that_cannot_be_used_say_why(data: bytes, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        parse_prompts(data, name)


def test_sets_that_do_not_exist_are_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(UserError, match="no prompt set 'poems'; choose one of passages, ioi"):
        shipped_prompts(model, "poems", 3)
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts("/nowhere/prompts.txt")
    with pytest.raises(UserError, match="no prompt to study"):
        given_prompts([])
    with pytest.raises(UserError, match="does not predict"):
        shipped_prompts(tiny_model("bert"), "passages", 3)


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    """300 samples of 30 from a distribution of mean 0: 95 % of the intervals hold it, give or take
    the 1.3 points that so many samples leave, and the percentile method's few points less."""
    samples = np.random.default_rng(0).standard_normal((30, 300))
    interval = mean_interval(samples)
    covered = np.mean((interval.low <= 0) & (interval.high >= 0))
    assert 0.89 <= covered <= 0.97
    assert np.isnan(mean_interval(samples[:1]).low).all()
    assert mean_interval(samples[:1]).of((0,)) == f"{samples[0, 0]:.3g}"


def test_halves_share_no_template() -> None:
    groups = ["a", "b", "a", "c", "b", "d", "", ""]
    first, second = halves(groups)
    assert sorted(first + second) == list(range(8))
    assert not ({groups[i] for i in first} & {groups[i] for i in second} - {""})
    assert halves(["a", "a"])[1] == []


def test_ranks_agree_with_what_scipy_is_asked() -> None:
    assert rank_agreement([1, 2, 3, np.nan], [10, 20, 30, 5]) == pytest.approx(1)
    assert np.isnan(rank_agreement([1, 1], [1, 2]))


def test_values_that_are_no_option_are_refused() -> None:
    number = StudyOption("least", "Least", "number", 0.1, "", minimum=0, maximum=1)
    assert number.read("0.5") == 0.5
    for text, said in (("x", "give a number"), ("2", "at most 1"), ("nan", "give a number")):
        with pytest.raises(UserError, match=f"least cannot be '.*'; .*{said}"):
            number.read(text)
    model = hand_wired()
    with pytest.raises(UserError, match="no option 'speed'"):
        run_study("critical-heads", model, ["a b c a"], speed=1)
    with pytest.raises(UserError, match="intervention cannot be 'burn'; choose one of zero"):
        plan_study("critical-heads", model, ["a b c a"], intervention="burn")


def test_interventions_take_other_prompts_of_the_set() -> None:
    model = hand_wired()
    prompts = given_prompts(["a b c", "d e f g", "h i j"])
    assert intervention_of("resample", model, prompts, 0).spec == "resample:h i j"
    assert intervention_of("mean", model, prompts, 1).references == ("h i j", "a b c")
    with pytest.raises(UserError, match="No other prompt of the set has 4 tokens"):
        intervention_of("resample", model, prompts, 1)
    with pytest.raises(UserError, match="there is one only"):
        intervention_of("mean", model, given_prompts(["a b"]), 0)
    bad = PromptSet("own", (StudyPrompt("a b c"), StudyPrompt("a b", answer="b c")), "typed")
    with pytest.raises(UserError, match=r"Prompt 2 of 2: "):
        ask(model, bad, 1, "zero")


def test_every_study_of_prompts_says_what_it_is() -> None:
    for study in PROMPT_STUDIES:
        assert study.question.endswith("?")
        assert study.n_prompts > 0
        json.dumps([option.default for option in study.options])
        for option in study.options:
            option.check(option.default)


def test_a_text_file_without_prompts_and_what_is_no_text_are_refused() -> None:
    with pytest.raises(UserError, match=r"has no prompts in it; write one a line"):
        parse_prompts(b"\n  \n", "empty.txt")
    with pytest.raises(UserError, match=r"give rows of prompt, answer"):
        parse_prompts(b"prompt,answer\n", "empty.csv")
    with pytest.raises(UserError, match="A prompt is a text, and '7' is none"):
        given_prompts(["The cat", 7])
