"""The study of heads over a corpus: equal to eager attention, passage by passage."""

import threading

import numpy as np
import pytest
from reference import attentions
from tiny import CORPUS, tiny_model

from ablation import Progress, run_study
from ablation.contexts import Context, LargestWeights
from ablation.corpus import Passage
from ablation.studies import STUDIES
from ablation.studies.heads import METRICS, HeadDistributions
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray, Head, TokenizedPrompt

TOLERANCE = 1e-5  # two correct float32 computations differ by about 1e-7 here; see test_parity.py
DISTANCES = 1e-4  # of sums of weights times up to 40 positions
PASSAGES = tuple(Passage(f"tiny-{i}", "tiny", text) for i, text in enumerate(CORPUS))


def prompt_of(*tokens: str) -> TokenizedPrompt:
    n = len(tokens)
    return TokenizedPrompt("".join(tokens), tuple(range(n)), tokens, tokens, ("text",) * n)


def by_hand(weights: FloatArray) -> dict[str, float]:
    """Return the metrics of one map [query, key], one query after the other."""
    found: dict[str, list[float]] = {info.name: [] for info, _ in METRICS}
    for query in range(1, len(weights)):
        row = [float(weight) for weight in weights[query]]
        found["entropy"].append(-sum(p * np.log(p) for p in row if p > 0))
        found["mean_distance"].append(sum(p * abs(query - k) for k, p in enumerate(row)))
        found["self_weight"].append(row[query])
        found["previous_weight"].append(row[query - 1])
        found["first_weight"].append(row[0])
        found["largest_weight"].append(max(row))
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj", "bert"])
def test_each_metric_equals_that_of_eager_attention(family: str) -> None:
    model = tiny_model(family)
    result = run_study("heads", model, PASSAGES)
    values = result.details.values  # [n_passages, n_metrics, n_layers, n_heads]
    assert values.shape == (len(PASSAGES), len(METRICS), 3, 4)
    for i, passage in enumerate(PASSAGES):
        theirs = attentions(family, model.tokenize(passage.text).ids).numpy()
        for layer, head in np.ndindex(3, 4):
            expected = by_hand(theirs[layer, head])
            for j, (info, _) in enumerate(METRICS):
                tolerance = DISTANCES if info.name == "mean_distance" else TOLERANCE
                assert values[i, j, layer, head] == pytest.approx(
                    expected[info.name], abs=tolerance
                )
    assert values.std(axis=0).min() > TOLERANCE, "passages that do not differ prove nothing"


def test_the_table_has_mean_and_quantiles_over_passages(gpt2: LanguageModel) -> None:
    result = run_study("heads", gpt2, PASSAGES)
    table = result.table
    assert len(table) == len(METRICS) * 12
    row = table[(table["layer"] == 2) & (table["head"] == 1) & (table["metric"] == "entropy")]
    of_head = result.details.values[:, 0, 2, 1]
    assert row["mean"].item() == pytest.approx(of_head.mean())
    assert row["median"].item() == pytest.approx(sorted(of_head)[2])  # of five
    assert row["low"].item() < row["median"].item() < row["high"].item()
    assert result.n_prompts == len(PASSAGES)
    assert len(result.answer) == 4
    assert result.to_json()["table"][0]["metric"] == "entropy"


def test_the_strongest_contexts_are_the_largest_weights(gpt2: LanguageModel) -> None:
    head = Head(1, 2)
    result = run_study("heads", gpt2, PASSAGES, head=head, n_contexts=4)
    expected = []
    for passage in PASSAGES:
        weights = attentions("gpt2", gpt2.tokenize(passage.text).ids)[1, 2]
        cells = [
            (float(weights[query, key]), passage.id, query, key)
            for query in range(1, len(weights))
            for key in range(1, query + 1)
        ]
        expected.append(max(cells))
    expected = sorted(expected, reverse=True)[:4]
    contexts = result.details.contexts(head, 4)
    found = [(c.passage, c.query, c.key) for c in contexts]
    assert found == [cell[1:] for cell in expected]
    weights = [c.weight for c in contexts]
    np.testing.assert_allclose(weights, [cell[0] for cell in expected], atol=TOLERANCE)
    written = result.to_json()
    assert written["head"] == [1, 2]
    assert [c["passage"] for c in written["contexts"]] == [cell[1] for cell in expected]


