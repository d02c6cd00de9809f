"""The study of locality: a previous-token head needs near keys, an induction head far ones."""

import json
import threading

import numpy as np
import pytest
import torch
from handwired import hand_wired
from reference import attentions
from tiny import PROMPT, tiny_model

from ablation import Ablation
from ablation.studies import abstraction
from ablation.studies.abstraction import LAST, LOOKALIKE, MEAN, UNRELATED, Separation
from ablation.studies.locality import run
from ablation.studies.locality_types import thirds
from ablation.studies.paraphrases import load_triples, word_overlap
from ablation.studies.prompts import given_prompts
from ablation.studies.types import StudyResult
from ablation.studies.windows import (
    DISTANCE,
    ENTROPY,
    FIRST,
    FIRST_QUERY,
    WIDTHS,
    Confined,
    DistanceReader,
    even_shares,
)
from models.errors import UserError
from models.types import FloatArray
from viz.studies import study_figures

TOLERANCE = 1e-5
SAID = ("a b c d e f g h i j b", "j i h g f e d c b a i", "c e g i b d f h j a e")
"""The last token was said nine before: the next one stands far back."""
LONG = (PROMPT, "The cat sat on the mat. The cat sat on the mat. The key to the cabinets is on")


@pytest.fixture(scope="module")
def wired() -> StudyResult:
    return run(hand_wired(), given_prompts(SAID), window=2)


def test_layers_of_a_wired_model_need_what_they_were_wired_to_look_at(wired: StudyResult) -> None:
    found = wired.details
    near, far = found.near_only, found.far_only
    # Layer 0 looks at the token before, layer 1 at what stands eight back.
    assert far.mean[0] > 1 > 50 * near.mean[0]
    assert near.mean[1] > 1 > 50 * far.mean[1]
    assert "Early layers need the near keys more" in " ".join(wired.answer)
    assert "late layers need the far keys more" in " ".join(wired.answer)


def test_what_could_not_be_measured_is_told(wired: StudyResult) -> None:
    # No sentence fits into the 12 positions of the wired model.
    assert wired.details.separation is None
    assert any(caveat.startswith("Sentences were not compared") for caveat in wired.caveats)


def test_distances_are_those_of_attention_read_by_itself() -> None:
    model = tiny_model("llama")
    tokens = model.tokenize(PROMPT)
    reader = DistanceReader(model.n_layers, model.n_heads)
    model.read_attention(tokens, reader)
    found = reader.of_heads()
    for layer, of_layer in enumerate(attentions("llama", tokens.ids)):
        for head, weights in enumerate(np.asarray(of_layer)):
            np.testing.assert_allclose(found[layer, head], by_hand(weights), rtol=0, atol=1e-4)


def by_hand(weights: FloatArray) -> list[float]:
    """Return the measures of one map [query, key], one query after the other."""
    rows = []
    for query in range(FIRST_QUERY, len(weights)):
        rest = weights[query, 1 : query + 1].astype(float)
        p = rest / rest.sum()
        back = query - np.arange(1, query + 1)
        shares = [p[back <= width].sum() for width in WIDTHS]
        rows.append([*shares, (p * back).sum(), -(p * np.log(p)).sum(), weights[query, 0]])
    return list(np.mean(rows, axis=0))


def test_even_attention_has_the_even_shares() -> None:
    weights = np.tril(np.ones((20, 20)))
    weights /= weights.sum(axis=1, keepdims=True)
    measured = by_hand(weights)
    np.testing.assert_allclose(even_shares(20), measured[: len(WIDTHS)])
    assert measured[ENTROPY] > measured[FIRST]
    assert measured[DISTANCE] > 1


@pytest.mark.parametrize("near", [True, False])
def test_confined_heads_see_what_they_may(near: bool) -> None:
    model = tiny_model("llama")
    tokens = model.tokenize(PROMPT)
    heads = model.all_heads()[:4]  # of layer 0, whose queries and keys stay the clean ones
    seen = model.attention(tokens, heads, Ablation(heads, Confined(3, near))).values
    clean = model.attention(tokens, heads).values
    back = np.arange(len(tokens))[:, None] - np.arange(len(tokens))
    allowed = (back == 0) | (np.arange(len(tokens)) == 0) | ((back <= 3) == near)
    allowed &= back >= 0
    expected = np.where(allowed, clean, 0)
    expected /= expected.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(seen, expected, atol=TOLERANCE)


def test_a_window_as_long_as_the_prompt_changes_nothing_and_all_layers_are_the_last_of_up_to() -> (
    None
):
    found = run(tiny_model("llama"), given_prompts(LONG), window=200).details
    assert np.abs(found.near_only.mean).max() < TOLERANCE
    narrow = found.near_only_parts(1)
    assert (narrow[:, 3] > 0.01).all()
    np.testing.assert_allclose(found.near_only_parts(200)[:, 3], 0, atol=TOLERANCE)


