"""How alike heads are, each measure by hand."""

import numpy as np
import pytest
import torch
from tiny import CORPUS, tiny_model

from ablation.composition import Composition
from ablation.studies import likeness
from ablation.studies.asked import ask
from ablation.studies.prompts import given_prompts
from models.types import Head


def test_effects_are_cosines_in_which_every_prompt_counts_the_same() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    first[4] = second[4] = 0
    found = likeness.effects_likeness([first, 100 * second, np.zeros((5, 2))])
    np.testing.assert_allclose(found, likeness.effects_likeness([first, second]))
    parts = [part / np.sqrt(np.mean(part**2)) for part in (first, second)]
    a, b = (np.concatenate([part[i] for part in parts]) for i in (0, 2))
    assert found[0, 2] == pytest.approx(a @ b / np.sqrt(a @ a * (b @ b)))
    assert (found[4] == 0).all()


def test_outputs_are_correlations_of_what_is_written() -> None:
    model = tiny_model("llama")
    prompts = [model.tokenize(text[:30]) for text in CORPUS[:3]]
    read = [likeness.outputs_of(model, prompt) for prompt in prompts]
    heads = np.array([0, 1, 3, 9, 11])
    found = likeness.outputs_likeness(read, heads)
    written = []
    for prompt in prompts:
        stream = model.residual.read(prompt)
        at = list(range(1, len(prompt)))
        assert len(at) <= likeness.MOST_POSITIONS
        written.append(torch.cat([terms.heads(at) for terms in stream.layers]).numpy())
    values = np.concatenate(written, axis=1).astype(float)  # [n_heads, position, d_model]
    values -= values.mean(axis=1, keepdims=True)
    for i, a in enumerate(heads):
        for j, b in enumerate(heads):
            own = (values[a] * values[b]).sum()
            own /= np.sqrt((values[a] ** 2).sum() * (values[b] ** 2).sum())
            assert found[i, j] == pytest.approx(own, abs=1e-5)


def test_a_head_that_writes_a_constant_is_like_none() -> None:
    constant, moving = np.full((4, 3), 1e3), np.arange(12.0).reshape(4, 3)
    written = np.stack([constant + 1e-7 * moving, moving])
    flat = written.reshape(2, -1)
    one = likeness.Outputs(4, written.sum(axis=1), flat @ flat.T)
    assert likeness.outputs_likeness([one], np.arange(2))[0, 1] == 0


def test_changes_are_of_logits_of_the_right_token_and_the_likeliest() -> None:
    model = tiny_model("llama")
    one = ask(model, given_prompts(CORPUS), 0, "zero")
    found = likeness.changes(one, [(), (Head(1, 1),)])
    assert found.shape == (2, 1 + likeness.N_TOKENS)
    np.testing.assert_allclose(found[0], 0, atol=1e-5)
    # Between two tokens the change of logits is that of log-probabilities.
    clean = one.question.baseline.log_probs
    [(_, ablated)] = list(one.question.evaluate([(Head(1, 1),)]))
    moved = ablated[0].numpy() - clean
    first, second = np.argsort(-clean)[:2]
    assert one.answer == first
    assert found[1, 0] - found[1, 1] == pytest.approx(moved[first] - moved[second], abs=1e-5)
    assert found[1, 0] == pytest.approx(moved[first] - moved.mean(), abs=1e-5)


def test_composition_is_the_highest_rank_of_three_and_none_within_a_layer() -> None:
    scores = np.full((3, 3, 3), np.nan, dtype=np.float32)  # heads 0 and 1 below head 2
    scores[:, 2, :2] = [[0.1, 0.2], [0.4, 0.3], [0.1, 0.9]]
    found = likeness.composition_likeness(Composition(scores, 0.1))
    assert np.isnan(found[0, 1])
    assert np.isnan(np.diag(found)).all()
    assert found[0, 2] == found[2, 0] == found[1, 2] == 0.75  # each first by one kind


def test_pairs_are_ranked_among_those_of_as_many_measures() -> None:
    rng = np.random.default_rng(0)
    layer = np.repeat(np.arange(12), 6)
    same = (layer[:, None] == layer) & ~np.eye(72, dtype=bool)

    def drawn() -> np.ndarray:
        values = rng.random((72, 72))
        return (values + values.T) / 2

    fed = np.where(layer[:, None] == layer, np.nan, drawn())
    found = likeness.together([drawn(), drawn(), fed])
    # No measure is extreme within layers because fewer are averaged there.
    assert (found[same] > 0.95).mean() == pytest.approx(0.05, abs=0.01)
    assert (found[layer[:, None] != layer] > 0.95).mean() == pytest.approx(0.05, abs=0.01)
    np.testing.assert_allclose(found, found.T)