def test_memory_for_one_head_at_a_time_changes_nothing(
    gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_study("heads", gpt2, PASSAGES[:2], head=Head(2, 3))
    monkeypatch.setattr("ablation.reading.PART_BYTES", 1)
    parted = run_study("heads", gpt2, PASSAGES[:2], head=Head(2, 3))
    np.testing.assert_array_equal(parted.details.values, expected.details.values)
    heads = gpt2.all_heads()
    assert [parted.details.contexts(head) for head in heads] == [
        expected.details.contexts(head) for head in heads
    ]


def test_cancelling_keeps_the_passages_measured(gpt2: LanguageModel) -> None:
    cancel = threading.Event()
    reports: list[Progress] = []

    def stop(report: Progress) -> None:
        reports.append(report)
        if report.done == 2:
            cancel.set()

    partial = run_study("heads", gpt2, PASSAGES, progress=stop, cancel=cancel)
    assert partial.stopped == "cancelled"
    assert partial.n_prompts == 2
    assert [(r.done, r.total) for r in reports] == [(1, 5), (2, 5)]
    whole = run_study("heads", gpt2, PASSAGES)
    np.testing.assert_array_equal(partial.details.values, whole.details.values[:2])
    nothing = run_study("heads", gpt2, PASSAGES, cancel=cancel)
    assert (nothing.n_prompts, nothing.answer, len(nothing.table)) == (0, (), 0)


def test_passages_that_do_not_fit_are_left_out_and_counted(gpt2: LanguageModel) -> None:
    long = Passage("long-1", "long", "word " * 400)
    result = run_study("heads", gpt2, (*PASSAGES, long))
    assert result.n_prompts == len(PASSAGES)
    assert "1 passages did not fit" in " ".join(result.caveats)
    with pytest.raises(UserError, match="None of the 1 passages") as raised:
        run_study("heads", gpt2, (long,))
    assert raised.value.kind is ErrorKind.PROMPT


def test_what_there_is_not_is_refused(gpt2: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"no study 'tails'; choose one of heads"):
        run_study("tails", gpt2, PASSAGES)
    with pytest.raises(UserError, match="no head L9H9"):
        run_study("heads", gpt2, PASSAGES, head=Head(9, 9))


def test_every_study_can_be_run() -> None:
    for name, info in STUDIES.items():
        assert info.name == name
        assert info.question.endswith("?")


# --- contexts ---


def test_the_first_token_is_set_apart_and_ties_go_to_the_lowest() -> None:
    one = [[1, 0, 0], [0.9, 0.1, 0], [0.5, 0.2, 0.3]]
    other = [[1, 0, 0], [0.8, 0.2, 0], [0.6, 0.2, 0.2]]
    found = LargestWeights.of(np.array([one, other], np.float32))
    assert found.queries.tolist() == [2, 1]
    assert found.keys.tolist() == [2, 1]
    np.testing.assert_allclose(found.weights, [0.3, 0.2])


@pytest.mark.parametrize(
    ("query", "key", "expected"),
    [
        (6, 1, "a [b] c … f ‹g› h"),
        (3, 2, "… b [c] ‹d› e …"),
        (4, 4, "… d ‹[e]› f …"),
        (7, 0, "[a] b … g ‹h›"),
    ],
)
def test_an_excerpt_shows_both_tokens_in_their_surroundings(
    query: int, key: int, expected: str
) -> None:
    prompt = prompt_of("a", *(f" {letter}" for letter in "bcdefgh"))
    assert Context("p", prompt, query, key, 0.5).excerpt(around=1) == expected


def test_pieces_say_which_part_a_token_plays() -> None:
    prompt = prompt_of("a", " b", " c")
    pieces = Context("p", prompt, 2, 1, 0.5).pieces()
    assert [(piece.text, piece.part) for piece in pieces] == [
        ("a", ""), (" ", ""), ("b", "key"), (" ", ""), ("c", "query"),
    ]  # fmt: skip


def test_a_token_of_white_space_is_visible_in_its_marks() -> None:
    prompt = prompt_of("a", "\n", " b")
    assert Context("p", prompt, 2, 1, 0.5).excerpt() == "a[⏎] ‹b›"


def test_distributions_of_nothing_still_write_out() -> None:
    empty = HeadDistributions(())
    assert set(empty.to_json()) == {"metrics"}
