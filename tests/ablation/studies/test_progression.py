"""The study of progression: the answer of a wired model comes by a way that is known."""

import json
import threading

import numpy as np
import pytest
from handwired import hand_wired
from tiny import PROMPT, tiny_model

from ablation import run_study
from ablation.attribution import attribute_logits
from ablation.studies.progression import run
from ablation.studies.progression_types import Progression, bands_of
from ablation.studies.prompts import PromptSet, StudyPrompt, given_prompts
from ablation.studies.types import StudyResult
from models.errors import UserError
from models.types import Head
from viz.studies import study_figures

TOLERANCE = 1e-4
SAID = PromptSet("wired", (StudyPrompt("c a b f a", "b", "f"),), "the test")
"""The token after the first "a" (1) is "b" (2): the induction head copies it."""


@pytest.fixture(scope="module")
def wired() -> StudyResult:
    return run(hand_wired(), SAID)


def test_the_answer_of_a_wired_model_comes_as_it_was_wired(wired: StudyResult) -> None:
    found: Progression = wired.details
    assert (found.position, found.answer, found.distractor) == (4, "b", "f")
    # Nothing reads the answer off before the induction head in layer 1 wrote it.
    assert found.lens.first_for_good(4) == 2
    assert found.lens.answer[2, 4] > 0.5
    assert found.lens.answer[1, 4] < 0.2
    leader = found.written.leading[0]
    assert (leader.head, leader.key) == (Head(1, 0), 2)
    assert leader.change < -1
    np.testing.assert_allclose(found.written.heads[0], 0, atol=TOLERANCE)
    np.testing.assert_allclose(found.written.mlps, 0, atol=TOLERANCE)
    # Of all sights the answer needs one: of "b", in layer 1.
    band, key = np.unravel_index(np.nanargmin(found.cuts), found.cuts.shape)
    assert (band, key) == (1, 2)
    assert found.cuts[1, 2] < -1
    assert np.abs(found.cuts[0]).max() < 0.1
    assert '"b" (2) in layer 1' in wired.answer[-1]
    assert wired.answer[0].startswith(
        'What "a_2" predicts, "b": heads change it most directly in layer 1 ('
    )
    assert 'rests most on the sight of "b" in layer 1' in wired.answer[0]


def test_flows_are_shares_and_end_where_it_is_read(wired: StudyResult) -> None:
    found, tiny = wired.details, run(tiny_model("llama"), given_prompts([PROMPT])).details
    for one in (found, tiny):
        for matrix in one.flow.links:
            assert matrix.min() >= 0
            np.testing.assert_allclose(matrix.sum(), 1, atol=TOLERANCE)
        into_end = one.flow.links[-1].sum(axis=1)
        assert into_end[one.position] == pytest.approx(1)
        for before, after in zip(one.flow.links, one.flow.links[1:], strict=False):
            np.testing.assert_allclose(before.sum(axis=1), after.sum(axis=0), atol=TOLERANCE)
        np.testing.assert_allclose(one.flow.rollout.sum(axis=1), 1, atol=TOLERANCE)
    # The previous-token head moves from 3, the induction head from 2.
    moved = [matrix[4, 1:4] for matrix in found.flow.links]
    assert [int(row.argmax()) + 1 for row in moved] == [3, 2]


def test_parts_add_up_to_the_logit_and_the_lens_ends_with_the_prediction() -> None:
    model = tiny_model("llama")
    found = run(model, given_prompts([PROMPT])).details
    prediction = model.predict(model.tokenize(PROMPT))
    assert found.answer == prediction.top[0].label
    assert found.lens.answer[-1, -1] == pytest.approx(prediction.top[0].prob, abs=TOLERANCE)
    assert found.lens.ranks[-1, -1] == 1
    assert found.lens.tops[-1][-1] == prediction.top[0].label
    written = found.written
    total = written.heads.sum() + written.mlps.sum() + written.rest
    assert total == pytest.approx(attribute_logits(model, PROMPT).logit, abs=1e-3)


def test_figures_and_json_are_made_of_a_run_and_of_a_cancelled_one(wired: StudyResult) -> None:
    names = [figure.name for figure in study_figures(wired)]
    assert names == ["lens", "followed", "written", "flow", "rollout", "cuts"]
    assert json.loads(json.dumps(wired.to_json()))["target"] == "b"
    flow = study_figures(wired, dark=True)[3].figure.data[0]
    assert flow.link.value[0] == max(flow.link.value)
    cancel = threading.Event()
    result = run(
        tiny_model("llama"),
        given_prompts([PROMPT, "A dog"]),
        progress=lambda p: cancel.set() if p.done == 5 else None,
        cancel=cancel,
    )
    assert result.stopped == "cancelled"
    cuts = result.details.cuts
    assert not np.isnan(cuts[:, :2]).any()
    assert np.isnan(cuts[:, 2:]).all()
    assert len(study_figures(result)) == 6
    assert any("2 prompts; number 1" in caveat for caveat in result.caveats)
    nothing = run(tiny_model("llama"), given_prompts([PROMPT]), cancel=cancel)
    assert nothing.details is None


def test_one_token_and_a_model_that_shows_no_values_are_handled() -> None:
    result = run(tiny_model("gpt2"), given_prompts(["t"]))
    assert result.details.cuts is None
    assert study_figures(result)
    hooked = run(tiny_model("bloom"), given_prompts([PROMPT]))
    assert hooked.details.flow is None
    assert any(caveat.startswith("The flow was not measured") for caveat in hooked.caveats)


@pytest.mark.parametrize(("family", "words"), [("bert", "causal"), ("t5", "decoder")])
def test_models_without_a_next_token_are_refused(family: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(tiny_model(family), given_prompts([PROMPT]))


def test_the_first_prompt_that_the_model_gets_right_is_followed() -> None:
    wrong, right = StudyPrompt("c a b f a", "f", "b"), StudyPrompt("d e h g e", "h", "g")
    found = run(hand_wired(), PromptSet("wired", (wrong, right), "the test")).details
    assert (found.text, found.answer) == (right.text, "h")
    assert run(hand_wired(), PromptSet("wired", (wrong, wrong), "the test")).details.answer == "f"


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match="it has none"):
        run_study("progression", hand_wired(), SAID, window=3)


def test_groups_of_layers_cover_all_of_them_once() -> None:
    for n in (1, 2, 7, 30):
        assert [layer for band in bands_of(n) for layer in band] == list(range(n))
