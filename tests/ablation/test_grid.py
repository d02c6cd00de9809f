"""The grid of heads and positions against one plain forward pass a cell."""

import threading

import numpy as np
import pytest
from plain_interventions import plain_edit
from reference import log_probs
from tiny import FAMILIES, prompt_text, tiny_model

from ablation import Intervention, Mean, Permute, Progress, Scale, Zero, sweep_positions
from models.errors import UserError
from models.types import Head

TOLERANCE = 1e-5  # rounding of float32 logits; see test_intervention_parity
TOKEN = 5
HEADS = (Head(2, 1), Head(0, 3), Head(1, 0))


@pytest.mark.parametrize("position", [None, 6], ids=["last", "middle"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_cell_equals_a_plain_forward_pass(family: str, position: int | None) -> None:
    check_cells(family, Zero(), position)


@pytest.mark.parametrize("intervention", [Scale(0.3), Mean(), Permute(1)], ids=lambda i: i.spec)
@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_every_intervention_has_its_grid(family: str, intervention: Intervention) -> None:
    check_cells(family, intervention, None)


def check_cells(family: str, intervention: Intervention, position: int | None) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    read = model.resolve_position(prompt, position)
    grid = sweep_positions(
        model, prompt, HEADS, intervention, "target_logprob", position, target=TOKEN
    )
    assert grid.values.shape == (3, len(prompt))
    clean = log_probs(family, prompt.ids, read)[TOKEN]
    tried = range(read % 2, len(prompt), 2)  # every second one, the position read among them
    for i, head in enumerate(HEADS):
        for at in tried:
            edit = plain_edit(family, intervention, head, len(prompt), [at])
            row = log_probs(family, prompt.ids, read, [(head.layer, head.head, edit)])
            assert grid.values[i, at] == pytest.approx(float(row[TOKEN] - clean), abs=TOLERANCE)
    if intervention == Zero():  # others may leave single positions as they are
        assert np.abs(grid.values[:, tried]).max() > 10 * TOLERANCE
    if model.kind == "causal":
        assert np.abs(grid.values[:, read + 1 :]).max(initial=0) < TOLERANCE


def test_the_last_layer_matters_at_the_position_read_alone() -> None:
    model = tiny_model("llama")
    values = sweep_positions(model, prompt_text("llama"), [Head(2, 0)]).values[0]
    assert values[-1] > 1e-3
    assert np.abs(values[:-1]).max() < 1e-9


def test_progress_and_cancelling() -> None:
    cancel = threading.Event()
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if progress.done == 6:
            cancel.set()

    model = tiny_model("llama")
    grid = sweep_positions(model, prompt_text("llama"), HEADS, progress=report, cancel=cancel)
    assert grid.stopped == "cancelled"
    # From the position read backwards.
    assert not np.isnan(grid.values[:, -2:]).any()
    assert np.isnan(grid.values[:, :-2]).all()
    assert reports[-1].total == grid.values.size
    frame = grid.to_frame()
    assert len(frame) == 6
    assert list(frame.columns) == ["layer", "head", "position", "token", "kl"]
    assert grid.to_json()["scores"][0][2] is None


def test_what_does_not_fit_is_said_in_a_sentence() -> None:
    model = tiny_model("llama")
    with pytest.raises(UserError, match="at least one"):
        sweep_positions(model, "a cat", [])
    with pytest.raises(UserError, match="There is no head L9H9"):
        sweep_positions(model, "a cat", [Head(9, 9)])
    with pytest.raises(UserError, match="needs a target"):
        sweep_positions(model, "a cat", HEADS, metric="target_rank")
