"""The study of sparsification: gates find the heads of a wired model, and say so of no others."""

import threading
from functools import cache

import numpy as np
import pytest
import torch
from handwired import hand_wired, pairs, wired_twins
from tiny import CORPUS, tiny_model

from ablation import Progress, Zero, run_study
from ablation.studies import plan_study
from ablation.studies.columns import KL
from ablation.studies.gates import draw_gates, open_probability
from ablation.studies.types import StudyResult
from models.errors import UserError
from models.types import Head
from viz.studies import study_figures

WIRED = (Head(0, 0), Head(1, 0))
TOLERANCE = 1e-4  # nats: float32 logits, in batches of other sizes


@cache
def wired() -> StudyResult:
    return run_study("sparsification", hand_wired(), [pair.clean for pair in pairs(6)])


@cache
def random_weights() -> StudyResult:
    return run_study("sparsification", tiny_model("llama"), CORPUS, steps=5)


def test_the_core_of_a_wired_model_is_its_circuit() -> None:
    found = wired().details
    assert found.core.heads == WIRED
    assert (found.core.low, found.core.high) == (2, 2)
    assert found.core.share == pytest.approx(1, abs=TOLERANCE)
    assert set(found.open_counts) == {2}
    assert wired().answer[0].startswith("The essential core is 2 of 4 heads (50 %")
    # However the dead heads are closed, the core keeps everything.
    assert set(found.others) == {"mean", "permute"}
    for values in found.others.values():
        np.testing.assert_allclose(values[:, 1], 0, atol=TOLERANCE)
    assert any("by permute it keeps" in said for said in wired().answer)
    assert "interventions" in {figure.name for figure in study_figures(wired())}
    assert wired().table.set_index("head").core.to_dict() == {
        "L0H0": True, "L0H1": False, "L1H0": True, "L1H1": False,
    }  # fmt: skip


def test_of_twins_that_stand_in_for_each_other_one_is_in_the_core() -> None:
    texts = [pair.clean for pair in pairs(12)]
    core = run_study("sparsification", wired_twins(), texts).details.core
    assert core.heads in {(Head(0, 0), Head(1, 0)), (Head(0, 0), Head(1, 1))}
    assert core.share > 0.99


def test_half_of_the_circuit_keeps_nothing() -> None:
    found = wired().details
    at = found.sizes.index(1)
    assert found.shares(found.kept["learned"])[at] < 0.1


def test_drawn_gates_are_0_and_1_as_often_as_said() -> None:
    log_alpha = torch.linspace(-4, 4, 9)[:, None]
    gates = draw_gates(log_alpha, 20_000, torch.Generator().manual_seed(1))
    found = (gates > 0).float().mean(dim=0)
    # Three standard errors of a share among 20,000 draws.
    torch.testing.assert_close(found, open_probability(log_alpha), atol=0.011, rtol=0)
    assert float(gates.min()) == 0
    assert float(gates.max()) == 1


def test_no_small_core_on_random_weights() -> None:
    """Heads of random weights all matter about alike: nothing is said to be spared."""
    found = random_weights().details
    assert len(found.core.heads) >= 10
    assert random_weights().n_prompts == len(CORPUS)
    assert {f.name for f in study_figures(random_weights())} == {
        "kept", "map", "layers", "activations",
    }  # fmt: skip
    assert random_weights().to_json()["core"]["by_layer"] == found.by_layer.tolist()


def test_what_is_kept_is_what_removing_the_others_leaves() -> None:
    model, found = tiny_model("llama"), random_weights().details
    at = len(found.sizes) // 2
    stay = {found.heads[i] for i in found.order_for(found.sizes[at])[: found.sizes[at]]}
    others = [head for head in found.heads if head not in stay]
    for kl, nothing in zip(found.kept["learned"][:, at, KL], found.nothing[:, KL], strict=True):
        by_hand = []
        for text in CORPUS:
            clean, part, none = model.ablated_logprobs(
                model.tokenize(text), [(), others, found.heads], Zero()
            )
            by_hand.append([float((clean.exp() * (clean - row)).sum()) for row in (part, none)])
        assert np.abs(np.array(by_hand) - [kl, nothing]).max(axis=1).min() < TOLERANCE


def test_cancelling_keeps_the_gates_that_were_learned() -> None:
    cancel = threading.Event()

    def progress(seen: Progress) -> None:
        if "at 0.01" in seen.message:
            cancel.set()

    result = run_study(
        "sparsification", tiny_model("llama"), CORPUS, steps=2, progress=progress, cancel=cancel
    )
    assert result.stopped == "cancelled"
    assert result.details.strengths == (0.003,)
    assert "nothing was judged yet" in result.answer[0]
    assert [figure.name for figure in study_figures(result)] == ["map"]
    assert len(result.to_json()["table"]) == 12


def test_bad_input_is_refused_and_a_plan_is_made() -> None:
    with pytest.raises(UserError, match="give at least 2"):
        run_study("sparsification", tiny_model("llama"), CORPUS[:1])
    with pytest.raises(UserError, match="encoder-decoder"):
        run_study("sparsification", tiny_model("t5"), CORPUS)
    with pytest.raises(UserError, match="share cannot be"):
        run_study("sparsification", tiny_model("llama"), CORPUS, share=0)
    assert plan_study("sparsification", tiny_model("llama"), CORPUS).seconds > 0
