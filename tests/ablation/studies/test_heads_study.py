"""The study of heads over a corpus: equal to eager attention, passage by passage."""

import threading

import numpy as np
import pytest
import torch
from reference import attentions
from tiny import CORPUS, tiny_model

from ablation import Progress, run_study, summarise_heads
from ablation.contexts import Context, LargestWeights
from ablation.corpus import Passage
from ablation.studies import STUDIES
from ablation.studies.heads import METRICS, HeadDistributions
from models.attention_reading import AttentionBlock
from models.errors import ErrorKind, UserError
from models.forward_pass import ForwardPass
from models.language_model import LanguageModel
from models.types import FloatArray, Head, TokenizedPrompt

TOLERANCE = 1e-5  # two correct float32 computations differ by about 1e-7 here; see test_parity.py
SUMS = 1e-4  # of numbers of positions up to 40, and of keys
PASSAGES = tuple(Passage(f"tiny-{i}", "tiny", text) for i, text in enumerate(CORPUS))


def prompt_of(*tokens: str) -> TokenizedPrompt:
    n = len(tokens)
    return TokenizedPrompt("".join(tokens), tuple(range(n)), tokens, tokens, ("text",) * n)


def by_hand(weights: FloatArray, causal: bool) -> dict[str, float]:
    """Return the metrics of one map [query, key], one query after the other."""
    found: dict[str, list[float]] = {info.name: [] for info in METRICS}
    for query in range(1 if causal else 0, len(weights)):
        row = [float(weight) for weight in weights[query]]
        entropy = -sum(p * np.log(p) for p in row if p > 0)
        found["entropy"].append(entropy)
        found["effective_span"].append(np.exp(entropy))
        found["mean_distance"].append(sum(p * abs(query - k) for k, p in enumerate(row)))
        found["self_weight"].append(row[query])
        if query > 0:
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
            expected = by_hand(theirs[layer, head], model.kind == "causal")
            for j, info in enumerate(METRICS):
                tolerance = SUMS if info.unit in ("positions", "keys") else TOLERANCE
                assert values[i, j, layer, head] == pytest.approx(
                    expected[info.name], abs=tolerance
                )
    assert values.std(axis=0).min() > TOLERANCE, "passages that do not differ prove nothing"


def test_the_metrics_are_those_of_the_summary_of_one_prompt(gpt2: LanguageModel) -> None:
    details = run_study("heads", gpt2, PASSAGES[:2]).details
    for on_passage, passage in zip(details.passages, PASSAGES[:2], strict=True):
        summary = summarise_heads(gpt2, passage.text)
        assert summary.metrics == METRICS
        np.testing.assert_array_equal(on_passage.metrics, summary.values)


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


@pytest.mark.parametrize("family", ["gpt2", "bert", "gptj"])
def test_blocks_of_few_rows_change_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    expected = run_study("heads", model, PASSAGES[:2], head=Head(2, 3))
    monkeypatch.setattr("models.attention_reading.BLOCK_SCORES", 40)
    parted = run_study("heads", model, PASSAGES[:2], head=Head(2, 3))
    np.testing.assert_allclose(parted.details.values, expected.details.values, atol=SUMS, rtol=0)
    for head in model.all_heads():
        found, whole = (of.details.contexts(head) for of in (parted, expected))
        assert [(c.passage, c.query, c.key) for c in found] == [
            (c.passage, c.query, c.key) for c in whole
        ]


def test_a_passage_is_one_pass(gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    run = ForwardPass.logits_at

    def counted(self: ForwardPass, ids: list[list[int]], *args: object) -> object:
        lengths.append(len(ids[0]))
        return run(self, ids, *args)

    monkeypatch.setattr(ForwardPass, "logits_at", counted)
    run_study("heads", gpt2, PASSAGES)
    assert lengths == [len(gpt2.tokenize(passage.text)) for passage in PASSAGES]


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


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_the_first_token_is_set_apart_and_ties_go_to_the_lowest(n_rows: int) -> None:
    one = [[1, 0, 0], [0.9, 0.1, 0], [0.5, 0.2, 0.3]]
    other = [[1, 0, 0], [0.8, 0.2, 0], [0.6, 0.2, 0.2]]
    maps = torch.tensor([one, other])
    found = LargestWeights(2, 3)
    for start in range(0, 3, n_rows):
        rows = slice(start, min(start + n_rows, 3))
        block = maps[:, rows, : rows.stop]
        found.take(AttentionBlock(1, slice(0, 2), rows, torch.arange(3)[rows], block, 3))
    assert found.queries.tolist() == [[0, 0, 0], [2, 1, 0]]
    assert found.keys.tolist() == [[0, 0, 0], [2, 1, 0]]
    np.testing.assert_allclose(found.weights, [[np.nan] * 3, [0.3, 0.2, np.nan]])


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
    assert empty.to_json()["passages"] == []
