"""The study of order: on a model in which it is known of which heads the order matters."""

import threading
from functools import cache

import numpy as np
import pytest
import torch
from handwired import ANSWER, D_HEAD, D_MODEL, hand_wired_model, loaded, pairs
from reference import reference
from tiny import PROMPT, tiny_model

from ablation import Ablation, Mean, Permute, Progress, Zero, run_study
from ablation.studies import plan_study
from ablation.studies.columns import KL
from ablation.studies.continuing import continue_text
from ablation.studies.permutation_types import LOSS, MEAN, PERMUTE, ZERO
from ablation.studies.prompts import PromptSet, StudyPrompt
from models.errors import UserError
from models.language_model import LanguageModel
from models.types import Head
from viz.studies import study_figures

TOLERANCE = 1e-5  # two correct float32 computations differ by about 1e-7 here
ORDERED, CONSTANT, DEAD = {Head(0, 0), Head(1, 0)}, Head(1, 1), Head(0, 1)


@cache
def wired() -> LanguageModel:
    """The wired model, in which L1H1 says the same at every position: that the answer may be d."""
    model = hand_wired_model()
    attention = model.transformer.h[1].attn
    with torch.no_grad():
        attention.c_attn.bias[2 * D_MODEL + D_HEAD] = 1.0
        attention.c_proj.weight[D_HEAD, ANSWER + 3] = 0.5
    return loaded(model)


def passages(n: int = 6) -> PromptSet:
    made = tuple(StudyPrompt(pair.clean, pair.answer) for pair in pairs(n))
    return PromptSet("wired", made, "wired")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
@pytest.mark.parametrize("intervention", [Zero(), Permute(3), Mean()])
def test_all_positions_at_once_are_each_by_itself(
    family: str, intervention: Zero | Permute | Mean
) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(PROMPT)
    sets = [(Head(0, 1), Head(2, 3)), (), (Head(1, 0),)]
    posed = model.head_sets.pose(prompt, intervention, position=4)
    found = list(model.head_sets.evaluate_everywhere(posed, sets))
    assert [whole.index for whole in found] == [0, 1, 2]
    for whole, heads in zip(found, sets, strict=True):
        ablation = Ablation(heads, intervention)
        expected = [model.predict(prompt, i, ablation).log_probs for i in range(len(prompt))]
        of_tokens = [row[token] for row, token in zip(expected, prompt.ids[1:], strict=False)]
        np.testing.assert_allclose(whole.token_log_probs, of_tokens, atol=TOLERANCE)
        np.testing.assert_allclose(whole.log_probs, expected[4], atol=TOLERANCE)
    ids = torch.tensor([prompt.ids])
    with torch.no_grad():
        loss = reference(family)(ids, labels=ids).loss
    assert -float(found[1].token_log_probs.mean()) == pytest.approx(float(loss), abs=TOLERANCE)
    assert abs(found[0].token_log_probs - found[1].token_log_probs).max() > 100 * TOLERANCE


def test_the_heads_whose_order_matters_are_found() -> None:
    result = run_study("permutation", wired(), passages())
    found = result.details
    alone = dict(zip(found.heads, found.singles.mean(axis=0), strict=True))
    assert {head for head, kl in alone.items() if kl > 0.1} == ORDERED
    assert max(alone[CONSTANT], alone[DEAD]) < TOLERANCE
    compared = found.compared.mean(axis=0)
    at = [found.heads[i] for i in found.order].index(CONSTANT)
    assert compared[ZERO, at] > 0.01, "what it says matters"
    assert compared[MEAN, at] < TOLERANCE
    # In each layer one head only has an order.
    of_layers = found.layers[:, PERMUTE, :, KL]
    for layer in range(2):
        np.testing.assert_allclose(
            of_layers[:, layer], found.singles[:, found.heads.index(Head(layer, 0))], atol=TOLERANCE
        )
    assert "Order matters in 2 of 2 layers" in " ".join(result.answer)
    assert found.grown[..., -1, :] == pytest.approx(
        np.repeat(found.grown[:, :, :1, -1], 3, axis=2), abs=TOLERANCE
    ), "all heads are the same set in every draw"
    assert found.of_layers.mean[PERMUTE, 0, LOSS] > 0
    assert result.to_json()["heads"][0]["head"] in ([0, 0], [1, 0])
    figures = study_figures(result)
    assert [figure.name for figure in figures] == ["layers", "random", "heads", "continuations"]
    assert figures[0].figure.data[0].y[0] == pytest.approx(of_layers[:, 0].mean())


def test_texts_differ_only_where_distributions_do() -> None:
    clean, *others = continue_text(
        wired(), "c a b f a", [("dead", [DEAD]), ("first", [Head(0, 0)])], 5, 0, None
    )
    by = {(one.heads, one.intervention): one for one in others}
    for name in ("permute", "zero", "mean"):
        assert by["dead", name].text == clean.text
        assert by["dead", name].n_same == len(clean.text) > 2
    assert by["first", "zero"].text != clean.text
    assert by["first", "zero"].surprise > clean.surprise


def test_cancelling_keeps_the_passages_done() -> None:
    cancel = threading.Event()

    def progress(at: Progress) -> None:
        if "passage 3 of" in at.message:
            cancel.set()

    result = run_study("permutation", wired(), passages(), progress=progress, cancel=cancel)
    assert (result.stopped, result.n_prompts) == ("cancelled", 2)
    assert len(result.details.clean_loss) == 2
    assert "Cancelled: 2 of 6 passages were done." in result.caveats
    assert len(study_figures(result)) == 3


def test_one_passage_has_no_interval() -> None:
    result = run_study("permutation", wired(), passages(1))
    assert "no interval" in " ".join(result.answer)
    assert np.isnan(result.table["kl_low"]).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="does not predict"):
        plan_study("permutation", tiny_model("bert"), ["a b c d"])
    with pytest.raises(UserError, match="Prompt 2 has under 3 tokens"):
        run_study("permutation", wired(), ["a b c d", "a"])
    model = tiny_model("bert")
    posed = model.head_sets.pose(model.tokenize("the [MASK] sat"), Zero())
    with pytest.raises(UserError, match="mask tokens"):
        next(model.head_sets.evaluate_everywhere(posed, [()]))