def test_separation_tells_meaning_from_words() -> None:
    rng = np.random.default_rng(0)
    # Layer 0 knows the words (the look-alike is the sentence), layer 1 the meaning.
    n, d = 30, 64
    base, words = rng.normal(size=(n, d)), rng.normal(size=(n, d))
    noise = 0.1 * rng.normal(size=(3, n, d))
    by_words = np.stack([base + noise[0], words + noise[1], base + noise[2]], axis=1)
    by_meaning = np.stack([base + noise[0], base + noise[1], words + noise[2]], axis=1)
    states = np.stack([by_words, by_meaning], axis=2)[:, :, :, None].repeat(2, axis=3)
    similarity = abstraction.similarities(states)
    found = Separation(similarity, np.tile([0.1, 0.8, 0.1], (n, 1)))
    auc = found.auc(MEAN, LOOKALIKE)
    assert auc.mean[0] < 0.01
    assert auc.mean[1] > 0.99
    assert auc.low[0] <= auc.mean[0] <= auc.high[0]
    assert found.overlap_auc(LOOKALIKE) == 0
    assert found.overlap_auc(UNRELATED) == 0.5
    # By words, paraphrases are as far as anything else: chance.
    assert 0.3 < found.auc(LAST, UNRELATED).mean[0] < 0.7


def test_shipped_paraphrases_share_fewer_words_than_their_look_alikes() -> None:
    triples = load_triples()
    assert len(triples) == len({t.sentence for t in triples}) == 40
    for triple in triples:
        alike = word_overlap(triple.sentence, triple.lookalike)
        assert word_overlap(triple.sentence, triple.paraphrase) < 0.25
        assert alike >= 0.4


def test_the_lens_is_read_for_good() -> None:
    model = tiny_model("llama")
    stream = model.residual.read(model.tokenize(PROMPT))
    from_layer = abstraction.readable_from(model, stream)
    with torch.no_grad():
        tops = [
            model.residual.ending.logits(stream.before(layer)).argmax(-1)
            for layer in range(model.n_layers + 1)
        ]
    for position, layers in enumerate(from_layer, start=1):
        final = int(tops[-1][position])
        assert all(int(tops[i][position]) == final for i in range(layers, model.n_layers + 1))
        assert layers == 0 or int(tops[layers - 1][position]) != final


def test_random_weights_have_no_local_layers_and_no_meaning() -> None:
    result = run(tiny_model("gpt2"), given_prompts(LONG))
    assert "no layer's state measurably follows meaning" in result.answer[-1]
    shares = result.details.layers().mean[:, : len(WIDTHS)]
    assert np.abs(shares - result.details.even).max() < 0.15
    assert list(result.table["layer"]) == [0, 1, 2]
    assert json.loads(json.dumps(result.to_json()))["window"] == 4


def test_one_prompt_has_no_interval_and_short_ones_are_left_out() -> None:
    result = run(tiny_model("llama"), given_prompts([PROMPT, "A dog"]))
    assert result.n_prompts == 1
    assert result.answer[0].startswith("On one prompt no interval can be given.")
    assert "nan" not in " ".join(result.answer)
    assert any("Left out: 1 prompt of" in caveat for caveat in result.caveats)
    for figure in study_figures(result):
        assert len(figure.figure.data)
        assert figure.title
    names = [figure.name for figure in study_figures(result, dark=True)]
    assert names == ["shares", "distance", "confined", "widths", "abstract"]


def test_cancelling_keeps_the_prompts_that_were_done() -> None:
    cancel = threading.Event()
    result = run(
        tiny_model("llama"), given_prompts(LONG), progress=lambda _: cancel.set(), cancel=cancel
    )
    assert (result.stopped, result.n_prompts) == ("cancelled", 1)
    assert result.details.separation is None
    assert study_figures(result)
    nothing = run(tiny_model("llama"), given_prompts(LONG), cancel=cancel)
    assert nothing.answer == ()
    assert nothing.details is None


@pytest.mark.parametrize(
    ("family", "text", "words"),
    [("llama", "A dog", "longer prompts"), ("bert", PROMPT, "causal"), ("t5", PROMPT, "decoder")],
)
def test_what_cannot_be_studied_is_refused(family: str, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(tiny_model(family), given_prompts([text]))


def test_thirds_part_the_layers() -> None:
    assert [list(part) for part in thirds(2)] == [[0], [], [1]]
    assert [len(part) for part in thirds(30)] == [10, 10, 10]
